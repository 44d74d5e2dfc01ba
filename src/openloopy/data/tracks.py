"""People through a video: every face of every shot, followed frame by frame, in bounded memory.

Source: ours. Faces are searched at the start of a shot and twice a second; who is found is followed until the shot
ends, the face is lost, or the clip is long enough. Who comes back is a new track.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from openloopy.data.cut import ShotFrame
from openloopy.face.crop import Crop, apply_crop, portrait_crop
from openloopy.face.landmarks import Face
from openloopy.media.video import FPS

CHUNK = 8
"""Frames that are followed at once."""
LOOK_EVERY = 12
"""Frames between searches for people who are not followed yet."""
MIN_FACE_SHARE = 0.3
"""Of the largest face's height; smaller ones are pictures on the wall, or the audience."""
SAME_FACE = 0.5
"""Two faces whose centres are nearer than this share of the larger one's height are one."""
MAX_JUMP = 0.5
"""A face that moves by more of its height from frame to frame is another one: there was a cut."""
THUMBNAIL_PX, THUMBNAIL_EVERY = 96, 12
MAX_THUMBNAILS = 64


class Follower(Protocol):
    """Follows one face; see `face.landmarks.FaceFollower`."""

    def follow(self, frames: list[np.ndarray]) -> list[Face]: ...


class PeopleLandmarker(Protocol):
    """What tracking people needs of a landmarker."""

    def detect(self, rgb: np.ndarray, known: Sequence[Face] = ()) -> list[Face]: ...

    def follow(self, face: Face) -> Follower: ...


@dataclass
class Track:
    """One person through consecutive frames of one shot."""

    start: int
    """Number of the first frame."""
    image_size: tuple[int, int]
    """Width and height, px."""
    ending: str = ""
    """Why it ended."""
    faces: list[Face] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    num_repeated: int = 0
    """Frames that show the picture before once more."""
    num_others: int = 0
    """Frames in which somebody else was followed too."""

    @property
    def stop(self) -> int:
        return self.start + len(self.faces)


@dataclass
class Empty:
    """Consecutive frames in which nobody could be followed."""

    start: int
    stop: int
    thumbnails: list[np.ndarray] = field(default_factory=list)
    picture: np.ndarray | None = None
    """One whole frame from the middle, to look at more closely."""


@dataclass
class _Person:
    track: Track
    follower: Follower


class PeopleTracker:
    """Turns the frames of a video into tracks and empty stretches, which come as they end."""

    def __init__(self, landmarker: PeopleLandmarker, max_frames: int) -> None:
        self._landmarker, self._max_frames = landmarker, max_frames
        self._people: list[_Person] = []
        self._empty: Empty | None = None
        self._since_look = LOOK_EVERY

    def run(self, frames: Iterable[ShotFrame]) -> Iterator[Track | Empty]:
        """All tracks and empty stretches; those that overlap come in the order in which they end."""
        chunk: list[ShotFrame] = []
        for frame in frames:
            if frame.starts_shot:
                yield from self._advance(chunk)
                yield from self._end_shot("the shot ended")
                chunk = []
            chunk.append(frame)
            if len(chunk) == CHUNK:
                yield from self._advance(chunk)
                chunk = []
        yield from self._advance(chunk)
        yield from self._end_shot("the video ended")

    def _advance(self, chunk: list[ShotFrame]) -> Iterator[Track | Empty]:
        """Follow everybody through frames of one shot, and look for others at the first of them."""
        if not chunk:
            return
        if self._since_look >= LOOK_EVERY:
            self._greet(chunk[0])
            self._since_look = 0
        self._since_look += len(chunk)
        pictures = [frame.rgb for frame in chunk]
        seen = np.zeros(len(chunk), int)
        ended: list[Track] = []
        for person in list(self._people):
            count = self._follow(person, chunk, pictures, self._people)
            seen[:count] += 1
            if count < len(chunk):
                self._people.remove(person)
                ended.append(person.track)
        for person in self._people:
            person.track.num_others += int((seen > 1).sum())
        yield from (track for track in ended if track.faces)
        yield from self._note_empty(chunk, seen)
        yield from self._cut_long()

    def _follow(
        self, person: _Person, chunk: list[ShotFrame], pictures: list[np.ndarray], people: list[_Person]
    ) -> int:
        """How many of the frames the person was followed through."""
        track = person.track
        faces = person.follower.follow(pictures)
        kept = _before_jump([*track.faces[-1:], *faces])[len(track.faces[-1:]) :]
        if any(
            _same(kept[-1], other.track.faces[-1]) for other in people if kept and _is_other(other, person)
        ):
            kept, track.ending = [], "two tracks ran into one another"
        for frame, face in zip(chunk, kept, strict=False):
            if len(track.faces) % THUMBNAIL_EVERY == 0 and len(track.thumbnails) < MAX_THUMBNAILS:
                track.thumbnails.append(_thumbnail(frame.rgb, face))
            track.num_repeated += frame.is_repeated
            track.faces.append(face)
        if len(kept) < len(faces) and not track.ending:
            track.ending = "the face jumped: a cut"
        elif len(kept) < len(chunk) and not track.ending:
            track.ending = "the face was lost"
        return len(kept)

    def _greet(self, frame: ShotFrame) -> None:
        """Begin to follow whoever is seen and not followed yet."""
        known = [person.track.faces[-1] for person in self._people if person.track.faces]
        faces = self._landmarker.detect(frame.rgb, known)
        least = MIN_FACE_SHARE * max((face.height_px for face in [*faces, *known]), default=0.0)
        size = (frame.rgb.shape[1], frame.rgb.shape[0])
        for face in faces:
            if face.height_px >= least and not any(_same(face, other) for other in known):
                self._people.append(_Person(Track(frame.number, size), self._landmarker.follow(face)))

    def _cut_long(self) -> Iterator[Track]:
        """Tracks that are long enough end, and the person is followed on."""
        for person in self._people:
            track = person.track
            if len(track.faces) >= self._max_frames:
                track.ending = "long enough"
                yield track
                person.track = Track(track.stop, track.image_size)

    def _note_empty(self, chunk: list[ShotFrame], seen: np.ndarray) -> Iterator[Empty]:
        for frame, count in zip(chunk, seen, strict=True):
            if count:
                yield from self._end_empty()
                continue
            if self._empty is None:
                self._empty = Empty(frame.number, frame.number)
            empty = self._empty
            if (frame.number - empty.start) % (4 * FPS) == 0 and len(empty.thumbnails) < MAX_THUMBNAILS:
                empty.thumbnails.append(_shrunk(frame.rgb))
                empty.picture = frame.rgb
            empty.stop = frame.number + 1

    def _end_empty(self) -> Iterator[Empty]:
        if self._empty is not None:
            yield self._empty
        self._empty = None

    def _end_shot(self, ending: str) -> Iterator[Track | Empty]:
        for person in self._people:
            if person.track.faces:
                person.track.ending = ending
                yield person.track
        self._people, self._since_look = [], LOOK_EVERY
        yield from self._end_empty()


def _is_other(person: _Person, one: _Person) -> bool:
    """An older or larger one, that has been followed."""
    return person is not one and bool(person.track.faces) and person.track.start <= one.track.start


def _before_jump(faces: list[Face]) -> list[Face]:
    """Up to the first face that is far from the one before."""
    for i in range(1, len(faces)):
        here, there = (_centre(face) for face in (faces[i - 1], faces[i]))
        if np.linalg.norm(there - here) > MAX_JUMP * faces[i - 1].height_px:
            return faces[:i]
    return faces


def _same(a: Face, b: Face) -> bool:
    return bool(np.linalg.norm(_centre(a) - _centre(b)) < SAME_FACE * max(a.height_px, b.height_px))


def _centre(face: Face) -> np.ndarray:
    return (face.box[:2] + face.box[2:]) / 2


def _thumbnail(rgb: np.ndarray, face: Face) -> np.ndarray:
    return apply_crop(rgb, portrait_crop(face, (rgb.shape[1], rgb.shape[0])), THUMBNAIL_PX)


def _shrunk(rgb: np.ndarray) -> np.ndarray:
    """The whole frame in a square."""
    height, width = rgb.shape[:2]
    longest = max(height, width)
    return apply_crop(rgb, Crop((width - longest) / 2, (height - longest) / 2, longest), THUMBNAIL_PX)
