"""Motion curves: lips that meet in time, blinks that are seen, a head that moves as real ones do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from openloopy.face.mesh import canonical_mesh
from openloopy.face.movement import lip_gap
from openloopy.puppet.articulation import fill_gaps
from openloopy.puppet.gestures import (
    MAX_PITCH_DEG,
    MAX_ROLL_DEG,
    MAX_SHIFT_CM,
    MAX_YAW_DEG,
    MAX_ZOOM,
    mood_of,
)
from openloopy.puppet.motion import FPS, draw_style, face_states
from openloopy.puppet.prosody import MOTION_FPS, analyse, plateau, wander
from openloopy.puppet.speech import Phoneme, Speaker, Utterance, draw_speaker, speak, utter
from openloopy.puppet.visemes import CLOSED, SILENCE, TUCKED, phonemes_to_visemes
from openloopy.rig.points import PuppetPoints
from openloopy.rig.state import NAMES, States

ESPEAK = Speaker(engine="espeak", language="en-us", voice="")
SPREAD_AND_ROUNDED = (
    "She sees ten green trees, and the red rooster rules the room.",
    "We read each letter, then choose two new blue shoes.",
    "Here he keeps his best cheese; would you look through the window?",
    "The sick kitten sleeps in the kitchen, while rude crew members grew rude.",
)
NUM_CLIPS = 12
CLIP_S = 8.0


@pytest.fixture(scope="module")
def clips() -> list[tuple[Utterance, States]]:
    made = []
    for seed in range(NUM_CLIPS):
        rng = np.random.default_rng(seed)
        utterance = utter(rng, draw_speaker(rng, "train"), CLIP_S, "train")
        made.append((utterance, face_states(utterance, draw_style(rng), rng)))
    return made


def highest_per_sound(utterance: Utterance, track: np.ndarray, viseme: str) -> np.ndarray:
    """Highest value among the frames that show each occurrence of a viseme."""
    found = []
    for start_s, end_s, kind in phonemes_to_visemes(utterance.phonemes):
        if kind == viseme and end_s < utterance.duration_s - 0.05:
            first, last = int(start_s * FPS), int(np.ceil(end_s * FPS)) + 1
            found.append(track[max(first, 0) : last].max())
    return np.array(found)


def test_every_closure_closes_in_some_frame(clips) -> None:
    highest = np.concatenate([highest_per_sound(u, c["close"], CLOSED) for u, c in clips])
    assert len(highest) > 60
    assert (highest > 0.95).mean() > 0.99


def test_every_f_tucks_the_lip(clips) -> None:
    highest = np.concatenate([highest_per_sound(u, c["tuck"], TUCKED) for u, c in clips])
    assert len(highest) > 10
    assert (highest > 0.9).mean() > 0.95


def test_jaw_opens_on_open_vowels_and_closes_in_silence(clips) -> None:
    opened = np.concatenate([highest_per_sound(u, c["jaw"], "a") for u, c in clips])
    teeth = np.concatenate([highest_per_sound(u, -c["jaw"], "s") for u, c in clips])
    assert np.median(opened) > 2 * np.median(-teeth)


def test_spread_vowels_part_the_lips_and_rounded_sounds_bring_them_together() -> None:
    """As filmed people do, whatever the jaw does."""
    spread, rounded = (
        np.concatenate([gaps_in(utterance, sounds) for utterance in map(said, range(4))])
        for sounds in (("i", "ɪ", "e", "ɛ"), ("u", "ʊ", "w", "r"))
    )
    assert len(spread) > 20 and len(rounded) > 20
    assert np.median(spread) > 2 * np.median(rounded)


def said(seed: int) -> Utterance:
    return speak(ESPEAK, SPREAD_AND_ROUNDED[seed])


def gaps_in(utterance: Utterance, sounds: tuple[str, ...]) -> np.ndarray:
    """Lip gaps of an average face, eye distances, in the middle of each such sound."""
    rng = np.random.default_rng(0)
    states = face_states(utterance, draw_style(rng), rng)
    gaps = lip_gap(PuppetPoints(canonical_mesh().vertices * 5.0).track(states))
    middles = [
        (start_s + end_s) / 2
        for start_s, end_s, viseme in phonemes_to_visemes(utterance.phonemes)
        if viseme in sounds
    ]
    return gaps[np.minimum(np.round(np.array(middles) * FPS).astype(int), len(gaps) - 1)]


def test_lips_meet_on_time() -> None:
    """Shown at the closure: neither the vowel before nor the one after is shut."""
    utterance = speak(ESPEAK, "Oh, a map.")
    motion = face_states(utterance, draw_style(np.random.default_rng(0)), np.random.default_rng(0))
    closed = next(p for p in utterance.phonemes if p.symbol == "m")
    middle = round((closed.start_s + closed.end_s) / 2 * FPS)
    vowel = next(p for p in utterance.phonemes if "æ" in p.symbol)
    open_frame = round((vowel.start_s + vowel.end_s) / 2 * FPS)
    assert motion["close"][middle] > 0.95 and motion["close"][open_frame] < 0.7
    assert motion["jaw"][open_frame] > motion["jaw"][middle]


def test_rounding_follows_the_sound() -> None:
    style = draw_style(np.random.default_rng(0))
    rounded, spread = (
        face_states(speak(ESPEAK, text), style, np.random.default_rng(0))
        for text in ("ooh, two fools", "he sees me")
    )
    assert rounded["wide"].min() < -0.5 and spread["wide"].min() > -0.5
    assert spread["wide"].max() > 0.4


def test_silence_rests_the_mouth_and_the_head_still_moves() -> None:
    quiet = Utterance(waveform=np.zeros(64_000, np.float32), phonemes=(), text="", speaker=ESPEAK)
    motion = face_states(quiet, draw_style(np.random.default_rng(1)), np.random.default_rng(1))
    assert motion["jaw"][10:-10].max() < 0.06
    assert motion["close"][10:-10].min() > 0.85
    assert motion["press"].max() < 0.05
    assert motion["yaw"].std() > 0.1
    assert all(np.isfinite(motion[name]).all() for name in NAMES)


def test_blinks_shut_the_eyes_about_as_often_as_people_do(clips) -> None:
    blink = np.concatenate([c["blink_left"] for _, c in clips])
    assert 0.05 < (blink > 0.5).mean() < 0.12
    starts = (np.diff((blink > 0.5).astype(int)) == 1).sum()
    assert 0.1 < starts / (NUM_CLIPS * CLIP_S) < 0.7
    assert blink.min() >= 0 and blink.max() > 0.98


def test_head_speed_and_range(clips) -> None:
    """From people who read (about 5 degrees per second) to free talk (20); a portrait bears some 13 degrees."""
    pose = np.stack([np.stack([c["yaw"], c["pitch"], c["roll"]], 1) for _, c in clips])
    speed = np.linalg.norm(np.diff(pose, axis=1) * FPS, axis=2).mean(1)
    assert 4 < speed.mean() < 14
    assert speed.max() > 2 * speed.min()
    assert (np.abs(pose).max((0, 1)) < [MAX_YAW_DEG, MAX_PITCH_DEG, MAX_ROLL_DEG]).all()
    assert (pose.std(1).mean(0) > [0.5, 0.5, 0.3]).all()


def test_head_and_camera_keep_their_place(clips) -> None:
    for _, motion in clips:
        assert (
            np.abs(motion["shift_x"]).max() < MAX_SHIFT_CM[0]
            and np.abs(motion["shift_y"]).max() < MAX_SHIFT_CM[1]
        )
        assert np.abs(motion["nearness"]).max() < MAX_ZOOM
    assert np.mean([c["nearness"].std() for _, c in clips]) > 0.002


def test_head_moves_more_with_the_voice(clips) -> None:
    loud, quiet = [], []
    for utterance, motion in clips:
        prosody = analyse(utterance.waveform)
        frame_s = (np.arange(len(motion) - 1) + 0.5) / FPS
        is_loud = np.interp(frame_s, prosody.time_s, prosody.loudness) > 0.3
        speed = np.abs(np.diff(motion["pitch"])) * FPS
        loud.append(speed[is_loud].mean())
        quiet.append(speed[~is_loud].mean())
    assert np.mean(loud) > 1.05 * np.mean(quiet)


def test_a_voice_that_rises_lifts_the_brows() -> None:
    style = replace(draw_style(np.random.default_rng(0)), brow=0.6)
    low, high = (
        face_states(tone(end_hz), style, np.random.default_rng(3))["brow_left"] for end_hz in (120, 155)
    )
    first, second = slice(10, 30), slice(60, 90)
    assert (high[second] - low[second]).mean() > (high[first] - low[first]).mean() + 0.05


def test_excited_voices_move_head_and_jaw_more() -> None:
    """Same words and loudness, but the voice goes up and down."""
    style = draw_style(np.random.default_rng(0))
    flat, lively = analyse(tone(120).waveform), analyse(tone(155).waveform)
    assert mood_of(lively, style).arousal > mood_of(flat, style).arousal + 0.3
    calm, excited = (
        face_states(replace(tone(end_hz), phonemes=tone_vowels()), style, np.random.default_rng(3))
        for end_hz in (120, 155)
    )
    assert excited["jaw"].mean() > 1.02 * calm["jaw"].mean()
    assert np.abs(np.diff(excited["roll"])).mean() > 1.05 * np.abs(np.diff(calm["roll"])).mean()


def test_mood_follows_the_person() -> None:
    prosody, style = analyse(tone(120).waveform), draw_style(np.random.default_rng(0))
    happy, serious = (mood_of(prosody, replace(style, smile=smile)) for smile in (0.35, -0.1))
    assert happy.valence > 0.3 > -0.3 > serious.valence
    lively, calm = (mood_of(prosody, replace(style, liveliness=liveliness)) for liveliness in (1.0, 0.0))
    assert lively.arousal > calm.arousal


def test_people_are_told_apart_by_their_habits() -> None:
    """Two clips of one person are more alike than clips of two people, in blink interval and in sway frequency."""
    quiet = Utterance(waveform=np.zeros(40 * 16_000, np.float32), phonemes=(), text="", speaker=ESPEAK)
    habits = np.array(
        [
            [
                habits_of(
                    face_states(
                        quiet,
                        draw_style(np.random.default_rng(person)),
                        np.random.default_rng([person, clip]),
                    )
                )
                for clip in range(2)
            ]
            for person in range(16)
        ]
    )
    within = np.abs(habits[:, 0] - habits[:, 1]).mean(0)
    between = np.abs(habits[:, None, 0] - habits[None, :, 1])[~np.eye(16, dtype=bool)].mean(0)
    assert (between > 1.4 * within).all(), (within, between)


def habits_of(motion: States) -> list[float]:
    """Logarithms of the mean time between blinks, s, and of the middle frequency of the head's speed, Hz."""
    num_blinks = (np.diff((motion["blink_left"] > 0.5).astype(int)) == 1).sum()
    speed = np.diff(np.stack([motion["yaw"], motion["pitch"], motion["roll"]], 1), axis=0)
    power = (np.abs(np.fft.rfft(speed * np.hanning(len(speed))[:, None], axis=0)) ** 2).sum(1)
    frequency = np.fft.rfftfreq(len(speed), 1 / FPS)
    sways = frequency > 0.3
    middle_hz = (power * frequency)[sways].sum() / power[sways].sum()
    return [np.log(len(motion) / FPS / max(num_blinks, 1)), np.log(middle_hz)]


def test_held_vowels_stay_open() -> None:
    """A sung vowel sinks a little in two seconds; it does not shut."""
    held = (Phoneme(start_s=0.5, end_s=2.5, symbol="ɑː", alphabet="ipa"),)
    motion = face_states(
        replace(tone(120), phonemes=held), draw_style(np.random.default_rng(0)), np.random.default_rng(0)
    )
    early, late = motion["jaw"][20:25].mean(), motion["jaw"][52:57].mean()
    assert 0.8 * early < late < 0.97 * early
    assert motion["close"][20:57].max() < 0.05


def tone(end_hz: float) -> Utterance:
    """Three seconds of a buzz that is at 120 Hz for the first half and at `end_hz` for the second."""
    time_s = np.arange(48_000) / 16_000
    phase = 2 * np.pi * np.cumsum(np.where(time_s < 1.5, 120, end_hz)) / 16_000
    waveform = (0.4 * np.sign(np.sin(phase))).astype(np.float32)
    return Utterance(waveform=waveform, phonemes=(), text="", speaker=ESPEAK)


def tone_vowels() -> tuple[Phoneme, ...]:
    return tuple(
        Phoneme(start_s=0.2 * i, end_s=0.2 * (i + 1), symbol=symbol, alphabet="ipa")
        for i, symbol in enumerate(["ɑː", "t"] * 7)
    )


def test_eyes_counter_the_head(clips) -> None:
    assert np.mean([np.corrcoef(c["gaze_x"], c["yaw"])[0, 1] for _, c in clips]) < -0.3


def test_same_seed_same_curves_and_style_holds(clips) -> None:
    utterance, _ = clips[0]
    style = draw_style(np.random.default_rng(7))
    first, second, other = (face_states(utterance, style, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for name in NAMES:
        np.testing.assert_array_equal(first[name], second[name])
    # The mouth follows speech and style alone; chance rules the rest.
    np.testing.assert_array_equal(first["jaw"], other["jaw"])
    assert not np.allclose(first["yaw"], other["yaw"])


@pytest.mark.parametrize("duration_s", [0.1, 0.5, 3.01])
def test_frames_match_the_duration(duration_s: float) -> None:
    utterance = utter(np.random.default_rng(0), ESPEAK, duration_s, "train")
    motion = face_states(utterance, draw_style(np.random.default_rng(0)), np.random.default_rng(0))
    assert len(motion) == round(duration_s * FPS)
    frame = motion.frame(len(motion) - 1)
    assert frame["jaw"] == motion["jaw"][-1] and set(frame) == set(NAMES)
    assert {name: motion[name].shape for name in NAMES} == dict.fromkeys(frame, motion["jaw"].shape)


def test_fill_gaps_is_gapless() -> None:
    filled = fill_gaps([(0.3, 0.4, "a"), (0.4, 0.5, SILENCE), (0.7, 0.8, "p")], 1.0)
    assert [viseme for *_, viseme in filled] == [SILENCE, "a", SILENCE, "p", SILENCE]
    np.testing.assert_allclose([end for _, end, _ in filled[:-1]], [start for start, *_ in filled[1:]])
    assert filled[0][0] == 0 and filled[-1][1] >= 1.0


def test_short_closures_survive_sampling() -> None:
    """A closure of 40 ms, wherever it falls between two frames."""
    for delay_s in np.linspace(0, 0.04, 9):
        start = 0.5 + float(delay_s)
        phonemes = tuple(
            Phoneme(start_s=a, end_s=b, symbol=symbol, alphabet="ipa")
            for a, b, symbol in [(0.2, start, "ɑː"), (start, start + 0.04, "b"), (start + 0.04, 0.9, "ɑː")]
        )
        utterance = Utterance(
            waveform=np.full(16_000, 0.1, np.float32), phonemes=phonemes, text="aba", speaker=ESPEAK
        )
        motion = face_states(utterance, draw_style(np.random.default_rng(0)), np.random.default_rng(0))
        assert motion["close"][8:18].max() > 0.95


def test_wander_has_its_variance_in_its_band() -> None:
    time_s = np.arange(60 * MOTION_FPS) / MOTION_FPS
    track = wander(np.random.default_rng(0), time_s, 0.5, 2.0)
    assert track.std() == pytest.approx(1, abs=0.15)
    power = np.abs(np.fft.rfft(track * np.hanning(len(track)))) ** 2
    frequency = np.fft.rfftfreq(len(track), 1 / MOTION_FPS)
    assert power[(frequency > 0.4) & (frequency < 2.1)].sum() > 0.98 * power.sum()


def test_plateau_rises_and_falls_outside_its_span() -> None:
    time_s = np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.35, 0.5])
    np.testing.assert_allclose(plateau(time_s, 0.2, 0.3, 0.1, 0.1), [0, 0, 0.5, 1, 1, 0.5, 0], atol=1e-9)


def test_prosody_finds_the_raised_word() -> None:
    time_s = np.arange(32_000) / 16_000
    pitch_hz = np.where((time_s > 1.0) & (time_s < 1.3), 180, 120)
    tone = 0.4 * np.sign(np.sin(2 * np.pi * np.cumsum(pitch_hz) / 16_000)).astype(np.float32)
    prosody = analyse(tone)
    assert 0.95 < prosody.time_s[prosody.prominence.argmax()] < 1.35
