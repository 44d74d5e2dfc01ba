"""Beards and moustaches: hair of the upper lip hangs over an opening mouth.

How hairy a mouth is comes from the fine structure beside the philtrum and on the chin, against the cheeks'. Thresholds
are set by eye on 70 portraits.
"""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.rig.mesh import HeadFrame, smoothstep
from openloopy.rig.paint import Slit
from openloopy.rig.tones import LUMA

HAIR_CM = 0.55
"""How far the hair of a full moustache hangs over the opening."""
_LOWER_HAIR = 0.4
"""The same for the lower lip, as a share of it."""
_MEASURED_PX_PER_CM = 16.0
_BESIDE_PHILTRUM = ([206, 92, 165, 203, 186], [426, 322, 391, 423, 410])
_UNDER_NOSE = ([165, 167], [164, 167, 393], [393, 391])
_CHIN = [18, 83, 313, 201, 421, 200, 199]
_CHEEKS = ([50, 101, 36, 205], [280, 330, 266, 425])
_LEAST_STRUCTURE = 0.002
_DARK_MOUSTACHE = (1.4, 1.8)
"""By so much the cheeks are brighter than what lies under the nose: hair, in a smiling face too."""
_STRANDS = 26
"""Tufts along the lip."""


def hairiness(rgb: np.ndarray, head: HeadFrame, smile: float) -> float:
    """0: bare lips, 1: a moustache or a full beard.

    rgb: the portrait, `S S 3` uint8; smile: of its own state: a smile's folds look like hair.
    """
    scale = _MEASURED_PX_PER_CM / head.scale_px
    x0, y0 = np.maximum(head.mesh_px[:, :2].min(0).astype(int), 0)
    x1, y1 = np.ceil(head.mesh_px[:, :2].max(0)).astype(int) + 1
    face = rgb[y0:y1, x0:x1]
    luma = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32) @ LUMA
    fine = cv2.GaussianBlur(luma, (0, 0), 0.7) - cv2.GaussianBlur(luma, (0, 0), 2.2)
    square = np.clip(fine / (cv2.GaussianBlur(luma, (0, 0), 6) + 12), -0.2, 0.2) ** 2
    mesh = (head.mesh_px[:, :2] - [x0, y0]) * scale

    def structure(indices: list[int]) -> float:
        area = np.zeros(luma.shape, np.uint8)
        cv2.fillConvexPoly(area, cv2.convexHull(np.round(mesh[indices]).astype(np.int32)), 1)
        return float(np.sqrt(cv2.mean(square, cv2.erode(area, np.ones((3, 3))))[0]))

    def brightness(indices: list[int]) -> float:
        at = np.clip(np.round(mesh[indices]).astype(int), 0, np.array(luma.shape[::-1]) - 1)
        return float(np.median(luma[at[:, 1], at[:, 0]]))

    bare = min(map(structure, _CHEEKS)) + _LEAST_STRUCTURE
    lip, chin = min(map(structure, _BESIDE_PHILTRUM)) / bare, structure(_CHIN) / bare
    # right under the nose no fold of a smile falls
    dark = min(map(brightness, _CHEEKS)) / (max(map(brightness, _UNDER_NOSE)) + 1)
    beard = smoothstep(chin, 2.3, 3.4) * smoothstep(lip, 1.25, 1.7)
    is_dark = smoothstep(dark, *_DARK_MOUSTACHE)
    moustache = smoothstep(lip, 2.0, 3.3) * max(1 - 5 * max(smile, 0), is_dark)
    return float(max(beard, moustache))


def hair_over(slit: Slit, px_per_cm: float, share: float) -> np.ndarray:
    """How much of what lies between the lips hair hides, `h w`; share: of the greatest hairiness."""
    tufts = np.random.default_rng(0).uniform(0.65, 1.0, _STRANDS)
    edges = (edge[np.argsort(edge[:, 0])] for edge in (slit.upper, slit.lower))
    upper, lower = (np.interp(slit.box.xs, edge[:, 0], edge[:, 1]) for edge in edges)
    first, last = slit.upper[:, 0].min(), slit.upper[:, 0].max()
    along = np.linspace(first, last, _STRANDS)
    length_cm = HAIR_CM * share * np.interp(slit.box.xs, along, tufts) + 1e-3
    from_upper, from_lower = (slit.box.ys - upper) / px_per_cm, (lower - slit.box.ys) / px_per_cm
    hidden = np.maximum(
        1 - smoothstep(from_upper / length_cm, 0.3, 1.0),
        1 - smoothstep(from_lower / (_LOWER_HAIR * length_cm), 0.2, 1.0),
    )
    return (share * hidden).astype(np.float32)
