"""From an utterance to the rig's control curves at 25 fps.

Source: ours. Movement is worked out at 200 Hz; closures and blinks are sampled as the highest value around a frame,
since at 25 fps a closure of 40 ms could fall between two frames.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from openloopy.media.video import FPS
from openloopy.puppet.articulation import Mouth, articulate, fill_gaps
from openloopy.puppet.gestures import (
    Expression,
    Head,
    Mood,
    Style,
    draw_style,
    mood_of,
    move_face,
    move_head,
)
from openloopy.puppet.prosody import Prosody, analyse, smooth
from openloopy.puppet.speech import Utterance
from openloopy.puppet.visemes import phonemes_to_visemes

__all__ = ["Curves", "Style", "curves", "draw_style"]

_CLOSURE_MARGIN_S = 0.012
_BLINK_MARGIN_S = 0.008


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The rig's controls, one value per frame in each array; the rig says what they mean."""

    jaw: np.ndarray
    wide: np.ndarray
    up: np.ndarray
    low: np.ndarray
    tip: np.ndarray
    tong: np.ndarray
    close: np.ndarray
    tuck: np.ndarray
    press: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tz: np.ndarray
    breath: np.ndarray
    gx: np.ndarray
    gy: np.ndarray
    blink: np.ndarray
    smile: np.ndarray
    brow: np.ndarray
    frown: np.ndarray
    squint: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return getattr(self, name)

    def keys(self) -> list[str]:
        return [field.name for field in fields(self)]

    @property
    def num_frames(self) -> int:
        return len(self.jaw)

    def frame(self, i: int) -> dict[str, float]:
        """All controls of one frame."""
        return {name: float(self[name][i]) for name in self.keys()}


def curves(utterance: Utterance, style: Style, rng: np.random.Generator) -> Curves:
    """Control curves of a person with this style saying the utterance; frame i shows the moment i / 25 s."""
    head_rng, face_rng = rng.spawn(2)
    prosody = analyse(utterance.waveform)
    visemes = fill_gaps(phonemes_to_visemes(utterance.phonemes), utterance.duration_s)
    mood = mood_of(prosody, style)
    head = move_head(head_rng, style, mood, prosody, visemes)
    face = move_face(face_rng, style, mood, prosody, head)
    frame_s = np.arange(round(utterance.duration_s * FPS)) / FPS
    mouth = _sample_mouth(articulate(visemes, prosody), style, mood, prosody, frame_s)
    return Curves(**mouth, **_sample_rest(head, face, prosody.time_s, frame_s))


def _sample_mouth(
    mouth: Mouth, style: Style, mood: Mood, prosody: Prosody, frame_s: np.ndarray
) -> dict[str, np.ndarray]:
    time_s, early_s = prosody.time_s, frame_s + style.lip_lead_s
    # Contact leads less than the rest: a closure that is seen early also opens early.
    contact_s = frame_s + 0.5 * style.lip_lead_s
    effort = (0.82 + 0.22 * smooth(prosody.loudness, 3)) * (1 + 0.12 * mood.arousal)
    jaw = mouth.jaw * style.articulation * effort
    close = np.maximum(mouth.contact, 0.97 * (1 - style.rest_open) * mouth.rest)
    press = smooth(np.clip(mouth.contact - mouth.rest, 0, 1), 12)
    return {
        "jaw": np.interp(early_s, time_s, jaw),
        "wide": np.interp(early_s, time_s, mouth.wide) * style.spread,
        "up": np.interp(early_s, time_s, mouth.up) * style.upper_lip,
        "low": np.interp(early_s, time_s, mouth.low) * style.lower_lip,
        "tip": np.interp(early_s, time_s, mouth.tip),
        "tong": np.interp(early_s, time_s, mouth.tongue),
        "close": _highest_around(contact_s, time_s, close, _CLOSURE_MARGIN_S),
        "tuck": _highest_around(contact_s, time_s, mouth.tuck, _CLOSURE_MARGIN_S),
        "press": np.interp(contact_s, time_s, press),
    }


def _sample_rest(
    head: Head, face: Expression, time_s: np.ndarray, frame_s: np.ndarray
) -> dict[str, np.ndarray]:
    tracks = {**vars(head), **vars(face)}
    sampled = {name: np.interp(frame_s, time_s, track) for name, track in tracks.items()}
    return sampled | {"blink": _highest_around(frame_s, time_s, face.blink, _BLINK_MARGIN_S)}


def _highest_around(
    frame_s: np.ndarray, time_s: np.ndarray, track: np.ndarray, margin_s: float
) -> np.ndarray:
    """The highest of three samples within the margin around each frame time."""
    offsets_s = (-margin_s, 0.0, margin_s)
    return np.max([np.interp(frame_s + offset_s, time_s, track) for offset_s in offsets_s], axis=0)
