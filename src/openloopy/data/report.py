"""The report on prepared footage: hours in = hours kept + hours dropped by reason, to the frame.

Source: ours. `build_report` counts in one pass, `write_report` shows it (`report_page.py`), `explain` says in the
terminal what became of one video and why.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openloopy.data.filters import ABSOLUTE
from openloopy.data.plots import number, percent
from openloopy.data.report_page import describe, duration, frame_range, plain, report_page
from openloopy.data.verdicts import (
    KEPT,
    Reason,
    Span,
    VideoRecord,
    discrepancy,
    hours,
    num_covered,
    total,
)
from openloopy.media.files import atomic_write
from openloopy.media.video import FPS

REPORT_NAME, PAGE_NAME = "report.json", "report.html"
MAX_BINS = 40
SHOWN_PERCENTILES = (1, 99)
"""A histogram spans these of all values; those beyond are counted."""
NUM_EXAMPLES = 24
"""Examples kept for each fate: twice what the page shows, since some have no picture."""
EXAMPLE_SEED = 1
SIDES = ("min", "max")


def build_report(
    records: Iterable[VideoRecord], thresholds: dict[str, float | None], settings: dict[str, Any]
) -> dict[str, Any]:
    """Counts what became of all footage, in one pass; memory grows by some bytes for each measured value.

    Args:
        thresholds: by `min_` or `max_` and the name of a measure; None: the filter is off.
        settings: whatever else the reader should know; JSON-able, shown as it is.

    Returns:
        JSON-able. Frames are counted at 25 per second; `fates` holds `kept`, then the reasons by frames;
        `measures` a histogram of each measure, with thresholds; `videos` a row for each file, as they came.

    Raises:
        AssertionError: the records of a video do not add up to its frames, which is our mistake.
        ValueError: a threshold's name begins with neither `min_` nor `max_`.
    """
    limits = limits_of(thresholds)
    tally = _Tally()
    for record in records:
        tally.add(record)
    return {
        **_totals(tally),
        "fates": [{"name": name, **fate.content()} for name, fate in tally.ordered_fates()],
        "measures": _measures(tally, limits),
        "thresholds": thresholds,
        "settings": settings,
        "videos": tally.rows,
    }


def write_report(out: Path, report: dict[str, Any], strips: Callable[[str], bytes | None]) -> None:
    """Writes `report.json` and `report.html`, which needs nothing but itself, into the folder.

    Args:
        strips: JPEG of a few frames side by side, by clip id; None where there is no picture. Asked for at most
            24 clips of each fate.

    Raises:
        MediaError: the folder does not exist.
    """
    # ASCII, so that names of files that are not UTF-8 can be written too.
    _write(out / REPORT_NAME, json.dumps(report, indent=1, allow_nan=False))
    _write(out / PAGE_NAME, report_page(report, strips))


def explain(record: VideoRecord, clip_id: str | None, thresholds: dict[str, float | None]) -> str:
    """What became of a video, or of one clip of it, and why; text for the terminal.

    Args:
        clip_id: only this clip; None: all spans.
        thresholds: as for `build_report`.

    Raises:
        ValueError: the video has no such clip, or a threshold has a wrong name.
    """
    limits = limits_of(thresholds)
    if clip_id is not None and clip_id not in [span.clip_id for span in record.spans]:
        clips = ", ".join(plain(span.clip_id) for span in record.spans if span.clip_id) or "none"
        raise ValueError(f"{plain(record.name)} has no clip {clip_id!r}; its clips: {clips}")
    parts = [_explain_video(record)]
    for i, span in enumerate(record.spans):
        if clip_id in (None, span.clip_id):
            title = f"Span {i + 1} of {len(record.spans)}: {plain(span.clip_id or 'no clip')}"
            parts.append("\n".join([title, *_explain_span(span, limits)]))
    return "\n\n".join(parts) + "\n"


def limits_of(thresholds: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Thresholds by measure: {"min_face_px": 80} becomes {"face_px": {"min": 80}}.

    One for the size of a measure becomes two: {"max_sync_offset": 2}, {"sync_offset": {"min": -2, "max": 2}}.
    """
    limits: dict[str, dict[str, float | None]] = {}
    for name, value in thresholds.items():
        side, _, measure = name.partition("_")
        if side not in SIDES or not measure:
            raise ValueError(f"expected a threshold named min_... or max_..., got {name!r}")
        own = limits.setdefault(measure, {})
        if measure in ABSOLUTE and value is not None:
            own["min"] = -value
        own[side] = value
    return limits


def histogram_of(kept: Sequence[float], dropped: Sequence[float]) -> dict[str, Any]:
    """Counts of both on the same bins.

    Returns:
        `edges` of at most 40 bins (empty where no value is finite); `kept` and `dropped` with `counts`, the
        numbers `below`, `above` and `not_finite`, and the `median` of the finite values. All add up.
    """
    arrays = np.asarray(kept, float), np.asarray(dropped, float)
    edges = _edges(np.concatenate(arrays))
    return {"edges": edges.tolist(), "kept": _counts(arrays[0], edges), "dropped": _counts(arrays[1], edges)}


class _Draw:
    """The items whose keys have the smallest hashes: the same ones in whatever order they come."""

    def __init__(self) -> None:
        self._chosen: list[tuple[int, int, dict[str, Any]]] = []
        self._num_offered = 0

    def offer(self, key: str, item: dict[str, Any]) -> None:
        seeded = f"{EXAMPLE_SEED}:{key}".encode("utf-8", "surrogatepass")
        rank = int.from_bytes(hashlib.blake2b(seeded, digest_size=8).digest(), "big")
        self._num_offered += 1
        add = heapq.heappush if len(self._chosen) < NUM_EXAMPLES else heapq.heappushpop
        add(self._chosen, (-rank, self._num_offered, item))

    def items(self) -> list[dict[str, Any]]:
        return [item for _, _, item in sorted(self._chosen, key=lambda entry: -entry[0])]


@dataclass
class _Fate:
    """What is counted under `kept` or under one reason."""

    num_frames: int = 0
    num_spans: int = 0
    num_spans_alone: int = 0
    """Spans with no other reason: they would be kept if this filter were off."""
    num_whole_videos: int = 0
    examples: _Draw = field(default_factory=_Draw)

    def content(self) -> dict[str, Any]:
        return {
            "frames": self.num_frames,
            "hours": hours(self.num_frames),
            "spans": self.num_spans,
            "spans_alone": self.num_spans_alone,
            "whole_videos": self.num_whole_videos,
            "examples": self.examples.items(),
        }


@dataclass
class _Values:
    """All values of one measure."""

    kept: array[float] = field(default_factory=lambda: array("d"))
    dropped: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class _Tally:
    """Everything that is counted while the records go by."""

    fates: dict[str, _Fate] = field(default_factory=lambda: {KEPT: _Fate()})
    values: dict[str, _Values] = field(default_factory=dict)
    people: set[str] = field(default_factory=set)
    people_kept: set[str] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)
    num_clips_dropped: int = 0
    num_clip_frames: int = 0

    def add(self, record: VideoRecord) -> None:
        frames = total([record])
        _check_sums(record, frames)
        for name, count in frames.items():
            self._fate(name).num_frames += count
        self.people.add(record.person_id)
        if record.reasons:
            self._add_whole(record)
        for span in record.spans:
            self._add_span(record, span)
        self.rows.append(_row(record, frames))

    def ordered_fates(self) -> list[tuple[str, _Fate]]:
        """Kept first, then the reasons by frames, spans and name."""
        pairs = self.fates.items()
        return sorted(pairs, key=lambda p: (p[0] != KEPT, -p[1].num_frames, -p[1].num_spans, p[0]))

    def _fate(self, name: str) -> _Fate:
        return self.fates.setdefault(name, _Fate())

    def _add_whole(self, record: VideoRecord) -> None:
        fate = self._fate(record.reasons[0].name)
        fate.num_whole_videos += 1
        whole = Span(start=0, stop=record.num_frames, reasons=record.reasons)
        fate.examples.offer(record.name, _example(record, whole))

    def _add_span(self, record: VideoRecord, span: Span) -> None:
        fate = self._fate(KEPT if span.is_kept else span.reasons[0].name)
        fate.num_spans += 1
        fate.num_spans_alone += len(span.reasons) == 1
        fate.examples.offer(f"{record.name}:{span.start}:{span.clip_id}", _example(record, span))
        if span.is_kept:
            self.num_clip_frames += span.num_frames
            self.people_kept.add(record.person_id)
        elif span.clip_id is not None:
            self.num_clips_dropped += 1
        for name, value in span.measures.items():
            values = self.values.setdefault(name, _Values())
            (values.kept if span.is_kept else values.dropped).append(value)


def _example(record: VideoRecord, span: Span) -> dict[str, Any]:
    details = span.notes if span.is_kept else [reason.detail for reason in span.reasons]
    return {
        "clip_id": span.clip_id,
        "video": record.name,
        "start": span.start,
        "stop": span.stop,
        "detail": "; ".join(details),
    }


def _row(record: VideoRecord, frames: dict[str, int]) -> dict[str, Any]:
    return {
        "name": record.name,
        "person_id": record.person_id,
        "frames": record.num_frames,
        "kept_frames": frames.get(KEPT, 0),
        "dropped_frames": {name: count for name, count in frames.items() if name != KEPT},
        "detail": "; ".join(reason.detail for reason in record.reasons),
    }


def _check_sums(record: VideoRecord, frames: dict[str, int]) -> None:
    """The frames of a video against its spans, counted another way than `verdicts.account` does."""
    wrong = discrepancy(record)
    kept = num_covered([span for span in record.spans if span.is_kept])
    if wrong is None and sum(frames.values()) != record.num_frames:
        wrong = f"kept and dropped frames are {sum(frames.values())}"
    elif wrong is None and frames.get(KEPT, 0) != kept:
        wrong = f"{frames.get(KEPT, 0)} frames count as kept, kept spans cover {kept}"
    if wrong:
        raise AssertionError(f"{record.name!r}, {record.num_frames} frames, does not add up: {wrong}")


def _totals(tally: _Tally) -> dict[str, Any]:
    kept = tally.fates[KEPT]
    frames_in = sum(row["frames"] for row in tally.rows)
    dropped = {name: fate.num_frames for name, fate in tally.ordered_fates() if name != KEPT}
    if frames_in != kept.num_frames + sum(dropped.values()):
        raise AssertionError(f"{frames_in} frames in, but {kept.num_frames} kept and {dropped} dropped")
    return {
        "fps": FPS,
        "num_videos": len(tally.rows),
        "num_videos_with_clips": sum(row["kept_frames"] > 0 for row in tally.rows),
        "frames": {"in": frames_in, "kept": kept.num_frames, "dropped": sum(dropped.values())},
        "hours": {
            "in": hours(frames_in),
            "kept": hours(kept.num_frames),
            "dropped": hours(sum(dropped.values())),
        },
        "sum_check": {"adds_up": True, "sum": _sum_text(frames_in, kept.num_frames, dropped)},
        "clips": {
            "kept": kept.num_spans,
            "dropped": tally.num_clips_dropped,
            "kept_frames": tally.num_clip_frames,
            "kept_hours": hours(tally.num_clip_frames),
        },
        "num_spans": sum(fate.num_spans for fate in tally.fates.values()),
        "people": {"in": len(tally.people), "kept": len(tally.people_kept)},
    }


def _sum_text(frames_in: int, kept: int, dropped: dict[str, int]) -> str:
    parts = [f"{kept:,} kept", *(f"{count:,} {name}" for name, count in dropped.items())]
    return f"{frames_in:,} frames in = {' + '.join(parts)}"


def _measures(tally: _Tally, limits: dict[str, dict[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Those with thresholds first, in their order, then the others by name."""
    names = [name for name in limits if name in tally.values]
    names += sorted(set(tally.values) - set(limits))
    return {
        name: {
            **histogram_of(tally.values[name].kept, tally.values[name].dropped),
            "thresholds": limits.get(name, {}),
        }
        for name in names
    }


def _edges(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros(0)
    low = np.percentile(finite, SHOWN_PERCENTILES[0], method="lower")
    high = np.percentile(finite, SHOWN_PERCENTILES[1], method="higher")
    if np.all(finite == np.round(finite)) and high - low < MAX_BINS:
        return np.arange(low - 0.5, high + 1)
    if low == high:
        return low + np.array([-0.1, 0.1]) * (abs(low) or 1)
    return np.linspace(low, high, min(MAX_BINS, max(8, math.isqrt(len(finite)))) + 1)


def _counts(values: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    has_bins = len(edges) > 0
    return {
        "counts": np.histogram(finite, edges)[0].tolist() if has_bins else [],
        "below": int((finite < edges[0]).sum()) if has_bins else 0,
        "above": int((finite > edges[-1]).sum()) if has_bins else 0,
        "not_finite": len(values) - len(finite),
        "median": float(np.median(finite)) if len(finite) else None,
    }


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial_path:
        partial_path.write_text(text, "utf-8")


def _explain_video(record: VideoRecord) -> str:
    lines = [
        f"{plain(record.name)}, person {plain(record.person_id)}",
        f"  {record.num_frames:,} frames at {FPS} fps, {duration(record.num_frames)}",
        *(f"  {plain(str(key))}: {plain(str(value))}" for key, value in record.info.items()),
    ]
    if record.reasons:
        lines.append("  dropped as a whole")
    for name, count in total([record]).items():
        lines.append(f"  {plain(name)}: {count:,} frames ({percent(count / max(record.num_frames, 1))})")
    return "\n".join([*lines, *_explain_reasons(record.reasons)])


def _explain_span(span: Span, limits: dict[str, dict[str, float | None]]) -> list[str]:
    missing = [name for name in limits if name not in span.measures]
    return [
        f"  {span.start / FPS:.2f}-{span.stop / FPS:.2f} s, {frame_range(span.start, span.stop)}: "
        f"{'kept' if span.is_kept else 'dropped'}",
        *_explain_reasons(span.reasons),
        *(f"  note: {plain(note)}" for note in span.notes),
        *_table(_limit_rows(span.measures, limits)),
        *([f"  not measured: {', '.join(missing)}"] if missing else []),
    ]


def _explain_reasons(reasons: Sequence[Reason]) -> list[str]:
    return [f"  reason: {plain(reason.name)}: {plain(reason.detail)}" for reason in reasons]


def _limit_rows(
    measures: dict[str, float], limits: dict[str, dict[str, float | None]]
) -> list[tuple[str, str, str, str, str]]:
    """Measure, value, threshold, verdict, meaning: a row for each threshold, and for each measure without one."""
    rows = []
    for name in [*(name for name in limits if name in measures), *sorted(set(measures) - set(limits))]:
        value = measures[name]
        for side, threshold in limits.get(name, {"": None}).items():
            verdict = _verdict(value, side, threshold)
            rows.append(
                (plain(name), number(value), _threshold(side, threshold), verdict, plain(describe(name)))
            )
    return rows


def _threshold(side: str, value: float | None) -> str:
    if not side:
        return "none"
    words = "at least" if side == "min" else "at most"
    return "off" if value is None else f"{words} {number(value)}"


def _verdict(value: float, side: str, threshold: float | None) -> str:
    if threshold is None:
        return ""
    if math.isnan(value):
        return "not a number"
    if side == "min":
        return "under" if value < threshold else "ok"
    return "over" if value > threshold else "ok"


def _table(rows: Sequence[tuple[str, str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    rows = [("measure", "value", "threshold", "", ""), *rows]
    name, value, threshold, verdict, _ = (max(len(row[i]) for row in rows) for i in range(5))
    return [
        f"  {row[0]:<{name}}  {row[1]:>{value}}  {row[2]:<{threshold}}  {row[3]:<{verdict}}  {row[4]}".rstrip()
        for row in rows
    ]
