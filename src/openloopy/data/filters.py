"""Filters: which clips are good enough to learn from. Pure functions of a clip's measures and the thresholds.

Source: Loopy (arXiv:2409.02634) removes clips with a low lip-sync score, excessive head motion, extreme rotation and an
incomplete head, and states no thresholds; ours come from the histograms in docs/data.md. A threshold's name is `min_`
or `max_` and the measure's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from openloopy.data.verdicts import Reason, Span


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a clip must meet; None turns a filter off. The first that is not met is the reason that counts."""

    min_duration_s: float | None = 1.0
    min_face_px: float | None = 40.0
    """Forehead to chin, median."""
    min_confidence: float | None = 0.5
    """Of the landmarks, mean."""
    max_head_outside: float | None = 0.1
    """Share of the head (face and a third more above it) beyond the picture's edge, worst frame."""
    max_yaw_deg: float | None = 40.0
    max_pitch_deg: float | None = 35.0
    max_roll_deg: float | None = 30.0
    """Of the head against the camera: 95th percentile of the absolute angle."""
    max_face_outside_crop: float | None = 0.0
    """Share of frames in which the face leaves the steady crop."""
    max_head_speed: float | None = 1.5
    """Of the nose tip, eye distances per second, mean."""
    max_head_motion: float | None = 2500.0
    """Glo: variance of the nose tip, (1/100 eye distance)^2."""
    min_movement: float | None = 0.004
    """Of the landmarks in the head's frame, eye distances, rms: less is a still picture."""
    max_repeated: float | None = 0.5
    """Share of frames that repeat the picture before."""
    max_sound_missing_s: float | None = 0.5
    max_sound_lost_s: float | None = 0.0
    """Silence in place of sound that is damaged in the file."""
    min_rms_db: float | None = -45.0
    min_speech_share: float | None = 0.25
    max_clipping_share: float | None = 0.005
    min_snr_db: float | None = 12.0
    max_music_score: float | None = 0.25
    """Singing with instruments is dropped too; turn it off where that is wanted."""
    max_several_speakers: float | None = None
    """Off: it cannot be told well (docs/data.md)."""
    max_sync_offset: float | None = 2.0
    """Frames by which the sound is late or early (absolute), where that was not corrected."""
    min_sync_strength: float | None = 3.75
    """Agreement of the clip's sound with its lips, in units of what chance gives clips of its length; see
    `measures.lip_sync`, and docs/data.md for how many that keeps."""
    min_sync_score: float | None = None
    """The same agreement as it is. Off: what it means depends on the clip's length."""
    min_sync_c: float | None = None
    """SyncNet's confidence, where its weights are given."""

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def thresholds_from(settings: Mapping[str, str]) -> Thresholds:
    """The default thresholds with some replaced: numbers, or "none" to turn a filter off. Unknown names are refused."""
    known = [f.name for f in fields(Thresholds)]
    values: dict[str, float | None] = {}
    for name, text in settings.items():
        if name not in known:
            raise ValueError(f"no threshold {name!r}; there are: {', '.join(known)}")
        try:
            values[name] = None if text.lower() in ("none", "null", "off") else float(text)
        except ValueError:
            raise ValueError(f"{name} needs a number or none, got {text!r}") from None
        if values[name] is not None and not math.isfinite(values[name]):
            raise ValueError(f"{name} needs a finite number or none, got {text!r}")
    return Thresholds(**values)


OUT_OF_STEP = "out of step"
NAMES = {
    "duration_s": "too short",
    "face_px": "small face",
    "confidence": "unsure landmarks",
    "head_outside": "incomplete head",
    "yaw_deg": "extreme rotation",
    "pitch_deg": "extreme rotation",
    "roll_deg": "extreme rotation",
    "face_outside_crop": "excessive head motion",
    "head_speed": "excessive head motion",
    "head_motion": "excessive head motion",
    "movement": "still picture",
    "repeated": "repeated frames",
    "sound_missing_s": "no sound",
    "sound_lost_s": "damaged sound",
    "rms_db": "no sound",
    "speech_share": "no speech",
    "clipping_share": "clipped sound",
    "snr_db": "noisy sound",
    "music_score": "music",
    "several_speakers": "several speakers",
    "sync_offset": OUT_OF_STEP,
    "sync_strength": "low lip sync",
    "sync_score": "low lip sync",
    "sync_c": "low lip sync",
}
"""Measure -> what a clip is dropped as."""

DESCRIPTIONS = {
    "duration_s": "length, s",
    "face_px": "height of the face, px",
    "confidence": "confidence of the landmarks",
    "head_outside": "share of the head beyond the picture's edge",
    "yaw_deg": "turned to the side, degrees",
    "pitch_deg": "turned up or down, degrees",
    "roll_deg": "tilted, degrees",
    "face_outside_crop": "share of frames with the face outside of the crop",
    "head_speed": "speed of the head, eye distances per s",
    "head_motion": "variance of the nose tip (Glo), (1/100 eye distance)^2",
    "expression": "variance of the upper face (Exp), (1/100 eye distance)^2",
    "movement": "movement within the face, eye distances",
    "repeated": "share of frames that repeat the one before",
    "others": "share of frames in which others are seen too",
    "sound_missing_s": "picture without sound, s",
    "sound_lost_s": "sound that is damaged, s",
    "peak": "loudest sample, full scale 1",
    "rms_db": "loudness, dB of full scale",
    "speech_share": "share of the time with speech",
    "clipping_share": "share of samples that are clipped",
    "snr_db": "speech above the background, dB",
    "music_score": "music, 0 to 1",
    "several_speakers": "several voices, 0 to 1",
    "sync_offset": "sound late by, frames",
    "sync_error": "standard error of that, frames",
    "sync_height": "agreement of lips and sound above that three or more frames off",
    "sound_was_late": "sound was late by, frames, before it was moved",
    "sync_strength": "agreement of lips and sound, in units of chance (our network)",
    "sync_score": "agreement of lips and sound (our network)",
    "sync_c": "confidence of SyncNet (Sync-C)",
    "sync_d": "distance of SyncNet (Sync-D)",
}


ABSOLUTE = frozenset({"sync_offset"})
"""Measures whose size counts, whatever their sign."""


def judge(measures: Mapping[str, float], thresholds: Thresholds) -> tuple[Reason, ...]:
    """All reasons to drop a clip, in the thresholds' order; none: keep it. A measure that is missing drops nothing."""
    reasons = []
    for threshold in fields(thresholds):
        limit = getattr(thresholds, threshold.name)
        bound, _, measure = threshold.name.partition("_")
        if limit is None or measure not in measures:
            continue
        value = abs(measures[measure]) if measure in ABSOLUTE else measures[measure]
        if value < limit if bound == "min" else value > limit:
            words = "at least" if bound == "min" else "at most"
            detail = f"{DESCRIPTIONS[measure]}: {measures[measure]:.4g}, {words} {limit:g} is wanted"
            reasons.append(Reason(name=NAMES[measure], detail=detail))
    return tuple(reasons)


def another_speaks(spans: Sequence[Span]) -> list[Span]:
    """Of kept spans that show several people at once, those are dropped whose lips another one's agree better than.

    Spans count as simultaneous from half of the shorter one's length on. Without sync scores nothing is dropped.
    """
    return [
        replace(span, reasons=(_another(span, better),)) if (better := _better(span, spans)) else span
        for span in spans
    ]


def _better(span: Span, spans: Sequence[Span]) -> Span | None:
    """Who is seen at the same time and agrees better with the sound."""
    for other in spans:
        shared = min(span.stop, other.stop) - max(span.start, other.start)
        is_rival = other is not span and span.is_kept and other.is_kept and "sync_score" in other.measures
        if is_rival and 2 * shared >= min(span.num_frames, other.num_frames):
            if other.measures["sync_score"] > span.measures.get("sync_score", float("inf")):
                return other
    return None


def _another(span: Span, other: Span) -> Reason:
    scores = [s.measures["sync_score"] for s in (span, other)]
    detail = f"the sound agrees with these lips by {scores[0]:.2f}, with those of {other.clip_id} by {scores[1]:.2f}"
    return Reason(name="another speaks", detail=detail)
