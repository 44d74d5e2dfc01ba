"""Clips from speech folders: exactly so long, speakers in turn, pauses; quiet clips; corpora of both."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.clips import decode_sound
from openloopy.data.shards import read_shards
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from openloopy.puppet.speech_folder import Spoken, append, write_sound
from openloopy.puppet.spoken import PEAK, quiet_clip, spoken_clip
from openloopy.puppet.utterance import Phoneme


def add(
    folder: Path, name: str, speaker: str, seconds: float = 1.0, split: str = "train", timed: bool = True
) -> None:
    """A second of a hum that says "ma"."""
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    path = write_sound(folder, name, (0.2 * np.sin(2 * np.pi * 150 * time_s)).astype(np.float32))
    half = seconds / 2
    said = (
        Phoneme(start_s=0.0, end_s=half, symbol="m", alphabet="ipa"),
        Phoneme(start_s=half, end_s=seconds, symbol="a", alphabet="ipa"),
    )
    row = dict(
        path=path,
        split=split,
        speaker=speaker,
        language="en",
        duration_s=seconds,
        engine="recorded",
        text=name,
    )
    append([Spoken(**row, phonemes=said if timed else None)], folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for number in range(4):
        add(folder, f"ann{number}", "ann")
        add(folder, f"bob{number}", "bob", timed=False)
        add(folder, f"eve{number}", "eve", split="val")
    return folder


def test_a_clip_is_exactly_so_long_and_says_what_its_times_say(folder) -> None:
    for seed in range(6):
        clip = spoken_clip(np.random.default_rng(seed), [folder], 7.3, "train")
        assert clip.waveform.shape == (round(7.3 * SAMPLE_RATE_HZ),)
        assert PEAK[0] * 0.5 < np.abs(clip.waveform).max() <= PEAK[1] + 0.01
        times = [time for p in clip.phonemes for time in (p.start_s, p.end_s)]
        assert all(a <= b + 1e-6 for a, b in pairwise(times)) and times[-1] <= 7.3 + 1e-6
        if abs(clip.phonemes[1].end_s - clip.phonemes[0].start_s - 1) < 1e-6:
            first = int(clip.phonemes[0].start_s * SAMPLE_RATE_HZ)
            assert np.abs(clip.waveform[:first]).max() == 0
            assert np.abs(clip.waveform[first + 800 : first + 15_000]).max() > 0.1


def test_a_speakers_sounds_all_come_before_one_comes_again_and_other_splits_never(folder) -> None:
    said = spoken_clip(np.random.default_rng(1), [folder], 12.0, "train").text.split()
    assert set(said[:4]) == {f"ann{k}" for k in range(4)}
    assert set(spoken_clip(np.random.default_rng(1), [folder], 3.0, "val").text.split()) <= {
        f"eve{k}" for k in range(4)
    }


def test_who_says_much_speaks_in_few_more_clips(tmp_path) -> None:
    for number in range(16):
        add(tmp_path, f"much{number}", "much", 0.4)
    add(tmp_path, "little", "little", 0.4)
    first = [
        spoken_clip(np.random.default_rng(k), [tmp_path], 0.9, "train").text.split()[0] for k in range(200)
    ]
    share = np.mean([name == "little" for name in first])
    assert 0.1 < share < 0.32  # by the square root one fifth, by length one in 17


def test_pauses_are_mostly_short_and_sometimes_long(folder) -> None:
    clip = spoken_clip(np.random.default_rng(5), [folder], 300.0, "train")
    ends = [p.end_s for p in clip.phonemes if p.symbol == "a"]
    starts = [p.start_s for p in clip.phonemes if p.symbol == "m"][1:]
    pauses = np.array([b - a for a, b in zip(ends, starts, strict=False)])
    assert np.median(pauses) < 0.5 and pauses.max() > 1.0 and pauses.min() > 0.04


def test_nobody_speaks_in_a_quiet_clip(folder) -> None:
    clip = spoken_clip(np.random.default_rng(0), [folder], 2.0, "train")
    quiets = [quiet_clip(np.random.default_rng(seed), clip) for seed in range(20)]
    levels = [float(np.sqrt((q.waveform**2).mean())) for q in quiets]
    assert all(q.phonemes == () and len(q.waveform) == len(clip.waveform) for q in quiets)
    assert min(levels) < 0.01 < max(levels) < 0.2


def test_a_folder_without_times_is_an_error(tmp_path) -> None:
    add(tmp_path, "one", "bob", timed=False)
    with pytest.raises(ValueError, match="no train speech with known phonemes"):
        spoken_clip(np.random.default_rng(0), [tmp_path], 1.0, "train")


def corpus(out: Path, folder: Path, **settings) -> CorpusConfig:
    shares = {"speech_share": 1.0, "val_share": 0.0, **settings}
    return CorpusConfig(
        out=out, num_clips=4, clip_s=3.0, size_px=64, content="states", speech=(folder,), **shares
    )


def test_a_corpus_says_what_the_folder_says(folder, tmp_path) -> None:
    write_corpus(corpus(tmp_path / "a", folder))
    samples = list(read_shards(tmp_path / "a"))
    assert {(s.record.split, s.record.speaker["voice"]) for s in samples} == {
        ("train", "ann"),
        ("val", "eve"),
    }
    for sample in samples:
        labels = sample.arrays["visemes"]
        gap = sample.arrays["lip_gap"]
        assert (labels > 0).any() and len(gap) == 75
    closed = np.concatenate([s.arrays["lip_gap"][s.arrays["visemes"][::2] == 16] for s in samples])
    opened = np.concatenate([s.arrays["lip_gap"][s.arrays["visemes"][::2] == 1] for s in samples])
    assert np.median(closed) < 0.3 * np.median(opened)


def test_noise_is_heard_and_moves_no_face(folder, tmp_path) -> None:
    for name, share in (("clean", 0.0), ("noisy", 1.0)):
        write_corpus(corpus(tmp_path / name, folder, noise_share=share))
    clean, noisy = (list(read_shards(tmp_path / name)) for name in ("clean", "noisy"))
    for a, b in zip(clean, noisy, strict=True):
        np.testing.assert_array_equal(a.arrays["lip_gap"], b.arrays["lip_gap"])
    sounds = [(decode_sound(a.flac), decode_sound(b.flac)) for a, b in zip(clean, noisy, strict=True)]
    assert sum(not np.allclose(a, b, atol=1e-3) for a, b in sounds) >= 3


def test_faces_rest_where_nobody_speaks(folder, tmp_path) -> None:
    write_corpus(corpus(tmp_path / "quiet", folder, quiet_share=1.0))
    for sample in read_shards(tmp_path / "quiet"):
        assert sample.record.phonemes == () and sample.arrays["lip_gap"].max() < 0.03


def test_a_corpus_remembers_its_speech(folder, tmp_path) -> None:
    write_corpus(corpus(tmp_path / "a", folder))
    other = tmp_path / "other"
    add(other, "one", "ann")
    with pytest.raises(ValueError, match=r"they differ in \['speech'\]"):
        write_corpus(corpus(tmp_path / "a", other))
    with pytest.raises(ValueError, match=r"noise_share must be in \[0, 1\], got 2"):
        corpus(tmp_path / "b", folder, noise_share=2)
