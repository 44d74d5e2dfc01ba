"""What a reader of an evaluation has to know: which videos a mean lacks and why, and where videos do not match.

A video counts in a mean or it is named here; none is lost without a word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from openloopy.measures.video_numbers import FPS, NUMBERS, Measured, size_text

MAX_LENGTH_DIFFERENCE_FRAMES = 2
"""What encoders add or lose."""
MAX_SOUND_DIFFERENCE_S = 0.2
"""Between sound and picture, as for SyncNet: encoders leave some of it over."""
MAX_RATE_DIFFERENCE_FPS = 0.1
Reasons = dict[str, dict[str, dict[str, str]]]
"""By measure, side ("generated", "real", "pair") and video."""


@dataclass
class LeftOut:
    """Which videos a measure could not be had of, and why."""

    reasons: Reasons = field(default_factory=dict)

    def add(self, measure: str, side: str, video: str, reason: str) -> None:
        self.reasons.setdefault(measure, {}).setdefault(side, {})[video] = reason

    def notes(self) -> list[str]:
        """A line for each reason: videos, and the measures that they are left out of."""
        measures: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for measure, side, video, reason in self._entries():
            measures[side, reason, video].append(title_of(measure))
        alike: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for (side, reason, video), titles in measures.items():
            alike[side, reason, "; ".join(titles)].append(video)
        return [
            f"{', '.join(videos)}{'' if side == 'pair' else f', {side}'}: {reason}; left out of {titles}"
            for (side, reason, titles), videos in alike.items()
        ]

    def _entries(self) -> Iterator[tuple[str, str, str, str]]:
        """Measure, side, video and reason, measures in the order of tables."""
        for measure in dict.fromkeys([*NUMBERS, *self.reasons]):
            for side, videos in self.reasons.get(measure, {}).items():
                for video, reason in videos.items():
                    yield measure, side, video, reason


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a video file beside its numbers."""

    num_frames: int
    size_px: tuple[int, int]
    fps: float
    """Of the file; videos are read at 25."""
    sound_s: float | None
    key: str
    """Hash of the file and of its sound: equal for equal ones."""

    @classmethod
    def of(cls, measured: Measured, fps: float, key: str) -> Facts:
        num_frames = int(measured.numbers["num_frames"])
        return cls(
            num_frames=num_frames, size_px=measured.size_px, fps=fps, sound_s=measured.sound_s, key=key
        )

    @property
    def rate(self) -> str:
        return f"{self.fps:.2f} frames per second"

    @property
    def size(self) -> str:
        return size_text(self.size_px)


FactsBySide = Mapping[str, Mapping[str, Facts]]
"""By side ("generated", "real") and video."""


def title_of(measure: str) -> str:
    """As tables call it."""
    return NUMBERS[measure].title if measure in NUMBERS else measure


def mismatches(facts: FactsBySide) -> list[str]:
    """Where videos of a pair, or of a set, differ in length, size or rate, or are one file."""
    pairs = {
        name: (facts["generated"][name], facts["real"][name])
        for name in facts["generated"]
        if name in facts["real"]
    }
    notes = [
        *_of_pairs(pairs, "length", _lengths),
        *_of_pairs(pairs, "size", _sizes),
        *_of_pairs(pairs, "frame rate", _rates),
    ]
    for side, videos in facts.items():
        notes += _mixed(side, "sizes", {name: video.size for name, video in videos.items()})
        notes += _mixed(side, "frame rates", _rounded_rates(videos))
        notes += [*_sounds(side, videos), *_copies(side, videos), *_other_rates(side, videos)]
    return notes


def _of_pairs(
    pairs: Mapping[str, tuple[Facts, Facts]], what: str, compare: Callable[[Facts, Facts], str | None]
) -> list[str]:
    different = {name: text for name, pair in pairs.items() if (text := compare(*pair))}
    if not different:
        return []
    listed = ", ".join(f"{text}: {', '.join(names)}" for text, names in _grouped(different).items())
    return [
        f"Warning: {len(different)} of {len(pairs)} generated videos differ from the real ones in {what} ({listed})"
    ]


def _lengths(generated: Facts, real: Facts) -> str | None:
    if abs(generated.num_frames - real.num_frames) <= MAX_LENGTH_DIFFERENCE_FRAMES:
        return None
    return f"{generated.num_frames} and {real.num_frames} frames"


def _sizes(generated: Facts, real: Facts) -> str | None:
    return None if generated.size_px == real.size_px else f"{generated.size} and {real.size}"


def _rates(generated: Facts, real: Facts) -> str | None:
    if abs(generated.fps - real.fps) <= MAX_RATE_DIFFERENCE_FPS:
        return None
    return f"{generated.fps:.2f} and {real.fps:.2f} per second"


def _mixed(side: str, what: str, values: Mapping[str, str]) -> list[str]:
    """The most common value is told by its count, the others by names."""
    counts = Counter(values.values())
    if len(counts) < 2:
        return []
    usual, count = counts.most_common(1)[0]
    others = _grouped({name: value for name, value in values.items() if value != usual})
    listed = "; ".join(f"{value}: {', '.join(names)}" for value, names in others.items())
    return [f"Warning: the {side} videos have {len(counts)} {what} ({count} have {usual}; {listed})"]


def _rounded_rates(videos: Mapping[str, Facts]) -> dict[str, str]:
    """Rates that hardly differ from the most common one are told as that."""
    usual = Counter(video.fps for video in videos.values()).most_common(1)
    return {
        name: f"{usual[0][0] if abs(video.fps - usual[0][0]) <= MAX_RATE_DIFFERENCE_FPS else video.fps:.2f} fps"
        for name, video in videos.items()
    }


def _sounds(side: str, videos: Mapping[str, Facts]) -> list[str]:
    different = {
        name: f"{video.sound_s:.2f} and {video.num_frames / FPS:.2f} s"
        for name, video in videos.items()
        if video.sound_s is not None and abs(video.sound_s - video.num_frames / FPS) > MAX_SOUND_DIFFERENCE_S
    }
    return [
        f"Warning: {', '.join(names)}, {side}: sound and picture differ in length ({text})"
        for text, names in _grouped(different).items()
    ]


def _copies(side: str, videos: Mapping[str, Facts]) -> list[str]:
    by_key = _grouped({name: video.key for name, video in videos.items()})
    return [
        f"Warning: {', '.join(names)}, {side}: the same file; it counts {len(names)} times in every mean"
        for names in by_key.values()
        if len(names) > 1
    ]


def _other_rates(side: str, videos: Mapping[str, Facts]) -> list[str]:
    others = {
        name: video.rate for name, video in videos.items() if abs(video.fps - FPS) > MAX_RATE_DIFFERENCE_FPS
    }
    return [f"{', '.join(names)}, {side}: {rate}, read at {FPS}" for rate, names in _grouped(others).items()]


def _grouped(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by value."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        names[value].append(name)
    return dict(names)
