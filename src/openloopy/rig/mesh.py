"""The face mesh as the rig sees it: index sets, the head's own centimetre frame, the fit.

Indices are those of the MediaPipe face mesh with refined lips and irises (478 points). "Upper" and
"lower" lip rings run from the picture's left mouth corner to its right one, outermost ring first.
Pictures have x to the right, y down and z to the viewer; so has the centimetre frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openloopy.face.mesh import MESH_POINTS, canonical_mesh, fit_similarity

NUM_SKIN_POINTS = 468
"""The last ten points are the irises."""

LIP_OUTER_UPPER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291]
LIP_OUTER_LOWER = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291]
LIP_INNER_UPPER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
LIP_INNER_LOWER = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308]
# Rows: inner edge, two rings on the red of the lip, outer edge.
UPPER_LIP = np.array(
    [
        LIP_INNER_UPPER,
        [62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292],
        [76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306],
        LIP_OUTER_UPPER,
    ]
)
LOWER_LIP = np.array(
    [
        LIP_INNER_LOWER,
        [62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292],
        [76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306],
        LIP_OUTER_LOWER,
    ]
)
LIP_DEPTH = np.array([0.0, 0.33, 0.66, 1.0])[:, None]
"""How far a ring lies from the inner edge, 0 to 1; shaped to broadcast over a `rings points` lip."""


@dataclass(frozen=True, kw_only=True)
class EyeIndices:
    """Mesh indices of one eye. Lids run from the outer corner to the inner one."""

    upper: list[int]
    lower: list[int]
    upper_fold: list[int]
    lower_fold: list[int]
    iris: int
    iris_ring: list[int]
    brow: list[int]
    side: int
    """-1 for the eye at the picture's left, +1 for the other."""

    @property
    def lids(self) -> list[int]:
        return sorted({*self.upper, *self.lower, *self.upper_fold, *self.lower_fold})


EYES = (
    EyeIndices(
        upper=[33, 246, 161, 160, 159, 158, 157, 173, 133],
        lower=[33, 7, 163, 144, 145, 153, 154, 155, 133],
        upper_fold=[130, 247, 30, 29, 27, 28, 56, 190, 243],
        lower_fold=[130, 25, 110, 24, 23, 22, 26, 112, 243],
        iris=468,
        iris_ring=[469, 470, 471, 472],
        brow=[70, 63, 105, 66, 107, 46, 53, 52, 65, 55],
        side=-1,
    ),
    EyeIndices(
        upper=[263, 466, 388, 387, 386, 385, 384, 398, 362],
        lower=[263, 249, 390, 373, 374, 380, 381, 382, 362],
        upper_fold=[359, 467, 260, 259, 257, 258, 286, 414, 463],
        lower_fold=[359, 255, 339, 254, 253, 252, 256, 341, 463],
        iris=473,
        iris_ring=[474, 475, 476, 477],
        brow=[300, 293, 334, 296, 336, 276, 283, 282, 295, 285],
        side=1,
    ),
)
# fmt: off
FACE_OVAL = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]
_NOSE = [
    1, 2, 4, 5, 6, 19, 94, 168, 195, 197, 98, 327, 49, 279, 48, 278, 64, 294, 129, 358,
    102, 331, 45, 275, 122, 351,
]
_CHEEKS = [
    50, 280, 36, 266, 205, 425, 117, 346, 118, 347, 119, 348, 101, 330, 116, 345, 123, 352,
    187, 411, 147, 376, 213, 433, 192, 416,
]
_FOREHEAD = [9, 8, 151, 108, 337, 69, 299, 104, 333, 68, 298, 71, 301, 63, 293]
_CHIN = [
    152, 175, 199, 200, 148, 377, 176, 400, 149, 378, 150, 379, 136, 365, 172, 397, 58, 288,
    132, 361, 171, 396, 140, 369, 170, 395, 169, 394, 135, 364, 138, 367, 215, 435,
]
# fmt: on
_LIPS = sorted({*UPPER_LIP.flat, *LOWER_LIP.flat})
CONTROL_POINTS = sorted(
    {*map(int, _LIPS), *FACE_OVAL, *_NOSE, *_CHEEKS, *_FOREHEAD, *_CHIN}
    | {i for eye in EYES for i in (*eye.lids, *eye.brow)}
)
"""The points whose displacement the expression sets; the others follow smoothly."""
FREE_POINTS = sorted(set(range(MESH_POINTS)) - set(CONTROL_POINTS))

UPPER_SLIT_POINTS = {int(i) for i in UPPER_LIP[:, 1:-1].flat} | {
    i for eye in EYES for i in (*eye.upper[1:-1], *eye.upper_fold[1:-1])
}
"""Points above the mouth and eye slits: they say nothing about the skin below them, and the reverse."""
LOWER_SLIT_POINTS = {int(i) for i in LOWER_LIP[:, 1:-1].flat} | {
    i for eye in EYES for i in (*eye.lower[1:-1], *eye.lower_fold[1:-1])
}


@dataclass(frozen=True)
class HeadFrame:
    """Where the head's centimetre frame lies in the picture: px = scale_px * rotation @ cm + origin_px."""

    mesh_px: np.ndarray
    """The portrait's mesh, `478 3`."""
    scale_px: float
    """Pixels per centimetre."""
    rotation: np.ndarray
    origin_px: np.ndarray

    @cached_property
    def points_cm(self) -> np.ndarray:
        """This person's mesh, turned to the front, `478 3` cm."""
        return (self.mesh_px - self.origin_px) @ self.rotation / self.scale_px

    def to_px(self, points_cm: np.ndarray) -> np.ndarray:
        """Points `... 3` in cm to picture px (orthographic; z kept)."""
        return self.vectors_to_px(points_cm) + self.origin_px

    def vectors_to_px(self, vectors_cm: np.ndarray) -> np.ndarray:
        """Displacements `... 3` in cm to px."""
        return self.scale_px * (vectors_cm @ self.rotation.T)


def fit_head(mesh_px: np.ndarray) -> HeadFrame:
    """Lay the mean face over a mesh `478 3`; pixel centres at whole numbers."""
    mesh_px = mesh_px.astype(np.float64)
    skin = slice(NUM_SKIN_POINTS)
    return HeadFrame(mesh_px, *fit_similarity(canonical_mesh().vertices[skin], mesh_px[skin]))


def smoothstep(x: np.ndarray | float, low: float, high: float) -> np.ndarray | float:
    """0 below `low`, 1 above `high`, a cubic between."""
    if isinstance(x, float):
        t = min(max((x - low) / (high - low), 0.0), 1.0)
        return t * t * (3 - 2 * t)
    t = (np.asarray(x) - low) * (1 / (high - low))
    t = np.minimum(np.maximum(t, 0), 1)
    return t * t * (3 - 2 * t)
