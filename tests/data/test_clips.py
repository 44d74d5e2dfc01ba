from __future__ import annotations

import numpy as np
import pytest

from openloopy.data.clips import decode_frames, decode_sound, encode_frames, encode_sound
from tests.data.synthetic import NUM_FRAMES, SIZE_PX, make_frames


def test_frames_survive_with_small_error() -> None:
    frames = make_frames(3)
    decoded = decode_frames(encode_frames(frames))
    assert decoded.shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - frames).mean() < 2.5


def test_decoding_smaller_averages_areas() -> None:
    frames = make_frames(1)
    decoded = decode_frames(encode_frames(frames), 32)
    expected = frames.reshape(NUM_FRAMES, 32, 2, 32, 2, 3).mean((2, 4))
    assert decoded.shape == (NUM_FRAMES, 32, 32, 3)
    assert np.abs(decoded - expected).mean() < 2.5


def test_equal_frames_give_equal_bytes() -> None:
    first = encode_frames(make_frames(0))
    for seed in range(12):
        encode_frames(np.random.default_rng(seed).integers(0, 255, (10, 64, 64, 3), dtype=np.uint8))
        encode_frames(make_frames(seed))
        assert encode_frames(make_frames(0)) == first


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="63"):
        encode_frames(np.zeros((2, 64, 63, 3), np.uint8))


def test_sound_survives_to_16_bits() -> None:
    waveform = np.random.default_rng(0).uniform(-0.9, 0.9, 16_000).astype(np.float32)
    decoded = decode_sound(encode_sound(waveform))
    assert decoded.shape == waveform.shape
    assert np.abs(decoded - waveform).max() < 1e-4


def test_stereo_is_refused() -> None:
    with pytest.raises(ValueError, match="to_mono"):
        encode_sound(np.zeros((100, 2), np.float32))
