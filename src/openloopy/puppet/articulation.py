"""The mouth in motion: visemes blended by dominance, lip closures, lip tucks, rest in silence.

Source: dominance functions after Cohen and Massaro (1993), "Modeling coarticulation in synthetic visual speech";
contact of the lips is kept apart from the blend, since coarticulation must not open a b, m or p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from openloopy.puppet.prosody import MOTION_FPS, Prosody, plateau, smooth
from openloopy.puppet.visemes import CLOSED, SILENCE, TABLE, TUCKED, VOWELS, TimedViseme

_LEAD_S = np.array([0.06, 0.1275, 0.065, 0.065, 0.045, 0.05])
"""Reach of a viseme before its time, per channel: lips round early."""
_LAG_S = np.array([0.06, 0.085, 0.065, 0.065, 0.045, 0.05])
_REACH_S = 0.5
_SMOOTHING_HZ = 6.5
_LONG_PAUSE_S = 0.22
_HOLD_AFTER_S, _HOLD_FALL_S, _HOLD_LOSS = 0.25, 0.8, 0.15
"""A vowel held (sung) longer than the first loses this share of its jaw opening, at this pace."""


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """Mouth controls, `n` moments each."""

    jaw: np.ndarray
    wide: np.ndarray
    up: np.ndarray
    low: np.ndarray
    tip: np.ndarray
    tongue: np.ndarray
    contact: np.ndarray
    """1 while a b, m or p holds the lips together."""
    tuck: np.ndarray
    rest: np.ndarray
    """1 in longer silences, when the lips lie together without pressure."""


def articulate(visemes: Sequence[TimedViseme], prosody: Prosody) -> Mouth:
    """Mouth controls of gapless visemes (see `fill_gaps`)."""
    time_s = prosody.time_s
    blend = smooth(_blend(visemes, prosody), _SMOOTHING_HZ)
    # A sound held longer keeps its contact; the shortest still reaches it.
    closed = (
        plateau(time_s, start + 0.012, max(start + 0.04, end - 0.03), 0.085, 0.10)
        for start, end, viseme in visemes
        if viseme == CLOSED
    )
    tucked = (
        plateau(time_s, start + 0.01, max(start + 0.04, end - 0.02), 0.085, 0.085)
        for start, end, viseme in visemes
        if viseme == TUCKED
    )
    resting = (
        plateau(time_s, start + 0.10, end - 0.10, 0.12, 0.14)
        for start, end, viseme in visemes
        if viseme == SILENCE and end - start > _LONG_PAUSE_S
    )
    contact, tuck, rest = (_highest(parts, time_s) for parts in (closed, tucked, resting))
    jaw, wide, up, low, tip, tongue = blend.T
    return Mouth(
        **dict(jaw=np.clip(jaw, 0, None), wide=wide, up=up, low=low, tip=tip, tongue=tongue),
        **dict(contact=contact, tuck=tuck, rest=rest),
    )


def fill_gaps(visemes: Sequence[TimedViseme], duration_s: float) -> list[TimedViseme]:
    """The same visemes with neighbouring silences joined and silence wherever nothing was said."""
    filled: list[TimedViseme] = []
    position_s = 0.0
    for start_s, end_s, viseme in [*visemes, (duration_s, duration_s + 0.2, SILENCE)]:
        if start_s > position_s:
            _append(filled, (position_s, start_s, SILENCE))
        _append(filled, (start_s, end_s, viseme))
        position_s = end_s
    return filled


def held_opening(elapsed_s: np.ndarray) -> np.ndarray:
    """What is left of a vowel's jaw opening after so long, `n` in 0..1: it sinks a little and never shuts."""
    return 1 - _HOLD_LOSS * (1 - np.exp(-np.maximum(elapsed_s - _HOLD_AFTER_S, 0) / _HOLD_FALL_S))


def _append(filled: list[TimedViseme], timed: TimedViseme) -> None:
    if filled and filled[-1][2] == timed[2] == SILENCE:
        filled[-1] = (filled[-1][0], timed[1], SILENCE)
    else:
        filled.append(timed)


def _blend(visemes: Sequence[TimedViseme], prosody: Prosody) -> np.ndarray:
    """Targets weighted by dominances that fall off around each viseme, `n 6`."""
    time_s = prosody.time_s
    weighted = np.zeros((len(time_s), 6))
    total = np.full((len(time_s), 6), 1e-4)
    for start_s, end_s, viseme in visemes:
        first, last = np.searchsorted(time_s, (start_s - _REACH_S, end_s + _REACH_S))
        dominance = _dominance(time_s[first:last], start_s, end_s, viseme)
        target = _target(start_s, end_s, viseme, prosody.loudness) * np.ones_like(dominance)
        if viseme in VOWELS:
            target[:, 0] *= held_opening(time_s[first:last] - start_s)
        weighted[first:last] += dominance * target
        total[first:last] += dominance
    return weighted / total


def _dominance(time_s: np.ndarray, start_s: float, end_s: float, viseme: str) -> np.ndarray:
    """`n 6`; flat within four fifths of the viseme, exp(-x^1.3) outside."""
    shape = TABLE[viseme]
    lips = (shape.jaw_dominance, shape.wide_dominance, shape.lip_dominance, shape.lip_dominance)
    before_s = np.maximum(0.9 * start_s + 0.1 * end_s - time_s, 0)[:, None]
    after_s = np.maximum(time_s - 0.1 * start_s - 0.9 * end_s, 0)[:, None]
    return np.array([*lips, 1.0, 0.8]) * np.exp(-((before_s / _LEAD_S + after_s / _LAG_S) ** 1.3))


def _target(start_s: float, end_s: float, viseme: str, loudness: np.ndarray) -> np.ndarray:
    """Where the viseme wants the mouth, `6`; short and quiet vowels undershoot."""
    shape = TABLE[viseme]
    effort = 1.0
    if viseme in VOWELS:
        middle = min(int((start_s + end_s) / 2 * MOTION_FPS), len(loudness) - 1)
        length = min((end_s - start_s) / 0.12, 1.3)
        effort = np.clip(0.7 + 0.2 * length + 0.15 * loudness[middle], 0.6, 1.15)
    wide = shape.wide * (0.7 + 0.3 * effort)
    return np.array([shape.jaw * effort, wide, shape.up, shape.low, shape.tip, shape.tongue])


def _highest(parts: Iterable[np.ndarray], time_s: np.ndarray) -> np.ndarray:
    return np.max([np.zeros_like(time_s), *parts], axis=0)
