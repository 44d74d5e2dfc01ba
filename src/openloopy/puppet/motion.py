"""From an utterance to face states at 25 fps.

Source: ours. Movement is worked out at 200 Hz; closures and blinks are sampled as the highest value around a frame,
since at 25 fps a closure of 40 ms could fall between two frames.
"""

from __future__ import annotations

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
from openloopy.rig.state import States

__all__ = ["Style", "draw_style", "face_states"]

_CLOSURE_MARGIN_S = 0.012
_BLINK_MARGIN_S = 0.008


def face_states(utterance: Utterance, style: Style, rng: np.random.Generator) -> States:
    """States of a person with this style saying the utterance; frame i shows the moment i / 25 s."""
    head_rng, face_rng = rng.spawn(2)
    prosody = analyse(utterance.waveform)
    visemes = fill_gaps(phonemes_to_visemes(utterance.phonemes), utterance.duration_s)
    mood = mood_of(prosody, style)
    head = move_head(head_rng, style, mood, prosody, visemes)
    face = move_face(face_rng, style, mood, prosody, head)
    frame_s = np.arange(round(utterance.duration_s * FPS)) / FPS
    mouth = _sample_mouth(articulate(visemes, prosody), style, mood, prosody, frame_s)
    return States.of(mouth | _sample_rest(head, face, prosody.time_s, frame_s))


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
        "upper_lip": np.interp(early_s, time_s, mouth.up) * style.upper_lip,
        "lower_lip": np.interp(early_s, time_s, mouth.low) * style.lower_lip,
        "tongue_tip": np.interp(early_s, time_s, mouth.tip),
        "tongue": np.interp(early_s, time_s, mouth.tongue),
        "close": _highest_around(contact_s, time_s, close, _CLOSURE_MARGIN_S),
        "tuck": _highest_around(contact_s, time_s, mouth.tuck, _CLOSURE_MARGIN_S),
        "press": np.interp(contact_s, time_s, press),
    }


def _sample_rest(
    head: Head, face: Expression, time_s: np.ndarray, frame_s: np.ndarray
) -> dict[str, np.ndarray]:
    tracks = {**vars(head), **vars(face)}
    sampled = {name: np.interp(frame_s, time_s, track) for name, track in tracks.items()}
    lids = {name: tracks[name] for name in ("blink_left", "blink_right")}
    return sampled | {
        name: _highest_around(frame_s, time_s, track, _BLINK_MARGIN_S) for name, track in lids.items()
    }


def _highest_around(
    frame_s: np.ndarray, time_s: np.ndarray, track: np.ndarray, margin_s: float
) -> np.ndarray:
    """The highest of three samples within the margin around each frame time."""
    offsets_s = (-margin_s, 0.0, margin_s)
    return np.max([np.interp(frame_s + offset_s, time_s, track) for offset_s in offsets_s], axis=0)
