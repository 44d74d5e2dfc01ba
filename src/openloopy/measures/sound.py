"""What a clip's sound tells without a network: level, clipping, speech, noise, music, more than one voice.

Sources: pitch and periodicity from the autocorrelation of a window divided by that of the window itself
(Boersma 1993); music as partials that hold their frequency (Seyerlehner et al. 2007, "Automatic Music Detection
in Television Productions"), here in the quiet frames only and above what hums all the time. The rest is ours.

Measured on 479 clips of single real speakers (LibriSpeech, GRID, VCTK, LJ Speech, speeches in halls, ...: "good"
below), 480 s of synthetic speech, real and synthetic music, recorded and coloured noise, hum, tones, rooms, mixtures.
Constants and thresholds were chosen on much the same sounds: expect somewhat worse elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.ndimage import maximum_filter1d, median_filter, minimum_filter1d, uniform_filter1d

from openloopy.media.audio import MIN_DURATION_S, SAMPLE_RATE_HZ

HOP = SAMPLE_RATE_HZ // 100
"""Samples from one frame to the next: 10 ms."""
FFT_SIZE = 1024
VOICE_HZ = (80, 4000)
"""Band in which levels and partials are measured: rumble and hiss stay outside."""
SILENCE_DB = -90.0
"""Levels are not followed below this (dB of full scale), the rounding of 16 bits."""

PITCH_WINDOW = 640
"""Samples, 40 ms: nearly three periods of the lowest voice."""
PITCH_HZ, PITCH_BAND_HZ = (70, 400), (70, 2000)
OCTAVE_COST = 0.05
"""Periodicity that half the pitch must have more of to be preferred."""

FLAT_CEILING, FLAT_REACH = 99.95, 0.85
"""A half-wave may be clipped if it reaches this share of the clip's ceiling (a percentile of all samples)."""
FLAT_HEIGHT, FLAT_SHARE = 0.8, 0.6
"""It is if it stays above this share of its own height for longer than that share of its length (sine: .41)."""
MIN_HALF_WAVE = 5
"""Samples; shapes of shorter half-waves cannot be told."""

GATE_DB, GATE_RANGE_DB, GATE_ABOVE_DB, GATE_BELOW_DB = -62.0, 30.0, 6.0, 12.0
"""Speech is louder than the first (of full scale), than the loud frames less the second, and than the floor plus
the third, which counts only as long as it stays the fourth below the loud frames."""
VOICED, NEAR_FRAMES = 0.6, 10
"""Periodicity of a voiced frame, and how near one of those a voiceless frame of speech is."""
SWING_DB, SWING_FRAMES = 8.0, 51
"""Syllables swing the level by so much within half a second; tones, hum and steady noise do not."""

HOLD_FRAMES = 20
"""A partial holds its frequency for .2 s; harmonics of a voice glide."""
PARTIAL_DB, PARTIAL_BINS = 9.0, 31
"""A partial rises so far above the mean level of that many bins around it."""
RISE_DB, RISE_PERCENTILE = 6.0, 10
"""It also rises so far above what its own frequency has nearly always: hum does not."""
MAX_FALL_DB = 6.0
"""It falls by less within HOLD_FRAMES: the echo of a voice dies faster."""
QUIET_PERCENTILE, ENOUGH_PARTIALS = 30, 3
"""Music is looked for in the quiet frames; more partials at a time than this add nothing."""

CLEARLY_VOICED, MAX_GLIDE_SEMITONES = 0.9, 1.0
"""Frames whose pitch is believed: this periodic, and no further than this from both neighbours."""
REGISTER_FRAMES, MIN_PITCH_FRAMES = 51, 60
"""The pitch is smoothed by a median over half a second of voice; with less voice than the second, nothing is told."""
SPEAKERS_SEMITONES = 24.0
"""Range of the smoothed pitch at which the score is 1."""


@dataclass(frozen=True, kw_only=True)
class SoundMeasures:
    """What a clip's sound is like, and how well each number was measured to tell what it is meant to tell."""

    peak: float
    """Largest absolute sample, share of full scale."""
    rms_db: float
    """Root mean square over the whole clip, dB of full scale, SILENCE_DB or more. All good clips: above -40."""
    clipping_share: float
    """Share of samples on flat tops near the clip's own ceiling, 0..1; below the share that was cut off.

    Resampling and codecs ripple flat tops, so runs of equal samples are no use. Above .002 come .4% of good clips
    (two whose peaks pile up as behind a limiter), and of voices clipped at 48 kHz, AAC-coded and brought to 16 kHz:
    2% where .3% of the samples were cut, 50% at 1%, 95% at 3%, 90% at 10%.
    """
    speech_share: float
    """Share of frames of 10 ms that are speech, 0..1.

    Against word times (GRID): 87% of the speech frames and 2% of the silent ones count; phoneme times of synthetic
    speech: 87% and 4%; meetings with distant speakers: 75% and 34%. WebRTC's detector, mode 3: 91% and 8%, 91% and
    3%, 62% and 10%; but it calls 64% of coloured noise, 89% of chords, 38% of hum and 70% of tones speech, this rule
    2%, 2%, 0 and 8%. Music passes as speech (63% of its frames). All good clips: above .35; all noise: below .3.
    """
    snr_db: float
    """Mean level of speech above the level below which a tenth of the frames lie, dB; 0 without speech.

    The quietest tenth stands for the noise, so it is low where nobody pauses. All good clips: above 17; white to
    brown noise added at 10 dB gives about 16, at 5 dB 11. Below 12 fall 97% of voices in a babble of real voices at
    0 dB, 55% at 5 dB, none at 10 dB; 57% in a babble made of the voice itself at 0 dB.
    """
    music_score: float
    """Partials that hold their frequency in the quiet frames, 0..1: notes between the words.

    Above .2 come .2% of good clips, 0 to 2% of those in echoing rooms (up to .8 s), none with mains hum, but 10% of
    synthetic voices (sung or monotonous) and 31% of noise recordings (those with wandering tones). Found: 90% of
    real instrumental music, all of a song, 78% of a real interview over music; speech with real music at 20, 10,
    0 dB: 62, 68, 82%, with synthetic bass, arpeggio and drums: 23, 57, 75%. Not told: drums alone, and a chord that
    sounds through the whole clip (as hum does).
    """
    several_speakers: float
    """Range of the smoothed pitch, in 24 semitones, 0..1: a low and a high voice that take turns.

    A weak measure. Above .6 come 1% of good clips (7% with loud hum) and 25 to 42% of a low and a high voice in turn
    (LibriSpeech; GRID: none), 17 to 27% of other changes of voice, 13% of meetings; above .5: 2%, 45 to 72%, 25 to
    40% and 27%. Not told: voices at once (5 to 8% above .6), babble (0 to 3%; see `snr_db`), voices of like pitch.
    Singing and music score high (a song: 31%).
    """


class PitchTrack(NamedTuple):
    """Frames of HOP samples; frame i is centred on their middle."""

    level_db: np.ndarray
    """`f`, within VOICE_HZ, dB of full scale."""
    periodicity: np.ndarray
    """`f`, 1 for a periodic sound, near 0 for noise."""
    pitch_hz: np.ndarray
    """`f`, means something only where the periodicity is high."""


def describe_sound(waveform: np.ndarray) -> SoundMeasures:
    """Measure a clip's sound.

    Args:
        waveform: `(samples,)` float32 in [-1, 1], 16 kHz mono, at least MIN_DURATION_S; meant for 1 to 60 s.

    Returns:
        The measures; without the mean of the samples, but for the peak. Takes 1/200 of the sound's duration at 1 s
        and 1/300 at 60 s, and some 100 MB then (one core of a server CPU).

    Raises:
        ValueError: another shape or dtype, too short, or samples that are not finite.
    """
    _check_waveform(waveform)
    sound = waveform - waveform.mean(dtype=np.float64).astype(np.float32)
    track = _pitch_track(sound)
    is_speech = _is_speech(track)
    return SoundMeasures(
        peak=float(np.abs(waveform).max()),
        rms_db=float(_decibels((sound.astype(np.float64) ** 2).mean())),
        clipping_share=_clipping_share(sound),
        speech_share=float(is_speech.mean()),
        snr_db=_snr_db(track.level_db, is_speech),
        music_score=_music_score(track.level_db, _held_partials(sound)),
        several_speakers=_several_speakers(track),
    )


def _clipping_share(waveform: np.ndarray) -> float:
    """Share of samples on the flat tops of half-waves that reach the clip's own ceiling, whatever its gain."""
    height = np.abs(waveform)
    ceiling = np.percentile(height, FLAT_CEILING)
    starts = np.append(0, np.flatnonzero(np.diff(np.signbit(waveform))) + 1)
    lengths = np.diff(np.append(starts, len(waveform)))
    peaks = np.maximum.reduceat(height, starts)
    is_high = height >= FLAT_HEIGHT * np.repeat(peaks, lengths)
    num_high = np.add.reduceat(is_high.astype(np.int64), starts)
    is_flat = (num_high > FLAT_SHARE * lengths) & (lengths >= MIN_HALF_WAVE)
    is_flat &= peaks >= max(FLAT_REACH * ceiling, 10 ** (GATE_DB / 20))
    return float(num_high[is_flat].sum() / len(waveform))


def _is_speech(track: PitchTrack) -> np.ndarray:
    """Frames of speech, bool `f`: loud, at or near a voiced one, where the level swings."""
    level = track.level_db
    is_loud = level > _speech_gate_db(level)
    is_voiced = is_loud & (track.periodicity > VOICED)
    is_near = maximum_filter1d(is_voiced.astype(np.uint8), 2 * NEAR_FRAMES + 1) > 0
    swing = maximum_filter1d(level, SWING_FRAMES) - minimum_filter1d(level, SWING_FRAMES)
    return is_loud & is_near & (swing > SWING_DB)


def _speech_gate_db(level_db: np.ndarray) -> float:
    floor, loud = np.percentile(level_db, (10, 95))
    return float(max(GATE_DB, loud - GATE_RANGE_DB, min(floor + GATE_ABOVE_DB, loud - GATE_BELOW_DB)))


def _snr_db(level_db: np.ndarray, is_speech: np.ndarray) -> float:
    """Mean power of the speech frames over the level that a tenth of all frames stay below; 0 without speech."""
    if not is_speech.any():
        return 0.0
    speech_db = float(_decibels((10 ** (level_db[is_speech] / 10)).mean()))
    return max(0.0, speech_db - float(np.percentile(level_db, 10)))


def _music_score(level_db: np.ndarray, num_partials: np.ndarray) -> float:
    """How many held partials sound in the quiet frames, of ENOUGH_PARTIALS."""
    is_quiet = level_db <= np.percentile(level_db, QUIET_PERCENTILE)
    return float(np.minimum(num_partials[is_quiet], ENOUGH_PARTIALS).mean() / ENOUGH_PARTIALS)


def _several_speakers(track: PitchTrack) -> float:
    """Range (10th to 90th percentile) of the smoothed pitch, of SPEAKERS_SEMITONES."""
    semitones = 12 * np.log2(track.pitch_hz / 100)
    glide = np.abs(np.diff(semitones, prepend=semitones[0], append=semitones[-1]))
    is_clear = (track.periodicity > CLEARLY_VOICED) & (track.level_db > _speech_gate_db(track.level_db))
    is_clear &= np.maximum(glide[:-1], glide[1:]) < MAX_GLIDE_SEMITONES
    if is_clear.sum() < MIN_PITCH_FRAMES:
        return 0.0
    register = median_filter(semitones[is_clear], REGISTER_FRAMES, mode="nearest")
    low, high = np.percentile(register, (10, 90))
    return float(min(1.0, (high - low) / SPEAKERS_SEMITONES))


def _pitch_track(waveform: np.ndarray) -> PitchTrack:
    """Level, periodicity and pitch of each frame; periodicity is the height of the best autocorrelation peak."""
    window = np.hanning(PITCH_WINDOW + 1)[:-1].astype(np.float32)
    power = _power(waveform, window)
    level = power[:, _bins(VOICE_HZ)].sum(1) / ((window**2).sum() * FFT_SIZE / 2)
    in_band = np.zeros_like(power)
    in_band[:, _bins(PITCH_BAND_HZ)] = power[:, _bins(PITCH_BAND_HZ)]
    shortest, longest = (SAMPLE_RATE_HZ // hz for hz in reversed(PITCH_HZ))
    lags = np.arange(shortest, longest + 1)
    correlation = fft.irfft(in_band, FFT_SIZE, axis=1)
    of_window = fft.irfft(np.abs(fft.rfft(window, FFT_SIZE)) ** 2, FFT_SIZE)
    similarity = correlation[:, lags] / (of_window[lags] / of_window[0])
    similarity /= correlation[:, :1] + 1e-9
    best = np.argmax(similarity - OCTAVE_COST * np.log2(lags / shortest), axis=1)
    periodicity = np.take_along_axis(similarity, best[:, None], 1)[:, 0]
    return PitchTrack(_decibels(level), periodicity, SAMPLE_RATE_HZ / lags[best])


def _held_partials(waveform: np.ndarray) -> np.ndarray:
    """How many spectral peaks stay where they are for HOLD_FRAMES, neither always there nor dying away, `f`."""
    window = np.hanning(FFT_SIZE + 1)[:-1].astype(np.float32)
    power = _power(waveform, window)[:, _bins(VOICE_HZ)]
    db = 10 * np.log10(power + 1e-7)
    summit = maximum_filter1d(db, 3, axis=1)
    is_peak = (db >= summit) & (db > uniform_filter1d(db, PARTIAL_BINS, axis=1) + PARTIAL_DB)
    is_peak &= db > np.percentile(db, RISE_PERCENTILE, axis=0) + RISE_DB
    is_peak = maximum_filter1d(is_peak.astype(np.uint8), 3, axis=1)
    is_held = uniform_filter1d(is_peak.astype(np.float32), HOLD_FRAMES, axis=0, mode="constant") > 1 - 1e-3
    is_held &= _fall_db(summit) < MAX_FALL_DB
    is_partial = is_peak & maximum_filter1d(is_held.astype(np.uint8), HOLD_FRAMES, axis=0, origin=-1)
    return is_partial.sum(1) / 3  # each peak was widened to three bins


def _fall_db(db: np.ndarray) -> np.ndarray:
    """By how much a level `f n` falls within HOLD_FRAMES around each frame."""
    frames, half = np.arange(len(db)), HOLD_FRAMES // 2
    return db[np.maximum(frames - half, 0)] - db[np.minimum(frames + half, len(db) - 1)]


def _power(waveform: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Power spectra `f bins` of windows centred on each HOP samples."""
    before = (len(window) - HOP) // 2
    padded = np.pad(waveform, (before, len(window) - HOP - before))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::HOP]
    spectra = fft.rfft(pieces * window, FFT_SIZE, axis=1)
    return spectra.real**2 + spectra.imag**2


def _bins(band_hz: tuple[int, int]) -> slice:
    low, high = (round(hz * FFT_SIZE / SAMPLE_RATE_HZ) for hz in band_hz)
    return slice(low, high + 1)


def _decibels(power: np.ndarray) -> np.ndarray:
    """dB of a power; at least SILENCE_DB."""
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))


def _check_waveform(waveform: np.ndarray) -> None:
    if waveform.ndim != 1:
        raise ValueError(
            f"expected mono sound of shape (samples,), got {waveform.shape}; call media.audio.to_mono first"
        )
    if waveform.dtype != np.float32:
        raise ValueError(f"expected float32 samples in [-1, 1], got {waveform.dtype}; convert them first")
    if len(waveform) < MIN_DURATION_S * SAMPLE_RATE_HZ:
        raise ValueError(
            f"{len(waveform)} samples are too short to measure; give at least {MIN_DURATION_S} s of 16 kHz sound"
        )
    if not np.isfinite(waveform).all():
        raise ValueError("the waveform holds samples that are not finite; repair or drop the clip")
