"""What moves besides the mouth: head, gaze, lids, brows; by itself, and with the voice.

Source: ours. Head speed (about 19 degrees per second) and blink rate are set after measures of real talking heads.
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
_SACCADE_S = 0.04


@dataclass(frozen=True, kw_only=True)
class Style:
    """A person's habits, held through a clip."""

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
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    """Sizes of head movement."""
    sway_hz: float
    """Middle frequency of the head's livelier movement."""
    nod_deg: float
    """Size of nods on stressed words."""
    shift_interval_s: float
    """Mean time between changes of posture."""
    translation_cm: float
    breath_s: float
    """Length of a breath."""
    blink_interval_s: float
    gaze_deg: float
    """How far glances go."""
    gaze_away: float
    """Share of glances that leave the camera."""
    brow: float
    """Liveliness of the brows, 0 to 1."""
    smile: float
    """Usual smile, -1 to 1."""


def draw_style(rng: np.random.Generator) -> Style:
    """A random person's habits."""
    return Style(
        articulation=rng.uniform(0.8, 1.25),
        spread=rng.uniform(0.8, 1.15),
        upper_lip=rng.uniform(0.4, 1.3),
        lower_lip=rng.uniform(0.4, 1.1),
        rest_open=rng.choice([0.0, 0.0, 0.0, 0.05, 0.1]),
        lip_lead_s=rng.uniform(0.02, 0.05),
        yaw_deg=rng.uniform(2.0, 8.0),
        pitch_deg=rng.uniform(1.4, 4.5),
        roll_deg=rng.uniform(1.0, 4.0),
        sway_hz=rng.uniform(0.8, 1.4),
        nod_deg=rng.uniform(1.2, 6.5),
        shift_interval_s=rng.uniform(1.2, 3.0),
        translation_cm=rng.uniform(0.1, 0.35),
        breath_s=rng.uniform(3.2, 4.5),
        blink_interval_s=np.exp(rng.uniform(np.log(2.3), np.log(6.5))),
        gaze_deg=rng.uniform(2.0, 6.0),
        gaze_away=rng.uniform(0.2, 0.55),
        brow=rng.uniform(0.2, 0.9),
        smile=rng.uniform(-0.1, 0.35),
    )


@dataclass(frozen=True, kw_only=True)
class Head:
    """Pose relative to the portrait's, `n` moments each; degrees, cm, tz as a share of the distance."""

    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tz: np.ndarray
    breath: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Expression:
    """Eyes and brows, `n` moments each."""

    gx: np.ndarray
    gy: np.ndarray
    """Gaze relative to the head, degrees right and down in the picture."""
    blink: np.ndarray
    smile: np.ndarray
    brow: np.ndarray
    frown: np.ndarray
    squint: np.ndarray


def stressed_times(prosody: Prosody) -> np.ndarray:
    """Times of the most prominent syllables, at least .28 s apart, s."""
    height = max(np.percentile(prosody.prominence, 82), 1e-3)
    peaks, _ = find_peaks(prosody.prominence, height=height, distance=round(0.28 * MOTION_FPS))
    return prosody.time_s[peaks]


def move_head(
    rng: np.random.Generator, style: Style, prosody: Prosody, visemes: Sequence[TimedViseme]
) -> Head:
    """Posture changes at pauses, slow drift, livelier sway while speaking, nods on stressed words."""
    time_s, size = prosody.time_s, (style.yaw_deg, style.pitch_deg, style.roll_deg)
    liveliness = 0.55 + 0.6 * smooth(np.clip(prosody.loudness, 0, 1), 1)
    posture = _posture(rng, style, time_s, visemes)
    nod = _nods(rng, prosody)
    beat = smooth(prosody.loudness, 2) - smooth(prosody.loudness, 0.5)
    yaw, pitch, roll = (
        size[axis] * (0.38 * posture[:, axis] + 0.34 * wander(rng, time_s, 0.06, 0.4))
        + size[axis] * 0.45 * liveliness * wander(rng, time_s, 0.6 * style.sway_hz, 1.7 * style.sway_hz)
        for axis in range(3)
    )
    yaw = yaw + 0.4 * style.nod_deg * beat * rng.choice([-1, 1])
    pitch = pitch + style.nod_deg * (nod + 0.8 * beat)
    return Head(
        yaw=_limit(yaw, MAX_YAW_DEG),
        pitch=_limit(pitch, MAX_PITCH_DEG),
        roll=_limit(roll - 0.15 * yaw, MAX_ROLL_DEG),
        tx=style.translation_cm * wander(rng, time_s, 0.08, 0.6) + 0.035 * yaw,
        ty=0.5 * style.translation_cm * wander(rng, time_s, 0.08, 0.6) + 0.06 * nod,
        tz=0.012 * wander(rng, time_s, 0.06, 0.4),
        breath=0.06 * np.sin(2 * np.pi * (time_s / style.breath_s + rng.uniform())),
    )


def move_face(rng: np.random.Generator, style: Style, prosody: Prosody, head: Head) -> Expression:
    """Glances that counter the head's turns, blinks, brows that rise with the voice."""
    time_s = prosody.time_s
    starts_s, glance = _glances(rng, style, time_s)
    smile = np.clip(style.smile + 0.16 * wander(rng, time_s, 0.05, 0.3), -0.25, 0.8)
    return Expression(
        gx=glance[:, 0] - 0.75 * head.yaw,
        gy=glance[:, 1] - 0.7 * head.pitch,
        blink=_blinks(rng, style, time_s, starts_s),
        smile=smile,
        brow=0.22 * wander(rng, time_s, 0.08, 0.6) + 0.9 * style.brow * _brow_raises(rng, style, prosody),
        frown=np.clip(0.15 * wander(rng, time_s, 0.06, 0.4), 0, 1),
        squint=np.clip(0.15 * wander(rng, time_s, 0.1, 0.6) + 0.25 * smile, -0.15, 0.5),
    )


def _posture(
    rng: np.random.Generator, style: Style, time_s: np.ndarray, visemes: Sequence[TimedViseme]
) -> np.ndarray:
    """Random poses taken in turn, changing preferably at pauses, `n 3` of unit variance."""
    pauses_s = np.array([start for start, end, viseme in visemes if viseme == SILENCE and end - start > 0.12])
    pose = rng.standard_normal(3)
    track = np.tile(pose, (len(time_s), 1))
    change_s = 0.0
    while (change_s := _next_change(rng, style, change_s, pauses_s)) < time_s[-1]:
        following = rng.standard_normal(3)
        # A critically damped spring's answer to a step.
        elapsed = rng.uniform(4.0, 6.5) * np.maximum(time_s - change_s, 0)
        track += (1 - (1 + elapsed) * np.exp(-elapsed))[:, None] * (following - pose)
        pose = following
    return track


def _next_change(rng: np.random.Generator, style: Style, now_s: float, pauses_s: np.ndarray) -> float:
    wanted = now_s + style.shift_interval_s * rng.uniform(0.5, 1.5)
    near = pauses_s[(np.abs(pauses_s - wanted) < 0.5) & (pauses_s > now_s + 0.3)]
    return float(near[0]) if len(near) else wanted


def _nods(rng: np.random.Generator, prosody: Prosody) -> np.ndarray:
    """Dips of the head on stressed words after a small rise, 1 = a full nod, `n`."""
    nods = np.zeros_like(prosody.time_s)
    for stress_s in stressed_times(prosody):
        if rng.random() < 0.75:
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
    num = int(time_s[-1] / 0.3) + 4
    starts_s = np.cumsum(rng.gamma(2.2, 0.55, num)) - 0.6
    is_away = rng.random(num) < style.gaze_away
    spread_deg = np.where(is_away[:, None], style.gaze_deg * np.array([1.0, 0.65]), np.array([1.2, 0.8]))
    targets = rng.standard_normal((num, 2)) * spread_deg
    current = np.clip(np.searchsorted(starts_s, time_s) - 1, 0, None)
    return starts_s, smooth(targets[current], 0.5 / _SACCADE_S)


def _blinks(rng: np.random.Generator, style: Style, time_s: np.ndarray, glances_s: np.ndarray) -> np.ndarray:
    """1 = shut; at random, sometimes twice, sometimes with a glance, `n`."""
    num = int(time_s[-1] / style.blink_interval_s * 4) + 6
    gaps_s = np.maximum(rng.gamma(2.5, style.blink_interval_s / 2.5, num), 0.5)
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
    fall_s, hold_s, rise_s = rng.uniform(0.07, 0.10), rng.uniform(0.02, 0.06), rng.uniform(0.14, 0.24)
    return depth * plateau(time_s, start_s + fall_s, start_s + fall_s + hold_s, fall_s, rise_s)


def _limit(x: np.ndarray, most: float) -> np.ndarray:
    """Softly within -most to most."""
    return most * np.tanh(x / most)
