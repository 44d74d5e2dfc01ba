"""Footage into shards: raw videos become clips of one speaking person, and every second that does not has a reason.

Source: Loopy (arXiv:2409.02634), data: 25 fps, 16 kHz, square crops, clips removed by filters; the rest is ours.

    RAW -> list -> one task per video (data.prepare_video, by an engine) -> OUT/videos/*.json, *.tar
        -> shards of the kept clips -> records.jsonl -> report.json, report.html

A video's outcome is a function of the file and the settings, and each is written whole or not at all: killed at any
moment and started again, the same command leaves the same shards.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openloopy.data.engines import Engine, Outcome, run_here, run_local, run_ray
from openloopy.data.filters import Thresholds
from openloopy.data.prepare_video import (
    STRIPS,
    VIDEOS,
    VideoConfig,
    check_tools,
    failed_record,
    failure_path,
    note_failure,
    prepare_video,
    record_path,
    remove_unfinished,
    samples_path,
    strip_path,
)
from openloopy.data.records import Split
from openloopy.data.report import build_report, explain, write_report
from openloopy.data.shards import (
    Dropped,
    Sample,
    ShardIndex,
    read_index,
    read_shard,
    write_index,
    write_shard,
)
from openloopy.data.sources import Footage, check_pattern, list_footage
from openloopy.data.verdicts import RECORD_EXPECTED, VideoRecord, from_line, hours, to_line, total
from openloopy.media.duration import in_words
from openloopy.media.files import atomic_write, make_folder, only_run_in
from openloopy.media.text_file import expected, read_json, read_text

CONFIG_NAME, RECORDS_NAME = "prepare.json", "records.jsonl"
CONFIG_EXPECTED = "the settings of `openloopy prepare`; give another OUT folder"
NO_VERDICT = "error"
"""Reason under which earlier versions stored faults of their own as if they were the video's."""
MAX_TOLD = 5
"""Failures that an error names one by one."""
Done = list[tuple[Footage, VideoRecord]]
"""The videos that there is a record of, in order."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What to prepare, and how."""

    raw: str | Path
    """A folder, a list of files, or an address; see `data.sources`."""
    out: Path
    size_px: int = 256
    held_out: tuple[str, ...] = ()
    """People for `val`: their ids, or the id of one of their videos."""
    person_pattern: str | None = None
    """Regular expression whose first group, in the file's name, is the person's id; None: each file its own."""
    licence: str = "not stated"
    engine: Engine = "local"
    workers: int = 1
    """Processes; the result does not depend on it. 0: no process but this one, for finding errors."""
    clips_per_shard: int = 16
    max_clip_s: float = 20.0
    thresholds: Thresholds = field(default_factory=Thresholds)
    corrects_sound: bool = True
    syncnet: Path | None = None
    dwpose: Path | None = None

    def __post_init__(self) -> None:
        if self.size_px < 32 or self.size_px % 2:
            raise ValueError(f"size_px must be even and at least 32 (H.264), got {self.size_px}")
        if self.workers < 0 or self.clips_per_shard < 1:
            raise ValueError(f"expected workers of at least 0 and clips_per_shard of at least 1, got {self}")
        if not 1 <= self.max_clip_s < math.inf:
            raise ValueError(f"max_clip_s must be a number, at least 1, got {self.max_clip_s}")
        check_pattern(self.person_pattern)

    @property
    def video(self) -> VideoConfig:
        """What every video is prepared with."""
        return VideoConfig(
            out=self.out,
            size_px=self.size_px,
            licence=self.licence,
            max_clip_s=self.max_clip_s,
            thresholds=self.thresholds,
            corrects_sound=self.corrects_sound,
            syncnet=self.syncnet,
            dwpose=self.dwpose,
        )


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What became of the footage, in short; `report.json` says more."""

    num_videos: int
    num_clips: int
    num_frames_in: int
    frames: dict[str, int]
    """By fate: kept, or a reason; adds up to num_frames_in."""
    clips_per_split: dict[Split, int]
    people_per_split: dict[Split, list[str]]
    seconds_this_run: float

    def text(self, out: Path) -> str:
        """For the terminal."""
        lines = [
            f"{self.hours_in:.3f} h in {self.num_videos} videos went in; {out} holds {self.num_clips} clips"
        ]
        lines += [f"  {hours(frames):8.3f} h  {fate}" for fate, frames in self.frames.items() if frames]
        return "\n".join([*lines, f"every reason: {out}/report.html; took {in_words(self.seconds_this_run)}"])

    @property
    def hours_in(self) -> float:
        return hours(self.num_frames_in)


class IncompleteError(RuntimeError):
    """Some videos could not be prepared, through no fault of theirs. What the others came to is in `report`."""

    def __init__(self, message: str, report: PrepareReport) -> None:
        super().__init__(message)
        self.report = report


def prepare_footage(config: PrepareConfig) -> PrepareReport:
    """Writes the shards of raw footage; the same call finishes an interrupted one.

    Raises:
        ValueError: there is no footage, the folder was begun with other settings, or nothing was kept (the report is
            written all the same).
        ValueError, FileNotFoundError, ImportError: weights that were asked for cannot be used; nothing was written.
        IncompleteError: videos failed for reasons that are not theirs. All else is finished; the same call tries them
            again.
        OSError: the disk is full; nothing half-written is left under a final name.
    """
    begun_s = time.monotonic()
    footage = list_footage(str(config.raw), person_pattern=config.person_pattern, held_out=config.held_out)
    check_tools(config.video)
    for folder in (config.out, config.out / VIDEOS, config.out / STRIPS):
        make_folder(folder)
    with only_run_in(config.out):  # two runs would delete each other's unfinished work
        _remember(config, footage)
        _forget_faults(config.out, footage)
        remove_unfinished(config.out, [item.video_id for item in footage])
        _prepare_videos(config, footage)
        failures = {item.name: text for item in footage if (text := _failure(config.out, item))}
        done = [(item, _read_record(config.out, item)) for item in footage if item.name not in failures]
        records = [record for _, record in done]
        _write_shards(config, done)
        _write_lines(config.out / RECORDS_NAME, records)
        _write_reports(config, records)
    report = _summary(done, seconds=round(time.monotonic() - begun_s, 1))
    if failures:
        raise IncompleteError(_incomplete(config.out, failures, len(footage)), report)
    if report.num_clips == 0:
        raise ValueError(
            f"nothing of the {len(footage)} videos of {config.raw} became a clip; frames by reason: {report.frames} "
            f"(see {config.out}/report.html)"
        )
    return report


def explain_clip(out: Path, name: str) -> str:
    """What became of a clip or a video of a prepared folder, and why, as text.

    name: a clip's id, a video's id, or a video's name as in the report.
    """
    settings = read_json(out / CONFIG_NAME, CONFIG_EXPECTED) if (out / CONFIG_NAME).exists() else {}
    with expected(out / CONFIG_NAME, CONFIG_EXPECTED):
        thresholds = dict(settings.get("thresholds", {}))
    if not (out / RECORDS_NAME).exists():
        raise ValueError(f"{out} holds no {RECORDS_NAME}; run `openloopy prepare RAW {out}` to the end first")
    path = out / RECORDS_NAME
    with expected(path, RECORD_EXPECTED), open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            record = from_line(line, f"{path}, line {number}")
            ids = {span.clip_id for span in record.spans}
            if name in ids or name in (record.name, Path(record.name).stem):
                return explain(record, name if name in ids else None, thresholds)
    raise ValueError(f"{out} knows neither a clip nor a video {name!r}; {RECORDS_NAME} lists them")


def _forget_faults(out: Path, footage: Sequence[Footage]) -> None:
    """Earlier versions wrote a record of a video even where the fault was not the video's: it is looked at again."""
    for item in footage:
        path = record_path(out, item.video_id)
        if path.exists() and [reason.name for reason in _read_record(out, item).reasons] == [NO_VERDICT]:
            path.unlink()


def _prepare_videos(config: PrepareConfig, footage: Sequence[Footage]) -> None:
    """Every video that has no record yet, by the engine; those that kill their process get a record too."""
    todo = [item for item in footage if not record_path(config.out, item.video_id).exists()]
    work = partial(prepare_video, config.video)
    columns = (TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("videos", total=len(todo))
        for item, outcome in _engine(config, work, todo):
            if outcome == "crashed":
                detail = "the process that read it died twice (a crash of a decoder)"
                _write_record(config.out, item, failed_record(item, detail, "crash"))
            elif outcome == "killed":
                note_failure(config.out, item, "the process that read it was killed twice (no memory left?)")
            progress.advance(bar)


def _failure(out: Path, footage: Footage) -> str:
    """Why there is no record of a video, in short; empty where there is one."""
    if record_path(out, footage.video_id).exists():
        return ""
    path = failure_path(out, footage.video_id)
    return path.read_text("utf-8").splitlines()[-1] if path.exists() else "nobody knows why"


def _incomplete(out: Path, failures: Mapping[str, str], num_videos: int) -> str:
    """What an IncompleteError says."""
    told = "; ".join(f"{name}: {text}" for name, text in list(failures.items())[:MAX_TOLD])
    more = f"; and {len(failures) - MAX_TOLD} more" if len(failures) > MAX_TOLD else ""
    return (
        f"{len(failures)} of {num_videos} videos could not be prepared, through no fault of theirs: {told}{more}. "
        f"Put that right and give the same command, which reads them again (details: {out / VIDEOS}/*.failed)"
    )


def _engine(config: PrepareConfig, work: Any, todo: Sequence[Footage]) -> Iterator[tuple[Footage, Outcome]]:
    if config.engine == "ray":
        return run_ray(work, todo, max(config.workers, 1))
    return run_local(work, todo, config.workers) if config.workers else run_here(work, todo)


def _write_record(out: Path, footage: Footage, record: VideoRecord) -> None:
    with atomic_write(record_path(out, footage.video_id)) as partial_path:
        partial_path.write_text(to_line(record), "utf-8")


def _read_record(out: Path, footage: Footage) -> VideoRecord:
    path = record_path(out, footage.video_id)
    return from_line(read_text(path, RECORD_EXPECTED), str(path))


def _write_shards(config: PrepareConfig, done: Done) -> None:
    """Kept clips into shards, val first; a video's own file goes when its clips are in finished shards."""
    index = read_index(config.out)
    for part in _plan_shards(done, index, config.clips_per_shard):
        entry = write_shard(config.out, len(index.shards), _samples(config.out, part))
        index = index.with_shard(entry)
        write_index(config.out, index)
        _remove_used(config.out, done, index)
    _remove_used(config.out, done, index)
    dropped = _dropped(record for _, record in done)
    if index.shards:
        first = next(iter(index.shards))
        entries = {
            name: replace(e, dropped=dropped if name == first else []) for name, e in index.shards.items()
        }
        write_index(config.out, ShardIndex(shards=entries))


def _plan_shards(done: Done, index: ShardIndex, clips_per_shard: int) -> list[list[tuple[str, str]]]:
    """Video and clip of every sample of every shard that is still to be written; no shard mixes splits."""
    stored = _stored_clips(index)
    shards = []
    for split in ("val", "train"):
        own = [
            (item.video_id, clip)
            for item, record in done
            if item.split == split
            for clip in _kept_clips(record)
            if clip not in stored
        ]
        shards += [own[i : i + clips_per_shard] for i in range(0, len(own), clips_per_shard)]
    return shards


def _stored_clips(index: ShardIndex) -> set[str]:
    return {clip for entry in index.shards.values() for clip in entry.clips}


def _kept_clips(record: VideoRecord) -> list[str]:
    """In the order of the video's own file: as they end."""
    kept = sorted((s for s in record.spans if s.is_kept), key=lambda s: (s.stop, s.start, s.clip_id))
    return [span.clip_id for span in kept]


def _samples(out: Path, clips: Iterable[tuple[str, str]]) -> Iterator[Sample]:
    video, samples = None, iter(())
    for name, clip in clips:
        if name != video:
            video, samples = name, read_shard(samples_path(out, name))
        yield next(sample for sample in samples if sample.record.clip_id == clip)


def _remove_used(out: Path, done: Done, index: ShardIndex) -> None:
    stored = _stored_clips(index)
    for item, record in done:
        if stored.issuperset(_kept_clips(record)):
            with contextlib.suppress(FileNotFoundError):
                samples_path(out, item.video_id).unlink()


def _dropped(records: Iterable[VideoRecord]) -> list[Dropped]:
    """Everything that was dropped, for the index of the shards."""
    whole = [Dropped(source=r.name, reason=_text(r.reasons)) for r in records if r.reasons]
    parts = [
        Dropped(source=f"{r.name}, frames {s.start} to {s.stop}", reason=_text(s.reasons))
        for r in records
        for s in r.spans
        if s.reasons
    ]
    return whole + parts


def _text(reasons: Sequence[Any]) -> str:
    return "; ".join(f"{reason.name}: {reason.detail}" for reason in reasons)


def _remember(config: PrepareConfig, footage: Sequence[Footage]) -> None:
    """Refuses a folder that was begun with other settings or other files."""
    content = {
        "size_px": config.size_px,
        "licence": config.licence,
        "clips_per_shard": config.clips_per_shard,
        "max_clip_s": config.max_clip_s,
        "corrects_sound": config.corrects_sound,
        "syncnet": config.syncnet is not None,
        "dwpose": config.dwpose is not None,
        "thresholds": config.thresholds.to_json(),
        "files": [[item.name, item.size_bytes, item.person_id, item.split] for item in footage],
    }
    path = config.out / CONFIG_NAME
    if not path.exists():
        with atomic_write(path) as partial_path:
            partial_path.write_text(json.dumps(content, indent=1), "utf-8")
        return
    stored = read_json(path, CONFIG_EXPECTED)
    with expected(path, CONFIG_EXPECTED):
        changed = sorted(
            k for k in {*stored, *content} if stored.get(k) != json.loads(json.dumps(content)).get(k)
        )
    if changed:
        what = " and ".join("other files" if name == "files" else f"another {name}" for name in changed)
        raise ValueError(
            f"{config.out} was begun with {what} (see {CONFIG_NAME}); give the same command, or another folder"
        )


def _write_lines(path: Path, records: Iterable[VideoRecord]) -> None:
    with atomic_write(path) as partial_path, open(partial_path, "w", encoding="utf-8") as lines:
        for record in records:
            lines.write(to_line(record) + "\n")


def _write_reports(config: PrepareConfig, records: Sequence[VideoRecord]) -> None:
    settings = {"size_px": config.size_px, "max_clip_s": config.max_clip_s, "licence": config.licence}
    settings |= {"sound is moved into step": config.corrects_sound, "engine": config.engine}
    report = build_report(records, config.thresholds.to_json(), settings)

    def strip(clip_id: str) -> bytes | None:
        path = strip_path(config.out, clip_id)
        return path.read_bytes() if path.exists() else None

    write_report(config.out, report, strip)


def _summary(done: Done, *, seconds: float) -> PrepareReport:
    clips: Counter[Split] = Counter()
    people: dict[Split, set[str]] = {}
    records = [record for _, record in done]
    for item, record in done:
        if kept := len(_kept_clips(record)):
            clips[item.split] += kept
            people.setdefault(item.split, set()).add(item.person_id)
    return PrepareReport(
        num_videos=len(records),
        num_clips=sum(clips.values()),
        num_frames_in=sum(record.num_frames for record in records),
        frames=total(records),
        clips_per_split=dict(clips),
        people_per_split={split: sorted(names) for split, names in sorted(people.items())},
        seconds_this_run=seconds,
    )
