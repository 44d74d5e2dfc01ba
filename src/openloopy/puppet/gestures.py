"""What moves besides the mouth: head, gaze, lids, brows; by itself, and with the voice.

Source: ours. Blinks, brows and the calmest heads are set after footage of people who read sentences to a camera
(benchmarks/puppets.py); the liveliest heads turn at about 20 degrees per second, as in free talk.

    Style (the person, for all clips) + Prosody (this voice) -> Mood (this clip) -> Head, Expression
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import find_peaks

from openloopy.puppet.prosody import MOTION_FPS, Prosody, plateau, smooth, wander
from openloopy.puppet.visemes import SILENCE, TimedViseme

MAX_YAW_DEG, MAX_PITCH_DEG, MAX_ROLL_DEG = 13.0, 9.0, 11.0
"""Beyond these a portrait's far cheek smears."""
MAX_SHIFT_CM = (1.2, 0.8)
"""How far the head leaves its place, across and up or down."""
MAX_ZOOM = 0.06
"""How much larger or smaller the head gets by leaning."""
USUAL_PITCH_SPREAD = 1.2
"""Of an ordinary voice, semitones (see `Prosody.pitch_spread`)."""
CALMEST_HEAD, LIVELIEST_HEAD = 0.18, 1.2
"""Factors on the sizes of head movement at liveliness 0 and 1."""
_SACCADE_S = 0.04
_CAMERA_HZ = (0.04, 0.25)


@dataclass(frozen=True, kw_only=True)
class Style:
    """A person's habits, held through a clip and from clip to clip."""

    articulation: float
    """Jaw opening, 1 = usual."""
    spread: float
    """Mouth width changes, 1 = usual."""
    upper_lip: float
    lower_lip: float
    """How much the lips show the teeth, 1 = usual."""
    rest_open: float
    """How far the lips stay apart in silence, 0 to 1."""
    lip_lead_s: float
    """The mouth moves this much before the sound."""
    liveliness: float
    """Calm (0) to lively (1); rules the sizes of head movement, colours the mood."""
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    """Sizes of head movement."""
    usual_pose_deg: tuple[float, float, float]
    """Yaw, pitch, roll about which the head moves, relative to the portrait."""
    sway_hz: float
    """Middle frequency of the head's livelier movement."""
    nod_deg: float
    """Size of nods on stressed words."""
    nod_share: float
    """Share of stressed words that get a nod."""
    shift_interval_s: float
    """Mean time between changes of posture."""
    translation_cm: float
    """Size of the torso's and the camera's sway."""
    lean: float
    """Size of leaning in and out, as a share of the distance."""
    breath_s: float
    """Length of a breath."""
    blink_interval_s: float
    blink_regularity: float
    """Shape of the gamma distribution of the intervals: 1 = at random, high = like a clock."""
    gaze_deg: float
    """How far glances go."""
    gaze_away: float
    """Share of glances that leave the camera."""
    gaze_side_deg: tuple[float, float]
    """Where glances go most, degrees right and down."""
    fixation_s: float
    """Mean time between glances."""
    brow: float
    """Liveliness of the brows, 0 to 1."""
    smile: float
    """Usual smile, -1 to 1."""
    smile_side: float
    brow_side: float
    """By which share the picture's left side moves more than the right one."""


def draw_style(rng: np.random.Generator) -> Style:
    """A random person's habits."""
    liveliness = rng.beta(1.3, 1.6)
    size = CALMEST_HEAD * (LIVELIEST_HEAD / CALMEST_HEAD) ** liveliness
    side_deg = rng.normal(0, 1.5), rng.normal(0.5, 1.0)
    return Style(
        articulation=rng.uniform(0.75, 1.25),
        spread=rng.uniform(0.6, 1.0),
        upper_lip=rng.uniform(0.5, 1.4),
        lower_lip=rng.uniform(0.4, 1.1),
        rest_open=rng.choice([0.0, 0.0, 0.0, 0.05, 0.1]),
        lip_lead_s=rng.uniform(0.02, 0.05),
        liveliness=liveliness,
        yaw_deg=size * rng.uniform(3.0, 7.0),
        pitch_deg=size * rng.uniform(2.2, 4.5),
        roll_deg=size * rng.uniform(1.2, 3.5),
        usual_pose_deg=(rng.normal(0, 1.5), rng.normal(0, 1.0), rng.normal(0, 1.2)),
        sway_hz=_log_uniform(rng, 0.55, 1.6),
        nod_deg=size * rng.uniform(1.5, 5.5),
        nod_share=rng.uniform(0.35, 0.95),
        shift_interval_s=_log_uniform(rng, 1.2, 4.0),
        translation_cm=(0.3 + size) * rng.uniform(0.08, 0.35),
        lean=rng.uniform(0.004, 0.018),
        breath_s=rng.uniform(3.2, 4.5),
        blink_interval_s=_log_uniform(rng, 1.5, 4.8),
        blink_regularity=_log_uniform(rng, 1.5, 6.0),
        gaze_deg=rng.uniform(1.5, 5.5),
        gaze_away=rng.uniform(0.15, 0.5),
        gaze_side_deg=side_deg,
        fixation_s=_log_uniform(rng, 0.7, 2.0),
        brow=rng.uniform(0.05, 0.6),
        smile=rng.uniform(-0.1, 0.35),
        smile_side=float(np.clip(rng.normal(0, 0.12), -0.35, 0.35)),
        brow_side=float(np.clip(rng.normal(0, 0.15), -0.5, 0.5)),
    )


@dataclass(frozen=True, kw_only=True)
class Mood:
    """How this clip is spoken."""

    arousal: float
    """Calm (-1) to excited (1)."""
    valence: float
    """Serious (-1) to happy (1)."""


def mood_of(prosody: Prosody, style: Style) -> Mood:
    """The mood that a voice and a person's habits tell of: excited voices go up and down, happy people smile.

    Arousal is tanh of (pitch spread / usual - 1) and the person's liveliness; excitement makes a happy person
    happier and a serious one more serious.
    """
    voice = np.clip(prosody.pitch_spread / USUAL_PITCH_SPREAD - 1, -1, 1) if prosody.pitch_spread else 0.0
    arousal = np.tanh(0.7 * voice + 0.8 * (style.liveliness - 0.5))
    valence = np.tanh(3 * (style.smile - 0.1) * (1 + 0.5 * arousal))
    return Mood(arousal=float(arousal), valence=float(valence))


@dataclass(frozen=True, kw_only=True)
class Head:
    """Pose relative to the portrait's, `n` moments each; degrees, cm, nearness as a share."""

    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    shift_x: np.ndarray
    shift_y: np.ndarray
    nearness: np.ndarray
    breath: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Expression:
    """Eyes and brows, `n` moments each."""

    gaze_x: np.ndarray
    gaze_y: np.ndarray
    """Gaze relative to the head, degrees right and down in the picture."""
    blink_left: np.ndarray
    blink_right: np.ndarray
    smile_left: np.ndarray
    smile_right: np.ndarray
    brow_left: np.ndarray
    brow_right: np.ndarray
    frown: np.ndarray
    squint: np.ndarray


def stressed_times(prosody: Prosody) -> np.ndarray:
    """Times of the most prominent syllables, at least .28 s apart, s."""
    height = max(np.percentile(prosody.prominence, 82), 1e-3)
    peaks, _ = find_peaks(prosody.prominence, height=height, distance=round(0.28 * MOTION_FPS))
    return prosody.time_s[peaks]


def move_head(
    rng: np.random.Generator, style: Style, mood: Mood, prosody: Prosody, visemes: Sequence[TimedViseme]
) -> Head:
    """Posture changes at pauses, slow drift, livelier sway while speaking, nods on stressed words.

    Loud and excited speech moves the head more; a rising voice lifts the chin a little.
    """
    time_s, size = prosody.time_s, (style.yaw_deg, style.pitch_deg, style.roll_deg)
    excitement = 1 + 0.35 * mood.arousal
    liveliness = excitement * (0.55 + 0.6 * smooth(np.clip(prosody.loudness, 0, 1.2), 1))
    posture = _posture(rng, style, time_s, visemes)
    nod = excitement * _nods(rng, style, prosody)
    beat = excitement * (smooth(prosody.loudness, 2) - smooth(prosody.loudness, 0.5))
    yaw, pitch, roll = (
        style.usual_pose_deg[axis]
        + size[axis] * (0.38 * posture[:, axis] + 0.34 * wander(rng, time_s, 0.06, 0.4))
        + size[axis] * 0.45 * liveliness * wander(rng, time_s, 0.75 * style.sway_hz, 1.4 * style.sway_hz)
        for axis in range(3)
    )
    yaw = yaw + 0.4 * style.nod_deg * beat * rng.choice([-1, 1])
    pitch = pitch + style.nod_deg * (nod + 0.8 * beat) - 0.12 * style.pitch_deg * prosody.intonation
    away_cm = style.translation_cm * np.stack([wander(rng, time_s, *_CAMERA_HZ) for _ in range(2)])
    lean = style.lean * (0.8 * posture[:, 3] + 0.6 * wander(rng, time_s, *_CAMERA_HZ))
    return Head(
        yaw=_limit(yaw, MAX_YAW_DEG),
        pitch=_limit(pitch, MAX_PITCH_DEG),
        roll=_limit(roll - 0.15 * yaw, MAX_ROLL_DEG),
        shift_x=_limit(away_cm[0] + 0.035 * yaw, MAX_SHIFT_CM[0]),
        shift_y=_limit(0.5 * away_cm[1] + 0.02 * style.nod_deg * nod - 6 * lean, MAX_SHIFT_CM[1]),
        nearness=_limit(lean, MAX_ZOOM),
        breath=0.06 * np.sin(2 * np.pi * (time_s / style.breath_s + rng.uniform())),
    )


def move_face(rng: np.random.Generator, style: Style, mood: Mood, prosody: Prosody, head: Head) -> Expression:
    """Glances that counter the head's turns, blinks, brows that rise with the voice, a smile of the mood.

    A voice that rises lifts the brows, excitement makes that larger; a serious mood lowers them, and the smile
    of a happy one grows where the voice is loud.
    """
    time_s = prosody.time_s
    starts_s, glance = _glances(rng, style, time_s)
    warmth = 0.10 * mood.valence * smooth(prosody.loudness, 0.5)
    smile = np.clip(style.smile + warmth + 0.10 * wander(rng, time_s, 0.05, 0.3), -0.25, 0.8)
    lift = _brow_raises(rng, style, prosody) + 0.12 * np.clip(prosody.intonation, -2, 4)
    blink = _blinks(rng, style, time_s, starts_s)
    brow = 0.07 * wander(rng, time_s, 0.08, 0.6) + 0.65 * style.brow * (1 + 0.5 * mood.arousal) * lift
    return Expression(
        gaze_x=glance[:, 0] - 0.75 * head.yaw,
        gaze_y=glance[:, 1] - 0.7 * head.pitch,
        blink_left=blink,
        blink_right=blink,
        smile_left=smile * (1 + style.smile_side),
        smile_right=smile * (1 - style.smile_side),
        brow_left=brow * (1 + style.brow_side),
        brow_right=brow * (1 - style.brow_side),
        frown=np.clip(0.12 * wander(rng, time_s, 0.06, 0.4) - 0.12 * mood.valence, 0, 1),
        squint=np.clip(0.10 * wander(rng, time_s, 0.1, 0.6) + 0.25 * smile, -0.15, 0.5),
    )


def _posture(
    rng: np.random.Generator, style: Style, time_s: np.ndarray, visemes: Sequence[TimedViseme]
) -> np.ndarray:
    """Random poses (three turns and a lean) taken in turn, preferably at pauses, `n 4` of unit variance."""
    pauses_s = np.array([start for start, end, viseme in visemes if viseme == SILENCE and end - start > 0.12])
    pose = rng.standard_normal(4)
    track = np.tile(pose, (len(time_s), 1))
    change_s = 0.0
    while (change_s := _next_change(rng, style, change_s, pauses_s)) < time_s[-1]:
        following = rng.standard_normal(4)
        # A critically damped spring's answer to a step.
        elapsed = rng.uniform(4.0, 6.5) * np.maximum(time_s - change_s, 0)
        track += (1 - (1 + elapsed) * np.exp(-elapsed))[:, None] * (following - pose)
        pose = following
    return track


def _next_change(rng: np.random.Generator, style: Style, now_s: float, pauses_s: np.ndarray) -> float:
    wanted = now_s + style.shift_interval_s * rng.uniform(0.5, 1.5)
    near = pauses_s[(np.abs(pauses_s - wanted) < 0.5) & (pauses_s > now_s + 0.3)]
    return float(near[0]) if len(near) else wanted


def _nods(rng: np.random.Generator, style: Style, prosody: Prosody) -> np.ndarray:
    """Dips of the head on stressed words after a small rise, 1 = a full nod, `n`."""
    nods = np.zeros_like(prosody.time_s)
    for stress_s in stressed_times(prosody):
        if rng.random() < style.nod_share:
            after = prosody.time_s - stress_s
            nods += rng.uniform(0.4, 1.1) * (
                np.exp(-((after / 0.13) ** 2)) - 0.45 * np.exp(-(((after + 0.26) / 0.16) ** 2))
            )
    return nods


def _brow_raises(rng: np.random.Generator, style: Style, prosody: Prosody) -> np.ndarray:
    """Raises on some stressed words, and a little with the voice everywhere, `n`."""
    raises = 0.35 * smooth(prosody.prominence, 1.5)
    for stress_s in stressed_times(prosody):
        if rng.random() < 0.35 * style.brow + 0.08:
            raises += rng.uniform(0.4, 1.0) * plateau(
                prosody.time_s, stress_s - 0.08, stress_s + 0.15, 0.14, 0.3
            )
    return raises


def _glances(rng: np.random.Generator, style: Style, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start times of fixations, and where the eyes look, `n 2` degrees; saccades between."""
    num = int(time_s[-1] / style.fixation_s * 4) + 6
    starts_s = np.cumsum(rng.gamma(2.2, style.fixation_s / 2.2, num)) - 0.6
    is_away = rng.random(num) < style.gaze_away
    spread_deg = np.where(is_away[:, None], style.gaze_deg * np.array([1.0, 0.65]), np.array([1.2, 0.8]))
    targets = rng.standard_normal((num, 2)) * spread_deg
    targets[is_away] += style.gaze_side_deg
    current = np.clip(np.searchsorted(starts_s, time_s) - 1, 0, None)
    return starts_s, smooth(targets[current], 0.5 / _SACCADE_S)


def _blinks(rng: np.random.Generator, style: Style, time_s: np.ndarray, glances_s: np.ndarray) -> np.ndarray:
    """1 = shut; at random, sometimes twice, sometimes with a glance, `n`."""
    num = int(time_s[-1] / style.blink_interval_s * 4) + 6
    shape = style.blink_regularity
    gaps_s = np.maximum(rng.gamma(shape, style.blink_interval_s / shape, num), 0.5)
    # The first gap is cut at random, else every clip would start with open eyes.
    times_s = np.cumsum(gaps_s) - gaps_s[0] * rng.uniform()
    doubles_s = times_s[rng.random(num) < 0.1] + rng.uniform(0.32, 0.45)
    with_glance_s = glances_s[rng.random(len(glances_s)) < 0.1]
    is_alone = np.abs(with_glance_s[:, None] - times_s).min(1) > 0.8
    starts_s = np.concatenate([times_s, doubles_s, with_glance_s[is_alone]])
    lids = [_blink(rng, time_s, start_s) for start_s in starts_s[starts_s < time_s[-1]]]
    return np.max([np.zeros_like(time_s), *lids], axis=0)


def _blink(rng: np.random.Generator, time_s: np.ndarray, start_s: float) -> np.ndarray:
    """Lids fall fast and rise slowly; one in eight does not close fully."""
    depth = rng.uniform(0.55, 0.9) if rng.random() < 0.12 else 1.0
    fall_s, hold_s, rise_s = rng.uniform(0.07, 0.10), rng.uniform(0.02, 0.06), rng.uniform(0.12, 0.22)
    return depth * plateau(time_s, start_s + fall_s, start_s + fall_s + hold_s, fall_s, rise_s)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _limit(x: np.ndarray, most: float) -> np.ndarray:
    """Softly within -most to most."""
    return most * np.tanh(x / most)
