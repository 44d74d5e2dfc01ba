"""Takes a voice apart into excitation and vocal tract, and puts it together as another voice, or as song.

Source: ours, a plain channel vocoder. Vocal tract: cepstrally smoothed spectrum per 5 ms (Oppenheim 1969), raised
to the peaks of the harmonics (true envelope, Roebel and Rodet 2005), with minimum phase. Excitation: pulses where
the voice sounds, noise where it does not. So pitch, formants and tempo change independently, and a few synthetic
voices become many. Where sounds begin and end is known exactly before and after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, rfft

from openloopy.media.audio import SAMPLE_RATE_HZ

HOP = 80
"""Samples between analysis frames: 5 ms."""
HOPS_PER_S = SAMPLE_RATE_HZ // HOP
WINDOW, FFT_SIZE = 480, 1024
PITCH_WINDOW = 640
PITCH_HZ = (60.0, 420.0)
VOICED_CORRELATION = 0.5
"""Normalised autocorrelation above which a frame counts as voiced."""
QUIET = 1e-4
"""Amplitude below which a frame is silence, whatever it repeats."""
MIN_LOG = -12.0
ENVELOPE_ROUNDS = 3
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
"""Semitones of major, minor and the two pentatonic scales."""
GLIDE_S = 0.06


@dataclass(frozen=True, kw_only=True)
class Timbre:
    """How the new voice differs from the given one."""

    pitch: float = 1.0
    """Times the given pitch."""
    formants: float = 1.0
    """Resonances times this: a shorter (above 1) or longer vocal tract."""
    breathiness: float = 0.05
    """Noise in voiced sounds, amplitude relative to the pulses."""
    jitter: float = 0.01
    """Relative deviation of the pitch, wandering within a few periods."""
    shimmer: float = 0.05
    """Relative deviation of the pulses' strength."""


@dataclass(frozen=True, kw_only=True)
class Melody:
    """Notes at times: the pitch of a singing voice."""

    starts_s: np.ndarray
    """Start of each note in the new sound, rising."""
    notes_hz: np.ndarray
    vibrato_hz: float = 5.5
    vibrato_semitones: float = 0.4


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """A sound taken apart, one row per 5 ms."""

    envelope: np.ndarray
    """Natural logarithm of the vocal tract's gain, `frames bins`."""
    pitch_hz: np.ndarray
    """`frames`; between voiced frames interpolated."""
    voiced: np.ndarray
    """`frames`, 0 to 1."""


def bend_voice(
    waveform: np.ndarray,
    old_s: np.ndarray,
    new_s: np.ndarray,
    timbre: Timbre,
    rng: np.random.Generator,
    melody: Melody | None = None,
) -> np.ndarray:
    """The sound with another timbre, tempo and, with a melody, pitch.

    Args:
        waveform: `samples`, 16 kHz mono.
        old_s, new_s: `knots` rising times in the given and in the new sound; time runs evenly between them.
        timbre: pitch, formants and roughness of the new voice.
        melody: replaces the pitch.

    Returns:
        float32 `round(new_s[-1] * 16000)` samples of the given loudness.
    """
    num_samples = round(float(new_s[-1]) * SAMPLE_RATE_HZ)
    source = np.interp(np.arange(num_samples // HOP + 1) / HOPS_PER_S, new_s, old_s) * HOPS_PER_S
    voice = _resample_frames(_analyse(waveform), source)
    pitch_hz = voice.pitch_hz * timbre.pitch if melody is None else _sing(melody, len(source))
    excitation = _excite(pitch_hz, voice.voiced, timbre, rng)
    bent = _filter(excitation, _warp_formants(voice.envelope, timbre.formants))[:num_samples]
    level = np.sqrt((waveform**2).mean() / max(float((bent**2).mean()), 1e-12))
    return (bent * level).astype(np.float32)


def draw_timbre(rng: np.random.Generator) -> Timbre:
    """From a deep to a childlike voice; pitch and formants go together, as in people."""
    size = rng.uniform(-1, 1)
    return Timbre(
        pitch=2 ** (0.45 * size + rng.uniform(-0.25, 0.25)),
        formants=2 ** (0.17 * size + rng.uniform(-0.08, 0.08)),
        breathiness=0.4 * rng.uniform() ** 2,
        jitter=0.03 * rng.uniform() ** 2,
        shimmer=rng.uniform(0, 0.2),
    )


def draw_melody(rng: np.random.Generator, starts_s: np.ndarray, centre_hz: float) -> Melody:
    """Mostly small steps of a random scale about a centre; some vowels stay on the note before them."""
    scale = np.array(SCALES[rng.integers(len(SCALES))])
    steps = np.cumsum(rng.choice([-2, -1, -1, 0, 0, 1, 1, 2, 4, -4], len(starts_s)))
    # Reflected, so that the melody keeps within about an octave.
    steps = np.abs((steps + len(scale) // 2) % (2 * len(scale)) - len(scale))
    semitones = scale[steps % len(scale)] + 12 * (steps // len(scale)) - 6 + rng.uniform(-2, 2)
    return Melody(
        starts_s=starts_s,
        notes_hz=np.clip(centre_hz * 2 ** (semitones / 12), *PITCH_HZ),
        vibrato_hz=rng.uniform(4.5, 6.5),
        vibrato_semitones=rng.uniform(0, 0.7),
    )


def median_pitch_hz(waveform: np.ndarray, default_hz: float = 140.0) -> float:
    """Pitch of a voice, the median over its voiced frames."""
    pitch_hz, voiced = _track_pitch(waveform, len(waveform) // HOP + 1)
    return float(np.median(pitch_hz[voiced])) if voiced.any() else default_hz


def _analyse(waveform: np.ndarray) -> _Voice:
    num_frames = len(waveform) // HOP + 1
    pitch_hz, voiced = _track_pitch(waveform, num_frames)
    envelope = _envelope(waveform, np.where(voiced, pitch_hz, 250.0))
    known = np.flatnonzero(voiced)
    filled = np.interp(np.arange(num_frames), known, pitch_hz[known]) if len(known) else pitch_hz
    return _Voice(envelope=envelope, pitch_hz=_smoothed(filled, 3), voiced=_smoothed(voiced.astype(float), 3))


def _frames(waveform: np.ndarray, size: int, num_frames: int) -> np.ndarray:
    """Windowed pieces about the times i * HOP, `frames size`."""
    padded = np.pad(waveform.astype(np.float32), (size // 2, size))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, size)[::HOP][:num_frames]
    return pieces * np.hanning(size).astype(np.float32)


def _track_pitch(waveform: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz and whether there is one, `frames` each: the peak of the autocorrelation (Boersma 1993)."""
    pieces = _frames(waveform, PITCH_WINDOW, num_frames)
    correlation = irfft(np.abs(rfft(pieces, 2 * PITCH_WINDOW)) ** 2)[:, :PITCH_WINDOW]
    window = np.hanning(PITCH_WINDOW)
    of_window = irfft(np.abs(rfft(window, 2 * PITCH_WINDOW)) ** 2)[:PITCH_WINDOW]
    shortest, longest = (round(SAMPLE_RATE_HZ / hz) for hz in PITCH_HZ[::-1])
    loudness = correlation[:, :1]
    lags = np.arange(shortest, longest)
    normalised = correlation[:, lags] / np.maximum(loudness, 1e-9) * of_window[0] / of_window[lags]
    # A period's multiples repeat as well as itself: the short ones are favoured a little.
    favoured = normalised - 0.04 * np.log2(lags / shortest)
    best = favoured.argmax(1)
    voiced = normalised[np.arange(num_frames), best] > VOICED_CORRELATION
    voiced &= loudness[:, 0] > PITCH_WINDOW * QUIET**2
    return SAMPLE_RATE_HZ / lags[best], voiced


def _envelope(waveform: np.ndarray, pitch_hz: np.ndarray) -> np.ndarray:
    """Logarithmic vocal-tract gain, `frames bins`: cepstral coefficients shorter than the period, on the peaks."""
    spectrum = np.log(np.abs(rfft(_frames(waveform, WINDOW, len(pitch_hz)), FFT_SIZE)) + 1e-6)
    spectrum = spectrum.astype(np.float32)
    cutoff = np.clip(0.6 * SAMPLE_RATE_HZ / pitch_hz, 20, 80)[:, None]
    quefrency = np.minimum(np.arange(FFT_SIZE), FFT_SIZE - np.arange(FFT_SIZE))
    lifter = (quefrency < cutoff).astype(np.float32)
    target = spectrum
    for _ in range(ENVELOPE_ROUNDS):
        envelope = rfft(irfft(target) * lifter).real
        target = np.maximum(spectrum, envelope)
    return np.maximum(envelope, MIN_LOG)


def _resample_frames(voice: _Voice, source: np.ndarray) -> _Voice:
    """The voice at fractional frames `source`."""
    last = len(voice.voiced) - 1
    low = np.clip(source.astype(int), 0, max(last - 1, 0))
    high, share = np.minimum(low + 1, last), np.clip(source - low, 0, 1)

    def between(track: np.ndarray) -> np.ndarray:
        weight = share.astype(track.dtype).reshape(-1, *[1] * (track.ndim - 1))
        return track[low] + weight * (track[high] - track[low])

    return _Voice(
        envelope=between(voice.envelope), pitch_hz=between(voice.pitch_hz), voiced=between(voice.voiced)
    )


def _sing(melody: Melody, num_frames: int) -> np.ndarray:
    """Pitch of a melody per frame, in Hz: short glides between notes, vibrato on what is held."""
    time_s = np.arange(num_frames) / HOPS_PER_S
    index = np.maximum(np.searchsorted(melody.starts_s, time_s, "right") - 1, 0)
    held_s = np.maximum(time_s - melody.starts_s[index], 0)
    semitones = _smoothed(12 * np.log2(melody.notes_hz[index]), round(GLIDE_S * HOPS_PER_S))
    depth = melody.vibrato_semitones * np.clip((held_s - 0.12) / 0.2, 0, 1)
    return 2 ** ((semitones + depth * np.sin(2 * np.pi * melody.vibrato_hz * time_s)) / 12)


def _excite(pitch_hz: np.ndarray, voiced: np.ndarray, timbre: Timbre, rng: np.random.Generator) -> np.ndarray:
    """Pulses and noise of unit power in every frame, `(frames - 1) * HOP + 1` samples."""
    num_frames = len(pitch_hz)
    num_samples = (num_frames - 1) * HOP + 1
    frame, sample = np.arange(num_frames), np.arange(num_samples) / HOP
    wander = _smoothed(rng.standard_normal(num_frames), 3) * timbre.jitter
    rate = np.interp(sample, frame, np.clip(pitch_hz * (1 + wander), 40, 900)) / SAMPLE_RATE_HZ
    strength = np.interp(sample, frame, voiced)
    phase = np.cumsum(rate)
    onsets = np.flatnonzero(np.diff(np.floor(phase)) > 0) + 1
    late = (phase[onsets] % 1) / rate[onsets]  # samples since the pulse, below 1
    heights = (1 + timbre.shimmer * rng.standard_normal(len(onsets))) / np.sqrt(rate[onsets])
    pulses = np.zeros(num_samples)
    pulses[onsets] = heights * (1 - late)
    pulses[onsets - 1] += heights * late
    noise = rng.standard_normal(num_samples)
    breath = timbre.breathiness * np.diff(noise, prepend=0.0)
    return strength * (pulses + breath) + (1 - strength) * noise


def _warp_formants(envelope: np.ndarray, factor: float) -> np.ndarray:
    """The envelope with its frequency axis stretched, `frames bins`."""
    position = np.minimum(np.arange(envelope.shape[1]) / factor, envelope.shape[1] - 1)
    low = np.minimum(position.astype(int), envelope.shape[1] - 2)
    share = (position - low).astype(np.float32)
    return envelope[:, low] * (1 - share) + envelope[:, low + 1] * share


def _filter(excitation: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    """Each frame's excitation through its vocal tract at minimum phase, overlapped and added."""
    size = 4 * HOP
    cepstrum = irfft(envelope)
    cepstrum[:, 1 : FFT_SIZE // 2] *= 2
    cepstrum[:, FFT_SIZE // 2 + 1 :] = 0
    tract = np.exp(rfft(cepstrum))
    padded = np.pad(excitation.astype(np.float32), (size // 2, size))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, size)[::HOP][: len(envelope)]
    window = np.hanning(size + 1)[:-1].astype(np.float32) / 2  # four overlap: they add up to 1
    filtered = irfft(rfft(pieces * window, FFT_SIZE) * tract)
    parts = filtered.reshape(len(envelope), -1)[:, : FFT_SIZE // HOP * HOP].reshape(len(envelope), -1, HOP)
    out = np.zeros((len(envelope) + parts.shape[1], HOP), np.float32)
    for k in range(parts.shape[1]):
        out[k : k + len(envelope)] += parts[:, k]
    return out.reshape(-1)[size // 2 :]


def _smoothed(track: np.ndarray, num_frames: int) -> np.ndarray:
    """Mean over a Hann window that reaches `num_frames` to both sides."""
    kernel = np.hanning(2 * num_frames + 3)[1:-1]
    padded = np.pad(track.astype(float), num_frames, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), "valid")
