"""Square crops around a face, and the choice of the face.

Coordinates are continuous pixels: the first pixel covers 0..1. A crop may reach outside its picture;
what lies there repeats the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from openloopy.face.mesh import CHIN, EAR_LEFT, EAR_RIGHT, FOREHEAD, NOSE_BRIDGE

if TYPE_CHECKING:
    from openloopy.face.landmarks import Face

CROP_FACE_HEIGHTS = 1.9
"""Side of a portrait crop, in face heights (forehead to chin)."""
MIN_CROP_FACE_HEIGHTS = 1.7
"""A crop shrinks to this before it reaches outside the picture."""
FACE_CENTRE_Y = 0.49
"""Where the face's centre lies, as a share of the crop's height."""
MAX_SHIFT = 0.06
"""A crop moves by this share of its side, at most, to stay inside the picture."""
MIN_INSIDE_FACE_HEIGHTS = 0.9
"""A crop that stays inside the picture is at least as large, so that it shows the whole face."""
SMOOTHED_SHRINK, REDUCED_SHRINK = 0.6, 0.3
"""What is drawn smaller than this is smoothed, and before that reduced to means of pixels."""
BLURS = (0.01, 0.03, 0.08)
"""Spreads of what lies beyond the picture, in shares of the crop's side; each takes over at twice its distance."""
MIN_FACE_PX = 40
MAX_YAW_DEG = 40.0


class NoFaceError(ValueError):
    """The picture shows no face, or not the one asked for."""


class FaceTooSmallError(ValueError):
    """The face has too few pixels to be animated."""


class ProfileError(ValueError):
    """The head is turned too far to the side."""


@dataclass(frozen=True)
class Crop:
    """A square of the source picture, in px of that picture; may reach outside."""

    x0: float
    y0: float
    size: float

    def to_crop(self, points: np.ndarray, size_px: int) -> np.ndarray:
        """Points `... 2` or `... 3` of the source picture -> the crop at `size_px` (z only scaled)."""
        origin = np.array([self.x0, self.y0, 0.0])[: points.shape[-1]]
        return ((points - origin) * (size_px / self.size)).astype(np.float32)

    def outside(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """How much of it lies beyond a picture (width, height): shares of its side; left, top, right, bottom."""
        width, height = image_size
        beyond = -self.x0, -self.y0, self.x0 + self.size - width, self.y0 + self.size - height
        left, top, right, bottom = (max(float(px) / self.size, 0.0) for px in beyond)
        return left, top, right, bottom

    def to_source(self, points: np.ndarray, size_px: int) -> np.ndarray:
        """The inverse of `to_crop`."""
        origin = np.array([self.x0, self.y0, 0.0])[: points.shape[-1]]
        return (points * (self.size / size_px) + origin).astype(np.float32)


def apply_crop(rgb: np.ndarray, crop: Crop, size_px: int) -> np.ndarray:
    """Draws the crop of a picture, `H W 3` uint8, at `size_px size_px 3`: anti-aliased, border repeated."""
    if crop.size <= 0 or size_px < 1:
        raise ValueError(f"a crop needs a positive size, got {crop} drawn with {size_px} px")
    margin = 4.0 * max(crop.size / size_px, 1.0)  # as far as the bicubic filter reaches
    x0, y0 = int(np.floor(crop.x0 - margin)), int(np.floor(crop.y0 - margin))
    reach = int(np.ceil(crop.size + 2 * margin)) + 1
    cut = _cut_with_border(rgb, x0, y0, reach)
    box = (crop.x0 - x0, crop.y0 - y0, crop.x0 - x0 + crop.size, crop.y0 - y0 + crop.size)
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(cut).resize((size_px, size_px), bicubic, box=box, reducing_gap=3.0))


def warp(picture: np.ndarray, linear: np.ndarray, offset: np.ndarray, size_px: int) -> np.ndarray:
    """The picture `H W ...` moved by x -> linear x + offset (px), border repeated, drawn at `size_px size_px ...`."""
    shrink = float(np.sqrt(abs(np.linalg.det(linear))))
    if shrink < SMOOTHED_SHRINK:
        picture, linear, offset = _what_is_drawn(picture, linear, offset, size_px)
        if shrink < REDUCED_SHRINK:
            picture, linear = _reduced(picture, linear, int(SMOOTHED_SHRINK / shrink))
            shrink = float(np.sqrt(abs(np.linalg.det(linear))))
    if shrink < SMOOTHED_SHRINK:  # else fine detail would alias
        picture = cv2.GaussianBlur(picture, (0, 0), 0.35 / shrink)
    # OpenCV counts from pixel centres.
    centre = offset + linear @ [0.5, 0.5] - 0.5
    matrix, size = np.concatenate([linear, centre[:, None]], 1), (size_px, size_px)
    return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _what_is_drawn(
    picture: np.ndarray, linear: np.ndarray, offset: np.ndarray, size_px: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a picture that a warp shows, as wide as filters reach: to smooth all of it would take long."""
    corners = np.array([[0, 0], [size_px, 0], [0, size_px], [size_px, size_px]])
    seen = (corners - offset) @ np.linalg.inv(linear).T
    margin = 4 / float(np.sqrt(abs(np.linalg.det(linear))))
    length = np.array(picture.shape[1::-1])
    first = np.clip(np.floor(seen.min(0) - margin), 0, length - 1).astype(int)
    last = np.clip(np.ceil(seen.max(0) + margin), first + 1, length).astype(int)
    part = np.ascontiguousarray(picture[first[1] : last[1], first[0] : last[0]])
    return part, linear, offset + linear @ first


def _reduced(picture: np.ndarray, linear: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of means over squares of `factor` px, and the map that draws it in the same place."""
    height, width = (-(-side // factor) for side in picture.shape[:2])
    bottom, right = height * factor - picture.shape[0], width * factor - picture.shape[1]
    if bottom or right:
        picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), linear * factor


def soften_outside(square: np.ndarray, outside: tuple[float, float, float, float]) -> np.ndarray:
    """A drawn crop whose parts beyond the picture fade into a blur: a border that is repeated makes streaks.

    Args:
        square: `S S 3` uint8.
        outside: shares of its side that lie beyond the picture (`Crop.outside`).
    """
    if not any(outside):
        return square
    side = len(square)
    left, top, right, bottom = (side * share for share in outside)
    at = np.arange(side, dtype=np.float32) + 0.5
    x, y = (
        np.maximum(np.maximum(first - at, at - (side - last)), 0)
        for first, last in ((left, right), (top, bottom))
    )
    away = np.hypot(x[None], y[:, None])[..., None] / side
    soft, blurred = square.astype(np.float32), square
    for sigma in BLURS:
        blurred = cv2.GaussianBlur(blurred, (0, 0), sigma * side, borderType=cv2.BORDER_REPLICATE)
        share = np.clip(away / (2 * sigma), 0, 1)
        soft += share * (blurred - soft)
    return np.round(soft).astype(np.uint8)


def portrait_crop(face: Face, image_size: tuple[int, int], *, stays_inside: bool = False) -> Crop:
    """The square that a portrait is animated in: head and shoulders, the face a little above the middle.

    Near the picture's edge it gives way a little (smaller, then shifted) before it reaches outside.

    Args:
        face: the face to frame.
        image_size: (width, height) of its picture, px.
        stays_inside: whether it gives way as far as it takes, wherever the face then lies; only of a picture that is
            hardly larger than the face does it reach outside.
    """
    height = face.height_px
    least = MIN_INSIDE_FACE_HEIGHTS if stays_inside else MIN_CROP_FACE_HEIGHTS
    size = float(np.clip(min(image_size), least * height, CROP_FACE_HEIGHTS * height))
    max_shift = 1.0 if stays_inside else MAX_SHIFT
    ears = face.mesh[[EAR_LEFT, EAR_RIGHT], 0].mean()
    x = (ears + face.mesh[NOSE_BRIDGE, 0]) / 2  # between skull and nose, for turned heads
    y = face.mesh[[FOREHEAD, CHIN], 1].mean()
    x0 = _shift_inside(x - size / 2, size, image_size[0], max_shift)
    y0 = _shift_inside(y - FACE_CENTRE_Y * size, size, image_size[1], max_shift)
    return Crop(x0, y0, size)


def select_face(faces: list[Face], image_size: tuple[int, int], index: int | None = None) -> Face:
    """The face to animate: the largest, or the one with this index; errors say what is wrong with it.

    Args:
        faces: largest first, as a landmarker gives them.
        image_size: (width, height) of the picture, px.
        index: which face, 0 the largest.
    """
    seen = f"the {image_size[0]}x{image_size[1]} picture"
    if not faces:
        raise NoFaceError(
            f"found no face in {seen}; use one where a face, seen from the front, is large and lit"
        )
    if index is not None and not 0 <= index < len(faces):
        raise NoFaceError(
            f"asked for face {index}, but {seen} shows {len(faces)}; choose 0 to {len(faces) - 1}"
        )
    face = faces[index or 0]
    if face.height_px < MIN_FACE_PX:
        raise FaceTooSmallError(
            f"the face in {seen} is {face.height_px:.0f} px high, at least {MIN_FACE_PX} are needed; "
            "use a larger picture, or one taken from closer"
        )
    if abs(face.pose.yaw) > MAX_YAW_DEG:
        side = "right" if face.pose.yaw > 0 else "left"
        raise ProfileError(
            f"the head in {seen} is turned {abs(face.pose.yaw):.0f} degrees to the {side}, at most "
            f"{MAX_YAW_DEG:.0f} work; use a picture that looks towards the camera"
        )
    return face


def _cut_with_border(rgb: np.ndarray, x0: int, y0: int, size: int) -> np.ndarray:
    """The square of whole pixels at x0 y0; the picture's border is repeated outside it."""
    height, width = rgb.shape[:2]
    if min(x0 + size, y0 + size) <= 0 or x0 >= width or y0 >= height:
        raise ValueError(
            f"the square of {size} px at ({x0}, {y0}) lies wholly outside the {width}x{height} picture"
        )
    left, right = max(-x0, 0), max(x0 + size - width, 0)
    top, bottom = max(-y0, 0), max(y0 + size - height, 0)
    inside = rgb[max(y0, 0) : y0 + size, max(x0, 0) : x0 + size]
    return cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_REPLICATE)


def _shift_inside(start: float, size: float, length: int, max_shift: float) -> float:
    """Moves the interval into 0..length by this share of its size at most; what cannot fit covers it."""
    wanted = np.clip(start, min(0.0, length - size), max(0.0, length - size))
    return float(start + np.clip(wanted - start, -max_shift * size, max_shift * size))
