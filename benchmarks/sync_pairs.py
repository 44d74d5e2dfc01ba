"""Windows of filmed clips, their lips paired with their own and with other sounds, each judged as it is and moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from sync_tracks import Followed

from openloopy.data.describe import USUAL_ANGLE
from openloopy.face.mesh import MESH_TO_68
from openloopy.measures.lip_sync import (
    SAMPLES_PER_FRAME,
    LipSync,
    agreement,
    lip_sync,
    lip_vectors,
    shipped_lip_sync,
    sound_vectors,
)
from openloopy.media.video import FPS

Kind = Literal["genuine", "other", "same", "rhyming"]
"""Whose sound: the window's own; another person's; the same person's, of another moment; of the same corpus of
sentences, begun at the same moment (GRID), which lips of the corpus half fit."""
GRID = "grid"
"""A corpus whose clips are one sentence each, of one form, begun at about one moment."""
APART_FRAMES = FPS
"""Windows of one file share nothing that is in step if they begin so far apart."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One file: what of it is compared."""

    name: str
    person: str
    use: str
    points: np.ndarray
    """`f 68 2` px."""
    yaw_deg: np.ndarray
    """`f`, absolute."""
    sound: np.ndarray

    @property
    def corpus(self) -> str:
        """Names are CORPUS_PERSON__CLIP."""
        return self.name.split("_")[0]

    def cut_sound(self, first: int, num_samples: int) -> np.ndarray:
        """Silence where there is none."""
        cut = np.zeros(num_samples, np.float32)
        start, stop = max(first, 0), min(first + num_samples, len(self.sound))
        if stop > start:
            cut[start - first : stop - first] = self.sound[start:stop]
        return cut


@dataclass(frozen=True)
class Window:
    """Consecutive frames of a clip."""

    clip: Clip
    start: int
    num_frames: int

    @property
    def points(self) -> np.ndarray:
        return self.clip.points[self.start : self.start + self.num_frames]

    @property
    def yaw_deg(self) -> float:
        """As `data.describe` measures it."""
        return float(np.percentile(self.clip.yaw_deg[self.start : self.start + self.num_frames], USUAL_ANGLE))

    def sound(self, late: int = 0) -> np.ndarray:
        """The window's, cut so many samples later."""
        return self.clip.cut_sound(self.start * SAMPLES_PER_FRAME + late, self.num_frames * SAMPLES_PER_FRAME)


@dataclass(frozen=True, eq=False)
class Pair:
    """Lips of one window with the sound of one."""

    kind: Kind
    lips: Window
    sound: Window
    as_is: LipSync

    @cached_property
    def moved(self) -> LipSync:
        """With the sound moved to where it fits best."""
        late = round(self.as_is.offset_frames * SAMPLES_PER_FRAME)
        return lip_sync(self.lips.points, self.sound.sound(late))


def clip_of(followed: Followed, person: str, use: str) -> Clip:
    yaw_deg = np.abs([face.pose.yaw for face in followed.faces])
    points = followed.meshes[:, MESH_TO_68, :2].astype(np.float32)
    return Clip(followed.name, person, use, points, yaw_deg, followed.sound)


def windows(clips: Sequence[Clip], seconds: float) -> list[Window]:
    """Every half window's length."""
    length = round(seconds * FPS)
    return [
        Window(clip, start, length)
        for clip in clips
        for start in range(0, len(clip.points) - length + 1, max(length // 2, 1))
    ]


def pairs(
    found: Sequence[Window], num_each: int, copies: Sequence[frozenset[str]], rng: np.random.Generator
) -> Iterator[Pair]:
    """Every window with its own sound and with up to num_each others of each kind.

    copies: names of files that show the same recording, whose sounds are no strangers to one another.
    """
    network = shipped_lip_sync()
    heard = [sound_vectors(window.sound(), network) for window in found]
    for i, window in enumerate(found):
        seen = lip_vectors(window.points, network)
        for kind, j in [("genuine", i), *_strangers(found, i, num_each, copies, rng)]:
            yield Pair(kind, window, found[j], agreement(seen, heard[j]))


def _strangers(
    found: Sequence[Window],
    i: int,
    num_each: int,
    copies: Sequence[frozenset[str]],
    rng: np.random.Generator,
) -> list[tuple[Kind, int]]:
    by_kind: dict[Kind, list[int]] = {}
    for j, other in enumerate(found):
        if kind := _kind(found[i], other, copies):
            by_kind.setdefault(kind, []).append(j)
    return [(kind, int(j)) for kind, numbers in by_kind.items() for j in rng.permutation(numbers)[:num_each]]


def _kind(window: Window, other: Window, copies: Sequence[frozenset[str]]) -> Kind | None:
    ours, theirs = window.clip, other.clip
    if ours is theirs:
        return "same" if abs(window.start - other.start) >= APART_FRAMES else None
    if any({ours.name, theirs.name} <= group for group in copies):
        return None
    if ours.corpus == theirs.corpus == GRID:
        return "rhyming"
    return "same" if ours.person == theirs.person else "other"
