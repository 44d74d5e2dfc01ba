"""The bank of speech that the audio encoder learns from: what is known of each kind of sound, how often it is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openloopy.data.clips import encode_sound
from openloopy.data.records import ClipRecord
from openloopy.data.shards import Sample, ShardIndex, write_index, write_shard
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.speech_folder import Spoken, append, write_sound
from openloopy.puppet.utterance import Phoneme, Speaker, Utterance
from openloopy.puppet.visemes import VISEMES
from openloopy.recipes.speech_bank import (
    CURVES,
    REST,
    SpeechBankConfig,
    build_speech_bank,
    known_of,
)
from openloopy.training.audio import UNKNOWN

CONFIG = SpeechBankConfig(num_utterances=2, utterance_s=2.0, workers=1, bent_share=0.0)


def add_spoken(folder: Path, name: str, engine: str, seconds: float = 1.0, timed: bool = True) -> None:
    rng = np.random.default_rng(0)
    path = write_sound(
        folder, name, (0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE_HZ))).astype(np.float32)
    )
    said = (Phoneme(start_s=0.1, end_s=seconds - 0.1, symbol="a", alphabet="ipa"),)
    row = dict(path=path, split="train", speaker=name, language="en", duration_s=seconds, engine=engine)
    append([Spoken(**row, phonemes=said if timed else None)], folder)


def add_film(folder: Path, gaps: dict[str, np.ndarray], seed: int | None = None) -> None:
    """One clip of each person, with lip gaps."""
    samples = []
    for person, gap in gaps.items():
        record = ClipRecord(
            clip_id=f"{person}-0",
            person_id=person,
            split="train",
            num_frames=len(gap),
            size_px=64,
            seed=seed,
            source="film.mp4",
            licence="CC0",
        )
        sound = np.full(len(gap) * 640, 0.1, np.float32)
        frames = len(gap)
        arrays = {
            "points68": np.zeros((frames, 68, 2), np.float32),
            "lip_gap": gap.astype(np.float32),
            "eye_opening": np.zeros(frames, np.float32),
            "pose": np.zeros((frames, 3), np.float32),
            "visemes": np.full(2 * frames, -1, np.int8),
        }
        samples.append(Sample(record=record, mp4=b"film", flac=encode_sound(sound), arrays=arrays))
    entry = write_shard(folder, 0, samples)
    write_index(folder, ShardIndex().with_shard(entry))


@pytest.fixture
def bank(tmp_path):
    add_spoken(tmp_path / "speech", "kokoro", "kokoro")
    add_spoken(tmp_path / "speech", "ann", "recorded", 3.0)
    add_spoken(tmp_path / "speech", "bob", "recorded")
    add_spoken(tmp_path / "speech", "eve", "recorded", timed=False)
    wave = np.abs(np.sin(np.arange(50)))
    add_film(tmp_path / "film", {"wide": 0.02 + 0.1 * wave, "narrow": 0.02 * wave, "still": np.full(50, 0.1)})
    path = tmp_path / "bank.npz"
    return build_speech_bank(CONFIG, "train", path, speech=[tmp_path / "speech"], film=[tmp_path / "film"])


def test_what_is_known_of_each_kind(bank) -> None:
    # Two synthetic ones, two filmed people who move, Kokoro, two recorded with times, one without.
    assert bank.num_sounds == 8
    labelled = [
        (bank.piece(a, b - a)[1] != UNKNOWN).all() for a, b in zip(bank.starts, bank.starts[1:], strict=False)
    ]
    assert labelled == [True, True, False, False, True, True, True, False]
    for number, (a, b) in enumerate(zip(bank.starts[:-1], bank.starts[1:], strict=True)):
        curves = bank.piece(a, b - a)[2]
        assert np.isfinite(curves[:, :-1]).all() == labelled[number]
        assert np.isfinite(curves[:, -1]).all() == (number in (2, 3))


def test_filmed_lips_are_measured_from_closed_in_units_of_the_persons_spread(bank) -> None:
    wide, narrow = (bank.piece(bank.starts[k], 50)[2][:, -1] for k in (2, 3))
    np.testing.assert_allclose(wide, narrow, atol=0.01)
    assert wide.std() == pytest.approx(1, rel=0.01)
    assert np.percentile(wide, 10) == pytest.approx(0, abs=0.01)


def test_shares_are_of_groups_and_by_speaker_within(bank) -> None:
    assert bank.shares.sum() == pytest.approx(1)
    names = ("synthetic", "synthetic", "film", "film", "kokoro", "recorded", "recorded", "unlabelled")
    wanted = {name: getattr(CONFIG, f"{name}_share") for name in names}
    for name, share in wanted.items():
        drawn = sum(s for s, own in zip(bank.shares, names, strict=True) if own == name)
        assert drawn == pytest.approx(share / sum(wanted.values())), name
    assert bank.shares[5] / bank.shares[6] == pytest.approx(3**0.7)


def test_alone_the_synthetic_ones_are_all(tmp_path) -> None:
    bank = build_speech_bank(CONFIG, "train", tmp_path / "bank.npz")
    np.testing.assert_allclose(bank.shares, [0.5, 0.5])
    again = build_speech_bank(CONFIG, "train", tmp_path / "bank.npz")
    np.testing.assert_array_equal(bank.waveforms, again.waveforms)


def test_synthetic_film_is_no_film(tmp_path) -> None:
    add_film(tmp_path / "puppets", {"wide": 0.1 * np.abs(np.sin(np.arange(50)))}, seed=3)
    assert (
        build_speech_bank(CONFIG, "train", tmp_path / "bank.npz", film=[tmp_path / "puppets"]).num_sounds == 2
    )


def test_an_empty_bank_is_an_error(tmp_path) -> None:
    nothing = SpeechBankConfig(num_utterances=0, workers=1)
    with pytest.raises(ValueError, match="the speech bank is empty"):
        build_speech_bank(nothing, "train", tmp_path / "bank.npz")
    assert not (tmp_path / "bank.npz").exists()


def test_some_sounds_come_again_as_another_voice(tmp_path) -> None:
    for number in range(8):
        add_spoken(tmp_path, f"k{number}", "kokoro")
    config = SpeechBankConfig(num_utterances=0, workers=1, bent_share=0.5)
    assert 9 < build_speech_bank(config, "train", tmp_path / "bank.npz", speech=[tmp_path]).num_sounds < 16


def test_rest_is_how_a_neutral_speaker_is_silent() -> None:
    speaker = Speaker(engine="espeak", language="en-us", voice="")
    nobody = Utterance(
        waveform=np.zeros(2 * SAMPLE_RATE_HZ, np.float32), phonemes=(), text="", speaker=speaker
    )
    known = known_of(nobody, np.random.default_rng(0))
    assert len(CURVES) == len(REST) and (known.visemes == VISEMES.index("_")).all()
    np.testing.assert_allclose(np.median(known.curves[:, :3], 0), REST[:3], atol=0.05)
    assert np.isnan(known.curves[:, 3]).all()
