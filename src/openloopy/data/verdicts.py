"""What became of every frame of every video: spans, their measures, and the reasons for which they were dropped.

Source: ours. A video's timeline is counted in frames at 25 per second; its spans cover all of it and overlap where
several people are seen at once. `account` gives each frame of a video one fate, so that the sums come out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from openloopy.media.text_file import expected, made_of, parse_json
from openloopy.media.video import FPS

KEPT = "kept"
RECORD_EXPECTED = "the record of a video by `openloopy prepare`; delete it, and the video is read again"
UNSEEN = "not looked at"
"""Fate of frames that no span covers; there should be none."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why something was dropped."""

    name: str
    """One of a small set, such as "low sync": what reports count by."""
    detail: str
    """What was measured, and what was expected, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive frames of one video that one person is followed through, or in which nobody could be followed."""

    start: int
    """First frame, 25 fps from the video's first picture."""
    stop: int
    """One past the last."""
    clip_id: str | None = None
    """The clip that it is or would have become, or the name of a stretch in which there was nobody to follow."""
    reasons: tuple[Reason, ...] = ()
    """Empty: kept. Frames are counted under the first."""
    measures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What was changed in a kept clip, such as sound that was moved."""

    @property
    def is_kept(self) -> bool:
        return not self.reasons

    @property
    def num_frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """One file of the raw footage."""

    name: str
    """Path within the raw folder, or address within the bucket."""
    person_id: str
    num_frames: int
    """At 25 fps; as far as it can be decoded and what its header promises beyond. 0 where it cannot be opened."""
    info: dict[str, Any]
    """What the probe found: size, rate, streams."""
    reasons: tuple[Reason, ...] = ()
    """Why the whole file was dropped; it has no spans then."""
    spans: tuple[Span, ...] = ()


def account(record: VideoRecord) -> dict[str, int]:
    """Frames of a video by fate: `kept`, or the name of a reason. They add up to `num_frames`.

    A frame that lies in several spans is kept if any of them is; otherwise the first span in order decides.
    """
    if record.reasons:
        return {record.reasons[0].name: record.num_frames}
    names = [UNSEEN, KEPT, *sorted({span.reasons[0].name for span in record.spans if span.reasons})]
    fates = np.zeros(record.num_frames, np.int32)
    for span in sorted(record.spans, key=lambda span: (span.is_kept, -span.start)):
        fates[span.start : span.stop] = names.index(KEPT if span.is_kept else span.reasons[0].name)
    counts = np.bincount(fates, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def discrepancy(record: VideoRecord) -> str | None:
    """Why the spans of a video are not all of its frames and no others; None where they are."""
    if record.num_frames < 0:
        return "there cannot be less than none"
    if record.reasons:
        return "it is dropped as a whole and has spans" if record.spans else None
    if outside := [s for s in record.spans if not 0 <= s.start < s.stop <= record.num_frames]:
        return f"the span {outside[0].start}..{outside[0].stop} is empty or outside of it"
    unseen = record.num_frames - num_covered(record.spans)
    return f"{unseen} frames lie in no span" if unseen else None


def num_covered(spans: Iterable[Span]) -> int:
    """Frames that lie in at least one span."""
    covered, end = 0, 0
    for span in sorted(spans, key=lambda s: s.start):
        covered += max(span.stop - max(span.start, end), 0)
        end = max(end, span.stop)
    return covered


def total(records: Iterable[VideoRecord]) -> dict[str, int]:
    """Frames of all videos by fate, the most frequent first."""
    sums: dict[str, int] = {}
    for record in records:
        for fate, count in account(record).items():
            sums[fate] = sums.get(fate, 0) + count
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def hours(num_frames: int) -> float:
    return num_frames / FPS / 3600


def to_line(record: VideoRecord) -> str:
    """One line of `records.jsonl`."""
    # ASCII, so that file names that are not UTF-8 survive.
    return json.dumps(asdict(record))


def from_line(line: str, place: str = "a line") -> VideoRecord:
    """The inverse of `to_line`; place: where it stands, for the error that says what is wrong with it."""
    with expected(place, RECORD_EXPECTED):
        values = parse_json(line)
        values |= {"reasons": _reasons(values["reasons"]), "spans": _spans(values["spans"])}
        record = made_of(VideoRecord, values)
        if wrong := discrepancy(record):
            raise ValueError(f"{record.num_frames} frames do not add up: {wrong}")
        return record


def _spans(values: Sequence[dict[str, Any]]) -> tuple[Span, ...]:
    return tuple(
        made_of(Span, {**value, "reasons": _reasons(value["reasons"]), "notes": tuple(value["notes"])})
        for value in values
    )


def _reasons(values: Sequence[dict[str, str]]) -> tuple[Reason, ...]:
    return tuple(made_of(Reason, value) for value in values)
