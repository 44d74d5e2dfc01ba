"""Pictures that lie on their side or stand on their head, without a tag that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openloopy.face.landmarks import Face, FaceLandmarker, shrink

MAX_ROLL_DEG = 50.0
"""A head that is tilted by more than this lies in a picture that is turned."""
SURE, ABOUT = 0.9, 0.1
"""From this confidence on no other way up is tried; ways that differ by less are told apart by their faces' sizes."""
TRIED_PX = 1024
"""Longer side in which turned pictures are searched first."""
TURNS = {1: "by 90 degrees", 3: "by 90 degrees the other way", 2: "by 180 degrees"}
"""Quarter turns, counter-clockwise, in the order in which they are tried."""


@dataclass(frozen=True, eq=False)
class Upright:
    """A picture as its faces stand.

    Attributes:
        rgb: `H W 3` uint8.
        faces: largest first.
        quarter_turns: by which the picture was turned, counter-clockwise.
    """

    rgb: np.ndarray
    faces: list[Face]
    quarter_turns: int = 0


def find_upright(rgb: np.ndarray, landmarker: FaceLandmarker) -> Upright:
    """The faces of a picture `H W 3` uint8; where none surely stands in it, it is turned until one does."""
    as_it_is = Upright(rgb, landmarker.detect(rgb))
    if _stands(as_it_is) and _score(as_it_is) >= SURE:
        return as_it_is
    found = [turned for turns in TURNS if (turned := _turned(rgb, turns, landmarker)) is not None]
    if _stands(as_it_is):
        found.append(as_it_is)
    if not found:
        return as_it_is
    best = max(_score(way) for way in found)
    turns = max((way for way in found if _score(way) > best - ABOUT), key=_size).quarter_turns
    if turns == 0:
        return as_it_is
    turned = np.ascontiguousarray(np.rot90(rgb, turns))
    faces = landmarker.detect(turned)
    return Upright(turned, faces, turns) if faces else as_it_is


def _turned(rgb: np.ndarray, quarter_turns: int, landmarker: FaceLandmarker) -> Upright | None:
    """What is found in a small copy of the picture, turned; None where no face stands in it."""
    small = shrink(rgb, max(max(rgb.shape[:2]) / TRIED_PX, 1.0))
    turned = np.ascontiguousarray(np.rot90(small, quarter_turns))
    found = Upright(turned, landmarker.detect(turned), quarter_turns)
    return found if _stands(found) else None


def _stands(found: Upright) -> bool:
    """Whether the largest face stands upright, more or less."""
    return bool(found.faces) and abs(found.faces[0].pose.roll) <= MAX_ROLL_DEG


def _score(found: Upright) -> float:
    return found.faces[0].score


def _size(found: Upright) -> float:
    """Height of the largest face as a share of the picture's longer side."""
    return found.faces[0].height_px / max(found.rgb.shape[:2])
