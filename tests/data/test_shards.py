from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.shards import (
    Dropped,
    ShardIndex,
    ShardWriter,
    read_index,
    read_shards,
    write_index,
    write_shard,
)
from tests.data.synthetic import make_sample


def test_samples_come_back_as_written(corpus: Path) -> None:
    samples = list(read_shards(corpus))
    assert [s.record.clip_id for s in samples] == [f"clip-{i}" for i in range(5)]
    original = make_sample("clip-4", seed=4)
    assert samples[4].record == original.record
    assert samples[4].mp4 == original.mp4
    assert samples[4].flac == original.flac
    assert samples[4].arrays.keys() == original.arrays.keys()
    for name, array in original.arrays.items():
        np.testing.assert_array_equal(samples[4].arrays[name], array)


def test_split_selects_clips(corpus: Path) -> None:
    assert [s.record.clip_id for s in read_shards(corpus, "val")] == ["clip-3"]
    assert len(list(read_shards(corpus, "train"))) == 4


def test_layout_is_webdataset(corpus: Path) -> None:
    names = tarfile.open(corpus / "shard-00000.tar").getnames()
    assert names == [f"clip-{i}.{kind}" for i in (0, 1) for kind in ("mp4", "flac", "npz", "json")]


def test_index_counts_and_hashes(corpus: Path) -> None:
    index = read_index(corpus)
    assert (index.num_clips, index.num_frames, len(index.shards)) == (5, 125, 3)
    assert index.shards["shard-00001.tar"].splits == ["train", "val"]


def test_same_clips_give_same_bytes(tmp_path: Path, corpus: Path) -> None:
    entry = write_shard(tmp_path, 0, [make_sample(f"clip-{i}", seed=i) for i in (0, 1)])
    assert entry.sha256 == read_index(corpus).shards["shard-00000.tar"].sha256


def test_interrupted_writer_goes_on_without_loss_or_doubles(tmp_path: Path, corpus: Path) -> None:
    samples = [make_sample(f"clip-{i}", seed=i, split="val" if i == 3 else "train") for i in range(5)]
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, clips_per_shard=2) as writer:
        for sample in samples[:3]:
            writer.write(sample)
        raise KeyboardInterrupt
    (tmp_path / "shard-00001.tar").write_bytes(b"left over")
    with ShardWriter(tmp_path, clips_per_shard=2) as writer:
        assert ["clip-1" in writer, "clip-2" in writer] == [True, False]
        for sample in samples:
            if sample.record.clip_id not in writer:
                writer.write(sample)
    for name, entry in read_index(corpus).shards.items():
        assert (tmp_path / name).read_bytes() == (corpus / name).read_bytes()
        assert read_index(tmp_path).shards[name] == entry


def test_a_clip_is_taken_once(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, clips_per_shard=1) as writer:
        writer.write(make_sample("clip-0"))
    with ShardWriter(tmp_path) as writer, pytest.raises(ValueError, match="clip-0"):
        writer.write(make_sample("clip-0"))


def test_index_refuses_the_same_clip_in_two_shards(tmp_path: Path) -> None:
    entries = [write_shard(tmp_path, i, [make_sample("clip-0")]) for i in (0, 1)]
    index = ShardIndex().with_shard(entries[0])
    assert index.with_shard(entries[0]) == index
    with pytest.raises(ValueError, match="repeats"):
        index.with_shard(entries[1])


def test_dropped_clips_keep_their_reason(tmp_path: Path) -> None:
    dropped: list[Dropped] = []

    def samples():
        yield make_sample("clip-0")
        dropped.append(Dropped(source="a.jpg", reason="two heads"))

    write_index(tmp_path, ShardIndex().with_shard(write_shard(tmp_path, 0, samples(), dropped)))
    assert read_index(tmp_path).shards["shard-00000.tar"].dropped == dropped


def test_failing_sample_leaves_no_shard(tmp_path: Path) -> None:
    def samples():
        yield make_sample("clip-0")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path, 0, samples())
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_wrong_length_are_refused(tmp_path: Path) -> None:
    sample = make_sample("clip-0")
    sample.arrays["lip_gap"] = sample.arrays["lip_gap"][1:]
    with pytest.raises(ValueError, match="lip_gap"):
        write_shard(tmp_path, 0, [sample])


def test_unfinished_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished shards"):
        next(read_shards(tmp_path))
