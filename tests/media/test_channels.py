"""What is heard of several channels, and what becomes of more than a video holds."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.media.audio import SoundArray, as_waveform, open_sound, open_waveform
from openloopy.media.channels import ChannelPowers, mixed_down, powers_of, to_mono
from openloopy.media.sound_file import SoundBlock
from tests.media.sounds import speechlike, write_sound

RATE_HZ = 16_000
VOICE, OTHER = speechlike(2, RATE_HZ, 2)
NOISE = np.random.default_rng(0).normal(0, 0.02, len(VOICE)).astype(np.float32)


def blocks(samples: np.ndarray, layout: str) -> list[SoundBlock]:
    return [
        SoundBlock(samples=part, sample_rate_hz=RATE_HZ, layout=layout, codec="pcm")
        for part in np.array_split(samples, 7, axis=1)
    ]


CANCELLING = {
    "out of phase": (np.stack([VOICE, -VOICE]), 0),
    "the second is louder": (np.stack([0.6 * VOICE, -VOICE]), 1),
    "with noise in phase": (np.stack([VOICE + NOISE, -VOICE + NOISE]), 0),
    "with an offset, which is no sound": (np.stack([VOICE + 0.3, -VOICE + 0.3]), 0),
    "four channels": (np.stack([0.8 * VOICE, -0.8 * VOICE, OTHER, -OTHER]), None),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_of_channels_that_cancel_the_louder_one_is_heard_and_that_is_said(tmp_path, name):
    samples, channel = CANCELLING[name]
    path = write_sound(tmp_path / "a.wav", samples, RATE_HZ, "pcm_f32le")
    sound, notes = open_sound(path), []
    powers = powers_of(blocks(samples, "stereo"))
    assert powers.cancel and channel in (None, powers.loudest)
    expected = samples[powers.loudest]
    np.testing.assert_allclose(sound.waveform.whole(), expected, atol=1e-4)
    wanted = f"are out of phase and cancel each other; only the louder one, channel {powers.loudest + 1}"
    assert len(sound.notes) == 1 and wanted in sound.notes[0] and str(path) in sound.notes[0]
    np.testing.assert_allclose(as_waveform((samples, RATE_HZ), notes.append), expected, atol=1e-6)
    assert len(notes) == 1 and wanted in notes[0]
    assert open_waveform(path, notes.append) is not None and notes[1] == sound.notes[0]


@pytest.mark.parametrize(
    "samples",
    [
        np.stack([VOICE, VOICE]),
        np.stack([VOICE, 0 * VOICE]),
        np.stack([0 * VOICE] * 5 + [VOICE]),
        np.stack([VOICE, OTHER]),
        np.stack([VOICE, -0.3 * VOICE]),
        np.zeros((2, RATE_HZ), np.float32),
        VOICE[None],
    ],
    ids=["alike", "one silent", "one of six", "strangers", "a third of it is left", "silence", "mono"],
)
def test_of_other_channels_the_mean_is_heard_and_nothing_said(tmp_path, samples):
    sound = open_sound(write_sound(tmp_path / "a.wav", samples, RATE_HZ, "pcm_f32le"))
    assert sound.notes == ()
    np.testing.assert_allclose(sound.waveform.whole(), to_mono(samples), atol=1e-4)
    notes = []
    np.testing.assert_allclose(as_waveform((samples, RATE_HZ), notes.append), to_mono(samples), atol=1e-6)
    assert not notes


def test_what_was_long_ago_is_forgotten():
    powers = ChannelPowers(memory_samples=len(VOICE) / 20)
    for _ in range(9):
        powers.add(np.stack([VOICE, -VOICE]))
        assert powers.cancel
    powers.add(np.stack([VOICE, VOICE]))
    assert not powers.cancel


def test_channels_of_known_places_go_to_their_sides():
    """FL FR FC LFE BL BR SL SR TFL TFR TBL TBR: the middle to both, the bass to none."""
    sound = speechlike(1, RATE_HZ, 12)
    left, right = np.concatenate([b.samples for b in mixed_down(blocks(sound, "7.1.4"))], axis=1)
    np.testing.assert_allclose(left, sound[[0, 2, 4, 6, 8, 10]].mean(0), atol=1e-6)
    np.testing.assert_allclose(right, sound[[1, 2, 5, 7, 9, 11]].mean(0), atol=1e-6)


def test_one_microphone_of_sixteen_is_heard_on_both_sides_as_loud_as_it_is():
    sound = np.zeros((16, RATE_HZ), np.float32)
    sound[4] = VOICE[:RATE_HZ]
    wide = blocks(sound, "16 channels")
    mixed = list(mixed_down(wide, powers_of(wide)))
    assert {block.layout for block in mixed} == {"stereo"}
    np.testing.assert_allclose(
        np.concatenate([b.samples for b in mixed], axis=1), np.stack([sound[4]] * 2), atol=1e-6
    )


def test_up_to_eight_channels_pass():
    wide = blocks(speechlike(0.5, RATE_HZ, 8), "7.1")
    assert all(a is b for a, b in zip(mixed_down(wide), wide, strict=True))


def test_silence_in_many_channels_is_silence():
    wide = blocks(np.zeros((9, 800), np.float32), "9 channels")
    assert all(block.samples.shape[0] == 2 and not block.samples.any() for block in mixed_down(wide))


def test_arrays_are_judged_once(monkeypatch):
    sound = SoundArray(np.stack([VOICE, -VOICE]), RATE_HZ)
    assert sound.told() and np.array_equal(sound.waveform(), VOICE)
    monkeypatch.setattr(ChannelPowers, "add", None)
    assert sound.told() and np.array_equal(sound.waveform(), VOICE)
