"""Memory-mapped caches of a corpus: pixels at one size, and latents with audio features, for fast training.

A cache is a folder of `.npy` files, one per array, in which the rows of all clips lie one after another;
`progress.json` says where each clip begins. It is also what makes a build resumable: rows beyond it are cut
off. `cache.json` is written last, so a cache that opens is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.records import ClipRecord, Split, from_json, to_json
from openloopy.data.shards import INDEX_NAME, Sample, read_index, read_shards
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import atomic_write, make_folder, only_run_in, sha256_file
from openloopy.media.text_file import expected, made_of, read_json

CACHE_NAME = "cache.json"
PROGRESS_NAME = "progress.json"
CACHE_EXPECTED = "a cache that OpenLoopy made of these shards; delete the folder, and it is made again"
CACHE_VERSION = 2
"""2: audio features reach beyond the clip."""
AUDIO_MARGIN = 4
"""Frames of audio features that are kept before a clip's first frame and after its last: those of silence."""
COMMIT_CLIPS = 16


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """What a cache was made from and how. A build with another CacheInfo does not continue this one."""

    kind: str
    """`pixels` or `latents`."""
    size_px: int
    """Side of the pictures that points68 refers to."""
    source_sha256: str
    """Of the shard index, or of all indices (pixels); or whatever the writer derives its content from (latents)."""
    split: Split | None = None
    frame_stride: int = 1
    """Every how many frames one is kept; above 1 the cache serves stills only."""


class GrowingNpy:
    """A `.npy` file that grows by rows; its header is brought up to date by `commit`.

    numpy pads the header so that a longer first axis fits in place (numpy.lib.format, growth axis).
    """

    def __init__(self, path: Path, *, num_rows: int = 0) -> None:
        """Opens for writing; an existing file keeps its first `num_rows` rows."""
        self.path = Path(path)
        self.num_rows = num_rows
        self._row: tuple[np.dtype, tuple[int, ...]] | None = None
        self._file = open(self.path, "r+b" if num_rows else "w+b")
        if num_rows:
            self._cut()

    def append(self, rows: np.ndarray) -> None:
        """rows: `n ...`; dtype and trailing shape as in the first call."""
        row = (rows.dtype, rows.shape[1:])
        if self._row is None:
            self._row = row
            self._write_header()
        if row != self._row:
            raise ValueError(
                f"{self.path.name}: rows are {row[1]} {row[0]}, expected {self._row[1]} {self._row[0]}"
            )
        self._file.write(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

    def commit(self) -> None:
        if self._row is None:
            return
        self._file.flush()
        self._write_header()
        self._file.flush()

    def close(self) -> None:
        self.commit()
        self._file.close()

    def _write_header(self) -> None:
        dtype, tail = self._row
        header = {"descr": dtype.str, "fortran_order": False, "shape": (self.num_rows, *tail)}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.seek(0, 2)

    def _cut(self) -> None:
        np.lib.format.read_magic(self._file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
        self._row = (dtype, shape[1:])
        size = self._file.tell() + self.num_rows * dtype.itemsize * int(np.prod(shape[1:]))
        if self.path.stat().st_size < size:
            raise ValueError(
                f"{self.path} holds fewer than the {self.num_rows} rows that are listed; expected {CACHE_EXPECTED}"
            )
        self._file.truncate(size)
        self._write_header()


class CacheWriter:
    """Appends clips to a cache folder; continues an interrupted build of the same CacheInfo.

    As a context manager: a clean exit completes the cache, an exception leaves what was committed.
    """

    def __init__(self, folder: Path, info: CacheInfo) -> None:
        self.folder, self.info = Path(folder), info
        if (self.folder / CACHE_NAME).exists():
            raise ValueError(f"{folder} is a complete cache; open it, or delete the folder to build it again")
        make_folder(self.folder)
        with contextlib.ExitStack() as alone:
            alone.enter_context(only_run_in(self.folder))
            progress = self._read_progress()
            self._lines: list[str] = progress["records"]
            self.records: list[ClipRecord] = [from_json(line) for line in self._lines]
            self._rows: dict[str, list[int]] = progress["rows"]
            self._files = {name: self._open(name, sum(rows)) for name, rows in self._rows.items()}
            self._alone = alone.pop_all()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._alone:
            if kind is None:
                self._complete()

    def add_clip(self, record: ClipRecord, arrays: Mapping[str, np.ndarray]) -> None:
        """Arrays `rows ...` of one clip; the same names in every call."""
        if self.records and set(arrays) != set(self._files):
            raise ValueError(
                f"clip {record.clip_id} has {sorted(arrays)}, the cache has {sorted(self._files)}"
            )
        for name, rows in arrays.items():
            if name not in self._files:
                self._files[name], self._rows[name] = self._open(name, 0), []
            self._files[name].append(rows)
            self._rows[name].append(len(rows))
        self.records.append(record)
        self._lines.append(to_json(record))
        if len(self.records) % COMMIT_CLIPS == 0:
            self.commit()

    def commit(self) -> None:
        """Makes everything added so far survive an interruption."""
        for file in self._files.values():
            file.commit()
        progress = {
            "info": asdict(self.info),
            "records": self._lines,
            "rows": self._rows,
        }
        with atomic_write(self.folder / PROGRESS_NAME) as path:
            path.write_text(json.dumps(progress), "utf-8")

    def _complete(self) -> None:
        if not self.records:
            raise ValueError(f"no clips for {self.folder}; are there any of split {self.info.split}?")
        self.commit()
        for file in self._files.values():
            file.close()
        content = {"version": CACHE_VERSION, "num_clips": len(self.records), "info": asdict(self.info)}
        with atomic_write(self.folder / CACHE_NAME) as path:
            path.write_text(json.dumps(content, indent=1), "utf-8")

    def _open(self, name: str, num_rows: int) -> GrowingNpy:
        return GrowingNpy(self.folder / f"{name}.npy", num_rows=num_rows)

    def _read_progress(self) -> dict:
        path = self.folder / PROGRESS_NAME
        if not path.exists():
            return {"records": [], "rows": {}}
        progress = _read_progress(self.folder)
        if progress.get("info") != asdict(self.info):
            raise ValueError(
                f"{self.folder} was begun as {progress.get('info')}, now {asdict(self.info)} is asked for; "
                "delete the folder or choose another one"
            )
        return progress


class ClipCache:
    """A finished cache, opened read-only. Arrays are memory maps; `rows(name, i)` is clip i's part of one."""

    kind = ""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.info = _read_info(self.folder, self.kind)
        progress = _read_progress(self.folder)
        with expected(self.folder, CACHE_EXPECTED):
            self.records = [from_json(line) for line in progress["records"]]
            self.offsets = {name: np.cumsum([0, *rows]) for name, rows in progress["rows"].items()}
            self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.offsets}
            for name, offsets in self.offsets.items():
                if len(offsets) != len(self.records) + 1 or offsets[-1] != len(self.arrays[name]):
                    raise ValueError(f"{name} has {len(self.arrays[name])} rows, {offsets[-1]} are listed")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def names(self) -> frozenset[str]:
        """Of the arrays that `rows` gives."""
        return frozenset(self.arrays)

    def rows(self, name: str, i: int) -> np.ndarray:
        """Array `name` of clip i: `rows ...`, a view of the memory map."""
        offsets = self.offsets[name]
        return self.arrays[name][offsets[i] : offsets[i + 1]]


@dataclass(frozen=True, kw_only=True)
class CachedClip:
    """One clip of a pixel cache; all arrays are views of memory maps."""

    record: ClipRecord
    frames: np.ndarray
    """`f H W 3` uint8 RGB."""
    points68: np.ndarray
    """`f 68 2` float32, px in these frames."""
    lip_gap: np.ndarray
    eye_opening: np.ndarray
    pose: np.ndarray
    waveform: np.ndarray
    """`samples` int16, 16 kHz."""
    visemes: np.ndarray
    """`num50` labels at 50 Hz."""


class PixelCache(ClipCache):
    """Frames of all clips at one size, with landmarks, descriptors, sound and visemes."""

    kind = "pixels"

    @property
    def frames(self) -> np.ndarray:
        """`N H W 3` uint8 RGB, all clips one after another."""
        return self.arrays["frames"]

    @property
    def clip_offsets(self) -> np.ndarray:
        """`num_clips + 1`: clip i is `frames[clip_offsets[i] : clip_offsets[i + 1]]`."""
        return self.offsets["frames"]

    @property
    def person_ids(self) -> list[str]:
        return [record.person_id for record in self.records]

    def clip(self, i: int) -> CachedClip:
        return CachedClip(record=self.records[i], **{name: self.rows(name, i) for name in self.arrays})

    def waveform(self, i: int) -> np.ndarray:
        """Clip i's sound: `samples` float32 in [-1, 1], 16 kHz."""
        return self.rows("waveform", i).astype(np.float32) / 32768


class LatentCache(ClipCache):
    """Latents and audio features of all clips; written by `training.features`, which owns the networks.

    Arrays: latents `f c h w` and audio `(f + 2 AUDIO_MARGIN) layers width` (fp16), points68 `f 68 2` (px of
    `info.size_px`), lip_gap `f`.
    """

    kind = "latents"


def build_pixel_cache(
    shards: Path | Sequence[Path],
    out: Path,
    *,
    size_px: int,
    split: Split | None = None,
    frame_stride: int = 1,
    workers: int = 1,
) -> PixelCache:
    """Decodes all clips of `shards` (area-averaged to `size_px`) into `out`; opens it where it is complete.

    The clips of several folders of shards follow one another, whatever size they have there. `workers` threads
    decode; the order of clips is that of the shards in any case.
    """
    folders = [Path(shards)] if isinstance(shards, (str, Path)) else [Path(folder) for folder in shards]
    _check_clip_ids(folders)
    info = CacheInfo(
        kind=PixelCache.kind,
        size_px=size_px,
        source_sha256=shards_sha256(folders),
        split=split,
        frame_stride=frame_stride,
    )
    if not (Path(out) / CACHE_NAME).exists():
        with CacheWriter(out, info) as writer, ThreadPoolExecutor(workers) as pool:
            samples = chain.from_iterable(read_shards(folder, split) for folder in folders)
            todo = islice(samples, len(writer.records), None)
            for record, arrays in _map_bounded(pool, todo, info, 2 * workers):
                writer.add_clip(record, arrays)
    cache = open_pixel_cache(out)
    if cache.info != info:
        raise ValueError(f"{out} holds {cache.info}, asked for is {info}; delete it or choose another folder")
    return cache


def open_pixel_cache(folder: Path) -> PixelCache:
    return PixelCache(folder)


def open_latent_cache(folder: Path) -> LatentCache:
    return LatentCache(folder)


def latent_cache_writer(
    folder: Path, *, size_px: int, source_sha256: str, split: Split | None = None
) -> CacheWriter:
    """A writer whose `add_clip` wants LatentCache's arrays; `len(writer.records)` clips are done already.

    `source_sha256` stands for all that the latents depend on: the pixel cache and the networks' weights.
    """
    info = CacheInfo(kind=LatentCache.kind, size_px=size_px, source_sha256=source_sha256, split=split)
    return CacheWriter(folder, info)


def sampling_weights(records: Sequence[ClipRecord], footage_share: float) -> np.ndarray:
    """Probability of each clip, `num_clips` float64, such that footage is drawn with this share in all.

    Within footage and within puppets in proportion to length; where one of the two is absent, so for all.
    """
    if not 0 <= footage_share <= 1:
        raise ValueError(f"footage_share must be in [0, 1], got {footage_share}")
    if not records:
        raise ValueError("no clips to draw from")
    lengths = np.array([record.num_frames for record in records], float)
    is_footage = np.array([record.is_footage for record in records])
    if is_footage.all() or not is_footage.any():
        return lengths / lengths.sum()
    of_kind = np.where(is_footage, lengths[is_footage].sum(), lengths[~is_footage].sum())
    return np.where(is_footage, footage_share, 1 - footage_share) * lengths / of_kind


def decode_clip(sample: Sample, info: CacheInfo) -> tuple[ClipRecord, dict[str, np.ndarray]]:
    """A shard's sample as the rows of a pixel cache."""
    record, keep = sample.record, slice(None, None, info.frame_stride)
    if sample.mp4 is None:
        raise ValueError(
            f"clip {record.clip_id} holds face states without pictures; make the corpus without --states"
        )
    frames = decode_frames(sample.mp4, info.size_px)
    if len(frames) != record.num_frames:
        raise ValueError(
            f"clip {record.clip_id}: {len(frames)} frames decoded, its record says {record.num_frames}"
        )
    arrays = {name: sample.arrays[name][keep] for name in ("lip_gap", "eye_opening", "pose")}
    points = sample.arrays["points68"][keep] * np.float32(info.size_px / record.size_px)
    sound = clip_sound(sample)
    return record, {
        "frames": frames[keep],
        "points68": points,
        **arrays,
        "waveform": np.round(sound * 32768).clip(-32768, 32767).astype(np.int16),
        "visemes": sample.arrays["visemes"],
    }


def clip_sound(sample: Sample) -> np.ndarray:
    """A sample's sound, as long as its frames: `samples` float32 in [-1, 1], 16 kHz."""
    return decode_sound(sample.flac)[: round(sample.record.duration_s * SAMPLE_RATE_HZ)]


def _map_bounded(
    pool: ThreadPoolExecutor, samples: Iterator[Sample], info: CacheInfo, ahead: int
) -> Iterator[tuple[ClipRecord, dict[str, np.ndarray]]]:
    """`decode_clip` over all samples in order, at most `ahead` of them in memory."""
    waiting = [pool.submit(decode_clip, sample, info) for sample in islice(samples, ahead)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(decode_clip, sample, info) for sample in islice(samples, 1)]


def _check_clip_ids(folders: Sequence[Path]) -> None:
    """Refuses folders that cannot lie in one cache."""
    if not folders:
        raise ValueError("no folder of shards was given; give at least one")
    counts = Counter(
        clip for folder in folders for entry in read_index(folder).shards.values() for clip in entry.clips
    )
    if repeated := sorted(clip for clip, count in counts.items() if count > 1):
        raise ValueError(
            f"{len(repeated)} clip ids are in more than one of {', '.join(map(str, folders))}, such as "
            f"{repeated[0]!r}; give each folder once, and write one of the corpora with other clip ids"
        )


def shards_sha256(folders: Sequence[Path]) -> str:
    """Hash of all indices, in order; of one folder the hash of its index file."""
    digests = [_index_sha256(folder) for folder in folders]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _index_sha256(folder: Path) -> str:
    path = folder / INDEX_NAME
    if not path.exists():
        raise ValueError(f"{folder} has no {INDEX_NAME}; is it a folder of finished shards?")
    return sha256_file(path)


def _read_progress(folder: Path) -> dict[str, Any]:
    """The records of a cache, as lines, and of each array the rows of each clip."""
    path = folder / PROGRESS_NAME
    progress = read_json(path, CACHE_EXPECTED)
    with expected(path, CACHE_EXPECTED):
        made_of(_Progress, {name: progress[name] for name in ("records", "rows")})
    return progress


@dataclass(frozen=True)
class _Progress:
    records: list[str]
    rows: dict[str, list[int]]


def _read_info(folder: Path, kind: str) -> CacheInfo:
    path = folder / CACHE_NAME
    if not path.exists():
        raise ValueError(
            f"{folder} is not a complete cache ({CACHE_NAME} is absent); run its build to finish it"
        )
    content = read_json(path, CACHE_EXPECTED)
    with expected(path, CACHE_EXPECTED):
        info = made_of(CacheInfo, content["info"])
        version = content["version"]
    if version != CACHE_VERSION or info.kind != kind:
        raise ValueError(
            f"{folder} is a {info.kind} cache of version {version}, expected {kind}, version {CACHE_VERSION}"
        )
    return info
