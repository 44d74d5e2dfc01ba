"""Each measure of a clip's sound moves with what it is named for, and real recordings pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soxr

from openloopy.measures.sound import SILENCE_DB, SoundMeasures, describe_sound
from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.puppet.speech import Speaker, Utterance, utter
from tests.media.sounds import speechlike

SAMPLES = Path(os.environ.get("OPENLOOPY_SAMPLES", Path(__file__).parents[3] / "shared" / "samples"))
ALIGNMENT_HZ = 25_000
"""Unit of GRID's word times."""

needs_samples = pytest.mark.skipif(
    not (SAMPLES / "videos" / "alignments").is_dir(),
    reason=f"no sample files at {SAMPLES}; set OPENLOOPY_SAMPLES to a folder with audio and videos",
)


def voice(name: str = "m3", seed: int = 0, duration_s: float = 6.0) -> Utterance:
    rng = np.random.default_rng(seed)
    return utter(rng, Speaker(engine="espeak", language="en-us", voice=name), duration_s, "val")


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return voice().waveform


def seconds(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def sine(hz: float, amplitude: float = 0.9, duration_s: float = 3.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * seconds(duration_s))).astype(np.float32)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


def hum(num_samples: int, hz: float = 50) -> np.ndarray:
    time = np.arange(num_samples) / SAMPLE_RATE_HZ
    return sum(np.sin(2 * np.pi * hz * k * time + k) / k for k in range(1, 12)).astype(np.float32)


def melody(num_samples: int, seed: int = 0) -> np.ndarray:
    """Chords of three notes with overtones, a new one each 0.4 s."""
    rng, length = np.random.default_rng(seed), round(0.4 * SAMPLE_RATE_HZ)
    time = np.arange(length) / SAMPLE_RATE_HZ
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
    chords = [220 * 2 ** (rng.integers(0, 24, 3) / 12) for _ in range(num_samples // length + 1)]
    notes = [
        sum(np.sin(2 * np.pi * hz * k * time) / k for hz in chord for k in (1, 2, 3)) for chord in chords
    ]
    return np.concatenate([note * fade for note in notes])[:num_samples].astype(np.float32)


def mixed(sound: np.ndarray, other: np.ndarray, snr_db: float) -> np.ndarray:
    """The sum at that ratio of mean powers, brought to a peak of 0.8."""
    other = other * np.sqrt((sound**2).mean() / (other**2).mean() / 10 ** (snr_db / 10))
    return (0.8 * (sound + other) / np.abs(sound + other).max()).astype(np.float32)


def clipped(sound: np.ndarray, share: float) -> np.ndarray:
    limit = np.percentile(np.abs(sound), 100 * (1 - share))
    return np.clip(sound, -limit, limit)


def test_peak_and_level_of_a_sine():
    measures = describe_sound(sine(440, 0.5))
    assert measures.peak == pytest.approx(0.5, abs=1e-3)
    assert measures.rms_db == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.01)


def test_silence_and_a_constant_are_nothing():
    nothing = dict.fromkeys(
        ("clipping_share", "speech_share", "snr_db", "music_score", "several_speakers"), 0.0
    )
    for level in (0.0, 0.5):
        measures = describe_sound(np.full(SAMPLE_RATE_HZ, level, np.float32))
        assert asdict(measures) == {"peak": level, "rms_db": SILENCE_DB, **nothing}


@pytest.mark.parametrize("gain", [0.1, 0.5, 1.0])
def test_all_but_the_levels_ignore_the_gain(speech, gain):
    sound = mixed(speech, noise(len(speech)), 20)
    whole, scaled = asdict(describe_sound(sound)), asdict(describe_sound(np.float32(gain) * sound))
    assert scaled.pop("rms_db") - whole.pop("rms_db") == pytest.approx(20 * np.log10(gain), abs=1e-3)
    assert scaled.pop("peak") == pytest.approx(gain * whole.pop("peak"))
    assert scaled == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_clipping_grows_with_what_was_cut_off(speech, seed):
    for sound in (speech, speechlike(3.0, SAMPLE_RATE_HZ, seed=seed)[0]):
        shares = [describe_sound(clipped(sound, share)).clipping_share for share in (0, 0.03, 0.1, 0.3)]
        assert shares[0] < 0.001 < 0.002 < shares[1] < shares[2] < shares[3] < 0.3


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_clipping_is_seen_after_resampling_and_scaling(speech, share):
    at_48_khz = clipped(soxr.resample(speech, SAMPLE_RATE_HZ, 48_000), share)
    assert describe_sound(0.2 * soxr.resample(at_48_khz, 48_000, SAMPLE_RATE_HZ)).clipping_share > 0.005


@pytest.mark.parametrize("hz", [30, 50, 100, 220, 440, 1000])
def test_a_sine_is_not_clipped_until_it_is(hz):
    assert describe_sound(sine(hz)).clipping_share < 1e-3
    assert describe_sound(np.clip(sine(hz), -0.4, 0.4)).clipping_share > 0.3


def test_speech_is_found_where_the_phonemes_are():
    spoken = voice(seed=1)
    share = sum(p.end_s - p.start_s for p in spoken.phonemes if p.symbol != "_") / spoken.duration_s
    assert describe_sound(spoken.waveform).speech_share == pytest.approx(share, abs=0.15)


def test_speech_share_falls_with_added_silence(speech):
    shares = [
        describe_sound(np.pad(speech, (0, num_s * SAMPLE_RATE_HZ))).speech_share for num_s in (0, 3, 6, 12)
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.5 and shares[3] < 0.5 * shares[0]


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(0.1 * noise(48_000), id="noise"),
        pytest.param(0.1 * hum(48_000), id="hum"),
        pytest.param(sine(150), id="tone"),
        pytest.param(
            (0.1 * noise(48_000) * (1 + np.sin(8 * np.pi * seconds(3)))).astype(np.float32), id="puffs"
        ),
    ],
)
def test_what_is_no_speech(sound):
    measures = describe_sound(sound)
    assert measures.speech_share < 0.3 and measures.music_score < 0.2 and measures.several_speakers < 0.5


def test_snr_falls_with_noise(speech):
    levels = [describe_sound(mixed(speech, noise(len(speech)), snr)).snr_db for snr in (40, 30, 20, 10, 0)]
    assert levels == sorted(levels, reverse=True) and levels[0] > 30 and levels[-1] < 12


def test_music_grows_with_its_level(speech):
    scores = [describe_sound(mixed(speech, melody(len(speech)), snr)).music_score for snr in (60, 20, 10, 0)]
    assert scores == sorted(scores) and scores[0] < 0.2 < scores[2]
    assert describe_sound(0.1 * melody(96_000)).music_score > 0.5


def test_hum_and_clean_speech_are_not_music(speech):
    assert describe_sound(speech).music_score < 0.1
    assert describe_sound(mixed(speech, hum(len(speech)), 10)).music_score < 0.1


def test_a_low_and_a_high_voice_are_two():
    low, high = (voice(name, 3, 4.0).waveform for name in ("m3", "f3"))
    pitch_up = soxr.resample(high, 4, 3)  # a child's
    alone = [describe_sound(sound).several_speakers for sound in (low, high, pitch_up)]
    together = describe_sound(np.concatenate([low, pitch_up])).several_speakers
    assert max(alone) < 0.4 and together > 0.5


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 16_000), np.float32), r"shape \(samples,\), got \(2, 16000\)"),
        (np.zeros(16_000), "float32 .* got float64"),
        (np.zeros(16_000, np.int16), "float32 .* got int16"),
        (np.zeros(1599, np.float32), "1599 samples are too short .* at least 0.1 s"),
        (np.full(16_000, np.nan, np.float32), "not finite"),
    ],
)
def test_what_cannot_be_measured(waveform, message):
    with pytest.raises(ValueError, match=message):
        describe_sound(waveform)


def test_the_shortest_sound_and_the_callers_array(speech):
    cut = speech[16_000:17_600].copy()
    before = cut.copy()
    assert np.isfinite(list(asdict(describe_sound(cut)).values())).all()
    assert np.array_equal(cut, before)


def grid_clips() -> Iterator[tuple[np.ndarray, Path]]:
    for alignment in sorted((SAMPLES / "videos" / "alignments").glob("*.align"))[::3]:
        yield open_waveform(SAMPLES / "videos" / f"{alignment.stem}.mpg"), alignment


def spoken_share(alignment: Path, duration_s: float) -> float:
    rows = [line.split() for line in alignment.read_text().splitlines()]
    words = (int(end) - int(start) for start, end, word in rows if word not in ("sil", "sp"))
    return sum(words) / ALIGNMENT_HZ / duration_s


def passes(measures: SoundMeasures) -> bool:
    """The thresholds suggested for talking heads."""
    return (
        measures.speech_share > 0.3
        and measures.clipping_share < 0.002
        and measures.snr_db > 12
        and measures.music_score < 0.2
        and measures.several_speakers < 0.6
        and measures.rms_db > -45
    )


@needs_samples
def test_grid_speaks_where_its_word_times_say():
    for waveform, alignment in grid_clips():
        measures = describe_sound(waveform)
        share = spoken_share(alignment, len(waveform) / SAMPLE_RATE_HZ)
        assert 0.6 * share < measures.speech_share < share + 0.1, alignment.stem
        assert passes(measures), alignment.stem


@needs_samples
def test_real_speech_passes_and_a_song_does_not():
    speakers = sorted(
        path for path in (SAMPLES / "audio").iterdir() if path.name.startswith(("en_", "fr_", "zh_"))
    )
    for path in speakers:
        assert passes(describe_sound(open_waveform(path))), path.name
    song = open_waveform(SAMPLES / "audio" / "sing_lets_go_fishin.ogg")[: 30 * SAMPLE_RATE_HZ]
    assert describe_sound(song).music_score > 0.5
