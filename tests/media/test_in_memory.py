"""Pictures and sounds that are in memory: taken as they are, or refused in words."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from openloopy.media.audio import AudioError, SoundArray, as_sound, as_waveform, open_waveform
from openloopy.media.image import ImageError, as_rgb
from openloopy.media.video import VideoWriter, probe_video
from tests.media.sounds import speechlike, write_sound

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (70, 80, 3), dtype=np.uint8)
TONE = (0.5 * np.sin(np.arange(16_000) * 0.05)).astype(np.float32)


@pytest.mark.parametrize(
    "picture",
    [
        RGB,
        RGB / 255,
        (RGB / 255).astype(np.float32),
        Image.fromarray(RGB),
        torch.from_numpy(RGB),
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB / 255)[None],
        np.dstack([RGB, np.full((70, 80), 255, np.uint8)]),
    ],
    ids=["uint8", "float64", "float32", "PIL", "torch", "torch 3 H W", "batch of one", "RGBA"],
)
def test_every_holder_gives_the_same_picture(picture):
    assert np.array_equal(as_rgb(picture), RGB)


def test_paths_grey_pictures_and_transparency(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(as_rgb(tmp_path / "a.png"), RGB)
    assert np.array_equal(as_rgb(str(tmp_path / "a.png")), RGB)
    assert np.array_equal(as_rgb(RGB[..., 0]), np.repeat(RGB[..., :1], 3, axis=2))
    clear = np.dstack([RGB, np.zeros((70, 80), np.uint8)])
    assert (as_rgb(clear) == 255).all()
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6
    assert as_rgb(turned).shape == (80, 70, 3)


@pytest.mark.parametrize(
    "picture, message",
    [
        (RGB.astype(np.int64), "expected a picture of uint8 or of floats in [0, 1], got int64"),
        (RGB.astype(np.float32), "got values from 0 to 255; divide it by 255"),
        (np.full((70, 80, 3), np.nan), "got values from nan to nan"),
        (np.full((70, 80, 3), -0.5), "got values from -0.5 to -0.5"),
        (
            RGB[None].repeat(2, 0),
            "expected one picture of shape (H, W), (H, W, 3), (H, W, 4) or (3, H, W), got (2, 70",
        ),
        (RGB[..., :2], "got (70, 80, 2)"),
        (RGB[:20], "the picture is 80x20 px; each side needs at least 64 px"),
        (Image.new("RGB", (9000, 70)), "the picture is 9000x70 px; each side may have at most 8192 px"),
        (42, "expected a picture as a path, a PIL image or an array of numpy or torch, got int"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(ImageError, match=re.escape(message)):
        as_rgb(picture)


@pytest.mark.parametrize(
    "sound",
    [
        (TONE, 16_000),
        (torch.from_numpy(TONE), 16_000),
        (TONE[None], 16_000),
        (np.stack([TONE, TONE]), 16_000),
        (TONE.astype(np.float64), 16_000),
        (TONE, np.int64(16_000)),
        SoundArray(TONE, 16_000),
    ],
    ids=["numpy", "torch", "one channel", "stereo", "float64", "rate of numpy", "SoundArray"],
)
def test_every_holder_gives_the_same_sound(sound):
    waveform = as_waveform(sound)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, TONE, atol=1e-6)


def test_other_rates_are_resampled_and_paths_read(tmp_path):
    stereo = np.stack([TONE, 0 * TONE])
    assert len(as_waveform((stereo, 48_000))) == round(len(TONE) / 3)
    path = tmp_path / "a.wav"
    write_sound(path, speechlike(0.5, 8_000), 8_000)
    assert np.array_equal(as_waveform(path), open_waveform(path))
    assert np.array_equal(as_waveform(str(path)), open_waveform(path))
    too_loud = as_waveform((3 * TONE, 44_100))
    assert np.abs(too_loud).max() == 1


def test_a_long_memory_map_is_not_copied(tmp_path):
    sound = np.memmap(tmp_path / "a.raw", np.float32, "w+", shape=(160_000,))
    sound[:] = 0.1
    assert np.shares_memory(as_waveform((sound, 16_000)), sound)


@pytest.mark.parametrize(
    "sound, message",
    [
        (
            TONE,
            "a path or as (samples, rate), such as (samples, 16000); got ndarray of shape (16000,)",
        ),
        (None, "got NoneType"),
        ((TONE, 16_000, 1), "got tuple"),
        (
            ((TONE * 32767).astype(np.int16), 16_000),
            "expected samples as floats in [-1, 1], got int16; divide 16-bit",
        ),
        ((TONE * 32767, 16_000), "the sound has samples up to 1.64e+04, expected floats in [-1, 1]"),
        ((np.where(TONE > 0.49, np.nan, TONE), 16_000), "samples that are not numbers"),
        ((np.where(TONE > 0.49, np.inf, TONE), 16_000), "samples that are not numbers"),
        (
            (TONE[:, None], 16_000),
            "(channels, samples) of at most 8 channels, got (16000, 1); transpose it",
        ),
        ((TONE.reshape(10, -1), 16_000), "got (10, 1600); transpose it"),
        ((TONE.reshape(1, 1, -1), 16_000), "got (1, 1, 16000)"),
        ((TONE[:0], 16_000), "the sound lasts 0.000 s; at least 0.1 s"),
        ((TONE[:1500], 16_000), "the sound lasts 0.094 s; at least 0.1 s"),
        (
            SoundArray((TONE * 32767).astype(np.int16), 16_000),
            "expected samples as floats in [-1, 1], got int16",
        ),
        (SoundArray(np.full(16_000, np.nan, np.float32), 16_000), "samples that are not numbers"),
        ((TONE, 1), "expected a sample rate in Hz, such as 16000, got 1"),
        ((TONE, 0), "expected a sample rate in Hz, such as 16000, got 0"),
        ((TONE, "16 kHz"), "expected a sample rate in Hz, such as 16000, got '16 kHz'"),
        ((TONE, None), "expected a sample rate in Hz, such as 16000, got None"),
        ((TONE, float("nan")), "expected a sample rate in Hz, such as 16000, got nan"),
        ((TONE, 16000.5), "expected a sample rate in Hz, such as 16000, got 16000.5"),
        ((TONE, 16_000.5), "got 16000.5"),
        ((TONE, True), "got True"),
    ],
)
def test_what_is_no_sound_is_refused(sound, message):
    with pytest.raises(AudioError, match=re.escape(message)):
        as_sound(sound)


def test_an_array_is_heard_in_a_video_with_its_rate_and_channels(tmp_path):
    sound = SoundArray.of(np.stack([TONE, -TONE]), 44_100)
    with VideoWriter(tmp_path / "a.mp4", size=(64, 64), sound=sound) as writer:
        for _ in range(9):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    assert probe_video(tmp_path / "a.mp4").has_audio
    import av

    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (44_100, 2)
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
    assert heard.shape[1] >= 16_000
    wanted = TONE[2_000:12_000]
    assert np.corrcoef(heard[0, 2_000:12_000], wanted)[0, 1] > 0.99
    assert np.corrcoef(heard[1, 2_000:12_000], -wanted)[0, 1] > 0.99
