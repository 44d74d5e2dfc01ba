"""Bent and sung voices: pitch, tempo and timbre are those asked for, and sounds stay where they are said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.speech import Speaker, Utterance, bend, sing, speak, utter
from openloopy.puppet.voice_bending import (
    SCALES,
    Melody,
    Timbre,
    bend_voice,
    draw_melody,
    draw_timbre,
    median_pitch_hz,
)

CLEAR = Timbre(breathiness=0.0, jitter=0.0, shimmer=0.0)
TEXT = "Pass it to Sam, she sits at the top of the coffee pot. Stop! Is she sure, Sissy asks?"


@pytest.fixture(scope="module")
def spoken() -> Utterance:
    return speak(Speaker(engine="espeak", language="en-us", voice=""), TEXT)


def whole(utterance: Utterance, tempo: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    old_s = np.array([0.0, utterance.duration_s])
    return old_s, old_s * tempo


def log_loudness(waveform: np.ndarray) -> np.ndarray:
    frames = waveform[: len(waveform) // 80 * 80].reshape(-1, 80)
    return np.log(np.sqrt((frames**2).mean(1)) + 1e-3)


def centroid_hz(waveform: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return float((np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE_HZ) * power).sum() / power.sum())


def test_unbent_voice_keeps_its_course_and_pitch(spoken: Utterance) -> None:
    again = bend_voice(spoken.waveform, *whole(spoken), CLEAR, np.random.default_rng(0))
    assert again.dtype == np.float32 and len(again) == len(spoken.waveform)
    before, after = log_loudness(spoken.waveform), log_loudness(again)
    agreement = [np.corrcoef(before[10:-10], np.roll(after, -k)[10:-10])[0, 1] for k in range(-4, 5)]
    assert abs(int(np.argmax(agreement)) - 4) <= 1 and agreement[4] > 0.9
    assert median_pitch_hz(again) == pytest.approx(median_pitch_hz(spoken.waveform), rel=0.06)


@pytest.mark.parametrize("pitch", [0.7, 1.5])
def test_pitch_changes_alone(spoken: Utterance, pitch: float) -> None:
    timbre = replace(CLEAR, pitch=pitch)
    bent = bend_voice(spoken.waveform, *whole(spoken), timbre, np.random.default_rng(0))
    assert median_pitch_hz(bent) == pytest.approx(pitch * median_pitch_hz(spoken.waveform), rel=0.08)
    assert len(bent) == len(spoken.waveform)


def test_formants_and_tempo_change_alone(spoken: Utterance) -> None:
    low, high = (
        bend_voice(spoken.waveform, *whole(spoken, 1.3), replace(CLEAR, formants=f), np.random.default_rng(0))
        for f in (0.85, 1.2)
    )
    assert len(low) == len(high) == round(1.3 * spoken.duration_s * SAMPLE_RATE_HZ)
    assert centroid_hz(high) > 1.1 * centroid_hz(low)
    assert median_pitch_hz(high) == pytest.approx(median_pitch_hz(low), rel=0.06)


def test_a_note_is_sung_at_its_pitch(spoken: Utterance) -> None:
    melody = Melody(starts_s=np.zeros(1), notes_hz=np.array([220.0]), vibrato_semitones=0.0)
    sung = bend_voice(spoken.waveform, *whole(spoken), CLEAR, np.random.default_rng(0), melody)
    assert median_pitch_hz(sung) == pytest.approx(220, rel=0.03)


def test_melody_stays_near_its_centre_and_in_its_scale() -> None:
    for seed in range(20):
        melody = draw_melody(np.random.default_rng(seed), np.arange(200.0), 150.0)
        semitones = 12 * np.log2(melody.notes_hz / 150.0)
        assert np.abs(semitones).max() < 19
        steps = np.diff(semitones)[np.abs(np.diff(semitones)) > 1e-6]
        np.testing.assert_allclose(steps, steps.round(), atol=1e-6)
        pitch_classes = {int(s) for s in (semitones - semitones[0]).round().astype(int) % 12}
        assert len(pitch_classes) <= max(len(scale) for scale in SCALES)


@pytest.mark.parametrize("change", [bend, sing])
def test_phonemes_move_with_the_sound(spoken: Utterance, change) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        changed = change(spoken, replace(CLEAR, pitch=draw_timbre(rng).pitch), rng)
        assert [p.symbol for p in changed.phonemes] == [p.symbol for p in spoken.phonemes]
        bright = np.diff(changed.waveform, prepend=0.0) ** 2
        frames = len(bright) // 80
        bright = np.log(bright[: frames * 80].reshape(-1, 80).mean(1) + 1e-9)
        bright -= 2 * log_loudness(changed.waveform)

        def agreement(shift: int, bright=bright, changed=changed) -> float:
            labels = np.zeros(len(bright))
            for phoneme in changed.phonemes:
                if phoneme.symbol in ("s", "ʃ"):
                    first, last = (max(0, int(t * 200) + shift) for t in (phoneme.start_s, phoneme.end_s))
                    labels[first:last] = 1
            return float(np.corrcoef(labels, bright)[0, 1])

        assert abs(max(range(-20, 21), key=agreement)) <= 3
        assert agreement(0) > 0.25


def test_sung_vowels_are_held_and_consonants_are_not(spoken: Utterance) -> None:
    sung = sing(spoken, CLEAR, np.random.default_rng(2))
    for before, after in zip(spoken.phonemes, sung.phonemes, strict=True):
        if before.symbol in ("s", "p", "t", "ʃ"):
            assert after.end_s - after.start_s == pytest.approx(before.end_s - before.start_s, abs=2e-4)
    assert sung.duration_s > 1.2 * spoken.duration_s


def test_training_speech_is_partly_sung_validation_never(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name, change in (("bend", bend), ("sing", sing)):

        def spy(utterance, timbre, rng, name=name, change=change):
            called.append(name)
            return change(utterance, timbre, rng)

        monkeypatch.setattr(f"openloopy.puppet.speech.{name}", spy)
    speaker = Speaker(engine="espeak", language="en-us", voice="")
    for seed in range(12):
        assert utter(np.random.default_rng(seed), speaker, 1.0, "val").duration_s == 1.0
    assert not called
    for seed in range(20):
        utterance = utter(np.random.default_rng(seed), speaker, 1.0, "train")
        assert utterance.duration_s == 1.0 and np.isfinite(utterance.waveform).all()
    assert set(called) == {"bend", "sing"}
