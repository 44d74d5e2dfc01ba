"""What is animated: the face of a picture, the square about it that moves, and the picture that the video shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from openloopy.face.crop import Crop, apply_crop, portrait_crop, select_face, soften_outside
from openloopy.face.landmarks import Face, FaceLandmarker
from openloopy.face.upright import TURNS, find_upright
from openloopy.inference.full_frame import FullFrame
from openloopy.inference.options import Say
from openloopy.media.image import as_rgb
from openloopy.models.codec import Prepared
from openloopy.models.rig_codec import Portrait

NEAR_EDGE = 0.04
"""In face heights: a face this near to the picture's edge can hardly move."""


@dataclass(frozen=True, eq=False)
class ChosenFace:
    """The face to animate, in its picture `H W 3` uint8."""

    rgb: np.ndarray
    face: Face
    num_faces: int
    quarter_turns: int = 0
    """By which the picture was turned, counter-clockwise: without a tag it lay on its side or stood on its head."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.rgb.shape[1], self.rgb.shape[0]


@dataclass(frozen=True, eq=False)
class Layout:
    """The square that moves, and where it is shown.

    Attributes:
        portrait: the square.
        square_px: side that it is drawn with.
        size: (width, height) of the video, px.
        finish: from a frame of the square to one of the video.
        crop: the square in px of the picture; None where only the square was given.
    """

    portrait: Portrait
    square_px: int
    size: tuple[int, int]
    finish: Callable[[np.ndarray], np.ndarray] = lambda frame: frame
    crop: Crop | None = None

    @staticmethod
    def of_square(portrait: Portrait, square_px: int) -> Layout:
        """A square that is shown as it is."""
        return Layout(portrait, square_px, (square_px, square_px))

    @staticmethod
    def of_crop(chosen: ChosenFace, *, square_px: int, source_px: int, stays_inside: bool) -> Layout:
        """The square about a face.

        Args:
            square_px, source_px: sides of the video and of the portrait that is moved.
            stays_inside: see `portrait_crop`.
        """
        crop = portrait_crop(chosen.face, chosen.image_size, stays_inside=stays_inside)
        outside = crop.outside(chosen.image_size)
        portrait = Portrait(
            soften_outside(apply_crop(chosen.rgb, crop, source_px), outside),
            crop.to_crop(chosen.face.mesh, source_px),
            outside=outside,
        )
        return Layout(portrait, square_px, (square_px, square_px), crop=crop)

    @staticmethod
    def of_full_frame(chosen: ChosenFace) -> Layout:
        """The whole picture at its own resolution."""
        full = FullFrame.of(chosen.rgb, chosen.face)
        height, width = full.rgb.shape[:2]
        scale = chosen.rgb.shape[1] / width
        crop = Crop(full.x0 * scale, full.y0 * scale, full.size_px * scale)
        return Layout(full.portrait, full.size_px, (width, height), full.paster(), crop)


@dataclass(frozen=True, eq=False)
class Scene:
    """A portrait that is ready to be moved; any number of sounds can be played on it.

    Attributes:
        layout: what moves, and where it is shown.
        prepared: what the codec computed of the portrait.
        chosen: the face and its picture; None where only the square was given.
    """

    layout: Layout
    prepared: Prepared
    chosen: ChosenFace | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the video, px."""
        return self.layout.size


def choose_face(
    picture: Any,
    landmarker: FaceLandmarker,
    *,
    index: int | None = None,
    say: Say | None = None,
    name: str | None = None,
) -> ChosenFace:
    """The face of a picture (see `as_rgb`) that is to be animated.

    Args:
        index: which, 0 the largest; None: the largest, said aloud if there are more.
        name: what messages call the picture; a path's own.

    Raises:
        ValueError: no face, or none that can be animated; the message names the picture.
    """
    is_path = isinstance(picture, str) or hasattr(picture, "__fspath__")
    name = name or (str(picture) if is_path else "the portrait")
    found = find_upright(as_rgb(picture, say), landmarker)
    try:
        face = select_face(found.faces, (found.rgb.shape[1], found.rgb.shape[0]), index)
    except ValueError as error:
        raise type(error)(f"{name}: {error}") from error
    chosen = ChosenFace(found.rgb, face, len(found.faces), found.quarter_turns)
    for note in _notes(chosen, index is not None) if say else ():
        say(f"{name} {note}")
    return chosen


def _notes(chosen: ChosenFace, was_asked_for: bool) -> list[str]:
    """What a user should know of the choice, as ends of sentences about the picture."""
    notes = []
    if chosen.quarter_turns:
        notes.append(f"is turned {TURNS[chosen.quarter_turns]}, so that the face stands upright")
    if chosen.num_faces > 1 and not was_asked_for:
        x, y = chosen.face.mesh[:, :2].mean(axis=0)
        notes.append(
            f"shows {chosen.num_faces} faces: using the largest, around x={x:.0f} y={y:.0f}; "
            f"face 0 to {chosen.num_faces - 1} chooses (0 is the largest)"
        )
    if sides := _near_sides(chosen):
        notes.append(
            f"ends so close to the face ({', '.join(sides)}) that there is little room for it to move; "
            "one with hair, neck and some room around it moves more freely"
        )
    return notes


def _near_sides(chosen: ChosenFace) -> list[str]:
    """At which sides the picture cuts the face, or nearly does."""
    room, (width, height) = NEAR_EDGE * chosen.face.height_px, chosen.image_size
    left, top, right, bottom = chosen.face.box
    near = {
        "left": left < room,
        "top": top < room,
        "right": right > width - room,
        "bottom": bottom > height - room,
    }
    return [side for side, is_near in near.items() if is_near]
