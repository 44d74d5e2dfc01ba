"""How much a face moves: Glo and Exp of the paper, blinks, head speed; all from 68-point tracks.

Source: Loopy (arXiv:2409.02634), metrics Glo and Exp: variance of the nose tip, and of 37 upper-face
landmarks relative to it (mouth excluded). The paper states no unit. Ours: positions are divided by the
distance of the outer eye corners and the variance, summed over x and y, is multiplied by 1e4: 1.0 is a
standard deviation of one per cent of that distance. Compare with the true video's value; higher is not
better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from openloopy.face.landmarks import Face
from openloopy.face.movement import NOSE_TIP, expression_variance, eye_distance, head_motion_variance

VARIANCE_SCALE = 1e4
"""(inter-ocular distances)^2 -> (hundredths of the inter-ocular distance)^2."""


@dataclass(frozen=True, kw_only=True)
class BlinkConfig:
    """When an eye counts as closed: fractions of the person's own open eye (90th percentile of the track)."""

    close_below: float = 0.55
    open_above: float = 0.75
    max_closed_s: float = 1.0
    """A longer closure is a look down or sleep, not a blink."""

    def __post_init__(self) -> None:
        if not 0 < self.close_below < self.open_above < 1:
            raise ValueError(f"expected 0 < close_below < open_above < 1, got {self}")


def points_of(faces: Sequence[Face | None]) -> np.ndarray:
    """The 68 landmarks of tracked faces, `f 68 2` px; NaN where no face was found."""
    lost = np.full((68, 2), np.nan, np.float32)
    return np.stack([lost if face is None else face.points68 for face in faces])


def face_found(points: np.ndarray) -> float:
    """Share of frames in which a face was found, from `points_of`."""
    return float(np.isfinite(points).all(axis=(1, 2)).mean())


def per_frame(describe: Callable[[np.ndarray], np.ndarray], points: np.ndarray) -> np.ndarray:
    """A per-frame descriptor (`movement.lip_gap`, `movement.eye_opening`) of a track with lost frames.

    Args:
        describe: `f 68 2` -> `f`.
        points: `f 68 2`, NaN where no face was found.

    Returns:
        `f`, NaN where no face was found.
    """
    known = np.isfinite(points).all(axis=(1, 2))
    track = np.full(len(points), np.nan)
    if known.any():
        track[known] = describe(points[known])
    return track


def glo(points: np.ndarray) -> float:
    """Global motion: variance of the nose tip over a track `f 68 2` px, in (1/100 inter-ocular)^2."""
    return VARIANCE_SCALE * float(head_motion_variance(_known(points)))


def exp(points: np.ndarray) -> float:
    """Expression: variance of 37 upper-face points about the nose tip; track and unit as in `glo`."""
    return VARIANCE_SCALE * float(expression_variance(_known(points)))


def head_speed(points: np.ndarray, fps: float) -> float:
    """Mean speed of the nose tip over a track `f 68 2` px, in inter-ocular distances per second.

    Raises:
        ValueError: nowhere a face in two frames in a row.
    """
    steps = np.linalg.norm(np.diff(points[:, NOSE_TIP], axis=0), axis=-1)
    if not np.isfinite(steps).any():
        raise ValueError(
            f"no face was found in two frames in a row of {len(points)}; there is no speed to measure"
        )
    return float(np.nanmean(steps) * fps / np.nanmean(eye_distance(points)))


def border_step_ratio(points: np.ndarray, clip_frames: int) -> float:
    """Mean step of the nose tip from one clip to the next, over the mean step within clips.

    About 1 in a video that is no row of clips, and in one whose clips join.

    Args:
        points: `f 68 2` px, NaN where no face was found; frame 0 begins a clip.
        clip_frames: frames of a clip.
    """
    if clip_frames < 2 or len(points) <= clip_frames:
        raise ValueError(
            f"expected clips of at least 2 frames and a border between two, got {len(points)} frames in clips of "
            f"{clip_frames}"
        )
    steps = np.linalg.norm(np.diff(points[:, NOSE_TIP], axis=0), axis=-1)
    is_border = np.arange(1, len(points)) % clip_frames == 0
    return float(np.nanmean(steps[is_border]) / np.nanmean(steps[~is_border]))


def blinks_per_minute(eye_opening: np.ndarray, fps: float, config: BlinkConfig | None = None) -> float:
    """Blink rate of an eye-opening track `f` (NaN: no face); two thresholds, so that jitter counts once."""
    return 60 * fps * len(blinks(eye_opening, fps, config)) / len(eye_opening)


def blinks(eye_opening: np.ndarray, fps: float, config: BlinkConfig | None = None) -> list[tuple[int, int]]:
    """Frames `[start, end)` of each blink in an eye-opening track `f`."""
    config = config or BlinkConfig()
    filled = _filled(eye_opening)
    open_level = np.percentile(filled, 90)
    found, start = [], None
    for i, value in enumerate(filled):
        if start is None and value < config.close_below * open_level:
            start = i
        elif start is not None and value > config.open_above * open_level:
            found.append((start, i))
            start = None
    return [(a, b) for a, b in found if b - a <= config.max_closed_s * fps]


def _known(points: np.ndarray) -> np.ndarray:
    """The frames in which a face was found."""
    known = points[np.isfinite(points).all(axis=(1, 2))]
    if len(known) < 2:
        raise ValueError(f"a face was found in {len(known)} of {len(points)} frames; motion needs at least 2")
    return known


def _filled(track: np.ndarray) -> np.ndarray:
    """Missing frames of a track `f` interpolated."""
    known = np.isfinite(track)
    if not known.any():
        raise ValueError(f"no face was found in any of {len(track)} frames; there is no eye to watch")
    return np.interp(np.arange(len(track)), np.flatnonzero(known), track[known])
