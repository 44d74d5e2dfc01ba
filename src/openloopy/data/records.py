"""What is known about one clip besides its pictures and sound: the `json` member of a shard sample.

Source: our own contract (docs/data.md). Strict both ways: a record with unknown or missing keys is an error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

from openloopy.media.text_file import expected, made_of, parse_json

Split = Literal["train", "val"]


class PhonemeSpan(NamedTuple):
    """One spoken sound of the clip; times from the clip's start."""

    start_s: float
    end_s: float
    symbol: str
    alphabet: str
    """"ipa" or "arpabet"."""


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """Facts about one clip. `clip_id` is unique in a corpus and is the member name inside the shard."""

    clip_id: str
    person_id: str
    split: Split
    num_frames: int
    fps: int = 25
    size_px: int
    seed: int | None = None
    """What a synthetic clip was drawn from; None for footage."""
    source: str
    """The portrait's or the footage's file name; never an absolute path."""
    licence: str
    text: str = ""
    speaker: dict[str, Any] = field(default_factory=dict)
    phonemes: tuple[PhonemeSpan, ...] = ()

    def __post_init__(self) -> None:
        if not self.clip_id or any(c in self.clip_id for c in "./\\ "):
            raise ValueError(
                f"clip_id {self.clip_id!r} cannot name a shard member; use letters, digits, - and _ only"
            )
        if self.split not in get_args(Split):
            raise ValueError(f"clip {self.clip_id}: split {self.split!r}, expected one of {get_args(Split)}")
        if min(self.num_frames, self.fps, self.size_px) < 1:
            raise ValueError(f"clip {self.clip_id}: num_frames, fps and size_px must be positive, got {self}")
        object.__setattr__(self, "phonemes", tuple(PhonemeSpan(*span) for span in self.phonemes))

    @property
    def is_footage(self) -> bool:
        """Whether a camera took it; the others are synthetic and have the seed that they were drawn from."""
        return self.seed is None

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


def to_json(record: ClipRecord) -> str:
    """One line of JSON; equal records give equal text."""
    return json.dumps(asdict(record), sort_keys=True, ensure_ascii=False)


def from_json(text: str | bytes, place: str = "clip record") -> ClipRecord:
    """The inverse of `to_json`; unknown or missing keys are an error, which names the place where it stands."""
    with expected(place, "a clip's record that OpenLoopy wrote; write it again"):
        values = parse_json(text)
        known = {f.name for f in fields(ClipRecord)}
        if set(values) != known:
            raise ValueError(
                f"clip record {values.get('clip_id', '?')!r}: missing keys {sorted(known - set(values))}, "
                f"unknown keys {sorted(set(values) - known)}; it was written by another version"
            )
        return made_of(ClipRecord, values)
