"""Does a long video change its colours? Means in CIELAB, saturation and contrast, early against late.

Source: ours. A generator that feeds on its own output can drift; what drifts first is colour, contrast and the
face. Colour drift is a distance in CIELAB over 100, the distance from black to white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LAB_RANGE = 100.0
"""From black to white."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """The colours of one picture, or their mean over several."""

    lab: np.ndarray
    """Mean L, a, b, `3`; L 0..100."""
    saturation: float
    """Mean chroma: distance from grey in a, b."""
    contrast: float
    """Standard deviation of L."""


@dataclass(frozen=True, kw_only=True)
class ColourDrift:
    """How the colours of one stretch of video differ from those of an earlier one; shares, 0.01 = 1 %."""

    colour: float
    """Distance of the mean colours over `LAB_RANGE`."""
    saturation: float
    """Relative change: positive where colours became stronger."""
    contrast: float
    """Relative change: positive where contrast rose."""


def colours_of(rgb: np.ndarray) -> Colours:
    """The colours of a picture, or of a part cut out of it, `H W 3` uint8."""
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return Colours(
        lab=lab.mean((0, 1), dtype=np.float64),
        saturation=float(np.hypot(lab[..., 1], lab[..., 2]).mean()),
        contrast=float(lab[..., 0].std()),
    )


def mean_colours(pictures: Sequence[Colours]) -> Colours:
    """The mean over the pictures of a stretch of video."""
    if not pictures:
        raise ValueError("no pictures were given, so there are no colours to average; give at least one")
    return Colours(
        lab=np.mean([picture.lab for picture in pictures], axis=0),
        saturation=float(np.mean([picture.saturation for picture in pictures])),
        contrast=float(np.mean([picture.contrast for picture in pictures])),
    )


def colour_drift(first: Colours, second: Colours) -> ColourDrift:
    """From an earlier stretch of video to a later one."""
    return ColourDrift(
        colour=float(np.linalg.norm(second.lab - first.lab)) / LAB_RANGE,
        saturation=relative_change(first.saturation, second.saturation),
        contrast=relative_change(first.contrast, second.contrast),
    )


def relative_change(first: float, second: float) -> float:
    """`second / first - 1`; NaN where the first is 0."""
    return second / first - 1 if first else float("nan")
