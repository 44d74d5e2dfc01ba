"""Shards, indices, records and caches that are not what was written: refused in words that name them."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.cache import CACHE_NAME, PROGRESS_NAME, PixelCache, build_pixel_cache
from openloopy.data.records import from_json, to_json
from openloopy.data.shards import INDEX_NAME, read_index, read_shard, read_shards
from openloopy.data.verdicts import Reason, Span, VideoRecord, from_line, to_line
from tests.data.synthetic import make_sample

DEEP = "[" * 100_000


@pytest.fixture
def copy(corpus, tmp_path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "copy"))


def rewrite(path: Path, change) -> None:
    """A tar with its members (name, type, content) changed."""
    with tarfile.open(path) as tar:
        members = [[m.name, m.type, tar.extractfile(m).read()] for m in tar]
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "x"
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        DEEP,
        "[]",
        '{"version": 1}',
        '{"version": 2, "shards": []}',
        '{"version": 1, "shards": [{}]}',
        '{"version": 1, "shards": {"a": 1}}',
    ],
)
def test_an_index_that_is_none_is_named(copy, text):
    (copy / INDEX_NAME).write_text(text)
    with pytest.raises(ValueError, match="index.json"):
        read_index(copy)


@pytest.mark.parametrize(
    "change", [{"name": "../x.tar"}, {"num_frames": "2"}, {"clips": [1]}, {"dropped": 3}]
)
def test_an_entry_of_another_kind_is_refused(copy, change):
    index = json.loads((copy / INDEX_NAME).read_text())
    index["shards"][0] |= change
    (copy / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected an index of shards"):
        read_index(copy)


def to_link(members) -> None:
    members[1][1] = tarfile.SYMTYPE


def to_folder(members) -> None:
    members[0][1] = tarfile.DIRTYPE


def to_junk(members) -> None:
    members[2][2] = b"junk"


def to_half(members) -> None:
    members[2][2] = members[2][2][:-100]


def to_deep(members) -> None:
    members[3][2] = DEEP.encode()


def to_other_length(members) -> None:
    arrays = dict(np.load(io.BytesIO(members[2][2])))
    arrays["lip_gap"] = arrays["lip_gap"][:3]
    out = io.BytesIO()
    np.savez(out, **arrays)
    members[2][2] = out.getvalue()


@pytest.mark.parametrize("change", [to_link, to_folder, to_junk, to_half, to_deep, to_other_length])
def test_a_member_of_another_kind_is_refused_with_its_place(copy, change):
    rewrite(copy / "shard-00000.tar", change)
    with pytest.raises(ValueError, match=r"shard-00000\.tar"):
        list(read_shards(copy))


@pytest.mark.parametrize("content", [b"", b"x" * 2000, None])
def test_a_shard_that_is_none_is_refused(copy, content):
    path = copy / "shard-00001.tar"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00001\.tar"):
        list(read_shard(path))


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": "25"},
        {"clip_id": 3},
        {"phonemes": [[1]]},
        {"phonemes": 3},
        {"speaker": []},
        {"split": ["val"]},
    ],
)
def test_a_clips_record_of_another_kind_is_refused(change):
    record = json.loads(to_json(make_sample("a").record))
    with pytest.raises(ValueError, match="clip"):
        from_json(json.dumps(record | change))
    for text in ("[]", "3", DEEP, ""):
        with pytest.raises(ValueError, match="clip record"):
            from_json(text)


def test_a_videos_record_of_another_kind_is_refused_with_its_place():
    reason = Reason(name="low", detail="x")
    record = VideoRecord(
        name="a.mp4", person_id="a", num_frames=3, info={}, spans=(Span(start=0, stop=3, reasons=(reason,)),)
    )
    assert from_line(to_line(record)) == record
    for change in (
        {"num_frames": "3"},
        {"spans": [{}]},
        {"spans": 3},
        {"reasons": [{"name": 1, "detail": ""}]},
        {"num_frames": 2},
        {"num_frames": 10**15},
        {"num_frames": -3, "reasons": [asdict(reason)], "spans": []},
        {"reasons": [asdict(reason)]},
    ):
        with pytest.raises(ValueError, match="here.*expected the record of a video"):
            from_line(json.dumps(asdict(record) | change), "here")
    for text in ("", "[]", DEEP):
        with pytest.raises(ValueError, match="here"):
            from_line(text, "here")


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "pixels"
    build_pixel_cache([corpus], folder, size_px=32)
    return folder


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (CACHE_NAME, DEEP),
        (CACHE_NAME, "{}"),
        (CACHE_NAME, '{"version": 2, "info": {"kind": 3, "size_px": 1, "source_sha256": ""}}'),
        (PROGRESS_NAME, "[]"),
        (PROGRESS_NAME, '{"records": 3, "rows": {}}'),
        (PROGRESS_NAME, '{"records": [], "rows": {"frames": [1]}}'),
        (PROGRESS_NAME, '{"records": [], "rows": {"frames": ["x"]}}'),
        ("frames.npy", "x"),
    ],
)
def test_a_cache_that_is_none_says_what_to_do(built, tmp_path, file, text):
    folder = Path(shutil.copytree(built, tmp_path / "cache"))
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match="delete the folder, and it is made again"):
        PixelCache(folder)


def test_rows_that_are_missing_are_not_made_up(built, corpus, tmp_path):
    folder = Path(shutil.copytree(built, tmp_path / "cache"))
    (folder / CACHE_NAME).unlink()
    with open(folder / "lip_gap.npy", "r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="fewer than the .* rows that are listed"):
        build_pixel_cache([corpus], folder, size_px=32)
