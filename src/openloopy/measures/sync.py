"""Lip synchrony without a network: does the measured lip gap follow the true one, how late, and does it close?

A puppet's lip gap is known by construction, so a plain correlation replaces SyncNet (Loopy sec. 4, Sync-C
and Sync-D) where the truth is at hand. Footage without a known mouth needs SyncNet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MIN_OVERLAP_FRAMES = 10
"""Fewer common frames than this say nothing about synchrony."""
CLOSED_GAP = 0.025
"""Lips count as closed below this lip gap (eye distances): closed lips measure 0 to .015, speech about .08."""
OPEN_GAP = 0.05
"""Lips count as clearly open above this lip gap (eye distances)."""
CLOSURE_MARGIN_FRAMES = 1
"""A closure may come this much early or late."""


class LagCorrelation(NamedTuple):
    """Pearson correlation of two tracks, in step and at the best shift."""

    r: float
    """Correlation without a shift."""
    best_lag: int
    """Shift in frames with the highest correlation; positive: the generated mouth is late."""
    best_r: float
    """Correlation at `best_lag`."""


class Closed(NamedTuple):
    """In how many of the intervals that count a mouth was closed."""

    num_closed: int
    num_intervals: int


def lip_gap_correlation(generated: np.ndarray, true: np.ndarray, max_lag: int = 10) -> LagCorrelation:
    """How well a generated lip gap follows the true one.

    Args:
        generated, true: lip gaps, `f`; NaN where no face was found (that frame is left out).
        max_lag: largest shift tried, in frames, in both directions.

    Returns:
        The correlation in step, the best shift, and the correlation there. A mouth that never moves
        correlates 0 with anything, and so does one that is seen in too few frames: ask for these before. A shift
        that leaves fewer than `MIN_OVERLAP_FRAMES` frames with both faces is never the best one.
    """
    _check_tracks(generated, true, max_lag)
    by_lag = {lag: _correlation_at(generated, true, lag) for lag in _lags(max_lag)}
    tried = [lag for lag in by_lag if _num_shared(generated, true, lag) >= MIN_OVERLAP_FRAMES]
    best_lag = max(tried or [0], key=lambda lag: by_lag[lag])
    return LagCorrelation(by_lag[0], best_lag, by_lag[best_lag])


def closures(generated: np.ndarray, true: np.ndarray, intervals: np.ndarray) -> Closed:
    """Whether the lips meet where they must: at b, m and p.

    Args:
        generated, true: lip gaps, `f` eye distances; NaN where no face was found.
        intervals: start and end of each b, m, p, `n 2` in frames (time x 25: frame k is the moment k). Those count in
            which the true lips meet.

    Returns:
        The intervals, widened by `CLOSURE_MARGIN_FRAMES`, in which the generated gap falls below `CLOSED_GAP`.
    """
    spans = _spans(intervals, len(true), CLOSURE_MARGIN_FRAMES)
    spans = [span for span in spans if _smallest(true[span]) < CLOSED_GAP]
    return Closed(_num_closed(generated, spans), len(spans))


def false_closures(generated: np.ndarray, true: np.ndarray, vowels: np.ndarray) -> Closed:
    """The control of `closures`: the lips must not meet in vowels (`n 2` frames) that the true lips keep open."""
    spans = [span for span in _spans(vowels, len(true), 0) if _smallest(true[span]) > OPEN_GAP]
    spans = [span for span in spans if np.isfinite(true[span]).any()]
    return Closed(_num_closed(generated, spans), len(spans))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation over the frames where both tracks `f` are finite; 0 where either is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < MIN_OVERLAP_FRAMES:
        return 0.0
    a, b = a[known] - a[known].mean(), b[known] - b[known].mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 1e-12 else 0.0


def _spans(intervals: np.ndarray, num_frames: int, margin: int) -> list[slice]:
    """Intervals `n 2` as the frames nearest to their moments, widened; those outside the clip are left out."""
    return [
        slice(max(0, _nearest(start) - margin), min(num_frames, _nearest(end) + 1 + margin))
        for start, end in intervals
        if 0 <= start < end <= num_frames
    ]


def _nearest(moment: float) -> int:
    """The frame that shows the moment, given in frames; of two the later."""
    return int(np.floor(moment + 0.5))


def _num_closed(gap: np.ndarray, spans: list[slice]) -> int:
    return sum(_smallest(gap[span]) < CLOSED_GAP for span in spans)


def _smallest(gap: np.ndarray) -> float:
    """The smallest known gap; infinite where none is known, so that a lost face has no closed lips."""
    return float(np.min(gap, where=np.isfinite(gap), initial=np.inf))


def _lags(max_lag: int) -> list[int]:
    """Shifts, the smallest first, so that a tie goes to the smaller shift."""
    return sorted(range(-max_lag, max_lag + 1), key=abs)


def _correlation_at(generated: np.ndarray, true: np.ndarray, lag: int) -> float:
    return pearson(*_shifted(generated, true, lag))


def _num_shared(generated: np.ndarray, true: np.ndarray, lag: int) -> int:
    """In how many frames both are known at this shift."""
    return int(np.isfinite(np.add(*_shifted(generated, true, lag))).sum())


def _shifted(generated: np.ndarray, true: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """What is left of both tracks at this shift."""
    if lag >= 0:
        return generated[lag:], true[: len(true) - lag]
    return generated[:lag], true[-lag:]


def _check_tracks(generated: np.ndarray, true: np.ndarray, max_lag: int) -> None:
    if generated.ndim != 1 or generated.shape != true.shape:
        raise ValueError(
            f"expected two lip-gap tracks of the same length, got {generated.shape} and {true.shape}; "
            "cut both to the frames they share"
        )
    if len(generated) < MIN_OVERLAP_FRAMES + max_lag:
        raise ValueError(
            f"{len(generated)} frames are too few to try shifts of {max_lag}; "
            f"give at least {MIN_OVERLAP_FRAMES + max_lag} frames or a smaller max_lag"
        )
