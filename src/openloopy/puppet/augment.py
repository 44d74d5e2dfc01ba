"""What microphones, rooms and codecs do to a voice: random distortions for training an audio encoder.

Source: ours. Synthetic voices are clean and alike; an encoder that has heard only those is lost on recordings.
The timing of the sound is kept to within a few milliseconds.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import fftconvolve

from openloopy.media.audio import SAMPLE_RATE_HZ

SNR_DB = (5.0, 40.0)
REVERBERATION_S = (0.08, 0.5)
_MU = 255
_HUM_CHORDS = ((1.0, 1.25, 1.5), (1.0, 1.2, 1.5), (1.0, 2.0, 3.0, 4.0))


def augment(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random recording of the same sound: float32 `(samples,)` in [-1, 1], of the same length.

    Each distortion happens with a probability of its own; now and then there is none but the gain.
    """
    if waveform.ndim != 1:
        raise ValueError(
            f"expected mono audio of shape (samples,), got {waveform.shape}; mix the channels first"
        )
    steps = (
        (equalise, 0.7),
        (reverberate, 0.35),
        (add_noise, 0.6),
        (clip_softly, 0.15),
        (encode_coarsely, 0.2),
    )
    for step, probability in steps:
        if rng.random() < probability:
            waveform = step(waveform, rng)
    peak = 10 ** (rng.uniform(-18, -0.5) / 20)
    return (waveform * (peak / max(float(np.abs(waveform).max()), 1e-4))).astype(np.float32)


def equalise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tilt, six bands of up to 8 dB, and sometimes a high-pass or low-pass, as of phones and cheap microphones."""
    length = next_fast_len(len(waveform) + SAMPLE_RATE_HZ // 10, real=True)
    frequency = rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    octave = np.log2(np.maximum(frequency, 20) / 1000)
    bands_db = np.interp(octave, np.linspace(-4, 3, 6), rng.uniform(-8, 8, 6))
    gain = 10 ** ((bands_db + rng.uniform(-3, 3) * octave) / 20)
    if rng.random() < 0.4:
        gain /= np.sqrt(1 + (rng.uniform(50, 400) / np.maximum(frequency, 1)) ** 8)
    if rng.random() < 0.4:
        gain /= np.sqrt(1 + (frequency / rng.uniform(2500, 7500)) ** 12)
    return irfft(rfft(waveform, length) * gain, length)[: len(waveform)]


def reverberate(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small room: the direct sound and exponentially dying noise."""
    reverberation_s = rng.uniform(*REVERBERATION_S)
    time_s = np.arange(round(reverberation_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    # -60 dB after the reverberation time.
    response = rng.standard_normal(len(time_s)) * np.exp(-6.9 * time_s / reverberation_s)
    response *= np.sqrt(10 ** (rng.uniform(-15, -2) / 10) / (response**2).sum())
    response[0] = 1.0
    return fftconvolve(waveform, response)[: len(waveform)]


def add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise, or a humming chord like a music bed, at a random distance below the speech."""
    noise = _chord(len(waveform), rng) if rng.random() < 0.25 else _coloured_noise(len(waveform), rng)
    power = max(float((waveform**2).mean()), 1e-8)
    return waveform + noise * np.sqrt(power / 10 ** (rng.uniform(*SNR_DB) / 10))


def clip_softly(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An overdriven preamplifier."""
    drive = rng.uniform(1, 5) / max(float(np.abs(waveform).max()), 1e-4)
    return np.tanh(waveform * drive) / drive


def encode_coarsely(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rounding of a low-bit codec: mu-law with 4 to 8 bits, sometimes with half of the bandwidth."""
    peak = max(float(np.abs(waveform).max()), 1e-4)
    levels = 2 ** (rng.integers(4, 9) - 1)
    sound = waveform / peak
    if rng.random() < 0.5:
        length = next_fast_len(len(sound), real=True)
        spectrum = rfft(sound, length)
        spectrum[len(spectrum) // 2 :] = 0
        sound = irfft(spectrum, length)[: len(sound)]
    compressed = np.sign(sound) * np.log1p(_MU * np.abs(sound)) / np.log1p(_MU)
    rounded = np.round(compressed * levels) / levels
    return peak * np.sign(rounded) * np.expm1(np.abs(rounded) * np.log1p(_MU)) / _MU


def _coloured_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Between white and brown, swelling and fading a little; unit power."""
    length = next_fast_len(num_samples, real=True)
    frequency = rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    spectrum = rfft(rng.standard_normal(length)) / np.maximum(frequency, 40) ** rng.uniform(0, 1)
    noise = irfft(spectrum, length)[:num_samples] * _swell(num_samples, rng)
    return noise / max(float(noise.std()), 1e-8)


def _chord(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A few notes with overtones, swelling and fading; unit power."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    root_hz = rng.uniform(50, 400)
    chord = _HUM_CHORDS[rng.integers(len(_HUM_CHORDS))]
    notes = [root_hz * step * overtone for step in chord for overtone in (1, 2)]
    sound = sum(np.sin(2 * np.pi * (hz * time_s + rng.uniform())) * rng.uniform(0.2, 1) for hz in notes)
    sound = sound * _swell(num_samples, rng)
    return sound / np.sqrt(max(float((sound**2).mean()), 1e-8))


def _swell(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A slowly changing loudness, one random level about each half second."""
    num_levels = num_samples // (SAMPLE_RATE_HZ // 2) + 2
    levels = rng.uniform(0.4, 1, num_levels)
    return np.interp(np.linspace(0, num_levels - 1, num_samples), np.arange(num_levels), levels)
