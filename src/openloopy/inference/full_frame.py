"""The moving head back in its whole picture, at the picture's own resolution and shape."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.face.crop import Crop, apply_crop
from openloopy.face.landmarks import Face
from openloopy.face.mesh import CHIN, FOREHEAD, NOSE_BRIDGE
from openloopy.models.rig_codec import Portrait

SQUARE_FACE_HEIGHTS = 2.8
"""Side of the square that moves: head, hair and shoulders, and room for its motion to fade towards the border."""
SEAM_SHARE = 0.04
"""Share of the square's side over which it blends into the picture."""
MAX_SIDE_PX = 3840
"""Of the video's longer side: what players of H.264 show."""


@dataclass(frozen=True, eq=False)
class FullFrame:
    """A picture, and the square of it that moves.

    Attributes:
        rgb: the picture that the video shows, `H W 3` uint8, both sides even.
        x0, y0, size_px: the square, in px of rgb; it may reach outside.
        mesh: the face mesh, `478 3` px of rgb.
    """

    rgb: np.ndarray
    x0: int
    y0: int
    size_px: int
    mesh: np.ndarray

    @staticmethod
    def of(rgb: np.ndarray, face: Face, max_side_px: int = MAX_SIDE_PX) -> FullFrame:
        """The square about a face of a picture; a picture of more than max_side_px is reduced."""
        scale = min(1.0, max_side_px / max(rgb.shape[:2]))
        height, width = (max(2, 2 * int(side * scale / 2)) for side in rgb.shape[:2])
        if scale < 1:
            shown = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            scales = np.array([width / rgb.shape[1], height / rgb.shape[0], scale])
        else:
            shown, scales = np.ascontiguousarray(rgb[:height, :width]), np.ones(3)
        mesh = (face.mesh * scales).astype(np.float32)
        face_height = float(np.linalg.norm(mesh[FOREHEAD] - mesh[CHIN]))
        size = 2 * int(np.ceil(SQUARE_FACE_HEIGHTS * face_height / 2))
        x, y = mesh[NOSE_BRIDGE, 0], mesh[[FOREHEAD, CHIN], 1].mean()
        return FullFrame(shown, round(x - size / 2), round(y - size / 2), size, mesh)

    @property
    def portrait(self) -> Portrait:
        """The square as the portrait to animate."""
        crop = Crop(self.x0, self.y0, self.size_px)
        return Portrait(
            apply_crop(self.rgb, crop, self.size_px),
            crop.to_crop(self.mesh, self.size_px),
            still_sides=tuple(side for side, goes_on in self.goes_on.items() if goes_on),
            outside=crop.outside((self.rgb.shape[1], self.rgb.shape[0])),
        )

    @property
    def goes_on(self) -> dict[str, bool]:
        """At which sides of the square the picture goes on."""
        height, width = self.rgb.shape[:2]
        return {
            "left": self.x0 > 0,
            "top": self.y0 > 0,
            "right": self.x0 + self.size_px < width,
            "bottom": self.y0 + self.size_px < height,
        }

    def paster(self) -> Paster:
        """What puts frames of the square back."""
        return Paster(self)


class Paster:
    """Puts a square's frames into the picture."""

    def __init__(self, full: FullFrame) -> None:
        height, width = full.rgb.shape[:2]
        self._rgb = full.rgb
        top, left = max(full.y0, 0), max(full.x0, 0)
        bottom, right = min(full.y0 + full.size_px, height), min(full.x0 + full.size_px, width)
        self._there = slice(top, bottom), slice(left, right)
        self._here = (
            slice(top - full.y0, bottom - full.y0),
            slice(left - full.x0, right - full.x0),
        )
        goes_on = full.goes_on
        x, y = (
            _ramp(full.size_px, goes_on[first], goes_on[last])
            for first, last in (("left", "right"), ("top", "bottom"))
        )
        self._weight = np.ascontiguousarray((y[:, None] * x[None])[self._here])
        self._rest = 1 - self._weight
        self._under = np.ascontiguousarray(self._rgb[self._there])

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The picture with a frame of the square, `size size 3` -> `H W 3` uint8."""
        whole = self._rgb.copy()
        square = np.ascontiguousarray(frame[self._here])
        whole[self._there] = cv2.blendLinear(square, self._under, self._weight, self._rest)
        return whole


def _ramp(size_px: int, rises: bool, falls: bool) -> np.ndarray:
    """1, but for the sides at which it blends: there from 0 to 1 within SEAM_SHARE, `size` float32."""
    width = max(1.0, SEAM_SHARE * size_px)
    at = np.arange(size_px, dtype=np.float32) + 0.5
    ramp = np.ones(size_px, np.float32)
    if rises:
        ramp = np.minimum(ramp, at / width)
    if falls:
        ramp = np.minimum(ramp, (size_px - at) / width)
    return np.clip(ramp, 0, 1)
