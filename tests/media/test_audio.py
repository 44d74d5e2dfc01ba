"""Every kind of sound arrives whole, at 16 kHz mono, or is refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.media.audio import (
    MAX_IN_MEMORY_S,
    SAMPLE_RATE_HZ,
    AudioError,
    open_sound,
    open_waveform,
    resample,
    to_mono,
)
from openloopy.media.video import VideoWriter
from tests.media.sounds import best_lag, speechlike, write_sound

DURATION_S = 1.37


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels_give_the_exact_number_of_samples(tmp_path, rate_hz, channels):
    sound = speechlike(DURATION_S, rate_hz, channels)
    path = write_sound(tmp_path / "a.wav", sound, rate_hz)
    waveform, info = open_waveform(path), open_sound(path).info
    assert (info.sample_rate_hz, info.channels) == (rate_hz, channels)
    assert info.duration_s == pytest.approx(sound.shape[1] / rate_hz, abs=1e-9)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - sound.shape[1] * SAMPLE_RATE_HZ / rate_hz) <= 1
    expected = resample(sound.mean(axis=0), rate_hz, SAMPLE_RATE_HZ)
    same = min(len(expected), len(waveform))
    np.testing.assert_allclose(waveform[:same], expected[:same], atol=2e-3)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_sample_formats_have_the_same_scale(tmp_path, codec):
    sound = speechlike(0.5, SAMPLE_RATE_HZ)
    waveform = open_waveform(write_sound(tmp_path / "a.wav", sound, SAMPLE_RATE_HZ, codec))
    np.testing.assert_allclose(waveform, sound[0], atol=1e-2 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
        ("a.opus", "libopus"),
        ("a.flac", "flac"),
    ],
)
def test_compressed_sound_is_neither_shifted_nor_shortened(tmp_path, name, codec):
    rate_hz = 48_000
    sound = speechlike(DURATION_S, rate_hz)
    waveform = open_waveform(write_sound(tmp_path / name, sound, rate_hz, codec))
    expected = resample(sound[0], rate_hz, SAMPLE_RATE_HZ)
    assert 0 <= len(waveform) - len(expected) < 0.06 * SAMPLE_RATE_HZ
    assert abs(best_lag(expected, waveform, most=2000)) <= SAMPLE_RATE_HZ // 1000
    assert np.corrcoef(expected, waveform[: len(expected)])[0, 1] > 0.95


def test_a_long_sound_is_mapped_and_a_short_one_is_not(tmp_path):
    num_samples = (MAX_IN_MEMORY_S + 5) * 8_000
    path = write_sound(tmp_path / "a.wav", speechlike(MAX_IN_MEMORY_S + 5, 8_000), 8_000)
    waveform = open_waveform(path)
    assert isinstance(waveform, np.memmap) and not waveform.flags.writeable
    assert abs(len(waveform) - 2 * num_samples) <= 1 and np.abs(waveform[-1000:]).max() > 0.01
    short = open_waveform(write_sound(tmp_path / "b.wav", speechlike(1, 8_000), 8_000))
    assert not isinstance(short, np.memmap)


def test_silence_is_a_sound(tmp_path):
    waveform = open_waveform(write_sound(tmp_path / "a.wav", np.zeros((2, 8_000), np.float32), 8_000))
    assert len(waveform) == SAMPLE_RATE_HZ and not waveform.any()


def test_loud_floats_are_clipped_to_full_scale(tmp_path):
    path = write_sound(tmp_path / "a.wav", 6 * speechlike(0.3, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, "pcm_f32le")
    assert np.abs(open_waveform(path)).max() == 1


def test_the_sound_of_a_video(tmp_path):
    sound = speechlike(1.0, SAMPLE_RATE_HZ)[0]
    with VideoWriter(tmp_path / "a.mp4", size=(64, 64), sound=sound) as video:
        for _ in range(25):
            video.write(np.zeros((64, 64, 3), np.uint8))
    waveform = open_waveform(tmp_path / "a.mp4")
    assert len(waveform) == len(sound)
    assert np.corrcoef(waveform, sound)[0, 1] > 0.99


def test_a_last_block_shorter_than_its_channels(tmp_path):
    sound = speechlike(0.512, 16_000, 6)[:, : 4096 + 1]
    assert len(open_waveform(write_sound(tmp_path / "a.wav", sound, 16_000))) == 4097


def test_what_is_no_sound_is_refused(tmp_path):
    (tmp_path / "text.mp3").write_text("this is not music " * 100)
    with pytest.raises(AudioError, match="not a sound that can be decoded|holds no samples"):
        open_waveform(tmp_path / "text.mp3")
    with pytest.raises(AudioError, match="at least 0.1 s"):
        open_waveform(write_sound(tmp_path / "blip.wav", speechlike(0.05, 8_000), 8_000))
    with VideoWriter(tmp_path / "mute.mp4", size=(64, 64)) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(AudioError, match="no sound in it .*video"):
        open_waveform(tmp_path / "mute.mp4")


def test_to_mono_and_resample_say_what_they_expect():
    assert to_mono(np.array([[1, 3], [3, 5]], np.float32)).tolist() == [2, 4]
    with pytest.raises(ValueError, match="transpose"):
        to_mono(np.zeros((100, 2), np.float32))
    with pytest.raises(ValueError, match="to_mono"):
        resample(np.zeros((2, 100), np.float32), 8_000, 16_000)
    assert len(resample(np.zeros(801, np.float32), 8_000, 16_000)) == 1602
