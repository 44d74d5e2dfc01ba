"""Distortions of a voice: the same length and timing, another sound."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.puppet.augment import (
    SNR_DB,
    _babble,
    _laughter,
    _music,
    add_noise,
    augment,
    breathe,
    clip_hard,
    clip_softly,
    drop_packets,
    encode_coarsely,
    encode_in_bands,
    equalise,
    mask_band,
    narrow_band,
    reverberate,
    vary_gain,
)
from openloopy.puppet.speech import Speaker, speak

STEPS = [
    *(equalise, reverberate, add_noise, vary_gain, clip_softly, clip_hard),
    *(narrow_band, encode_coarsely, encode_in_bands),
]


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return speak(
        Speaker(engine="espeak", language="en-us", voice=""), "We never saw the boats leave."
    ).waveform


@pytest.mark.parametrize("num_samples", [1, 401, 16_000])
def test_length_range_and_type(voice: np.ndarray, num_samples: int) -> None:
    for seed in range(12):
        changed = augment(voice[:num_samples], np.random.default_rng(seed))
        assert changed.shape == (num_samples,) and changed.dtype == np.float32
        assert np.isfinite(changed).all() and np.abs(changed).max() <= 1


def test_silence_stays_quiet() -> None:
    for seed in range(12):
        assert np.abs(augment(np.zeros(16_000, np.float32), np.random.default_rng(seed))).max() < 0.99


def test_seeded(voice: np.ndarray) -> None:
    first, second, other = (augment(voice, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def envelope(sound: np.ndarray) -> np.ndarray:
    """Loudness, 100 a second."""
    return np.sqrt((sound[: len(sound) // 160 * 160].reshape(-1, 160) ** 2).mean(1))


@pytest.mark.parametrize("step", STEPS)
def test_step_changes_the_sound_but_not_its_timing(step, voice: np.ndarray) -> None:
    for seed in range(6):
        changed = step(voice, np.random.default_rng(seed))
        assert changed.shape == voice.shape
        assert not np.allclose(changed, voice, atol=1e-3)
        lags = range(-6, 7)
        before, after = (np.log(envelope(sound) + 1e-3) for sound in (voice, changed))
        agreement = [np.corrcoef(before[10:-10], np.roll(after, -lag)[10:-10])[0, 1] for lag in lags]
        assert abs(lags[int(np.argmax(agreement))]) <= 1
        assert max(agreement) > 0.5


def test_noise_level(voice: np.ndarray) -> None:
    snr_db = []
    for seed in range(40):
        noise = add_noise(voice, np.random.default_rng(seed)) - voice
        snr_db.append(10 * np.log10((voice**2).mean() / (noise**2).mean()))
    assert min(snr_db) > 4 and max(snr_db) < 41 and np.ptp(snr_db) > 20


def test_breaths_fall_into_the_pauses_only(voice: np.ndarray) -> None:
    pause = np.zeros(8000, np.float32)
    sound = np.concatenate([pause, voice, pause])
    added = np.any([breathe(sound, np.random.default_rng(seed)) != sound for seed in range(8)], axis=0)
    assert added[:8000].any() and added[-8000:].any()
    assert not added[8000 + 1600 : -8000 - 4800].any()


def test_lost_packets_are_short_and_the_rest_is_untouched(voice: np.ndarray) -> None:
    changed = [drop_packets(voice, np.random.default_rng(seed)) != voice for seed in range(20)]
    assert 0.005 < np.mean(changed) < 0.3


def test_masked_band_is_missing() -> None:
    white = np.random.default_rng(0).standard_normal(32_000)
    kept = np.abs(np.fft.rfft(mask_band(white, np.random.default_rng(1)))) / np.abs(np.fft.rfft(white))
    assert kept.min() < 0.05 and np.median(kept) > 0.5


@pytest.mark.parametrize("make", [_music, _laughter, lambda n, rng: _babble(rng.random(n), rng)])
def test_backgrounds_have_unit_power_at_any_length(make) -> None:
    for num_samples in (2, 7001, 48_000):
        sound = make(num_samples, np.random.default_rng(num_samples))
        assert sound.shape == (num_samples,) and np.isfinite(sound).all()
    assert (sound**2).mean() == pytest.approx(1, abs=1e-6)
    assert SNR_DB[0] >= 0


def test_laughter_comes_in_notes_four_to_six_a_second() -> None:
    peaks_hz = []
    for seed in range(12):
        loudness = envelope(_laughter(160_000, np.random.default_rng(seed)))
        rhythm = np.abs(np.fft.rfft(loudness - loudness.mean()))
        hz = np.fft.rfftfreq(len(loudness), 10 / len(loudness))
        peaks_hz.append(hz[hz > 2][np.argmax(rhythm[hz > 2])])
    assert 4 <= np.median(peaks_hz) <= 6 and min(peaks_hz) > 3.5


def test_stereo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(samples,\), got \(2, 100\)"):
        augment(np.zeros((2, 100), np.float32), np.random.default_rng(0))
