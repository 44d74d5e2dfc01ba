"""What microphones, rooms and codecs do to a voice: random distortions for training an audio encoder.

Source: ours. Synthetic voices are clean and alike; an encoder that has heard only those is lost on recordings.
Holes in time and in frequency teach it to lean on what is left (SpecAugment, Park et al. 2019).
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
QUIET_SHARE, PAUSE_S = 0.03, 0.2
"""A pause is quieter than this share of the peak for at least that long."""
CODEC_SIZE = 512
"""Window of the coarse transform codec, samples; bands of 16 bins."""
CODEC_BAND = 16
PACKET_S = 0.02
TEMPO_BPM = (70, 170)
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
        (breathe, 0.15),
        (equalise, 0.6),
        (reverberate, 0.35),
        (add_noise, 0.7),
        (vary_gain, 0.25),
        (clip_softly, 0.12),
        (clip_hard, 0.06),
        (mask_band, 0.12),
        (narrow_band, 0.12),
        (encode_coarsely, 0.12),
        (encode_in_bands, 0.15),
        (drop_packets, 0.12),
    )
    for step, probability in steps:
        if rng.random() < probability:
            waveform = step(waveform, rng)
    peak = 10 ** (rng.uniform(-18, -0.5) / 20)
    return (waveform * (peak / max(float(np.abs(waveform).max()), 1e-4))).astype(np.float32)


def breathe(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breaths in the pauses: hissing noise that swells and ends, and moves no lips."""
    out = waveform.astype(float)
    for first, last in _pauses(waveform):
        if rng.random() < 0.7:
            length = round((last - first) * rng.uniform(0.4, 0.9))
            start = rng.integers(first, last - length + 1)
            hiss = (
                np.diff(rng.standard_normal(length + 2), 2)
                if rng.random() < 0.5
                else rng.standard_normal(length)
            )
            shape = np.sin(np.pi * np.linspace(0, 1, length) ** rng.uniform(0.6, 1.8))
            peak = float(np.abs(waveform).max())
            out[start : start + length] += hiss * shape * peak * 10 ** (rng.uniform(-45, -26) / 20)
    return out


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
    """A room: the direct sound, a few early reflections of walls, and exponentially dying noise."""
    reverberation_s = rng.uniform(*REVERBERATION_S)
    time_s = np.arange(round(reverberation_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    # -60 dB after the reverberation time.
    response = rng.standard_normal(len(time_s)) * np.exp(-6.9 * time_s / reverberation_s)
    response *= np.sqrt(10 ** (rng.uniform(-15, -2) / 10) / (response**2).sum())
    arrivals = rng.integers(round(0.001 * SAMPLE_RATE_HZ), round(0.04 * SAMPLE_RATE_HZ), rng.integers(0, 8))
    response[arrivals] += rng.uniform(-0.5, 0.5, len(arrivals)) * (1 - arrivals / (0.06 * SAMPLE_RATE_HZ))
    response[0] = 1.0
    return fftconvolve(waveform, response)[: len(waveform)]


def add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise, a humming chord, music, laughter or other voices, at a random distance below the speech."""
    kind = rng.random()
    if kind < 0.4:
        noise = _coloured_noise(len(waveform), rng)
    elif kind < 0.5:
        noise = _chord(len(waveform), rng)
    elif kind < 0.75:
        noise = _music(len(waveform), rng)
    elif kind < 0.82:
        noise = _laughter(len(waveform), rng)
    else:
        noise = _babble(waveform, rng)
    power = max(float((waveform**2).mean()), 1e-8)
    return waveform + noise * np.sqrt(power / 10 ** (rng.uniform(*SNR_DB) / 10))


def vary_gain(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A speaker who turns away and back, or an automatic level control: up to 9 dB either way, slowly."""
    num_levels = len(waveform) // SAMPLE_RATE_HZ + 3
    levels_db = rng.uniform(-9, 9, num_levels)
    positions = np.linspace(0, num_levels - 1, len(waveform))
    return waveform * 10 ** (np.interp(positions, np.arange(num_levels), levels_db) / 20)


def clip_softly(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An overdriven preamplifier."""
    drive = rng.uniform(1, 5) / max(float(np.abs(waveform).max()), 1e-4)
    return np.tanh(waveform * drive) / drive


def clip_hard(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A converter driven beyond its range: all above a share of the peak is cut off."""
    limit = rng.uniform(0.15, 0.7) * max(float(np.abs(waveform).max()), 1e-4)
    return np.clip(waveform, -limit, limit)


def mask_band(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One band of a third to one and a half octaves is missing."""
    length = next_fast_len(len(waveform) + SAMPLE_RATE_HZ // 20, real=True)
    octave = np.log2(np.maximum(rfftfreq(length, 1 / SAMPLE_RATE_HZ), 20))
    centre, width = np.log2(rng.uniform(200, 6000)), rng.uniform(0.33, 1.5)
    gain = 1 - 1 / (1 + (2 * np.abs(octave - centre) / width) ** 8)
    return irfft(rfft(waveform, length) * gain, length)[: len(waveform)]


def narrow_band(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sampled at 8 kHz (or a little more) and back, without delay; sometimes with the aliases of a bad converter."""
    if rng.random() < 0.3:
        return np.repeat(waveform[::2], 2)[: len(waveform)]
    length = next_fast_len(len(waveform) + SAMPLE_RATE_HZ // 20, real=True)
    frequency = rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    gain = 1 / np.sqrt(1 + (frequency / rng.uniform(3200, 5000)) ** 40)
    return irfft(rfft(waveform, length) * gain, length)[: len(waveform)]


def encode_in_bands(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A transform codec at a low bit rate: few levels per band, weak bands left out, now and then a hole."""
    size, hop = CODEC_SIZE, CODEC_SIZE // 2
    num_frames = len(waveform) // hop + 2
    padded = np.zeros((num_frames + 1) * hop, np.float32)
    padded[hop : hop + len(waveform)] = waveform
    window = np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    spectrum = rfft(pieces * window)
    coded = np.zeros_like(spectrum)
    coded[:, :-1] = _round_bands(spectrum[:, :-1].reshape(num_frames, -1, CODEC_BAND), rng)
    parts = irfft(coded, size) * window
    out = np.zeros_like(padded).reshape(-1, hop)
    out[:-1] += parts[:, :hop]
    out[1:] += parts[:, hop:]
    return out.reshape(-1)[hop : hop + len(waveform)]


def drop_packets(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lost packets of 20 ms, one to five in a row: silent, or filled with the packet before."""
    packet = round(PACKET_S * SAMPLE_RATE_HZ)
    out = waveform.copy()
    for _ in range(rng.poisson(1.5 * len(waveform) / SAMPLE_RATE_HZ)):
        start, count = packet * rng.integers(len(waveform) // packet + 1), rng.integers(1, 6)
        lost = out[start : start + packet * count]
        before = out[max(start - packet, 0) : start]
        if len(before) == packet and rng.random() < 0.4:
            lost[:] = np.tile(before, count)[: len(lost)] * np.linspace(0.8, 0, len(lost))
        else:
            lost[:] = 0
    return out


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


def _music(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Drums, bass and an arpeggio that repeat a bar of eight steps, each of them present or not; unit power."""
    step = round(SAMPLE_RATE_HZ * 30 / rng.uniform(*TEMPO_BPM))
    onsets = np.arange(-rng.integers(step), num_samples, step)
    root_hz = rng.uniform(45, 110)
    chord = np.array(_HUM_CHORDS[rng.integers(2)])
    bass = [_pluck(root_hz * interval, 0.3, rng) for interval in (1, rng.choice(chord))]
    arpeggio = [_pluck(rng.choice((2, 4, 8)) * root_hz * interval, 0.25, rng) for interval in (*chord, 2)]
    drums = [_kick(rng), _hiss(0.09, rng), 0.4 * _hiss(0.03, rng)]
    sound = np.zeros(num_samples + SAMPLE_RATE_HZ)
    for voices, level in ((bass, 1.0), (arpeggio, 0.7), (drums, 0.9)):
        bar, level = rng.integers(-1, len(voices), 8), level * rng.uniform(0, 1)
        for i, onset in enumerate(onsets):
            if bar[i % 8] >= 0 and onset >= 0:
                note = voices[bar[i % 8]]
                sound[onset : onset + len(note)] += level * note
    sound = sound[:num_samples]
    return sound / np.sqrt(max(float((sound**2).mean()), 1e-8))


def _pluck(hz: float, decay_s: float, rng: np.random.Generator) -> np.ndarray:
    """A note of a few overtones that dies away."""
    time_s = np.arange(round(2 * decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    overtones = [k for k in (1, 2, 3, 4) if k * hz < SAMPLE_RATE_HZ / 2]
    sound = sum(rng.uniform(0.3, 1) / k * np.sin(2 * np.pi * k * hz * time_s) for k in overtones)
    return sound * np.exp(-3 * time_s / decay_s) * np.minimum(time_s / 0.004, 1)


def _kick(rng: np.random.Generator) -> np.ndarray:
    """A drum whose pitch falls."""
    time_s = np.arange(round(0.15 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    fall = rng.uniform(1, 3) * (1 - np.exp(-40 * time_s))
    return 1.5 * np.sin(2 * np.pi * (50 * time_s + fall)) * np.exp(-20 * time_s)


def _hiss(decay_s: float, rng: np.random.Generator) -> np.ndarray:
    """A snare or hi-hat."""
    time_s = np.arange(round(2 * decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return rng.standard_normal(len(time_s)) * np.exp(-3 * time_s / decay_s) * 0.5


def _babble(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two to five other voices: the speech itself backwards, shifted, at other speeds; unit power."""
    backwards, sound = waveform[::-1], np.zeros(len(waveform))
    position = np.arange(len(waveform))
    for _ in range(rng.integers(2, 6)):
        speed, start = rng.uniform(0.75, 1.3), rng.integers(len(waveform))
        source = ((start + position * speed) % len(waveform)).astype(int)
        sound += backwards[source] * rng.uniform(0.4, 1)
    return sound / np.sqrt(max(float((sound**2).mean()), 1e-8))


def _laughter(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One to three people behind the speaker who laugh: bouts of short voiced notes, four to six a second, which
    fall in pitch and loudness, with breath between them; unit power.
    """
    sound = np.zeros(num_samples + SAMPLE_RATE_HZ)
    for _ in range(rng.integers(1, 4)):
        voice_hz, formants_hz = rng.uniform(150, 450), (rng.uniform(550, 850), rng.uniform(1200, 1800))
        position_s = rng.uniform(0, 0.5)
        while position_s * SAMPLE_RATE_HZ < num_samples:
            rate_hz, num_notes = rng.uniform(4, 6), rng.integers(3, 12)
            for note in range(num_notes):
                left = 1 - note / num_notes
                start = round((position_s + note / rate_hz) * SAMPLE_RATE_HZ)
                burst = _laugh_note(voice_hz * (0.7 + 0.3 * left), formants_hz, 0.6 / rate_hz, rng)
                sound[start : start + len(burst)] += (burst * left)[: max(len(sound) - start, 0)]
            position_s += num_notes / rate_hz + rng.uniform(0.3, 2)
    sound = sound[:num_samples]
    return sound / np.sqrt(max(float((sound**2).mean()), 1e-8))


def _laugh_note(
    hz: float, formants_hz: tuple[float, float], length_s: float, rng: np.random.Generator
) -> np.ndarray:
    """A "ha": overtones under two formants, and breath."""
    time_s = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    sound = 0.05 * rng.standard_normal(len(time_s))
    for k in range(1, int(3500 / hz) + 1):
        level = sum(1 / (1 + ((k * hz - formant) / 150) ** 2) for formant in formants_hz) + 0.1
        sound += level / k * np.sin(2 * np.pi * (k * hz * time_s + rng.uniform()))
    return sound * np.sin(np.pi * np.arange(len(time_s)) / len(time_s))


def _round_bands(bands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Complex `frames bands bins` rounded to few levels per band, the weak ones zero; `frames bands*bins`."""
    peak = np.abs(bands).max(2, keepdims=True)
    step = np.maximum(peak / rng.uniform(1, 6), np.float32(1e-6))
    rounded = step * (np.round(bands.real / step) + 1j * np.round(bands.imag / step))
    # What is far below the loudest band of its frame is masked, and costs no bits.
    is_kept = peak > 10 ** (-rng.uniform(20, 50) / 20) * peak.max(1, keepdims=True)
    is_kept &= rng.random(peak.shape) > rng.uniform(0, 0.15)
    return (rounded * is_kept).reshape(len(bands), -1)


def _pauses(waveform: np.ndarray) -> list[tuple[int, int]]:
    """First and last sample of each pause."""
    hop = SAMPLE_RATE_HZ // 100
    loudness = np.abs(waveform[: len(waveform) // hop * hop]).reshape(-1, hop).max(1, initial=0)
    is_quiet = np.concatenate([[False], loudness <= QUIET_SHARE * np.abs(waveform).max(), [False]])
    borders = np.flatnonzero(np.diff(is_quiet.astype(int))).reshape(-1, 2)
    return [(first * hop, last * hop) for first, last in borders if last - first >= PAUSE_S * 100]


def _swell(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A slowly changing loudness, one random level about each half second."""
    num_levels = num_samples // (SAMPLE_RATE_HZ // 2) + 2
    levels = rng.uniform(0.4, 1, num_levels)
    return np.interp(np.linspace(0, num_levels - 1, num_samples), np.arange(num_levels), levels)


def background(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Sound in which nobody speaks: coloured noise, mains hum, a chord or music, now and then two of them; unit
    power."""
    kinds = (_coloured_noise, _mains_hum, _chord, _music)
    sound = kinds[rng.choice(4, p=(0.4, 0.15, 0.15, 0.3))](num_samples, rng)
    if rng.random() < 0.4:
        other = kinds[rng.integers(4)](num_samples, rng)
        sound = sound + other * 10 ** (rng.uniform(-20, 0) / 20)
    return sound / max(float(np.sqrt((sound**2).mean())), 1e-8)


def _mains_hum(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """50 or 60 Hz with overtones; unit power."""
    time_s, hz = np.arange(num_samples) / SAMPLE_RATE_HZ, rng.choice((50.0, 60.0))
    overtones = rng.uniform(0, 1, 8) / np.arange(1, 9)
    sound = sum(a * np.sin(2 * np.pi * (hz * k * time_s + rng.uniform())) for k, a in enumerate(overtones, 1))
    return sound / np.sqrt(max(float((sound**2).mean()), 1e-8))
