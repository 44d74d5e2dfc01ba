"""Shards: WebDataset-compatible tar files of clips, with an index.

A sample is four members that share the clip's id: `.mp4` (H.264, 25 fps, no sound), `.flac` (16 kHz mono),
`.npz` (arrays, see ARRAY_SHAPES) and `.json` (ClipRecord). Speech with face states has no `.mp4`. A shard counts
as finished once `index.json` lists it; a tar that is not listed is left over from an interrupted run and is
written again. Equal samples make equal bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openloopy.data.records import ClipRecord, Split, from_json, to_json
from openloopy.media.files import atomic_write, make_folder, sha256_file
from openloopy.media.text_file import expected, made_of, read_json
from openloopy.rig.state import STATE_VERSION

INDEX_NAME = "index.json"
INDEX_VERSION = 1
INDEX_EXPECTED = "an index of shards; write the shards again"
CLIP_EXPECTED = "a clip that OpenLoopy wrote; write the shard again"
SHARD_NAME = re.compile(r"shard-\d{5,}\.tar")
LAST_KIND = "json"
"""Of a sample's members: with it the sample is whole."""
ARRAY_SHAPES = {
    "points68": "f 68 2 (px in the clip)",
    "lip_gap": "f",
    "eye_opening": "f",
    "pose": "f 3 (yaw, pitch, roll in degrees)",
    "visemes": "num50 (labels at 50 Hz; -1: unknown)",
}
STATES = f"states_v{STATE_VERSION}"
"""Name of the array `f n` of face states (see `rig.state`): in samples without pictures, and where they are known."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip as it lies in a shard: encoded pictures and sound, decoded arrays (ARRAY_SHAPES, STATES)."""

    record: ClipRecord
    mp4: bytes | None
    """None: speech with face states, and no pictures."""
    flac: bytes
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Something that did not become a clip, and why."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index says about one finished shard."""

    name: str
    sha256: str
    num_frames: int
    clips: list[str]
    splits: list[Split]
    dropped: list[Dropped] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """All finished shards of a folder."""

    shards: dict[str, ShardEntry] = field(default_factory=dict)

    @property
    def num_clips(self) -> int:
        return sum(len(entry.clips) for entry in self.shards.values())

    @property
    def num_frames(self) -> int:
        return sum(entry.num_frames for entry in self.shards.values())

    def with_shard(self, entry: ShardEntry) -> ShardIndex:
        """This index and one more shard; a clip id that is already there is an error."""
        others = {name: e for name, e in self.shards.items() if name != entry.name}
        taken = {clip for e in others.values() for clip in e.clips}
        again = sorted(taken & set(entry.clips))
        if again:
            raise ValueError(
                f"{entry.name} repeats clips of other shards: {again[:5]}; give each clip one id"
            )
        return ShardIndex(shards=dict(sorted({**others, entry.name: entry}.items())))


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def read_index(folder: Path) -> ShardIndex:
    """The folder's index; an empty one where nothing has been finished yet."""
    path = Path(folder) / INDEX_NAME
    if not path.exists():
        return ShardIndex()
    stored = read_json(path, INDEX_EXPECTED)
    with expected(path, INDEX_EXPECTED):
        if stored["version"] != INDEX_VERSION:
            raise ValueError(f"version {stored['version']}, expected {INDEX_VERSION}")
        entries = [_entry_of(values) for values in stored["shards"]]
    return ShardIndex(shards={entry.name: entry for entry in entries})


def _entry_of(values: dict[str, Any]) -> ShardEntry:
    dropped = [made_of(Dropped, item) for item in values["dropped"]]
    entry = made_of(ShardEntry, {**values, "dropped": dropped})
    if not SHARD_NAME.fullmatch(entry.name):
        raise ValueError(f"{entry.name!r} is no name of a shard")
    return entry


def write_index(folder: Path, index: ShardIndex) -> None:
    """Replaces the folder's index in one step."""
    content = {
        "version": INDEX_VERSION,
        "num_clips": index.num_clips,
        "num_frames": index.num_frames,
        "shards": [asdict(entry) for entry in index.shards.values()],
    }
    with atomic_write(Path(folder) / INDEX_NAME) as path:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text, "utf-8", "backslashreplace")  # names of files may be no text


def write_shard(
    folder: Path, number: int, samples: Iterable[Sample], dropped: Iterable[Dropped] = ()
) -> ShardEntry:
    """Writes one tar atomically and returns its index entry; the caller puts that into the index.

    `dropped` is read after the last sample, so a list that grows while samples are made is complete.
    """
    folder, name = Path(folder), shard_name(number)
    make_folder(folder)
    records = []
    with atomic_write(folder / name) as path:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                add_sample(tar, sample)
                records.append(sample.record)
        digest = sha256_file(path)
    return ShardEntry(
        name=name,
        sha256=digest,
        num_frames=sum(record.num_frames for record in records),
        clips=[record.clip_id for record in records],
        splits=sorted({record.split for record in records}),
        dropped=list(dropped),
    )


class ShardWriter:
    """Fills shards one after another; on a folder with finished shards, goes on with the next number.

    As a context manager it writes the last, shorter shard on a clean exit; after an exception the open shard
    is dropped, and what was in it must be given again (`clip_id in writer` says what is already safe).
    """

    def __init__(self, folder: Path, *, clips_per_shard: int = 64) -> None:
        if clips_per_shard < 1:
            raise ValueError(f"clips_per_shard must be at least 1, got {clips_per_shard}")
        self.folder = Path(folder)
        self.clips_per_shard = clips_per_shard
        self.index = read_index(self.folder)
        self._known = {clip for entry in self.index.shards.values() for clip in entry.clips}
        self._open: list[Sample] = []

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._known

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish_shard()

    def write(self, sample: Sample) -> None:
        """Adds a clip; a full shard goes to disk together with its index entry."""
        if sample.record.clip_id in self._known:
            raise ValueError(
                f"clip {sample.record.clip_id} is in {self.folder} already; give each clip one id"
            )
        self._known.add(sample.record.clip_id)
        self._open.append(sample)
        if len(self._open) == self.clips_per_shard:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if not self._open:
            return
        entry = write_shard(self.folder, _next_number(self.index), self._open)
        self.index = self.index.with_shard(entry)
        write_index(self.folder, self.index)
        self._open = []


def read_shards(folder: Path, split: Split | None = None) -> Iterator[Sample]:
    """All clips of the finished shards in index order; with `split`, only those of train or val."""
    index = read_index(folder)
    if not index.shards:
        raise ValueError(f"{folder} has no finished shards (see {INDEX_NAME}); write a corpus there first")
    for entry in index.shards.values():
        if split is None or split in entry.splits:
            yield from (s for s in read_shard(Path(folder) / entry.name) if split in (None, s.record.split))


def read_shard(path: Path) -> Iterator[Sample]:
    """The clips of one tar, in the order they were written."""
    members: dict[str, bytes] = {}
    for name, content in _members(path):
        clip_id, _, kind = name.partition(".")
        members[kind] = content
        if kind == LAST_KIND:
            yield _to_sample(path, clip_id, members)
            members = {}
    if members:
        raise ValueError(
            f"{path}: the last clip has only {sorted(members)}: cut short; write the shard again"
        )


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a tar's files."""
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isreg():
                    raise ValueError(f"{path}: {member.name} is no file; write the shard again")
                yield member.name, tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write the shard again") from error


def _next_number(index: ShardIndex) -> int:
    return 1 + max((int(re.sub(r"\D", "", name)) for name in index.shards), default=-1)


def add_sample(tar: tarfile.TarFile, sample: Sample) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, **dict(sorted(_checked(sample).items())))
    members = {} if sample.mp4 is None else {"mp4": sample.mp4}
    members |= {"flac": sample.flac, "npz": arrays.getvalue()}
    members[LAST_KIND] = to_json(sample.record).encode("utf-8")
    for kind, content in members.items():
        info = tarfile.TarInfo(f"{sample.record.clip_id}.{kind}")  # mtime and owner stay 0: equal bytes
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _checked(sample: Sample) -> dict[str, np.ndarray]:
    """The arrays, once their names and lengths agree with the record."""
    record, arrays = sample.record, sample.arrays
    lengths = {name: len(array) for name, array in arrays.items()}
    expected = {name: record.num_frames for name in ARRAY_SHAPES} | {"visemes": round(record.duration_s * 50)}
    if sample.mp4 is None or STATES in arrays:
        expected[STATES] = record.num_frames
    if lengths != expected:
        raise ValueError(f"clip {record.clip_id}: array lengths are {lengths}, expected {expected}")
    return arrays


def _to_sample(path: Path, clip_id: str, members: dict[str, bytes]) -> Sample:
    if set(members) - {"mp4"} != {"flac", "npz", LAST_KIND}:
        raise ValueError(f"{path}: clip {clip_id} has {sorted(members)}, expected mp4, flac, npz, json")
    place = f"{path}, clip {clip_id}"
    record = from_json(members["json"], place)
    if record.clip_id != clip_id:
        raise ValueError(f"{path}: {clip_id} holds the record of {record.clip_id}; write the shard again")
    sample = Sample(
        record=record,
        mp4=members.get("mp4"),
        flac=members["flac"],
        arrays=_arrays(place, members["npz"]),
    )
    with expected(place, CLIP_EXPECTED):
        _checked(sample)
    return sample


def _arrays(place: str, content: bytes) -> dict[str, np.ndarray]:
    try:
        with expected(place, CLIP_EXPECTED), np.load(io.BytesIO(content)) as stored:
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{place}: {error}; expected {CLIP_EXPECTED}") from error
