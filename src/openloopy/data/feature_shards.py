"""Latents and audio features as WebDataset tars in half precision, read in place: for corpora of any size.

Each tar of clips (see `data.shards`) gives one of features, whose samples are `.json` (ClipRecord), `.latents.npy`,
`.audio.npy` and `.points68.npy`. WebDataset reads them as they are; here they are mapped into memory, so that a step's
clips are drawn from the whole corpus by (seed, step) alone: perfect shuffling, and a resumed run needs no position.
A tar is written under its final name only when it is whole; `features.json` is written last.
"""

from __future__ import annotations

import io
import json
import mmap
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from openloopy.data.cache import CacheInfo
from openloopy.data.records import ClipRecord, from_json, to_json
from openloopy.media.files import atomic_write
from openloopy.media.text_file import expected, made_of, read_json

INDEX_NAME = "features.json"
INDEX_EXPECTED = "an index of features; make them again"
VERSION = 2
"""2: audio features reach beyond the clip."""
ARRAYS = ("latents", "audio", "points68")
MAX_OPEN = 64
"""Tars mapped at a time."""
Place = tuple[int, str, tuple[int, ...]]
"""Where an array lies in its tar: first byte, dtype, shape."""


def write_feature_shard(path: Path, clips: Iterable[tuple[ClipRecord, Mapping[str, np.ndarray]]]) -> None:
    """Write one tar; arrays: latents `f c h w`, audio `(f + 2 AUDIO_MARGIN) layers width`, points68 `f 68 2`."""
    with atomic_write(path) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for record, arrays in clips:
            if set(arrays) != set(ARRAYS):
                raise ValueError(f"clip {record.clip_id} has {sorted(arrays)}, expected {sorted(ARRAYS)}")
            _add(tar, f"{record.clip_id}.json", to_json(record).encode("utf-8"))
            for name in ARRAYS:
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(arrays[name]))
                _add(tar, f"{record.clip_id}.{name}.npy", content.getvalue())


def finish_feature_shards(folder: Path, info: CacheInfo, names: list[str]) -> None:
    """Write the index of tars that are all there; with it the folder opens."""
    shards = {name: _scan(folder / name) for name in names}
    content = {"version": VERSION, "info": asdict(info), "shards": shards}
    with atomic_write(folder / INDEX_NAME) as path:
        path.write_text(json.dumps(content), "utf-8")


class FeatureShards:
    """Finished feature shards, or one split of them; drawn from like a `LatentCache`."""

    def __init__(self, folder: Path, split: str | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / INDEX_NAME
        if not path.exists():
            raise ValueError(f"{folder} holds no finished features ({INDEX_NAME} is absent); make them first")
        content = read_json(path, INDEX_EXPECTED)
        self.records: list[ClipRecord] = []
        self._places: list[tuple[str, dict[str, Place]]] = []
        with expected(path, INDEX_EXPECTED):
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}, expected {VERSION}")
            self.info = made_of(CacheInfo, content["info"])
            for name, clips in content["shards"].items():
                for clip in clips:
                    record = from_json(clip["record"])
                    if split in (None, record.split):
                        self.records.append(record)
                        self._places.append((name, clip["arrays"]))
            lengths = [places["latents"][2][0] for _, places in self._places]
            self.offsets = {"latents": np.cumsum([0, *lengths])}
        if not self.records:
            raise ValueError(f"{folder} holds no clips of split {split}")
        self._map = lru_cache(maxsize=MAX_OPEN)(_map)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def names(self) -> frozenset[str]:
        """Of the arrays that `rows` gives."""
        return frozenset(ARRAYS)

    def rows(self, name: str, i: int) -> np.ndarray:
        """Array `name` of clip i, a read-only view of the file."""
        shard, places = self._places[i]
        start, dtype, shape = places[name]
        count = int(np.prod(shape))
        return np.frombuffer(self._map(self.folder / shard), dtype, count, start).reshape(shape)


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _scan(path: Path) -> list[dict]:
    """Per clip its record and where its arrays lie."""
    clips: list[dict] = []
    with tarfile.open(path) as tar, open(path, "rb") as file:
        for member in tar:
            kind = member.name.partition(".")[2]
            if kind == "json":
                clips.append({"record": tar.extractfile(member).read().decode("utf-8"), "arrays": {}})
                continue
            file.seek(member.offset_data)
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            clips[-1]["arrays"][kind.removesuffix(".npy")] = (file.tell(), dtype.str, shape)
    return clips


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime and owner stay 0: equal bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
