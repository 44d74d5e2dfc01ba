"""Movement descriptors of 68-point tracks: what the training conditions and the measures are computed from.

Source: Loopy (arXiv:2409.02634), audio-to-latents module: head-motion variance = variance of the nose tip's
position, expression variance = variance of 37 upper-face points relative to the nose tip. Lengths are in
units of the distance between the outer eye corners, its mean over the track, so that the size of the picture
does not matter.
Landmarks follow the iBUG 68-point order; `points` is always `... f 68 2`.
"""

from __future__ import annotations

import numpy as np

NOSE_TIP = 30
OUTER_EYE_CORNERS = (36, 45)
INNER_LIP_PAIRS = ((61, 67), (62, 66), (63, 65))
EYE_LID_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46))
MOUTH = np.arange(48, 68)
EYES = (np.arange(36, 42), np.arange(42, 48))
UPPER_FACE_37 = np.array([0, 1, 2, 14, 15, 16, *range(17, 48)])
"""The points that do not belong to mouth or lower jaw: upper jaw line, brows, nose, eyes.

The paper does not list them; this choice is ours.
"""


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Distance between the outer eye corners per frame, `... f 68 2` -> `... f` px."""
    left, right = OUTER_EYE_CORNERS
    return np.linalg.norm(points[..., left, :] - points[..., right, :], axis=-1)


def lip_gap(points: np.ndarray) -> np.ndarray:
    """Opening between the inner lips, mean of three pairs, `... f 68 2` -> `... f` eye distances."""
    return _mean_gap(points, INNER_LIP_PAIRS)


def eye_opening(points: np.ndarray) -> np.ndarray:
    """Opening between the lids, mean of both eyes, `... f 68 2` -> `... f` eye distances."""
    return _mean_gap(points, EYE_LID_PAIRS)


def head_motion_variance(points: np.ndarray) -> np.ndarray:
    """Variance over the frames of the nose tip's position, x and y added, `... f 68 2` -> `...`."""
    return points[..., NOSE_TIP, :].var(axis=-2).sum(-1) / _unit(points) ** 2


def expression_variance(points: np.ndarray) -> np.ndarray:
    """Variance over the frames of 37 upper-face points about the nose tip, `... f 68 2` -> `...`.

    x and y are added; mean over the points.
    """
    relative = points[..., UPPER_FACE_37, :] - points[..., NOSE_TIP : NOSE_TIP + 1, :]
    return relative.var(axis=-3).sum(-1).mean(-1) / _unit(points) ** 2


def mouth_box(points: np.ndarray, margin: float = 0.25) -> np.ndarray:
    """Box around the lips, widened by `margin` mouth widths, `... 68 2` -> `... 4` (x0 y0 x1 y1)."""
    return _box(points[..., MOUTH, :], margin)


def eye_boxes(points: np.ndarray, margin: float = 0.35) -> np.ndarray:
    """Boxes around the two eyes, widened by `margin` eye widths, `... 68 2` -> `... 2 4` (x0 y0 x1 y1)."""
    return np.stack([_box(points[..., eye, :], margin) for eye in EYES], axis=-2)


def _mean_gap(points: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    upper, lower = np.array(pairs).T
    gaps = np.linalg.norm(points[..., upper, :] - points[..., lower, :], axis=-1)
    return gaps.mean(-1) / _unit(points)[..., None]


def _unit(points: np.ndarray) -> np.ndarray:
    """The mean eye distance of each track, `... f 68 2` -> `...`."""
    if points.ndim < 3 or points.shape[-2:] != (68, 2):
        raise ValueError(f"expected tracks of shape (..., frames, 68, 2), got {points.shape}")
    unit = eye_distance(points).mean(-1)
    if np.any(unit <= 0):
        raise ValueError("a track's outer eye corners coincide; drop lost frames, do not fill them")
    return unit


def _box(points: np.ndarray, margin: float) -> np.ndarray:
    low, high = points.min(-2), points.max(-2)
    pad = margin * (high[..., :1] - low[..., :1])
    return np.concatenate([low - pad, high + pad], axis=-1)
