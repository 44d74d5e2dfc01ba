"""Small sound files for the tests, written in whatever form FFmpeg has."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 6: "hexagonal", 8: "7.1"}


def speechlike(duration_s: float, rate_hz: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Aperiodic sound below 2 kHz with a slow envelope, `channels samples` float32, peak 0.5."""
    rng = np.random.default_rng(seed)
    num_samples = round(duration_s * rate_hz)
    time = np.arange(num_samples) / rate_hz
    tones = rng.uniform(80, 2000, size=(channels, 24, 1))
    phases = rng.uniform(0, 2 * np.pi, size=tones.shape)
    sound = np.sin(2 * np.pi * tones * time + phases).sum(axis=1) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def write_sound(path: Path, samples: np.ndarray, rate_hz: int, codec: str = "pcm_s16le") -> Path:
    """Encode `channels samples` float32 with FFmpeg's encoder of that name."""
    layout = LAYOUTS[len(samples)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        interleaved = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def best_lag(a: np.ndarray, b: np.ndarray, most: int) -> int:
    """How many samples `b` comes after `a`, by cross-correlation."""
    num_samples = min(len(a), len(b))
    spectra = np.fft.rfft(a[:num_samples], 2 * num_samples), np.fft.rfft(b[:num_samples], 2 * num_samples)
    correlation = np.fft.irfft(spectra[1] * np.conj(spectra[0]))
    lags = np.arange(-most, most + 1)
    return int(lags[np.argmax(correlation[lags])])
