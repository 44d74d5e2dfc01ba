"""A mouth behind a microphone: it must not open, since what covers it would open with it.

Lips are redder than the cheeks, or about as red; foam and metal are less red and darker. Of 610 colour photographs none
passes for covered. Bare hands and pictures without colour cannot be told by this.
"""

from __future__ import annotations

import numpy as np

from openloopy.rig.mesh import LOWER_LIP, UPPER_LIP, HeadFrame
from openloopy.rig.tones import LUMA

_CHEEKS = [50, 280, 205, 425, 101, 330, 36, 266]
_LESS_RED = 0.07
"""Of both lips, in shares of their luma; of photographs the least red had .05."""
_DARKER = 0.6
"""Luma of both lips over that of the cheeks; lower lips of photographs have .7 and more."""


def mouth_is_covered(rgb: np.ndarray, head: HeadFrame) -> bool:
    """Whether something that is no skin lies over both lips of a portrait `S S 3` uint8."""
    cheeks = _colour(rgb, head, _CHEEKS)
    lips = [_colour(rgb, head, list(lip[1:3].flat)) for lip in (UPPER_LIP, LOWER_LIP)]
    return all(
        _redness(lip) < _redness(cheeks) - _LESS_RED and lip @ LUMA < _DARKER * (cheeks @ LUMA)
        for lip in lips
    )


def _colour(rgb: np.ndarray, head: HeadFrame, indices: list[int]) -> np.ndarray:
    """Median colour at mesh points, `3`."""
    limit = np.array(rgb.shape[1::-1]) - 1
    x, y = np.clip(np.round(head.mesh_px[indices, :2]).astype(int), 0, limit).T
    return np.median(rgb[y, x].astype(np.float32), 0)


def _redness(colour: np.ndarray) -> float:
    return float(colour[0] / (colour @ LUMA + 1))
