"""Loudness and pitch of a voice over time, and the smooth random functions that the motion is made of.

Source: ours. Everything here is sampled at MOTION_FPS, fine enough for lip closures and blinks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from openloopy.media.audio import SAMPLE_RATE_HZ

MOTION_FPS = 200
PITCH_RANGE_HZ = (70, 350)
HEARD = 0.1
"""Loudness above which the voice counts as heard."""
_MAX_SEMITONES = 7.0
_HOP = SAMPLE_RATE_HZ // 50
_WINDOW = SAMPLE_RATE_HZ // 25
_VOICED_CORRELATION = 0.45
_SINES = 14


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """How a voice is raised, `n` moments."""

    time_s: np.ndarray
    loudness: np.ndarray
    """0 in silence, 1 in the loud parts, 1.4 at most."""
    prominence: np.ndarray
    """High where the voice is loud and its pitch rises above the usual: stressed words."""
    intonation: np.ndarray
    """Pitch above the clip's usual one, semitones, without the fast changes; near 0 in silence."""

    @property
    def pitch_spread(self) -> float:
        """How far the voice goes up and down while it is heard: standard deviation, semitones; 0 if silent."""
        heard = self.loudness > HEARD
        return float(self.intonation[heard].std()) if heard.any() else 0.0


def analyse(waveform: np.ndarray) -> Prosody:
    """Prosody of a 16 kHz mono waveform, from its start to its end."""
    time_s = np.arange(round(len(waveform) / SAMPLE_RATE_HZ * MOTION_FPS) + 1) / MOTION_FPS
    frames = _frames(waveform)
    amplitude = np.sqrt((frames**2).mean(1))
    pitch_hz = _pitch(frames, amplitude)
    frame_s = np.arange(len(frames)) * _HOP / SAMPLE_RATE_HZ
    loudness = smooth(np.interp(time_s, frame_s, amplitude), 5)
    loudness = np.clip(loudness / (np.percentile(loudness, 95) + 1e-6), 0, 1.4)
    voiced = pitch_hz > 0
    usual_hz = np.median(pitch_hz[voiced]) if voiced.any() else 1.0
    raised = np.where(voiced, np.clip(pitch_hz / usual_hz - 1, -0.3, 0.6) + 0.35, 0)
    prominence = smooth(np.interp(time_s, frame_s, raised) * loudness, 4)
    semitones = 12 * np.log2(np.where(voiced, pitch_hz, usual_hz) / usual_hz)
    # The autocorrelation errs by octaves now and then.
    semitones = np.where(np.abs(semitones) < _MAX_SEMITONES, semitones, 0)
    weight = smooth(np.interp(time_s, frame_s, voiced.astype(float)), 2)
    intonation = smooth(np.interp(time_s, frame_s, semitones), 2) / np.maximum(weight, 0.25)
    return Prosody(time_s=time_s, loudness=loudness, prominence=prominence, intonation=intonation)


def smooth(x: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """Gaussian low-pass along the first axis, half amplitude at the cutoff."""
    return gaussian_filter1d(x, 0.187 / cutoff_hz * MOTION_FPS, axis=0, mode="nearest")


def wander(rng: np.random.Generator, time_s: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """A random function of unit variance with all its energy between two frequencies, `n`."""
    frequency = low_hz * (high_hz / low_hz) ** rng.uniform(size=_SINES)
    phase = rng.uniform(0, 2 * np.pi, _SINES)
    return np.sqrt(2 / _SINES) * np.cos(2 * np.pi * time_s[:, None] * frequency + phase).sum(1)


def plateau(time_s: np.ndarray, start_s: float, end_s: float, rise_s: float, fall_s: float) -> np.ndarray:
    """1 from start to end, with raised-cosine flanks before and after, `n`."""
    flank = np.minimum((time_s - (start_s - rise_s)) / rise_s, ((end_s + fall_s) - time_s) / fall_s)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(flank, 0, 1))


def _frames(waveform: np.ndarray) -> np.ndarray:
    """Windowed pieces centred every hop, `frames window`."""
    padded = np.pad(waveform, _WINDOW // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)


def _pitch(frames: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """Pitch by the highest autocorrelation, Hz; 0 where unvoiced."""
    shortest, longest = (SAMPLE_RATE_HZ // hz for hz in PITCH_RANGE_HZ[::-1])
    spectrum = np.fft.rfft(frames, 1024)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)
    correlation = correlation[:, : longest + 1] / (correlation[:, :1] + 1e-9)
    lag = correlation[:, shortest:].argmax(1) + shortest
    best = np.take_along_axis(correlation, lag[:, None], 1)[:, 0]
    is_voiced = (best > _VOICED_CORRELATION) & (amplitude > 0.04 * amplitude.max())
    return np.where(is_voiced, SAMPLE_RATE_HZ / lag, 0)
