"""Footage into shards: every video file of one speaking person becomes a clip beside the puppets.

Source: ours (docs/data.md). A file is taken whole or dropped with a reason; nothing is cut into shots. A clip is a
function of its file and the settings, so an interrupted run, started again, leaves the same clips.

    files -> plan (people, splits, shards) -> one task per shard -> shard-*.tar, shard-*.json, index.json -> report.json
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np

from openloopy.data.clips import encode_frames, encode_sound
from openloopy.data.records import ClipRecord, Split
from openloopy.data.shards import (
    Dropped,
    Sample,
    ShardEntry,
    ShardIndex,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from openloopy.data.tasks import map_tasks
from openloopy.face.crop import MIN_FACE_PX, Crop, apply_crop, portrait_crop
from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.face.movement import eye_opening, lip_gap
from openloopy.media.audio import SAMPLE_RATE_HZ, AudioError, open_waveform
from openloopy.media.files import MediaError, atomic_write, require_file
from openloopy.media.video import FPS, VideoError, read_frames

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v"})
CONFIG_NAME, REPORT_NAME = "prepare.json", "report.json"
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
VISEMES_PER_FRAME = 2
UNKNOWN_VISEME = -1
"""Label of footage at every instant: nobody wrote down what is said when."""
MIN_CLIP_S, MAX_CLIP_S = 1.0, 120.0
"""Longer files are dropped: they are hardly one shot, and a clip's crops lie in memory together."""
MAX_SILENT_PADDING_S = 0.5
MIN_PEAK = 1e-3
"""A sound that never gets louder, full scale 1, is none."""
LOOK_EVERY = FPS
"""One frame in so many is searched for further faces; the tracker follows the largest in all of them."""
MIN_OTHER_FACE = 0.3
"""A further face counts from this share of the speaker's height; smaller ones are pictures on the wall."""
MAX_JUMP = 0.5
"""A face that moves by more of its height from frame to frame is another one: there was a cut."""


class UnusableError(ValueError):
    """Footage that does not become a clip; the message is the reason."""


class FaceTracker(Protocol):
    """What preparing needs of a landmarker."""

    def detect(self, rgb: np.ndarray) -> list[Face]: ...

    def track(self, frames: Iterator[np.ndarray]) -> list[Face | None]: ...


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What to prepare, and how."""

    raw: Path
    """Folder of video files, searched with its subfolders."""
    out: Path
    size_px: int = 256
    held_out: tuple[str, ...] = ()
    """People for `val`: their ids, or the id of one of their clips."""
    person_pattern: str | None = None
    """Regular expression whose first group, in the file's name, is the person's id; None: each file its own."""
    licence: str = "not stated"
    workers: int = 1
    """Processes; the result does not depend on it."""
    clips_per_shard: int = 16

    def __post_init__(self) -> None:
        if self.size_px < 32 or self.size_px % 2:
            raise ValueError(f"size_px must be even and at least 32 (H.264), got {self.size_px}")
        if min(self.workers, self.clips_per_shard) < 1:
            raise ValueError(f"expected at least one worker and one clip per shard, got {self}")
        if self.person_pattern is not None and _compiled(self.person_pattern).groups < 1:
            raise ValueError(
                f"the person pattern {self.person_pattern!r} has no group; put the id in parentheses"
            )


@dataclass(frozen=True, kw_only=True)
class FootagePlan:
    """One video file and what it is to become."""

    path: Path
    name: str
    """Path within the raw folder."""
    clip_id: str
    person_id: str
    split: Split


@dataclass(frozen=True, kw_only=True)
class ClipNotes:
    """What was changed in a kept clip to make it fit."""

    clip_id: str
    frames_skipped: int
    """Of the file, not in the clip: the file's rate was higher."""
    frames_repeated: int
    sound_padded_s: float
    """Silence put where picture had no sound, at either end."""
    sound_cut_s: float
    """Sound that no picture belonged to, at either end."""


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What became of the files: `num_files = num_clips + num_dropped`."""

    num_files: int
    num_clips: int
    num_dropped: int
    num_frames: int
    hours: float
    clips_per_split: dict[Split, int]
    people_per_split: dict[Split, list[str]]
    dropped: list[Dropped]
    notes: list[ClipNotes]
    seconds_this_run: float


@dataclass(frozen=True)
class Timeline:
    """When the pictures of a file are shown, and when its sound begins; seconds on one clock."""

    frame_times_s: np.ndarray
    sound_start_s: float


@dataclass(frozen=True)
class Track:
    """One face through a whole clip, in pixels of the footage."""

    faces: list[Face]
    crop: Crop


def prepare_footage(config: PrepareConfig) -> PrepareReport:
    """Writes the shards of a folder of footage; the same call finishes an interrupted one."""
    begun_s = time.monotonic()
    plans = plan_footage(config)
    config.out.mkdir(parents=True, exist_ok=True)
    for left_over in config.out.glob(".*.partial*"):
        left_over.unlink(missing_ok=True)
    _remember(config, plans)
    shards = _plan_shards(plans, config.clips_per_shard)
    index = read_index(config.out)
    tasks = [(i, part) for i, part in enumerate(shards) if shard_name(i) not in index.shards]
    write = partial(write_footage_shard, config)
    for entry in map_tasks(write, tasks, workers=config.workers, title="shards"):
        index = index.with_shard(entry)
        write_index(config.out, index)
    report = _report(config, plans, index, seconds=round(time.monotonic() - begun_s, 1))
    _write_json(config.out / REPORT_NAME, asdict(report))
    if report.num_clips == 0:
        raise ValueError(
            f"none of the {report.num_files} files of {config.raw} became a clip; "
            f"the first reason: {report.dropped[0].reason}"
        )
    return report


def plan_footage(config: PrepareConfig) -> list[FootagePlan]:
    """All video files with their ids, people and splits, by name. Splits never part a person."""
    files = sorted(path for path in config.raw.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise ValueError(f"no video file in {config.raw}; looked for {', '.join(sorted(VIDEO_SUFFIXES))}")
    names = [path.relative_to(config.raw).as_posix() for path in files]
    ids = [re.sub(r"[^\w-]+", "_", str(Path(name).with_suffix("")), flags=re.ASCII) for name in names]
    if repeated := [clip for clip, count in Counter(ids).items() if count > 1]:
        raise ValueError(f"several files would become the clip {repeated[0]!r}; rename or remove all but one")
    people = [_person_id(path, config.person_pattern) for path in files]
    held_out = _held_out_people(config.held_out, dict(zip(ids, people, strict=True)))
    return [
        FootagePlan(
            path=path,
            name=name,
            clip_id=clip_id,
            person_id=person,
            split="val" if person in held_out else "train",
        )
        for path, name, clip_id, person in zip(files, names, ids, people, strict=True)
    ]


def write_footage_shard(config: PrepareConfig, task: tuple[int, list[FootagePlan]]) -> ShardEntry:
    """Makes one shard and its notes, in whatever process; what cannot be used is dropped with its reason."""
    cv2.setNumThreads(1)
    number, plans = task
    dropped: list[Dropped] = []
    notes: list[ClipNotes] = []
    entry = write_shard(config.out, number, _samples(config, plans, dropped, notes), dropped)
    _write_json(_notes_path(config.out, entry.name), [asdict(note) for note in notes])
    return entry


def prepare_clip(
    plan: FootagePlan, tracker: FaceTracker, *, size_px: int, licence: str
) -> tuple[Sample, ClipNotes]:
    """One video file as a clip.

    Raises:
        UnusableError, MediaError: the file does not become a clip; the message says why.
    """
    timeline = read_timeline(plan.path)
    shown = nearest_frames(timeline.frame_times_s)
    _check_length(len(shown))
    sound, padded, cut = fit_sound(
        open_waveform(plan.path),
        lead=round((timeline.sound_start_s - timeline.frame_times_s[0]) * SAMPLE_RATE_HZ),
        num_samples=len(shown) * SAMPLES_PER_FRAME,
    )
    _check_sound(sound, padded)
    track = follow_face(plan.path, shown, tracker)
    crops = [apply_crop(rgb, track.crop, size_px) for rgb in _read_shown(plan.path, shown)]
    record = ClipRecord(
        clip_id=plan.clip_id,
        person_id=plan.person_id,
        split=plan.split,
        num_frames=len(shown),
        size_px=size_px,
        source=plan.path.name,
        licence=licence,
    )
    notes = ClipNotes(
        clip_id=plan.clip_id,
        frames_skipped=len(timeline.frame_times_s) - len(np.unique(shown)),
        frames_repeated=len(shown) - len(np.unique(shown)),
        sound_padded_s=round(padded / SAMPLE_RATE_HZ, 4),
        sound_cut_s=round(cut / SAMPLE_RATE_HZ, 4),
    )
    sample = Sample(
        record=record, mp4=encode_frames(crops), flac=encode_sound(sound), arrays=_arrays(track, size_px)
    )
    return sample, notes


def read_timeline(path: Path) -> Timeline:
    """The time stamps of a file's pictures and of its first sound."""
    path = require_file(path, "a video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} has no pictures in it")
            if not container.streams.audio:
                raise AudioError(f"{path} has no sound in it")
            sound = container.streams.best("audio") or container.streams.audio[0]
            frames: list[float | None] = []
            sound_start_s = None
            for frame in container.decode(container.streams.video[0], sound):
                if isinstance(frame, av.VideoFrame):
                    frames.append(frame.time)
                elif sound_start_s is None:
                    sound_start_s = frame.time
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise VideoError(f"{path} is damaged or no video ({error})") from error
    if not frames or None in frames or np.any(np.diff(frames) <= 0):
        raise VideoError(f"{path} does not say when its pictures are shown, in rising order")
    if sound_start_s is None:
        raise AudioError(f"{path} holds no samples of sound, or does not say when they begin")
    return Timeline(np.array(frames, float), float(sound_start_s))


def nearest_frames(times_s: np.ndarray, fps: int = FPS) -> np.ndarray:
    """Which frame is shown at each instant of a steady rate, from frames at any times.

    Args:
        times_s: `n`, rising; the last frame is shown for as long as frames usually are.

    Returns:
        `round(duration * fps)` indices into the frames, int64, never falling.
    """
    if len(times_s) < 2:
        return np.zeros(len(times_s), np.int64)
    times_s = times_s - times_s[0]
    duration_s = times_s[-1] + np.median(np.diff(times_s))
    instants_s = np.arange(round(duration_s * fps)) / fps
    after = np.searchsorted(times_s, instants_s).clip(1, len(times_s) - 1)
    is_before_nearer = instants_s - times_s[after - 1] <= times_s[after] - instants_s
    return np.where(is_before_nearer, after - 1, after)


def fit_sound(waveform: np.ndarray, *, lead: int, num_samples: int) -> tuple[np.ndarray, int, int]:
    """The sound that belongs to the pictures.

    Args:
        waveform: `samples` float32.
        lead: samples by which the sound begins after the first picture; negative: before.
        num_samples: length of the pictures.

    Returns:
        Sound `num_samples` with silence where there was none; samples padded; samples cut off.
    """
    start = max(lead, 0)
    kept = waveform[max(-lead, 0) :][: max(num_samples - start, 0)]
    fitted = np.zeros(num_samples, np.float32)
    fitted[start : start + len(kept)] = kept
    return fitted, num_samples - len(kept), len(waveform) - len(kept)


def follow_face(path: Path, shown: np.ndarray, tracker: FaceTracker) -> Track:
    """The one face of a clip in all its frames, and the steady square about it, framed as for inference."""
    found = tracker.track(_read_shown(path, shown))
    lost = [i for i, face in enumerate(found) if face is None]
    if lost:
        raise UnusableError(f"no face in frame {lost[0]} ({len(lost)} of {len(found)} frames)")
    faces = [face for face in found if face is not None]
    _check_motion(faces)
    image_size = _check_alone(path, shown, faces, tracker)
    crop = portrait_crop(Face.from_mesh(np.median([face.mesh for face in faces], axis=0)), image_size)
    boxes = np.stack([face.box for face in faces]) - np.array([crop.x0, crop.y0] * 2)
    outside = np.flatnonzero((boxes.min(1) < 0) | (boxes.max(1) > crop.size))
    if len(outside):
        raise UnusableError(f"the face leaves the crop in frame {outside[0]} ({len(outside)} frames)")
    return Track(faces, crop)


def _check_length(num_frames: int) -> None:
    if num_frames < MIN_CLIP_S * FPS:
        raise UnusableError(f"too short: {num_frames} frames, at least {MIN_CLIP_S * FPS:.0f} are needed")
    if num_frames > MAX_CLIP_S * FPS:
        raise UnusableError(
            f"too long: {num_frames / FPS:.1f} s; cut it into shots of at most {MAX_CLIP_S} s"
        )


def _check_sound(sound: np.ndarray, padded: int) -> None:
    if padded > MAX_SILENT_PADDING_S * SAMPLE_RATE_HZ:
        raise UnusableError(f"no sound for {padded / SAMPLE_RATE_HZ:.2f} s of the picture")
    if np.abs(sound).max() < MIN_PEAK:
        raise UnusableError("no sound: it is silent throughout")


def _check_motion(faces: Sequence[Face]) -> None:
    height_px = float(np.median([face.height_px for face in faces]))
    if height_px < MIN_FACE_PX:
        raise UnusableError(f"the face is {height_px:.0f} px high, at least {MIN_FACE_PX} are needed")
    centres = np.stack([(face.box[:2] + face.box[2:]) / 2 for face in faces])
    jumps = np.linalg.norm(np.diff(centres, axis=0), axis=-1) / height_px
    if len(jumps) and jumps.max() > MAX_JUMP:
        at = int(jumps.argmax())
        raise UnusableError(f"the face jumps by {jumps[at]:.1f} of its height after frame {at}: a cut")


def _check_alone(
    path: Path, shown: np.ndarray, faces: Sequence[Face], tracker: FaceTracker
) -> tuple[int, int]:
    """Looks for further faces; returns (width, height) of the pictures, px."""
    width = height = 0
    looked_at = range(0, len(shown), LOOK_EVERY)
    for i, rgb in zip(looked_at, _read_shown(path, shown[::LOOK_EVERY]), strict=True):
        least_px = MIN_OTHER_FACE * faces[i].height_px
        num_faces = sum(face.height_px >= least_px for face in tracker.detect(rgb))
        if num_faces > 1:
            raise UnusableError(f"several faces: {num_faces} in frame {i}")
        height, width = rgb.shape[:2]
    return width, height


def _read_shown(path: Path, shown: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of a file with these never falling indices, repeated where an index is."""
    counts = Counter(shown.tolist())
    for i, rgb in enumerate(read_frames(path)):
        for _ in range(counts[i]):
            yield rgb


def _arrays(track: Track, size_px: int) -> dict[str, np.ndarray]:
    points = track.crop.to_crop(np.stack([face.points68 for face in track.faces]), size_px)
    poses = [face.pose for face in track.faces]
    return {
        "points68": points,
        "lip_gap": lip_gap(points).astype(np.float32),
        "eye_opening": eye_opening(points).astype(np.float32),
        "pose": np.array([[pose.yaw, pose.pitch, pose.roll] for pose in poses], np.float32),
        "visemes": np.full(len(points) * VISEMES_PER_FRAME, UNKNOWN_VISEME, np.int16),
    }


def _samples(
    config: PrepareConfig, plans: list[FootagePlan], dropped: list[Dropped], notes: list[ClipNotes]
) -> Iterator[Sample]:
    for plan in plans:
        try:
            sample, note = prepare_clip(plan, _tracker(), size_px=config.size_px, licence=config.licence)
        except (UnusableError, MediaError) as error:
            reason = str(error).replace(
                str(plan.path), plan.name
            )  # where the footage lay is nobody's business
            dropped.append(Dropped(source=plan.name, reason=reason))
            continue
        notes.append(note)
        yield sample


@lru_cache(maxsize=1)
def _tracker() -> FaceTracker:
    """One per process."""
    return NetworkLandmarker()


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"the person pattern {pattern!r} is no regular expression ({error}); correct it"
        ) from error


def _person_id(path: Path, pattern: str | None) -> str:
    if pattern is None:
        return path.stem
    match = _compiled(pattern).search(path.name)
    if match is None or not match[1]:
        raise ValueError(
            f"the person pattern {pattern!r} finds no id in {path.name}; make it fit all files, "
            "or move this one away"
        )
    return match[1]


def _held_out_people(names: Sequence[str], person_of: dict[str, str]) -> set[str]:
    """The people that these names mean; a clip's name stands for its person."""
    people = set(person_of.values())
    unknown = [name for name in names if name not in people and name not in person_of]
    if unknown:
        raise ValueError(
            f"held out are {unknown}, who are neither a person nor a clip; there are {sorted(people)}"
        )
    return {name if name in people else person_of[name] for name in names}


def _plan_shards(plans: list[FootagePlan], clips_per_shard: int) -> list[list[FootagePlan]]:
    """val first; no shard mixes splits."""
    shards = []
    for split in ("val", "train"):
        own = [plan for plan in plans if plan.split == split]
        shards += [own[i : i + clips_per_shard] for i in range(0, len(own), clips_per_shard)]
    return shards


def _remember(config: PrepareConfig, plans: list[FootagePlan]) -> None:
    """Refuses a folder that was begun with other settings or other files."""
    content = {
        "size_px": config.size_px,
        "licence": config.licence,
        "clips_per_shard": config.clips_per_shard,
        "files": [[plan.name, plan.path.stat().st_size, plan.person_id, plan.split] for plan in plans],
    }
    path = config.out / CONFIG_NAME
    if not path.exists():
        _write_json(path, content)
    elif json.loads(path.read_text("utf-8")) != content:
        raise ValueError(
            f"{config.out} was begun with other settings or other files (see {CONFIG_NAME}); "
            "give the same command, or another folder"
        )


def _report(
    config: PrepareConfig, plans: list[FootagePlan], index: ShardIndex, *, seconds: float
) -> PrepareReport:
    kept = {clip for entry in index.shards.values() for clip in entry.clips}
    dropped = [item for entry in index.shards.values() for item in entry.dropped]
    plans_kept = [plan for plan in plans if plan.clip_id in kept]
    assert len(plans) == len(kept) + len(dropped), "a file is a clip or is dropped"
    notes = [
        ClipNotes(**note)
        for name in index.shards
        for note in json.loads(_notes_path(config.out, name).read_text("utf-8"))
    ]
    splits = sorted({plan.split for plan in plans_kept})
    return PrepareReport(
        num_files=len(plans),
        num_clips=len(kept),
        num_dropped=len(dropped),
        num_frames=index.num_frames,
        hours=round(index.num_frames / FPS / 3600, 4),
        clips_per_split=dict(Counter(plan.split for plan in plans_kept)),
        people_per_split={s: sorted({p.person_id for p in plans_kept if p.split == s}) for s in splits},
        dropped=dropped,
        notes=notes,
        seconds_this_run=seconds,
    )


def _notes_path(out: Path, shard: str) -> Path:
    return (out / shard).with_suffix(".json")


def _write_json(path: Path, content: object) -> None:
    with atomic_write(path) as partial_path:
        partial_path.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
