"""Mouth and eye regions as maps over a picture or a latent grid, from 68-point landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

MOUTH_POINTS = slice(48, 68)
EYE_POINTS = (slice(36, 42), slice(42, 48))
MOUTH_MARGIN = 0.3
"""Share of the mouth's width added on every side: an open mouth and the skin that moves with it."""
EYE_MARGIN = 0.45


def region_boxes(points: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Maps that are 1 inside the boxes of the mouth and of the eyes.

    Args:
        points: 68 points, `n 68 2` in [0, 1] of the picture.
        side: cells per side of the map.

    Returns:
        mouth, eyes: `n 1 side side` float32.
    """
    mouth = _box_map(points[:, MOUTH_POINTS], MOUTH_MARGIN, side)
    left, right = (_box_map(points[:, part], EYE_MARGIN, side) for part in EYE_POINTS)
    return mouth, torch.maximum(left, right)


def region_weights(points: Tensor, side: int, *, mouth: float, eyes: float) -> Tensor:
    """1 everywhere, `mouth` and `eyes` inside their boxes: `n 1 side side`."""
    mouth_map, eye_map = region_boxes(points, side)
    return 1 + (mouth - 1) * mouth_map + (eyes - 1) * eye_map * (1 - mouth_map)


def _box_map(points: Tensor, margin: float, side: int) -> Tensor:
    low, high = points.amin(1), points.amax(1)
    pad = margin * (high[:, :1] - low[:, :1])
    low, high = low - pad, high + pad
    centres = (torch.arange(side, device=points.device) + 0.5) / side
    # A cell counts when its middle is inside; on a coarse grid the nearest cell must still be hit.
    half = 0.5 / side
    inside = (centres >= low[..., None] - half) & (centres <= high[..., None] + half)
    return (inside[:, 1, :, None] & inside[:, 0, None, :])[:, None].float()
