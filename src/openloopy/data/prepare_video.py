"""One raw video -> its record, and the samples of its kept clips.

    sound, pictures -> shots -> people -> measures -> verdicts      (first pass)
    kept clips -> crops -> samples                                  (second pass)

A video's results appear under their final names only when they are complete; `<video>.json` comes last and says so.
Where it is not the video that is at fault (weights, disks, memory, mistakes of ours), there is a `<video>.failed`
instead, which the next run takes away.
"""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import tarfile
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from openloopy.data.clips import FrameEncoder, decode_frames, decode_sound, encode_sound
from openloopy.data.cut import in_shots
from openloopy.data.describe import (
    SAMPLES_PER_FRAME,
    Described,
    cut_sound,
    describe_clip_sound,
    describe_sync,
    describe_track,
    sync_measures,
)
from openloopy.data.filters import Thresholds, another_speaks, judge
from openloopy.data.footage import SteadyReader
from openloopy.data.in_step import Heard, put_in_step
from openloopy.data.records import ClipRecord
from openloopy.data.shards import Sample, add_sample
from openloopy.data.sources import Footage, local_copy
from openloopy.data.tracks import Empty, PeopleLandmarker, PeopleTracker, Track
from openloopy.data.verdicts import RECORD_EXPECTED, Reason, Span, VideoRecord, from_line, to_line
from openloopy.face.crop import Crop, apply_crop
from openloopy.face.dwpose import DWPoseLandmarker
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import eye_opening, lip_gap
from openloopy.measures.lip_sync import shipped_lip_sync
from openloopy.measures.syncnet import load_syncnet, syncnet_crop, syncnet_score
from openloopy.media.audio import SAMPLE_RATE_HZ, SpooledWaveform, open_sound
from openloopy.media.files import MediaError, atomic_write
from openloopy.media.text_file import read_text
from openloopy.media.video import FPS

VIDEOS, STRIPS = "videos", "strips"
"""Folders within the output folder: results of single videos until they are in shards, and pictures for the report."""
VISEMES_PER_FRAME = 2
UNKNOWN_VISEME = -1
"""Label of footage at every instant: nobody wrote down what is said when."""
MISSING_TAIL_FRAMES = 4
"""So many frames fewer than the header promises are rounding, more are damage."""
MIN_TURNED_FRAMES = FPS
"""In stretches without a face from this length on, faces are searched that stand on their heads or lie."""
BLACK_LEVEL = 24.0
STRIP_PICTURES = 5
MIN_SYNCNET_FRAMES = 21
"""SyncNet tries shifts of 15 frames."""
VIDEO_ERRORS = (
    MediaError,
    av.error.InvalidDataError,
    av.error.PatchWelcomeError,
    av.error.NotImplementedError,
)
"""What a damaged or unusual file raises; FFmpeg's others speak of memory, disks and missing parts."""
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """What is made of a video."""

    out: Path
    size_px: int = 512
    licence: str = "not stated"
    max_clip_s: float = 20.0
    """Longer tracks become several clips."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    corrects_sound: bool = True
    """Sound that is late or early is moved, to a fraction of a frame, where lips and sound agree after that."""
    syncnet: Path | None = None
    """Weights of SyncNet; None: only our own network judges."""
    dwpose: Path | None = None
    """Folder of DWPose's two ONNX files: its landmarks are stored instead of ours."""


class _Sound(NamedTuple):
    """A video's sound and where it begins, in samples after the first picture."""

    waveform: SpooledWaveform
    start_s: float
    """On the clock of the file."""
    damage: str


@dataclass(kw_only=True)
class _Clip:
    """A clip that will be kept, between the two passes; its sound and landmarks wait on the disk."""

    span: Span
    crop: Crop
    waiting: Path


def check_tools(config: VideoConfig) -> None:
    """Load every network that videos are judged with, so that a mistyped path is an error before anything is written.

    Raises:
        ValueError, FileNotFoundError, ImportError: a file is missing or another one, or a package is.
    """
    _landmarker()
    shipped_lip_sync()
    if config.syncnet is not None:
        _syncnet(config.syncnet)
    if config.dwpose is not None:
        _dwpose(config.dwpose)


def prepare_video(config: VideoConfig, footage: Footage) -> VideoRecord | None:
    """Look at one video, write its samples, strips and record; read the record back where it is written already.

    Whatever is wrong with the video becomes a reason in its record. What else goes wrong is no verdict on the video: it
    is noted for whoever runs this, and None comes back. A full disk is an OSError.
    """
    done = record_path(config.out, footage.video_id)
    if done.exists():
        return from_line(read_text(done, RECORD_EXPECTED), str(done))
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=config.out / VIDEOS) as work:
            record = _Preparation(config, footage, Path(work)).run()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        in_short = " ".join(f"{type(error).__name__}: {error}".split())
        note_failure(config.out, footage, f"{traceback.format_exc()}\n{in_short}")
        return None
    with atomic_write(done) as partial_path:
        partial_path.write_text(to_line(record), "utf-8")
    return record


def note_failure(out: Path, footage: Footage, text: str) -> None:
    """Keep what went wrong, whose last line says it in short, until the next run."""
    with atomic_write(failure_path(out, footage.video_id)) as partial_path:
        partial_path.write_text(text.replace(footage.address, footage.name), "utf-8")


def failed_record(footage: Footage, detail: str, name: str) -> VideoRecord:
    """The record of a video that came to nothing."""
    detail = detail.replace(footage.address, footage.name)  # where the footage lay is nobody's business
    return VideoRecord(
        name=footage.name,
        person_id=footage.person_id,
        num_frames=0,
        info={"size_bytes": footage.size_bytes},
        reasons=(Reason(name=name, detail=detail),),
    )


def record_path(out: Path, video: str) -> Path:
    return out / VIDEOS / f"{video}.json"


def failure_path(out: Path, video: str) -> Path:
    return out / VIDEOS / f"{video}.failed"


def samples_path(out: Path, video: str) -> Path:
    return out / VIDEOS / f"{video}.tar"


def strip_path(out: Path, clip_id: str) -> Path:
    return out / STRIPS / f"{clip_id}.jpg"


class _Preparation:
    """The state of one video's preparation."""

    def __init__(self, config: VideoConfig, footage: Footage, work: Path) -> None:
        self.config, self.footage, self.work = config, footage, work
        self.names: set[str] = set()
        self.clips: list[_Clip] = []

    def run(self) -> VideoRecord:
        with local_copy(self.footage, self.work) as path:
            _require_access(path)
            reader = SteadyReader(path)
            try:
                sound = _read_sound(path)
            except MediaError as error:
                return self._without_sound(reader, error)
            try:
                spans = list(self._spans(reader, sound))
            except VIDEO_ERRORS as error:
                return failed_record(self.footage, str(error), "unreadable")
            spans = another_speaks(spans)
            kept = {span.clip_id for span in spans if span.is_kept}
            self.clips = [clip for clip in self.clips if clip.span.clip_id in kept]
            return self._write_samples(path, self._record(reader, spans, sound))

    def _without_sound(self, reader: SteadyReader, error: MediaError) -> VideoRecord:
        """The whole file is dropped, but its frames are counted."""
        stop = 0
        try:
            for frame in reader:
                stop = frame.number + 1
        except VIDEO_ERRORS as unreadable:
            return failed_record(self.footage, str(unreadable), "unreadable")
        reason = failed_record(self.footage, str(error), "no sound").reasons
        return replace(self._record(reader, [Span(start=0, stop=stop)], None), reasons=reason, spans=())

    def _record(self, reader: SteadyReader, spans: list[Span], sound: _Sound | None) -> VideoRecord:
        """Spans and what they leave out: holes, pictures without a place, and what the header promises beyond."""
        decoded = max(span.stop for span in spans)
        num_frames = decoded + round(reader.info.num_misplaced / reader.info.fps * FPS)
        if reader.num_promised > num_frames + MISSING_TAIL_FRAMES:
            num_frames = reader.num_promised
        spans = sorted([*spans, *_holes(spans, num_frames, reader)], key=lambda span: (span.start, span.stop))
        info = reader.info.to_json() | {"size_bytes": self.footage.size_bytes}
        if sound is not None:
            info |= {"sound_start_s": round(sound.start_s - reader.info.first_time_s, 4)}
            info |= {"sound_s": round(len(sound.waveform) / SAMPLE_RATE_HZ, 3), "sound_damage": sound.damage}
        return VideoRecord(
            name=self.footage.name,
            person_id=self.footage.person_id,
            num_frames=num_frames,
            info=info,
            spans=tuple(spans),
        )

    def _spans(self, reader: SteadyReader, sound: _Sound) -> Iterator[Span]:
        """First pass: everybody is followed, measured and judged."""
        tracker = PeopleTracker(_landmarker(), round(self.config.max_clip_s * FPS))
        for item in tracker.run(in_shots(reader)):
            name = self._name(item.start)
            self._write_strip(name, item.thumbnails)
            if isinstance(item, Empty):
                yield Span(start=item.start, stop=item.stop, clip_id=name, reasons=(_why_empty(item),))
            else:
                lead = round((sound.start_s - reader.info.first_time_s) * SAMPLE_RATE_HZ)
                yield self._judged(name, item, sound.waveform, lead)

    def _judged(self, name: str, track: Track, waveform: SpooledWaveform, lead: int) -> Span:
        """A track's measures and verdict; what is kept waits on the disk."""
        described = describe_track(track)
        first, length = track.start * SAMPLES_PER_FRAME - lead, len(track.faces) * SAMPLES_PER_FRAME
        heard, notes = self._heard(described, waveform, first, length), (track.ending,)
        if self.config.corrects_sound:
            heard, told = put_in_step(
                heard, lambda late: self._heard(described, waveform, first + late, length)
            )
            notes += told
        span = Span(
            start=track.start,
            stop=track.stop,
            clip_id=name,
            reasons=heard.reasons,
            measures={key: round(value, 5) for key, value in heard.measures.items() if math.isfinite(value)},
            notes=notes,
        )
        if span.is_kept:
            self._keep(span, described, heard.sound)
        return span

    def _heard(self, described: Described, waveform: SpooledWaveform, first: int, length: int) -> Heard:
        """A track with the sound from this sample on."""
        sound, missing = cut_sound(waveform, first, length)
        sync = describe_sync(described.points, sound)
        measures = described.measures | describe_clip_sound(sound, missing) | sync_measures(sync)
        measures["sound_lost_s"] = waveform.num_lost(first, length) / SAMPLE_RATE_HZ
        return Heard(sound, sync, measures, judge(measures, self.config.thresholds))

    def _keep(self, span: Span, described: Described, sound: np.ndarray) -> None:
        waiting = self.work / f"{span.clip_id}.npz"
        flac = np.frombuffer(encode_sound(sound), np.uint8)
        np.savez(waiting, points=described.points, pose=described.pose, flac=flac)
        self.clips.append(_Clip(span=span, crop=described.crop, waiting=waiting))

    def _write_samples(self, path: Path, record: VideoRecord) -> VideoRecord:
        """Second pass: crops of the kept clips, each written as soon as it ends."""
        if not self.clips:
            return record
        changed: dict[str, Span] = {}
        with atomic_write(samples_path(self.config.out, self.footage.video_id)) as partial_path:
            with tarfile.open(partial_path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for clip, mp4, points in self._cropped(path):
                    sample = self._sample(clip, mp4, points)
                    span = self._judged_by_syncnet(clip.span, sample)
                    changed[span.clip_id] = span
                    if span.is_kept:
                        add_sample(tar, sample)
        return replace(record, spans=tuple(changed.get(span.clip_id, span) for span in record.spans))

    def _cropped(self, path: Path) -> Iterator[tuple[_Clip, bytes, np.ndarray]]:
        """The clips in the order in which they end, with their pictures and landmarks (px of the video)."""
        size, active = self.config.size_px, []
        coming = sorted(self.clips, key=lambda clip: (clip.span.start, clip.span.clip_id))
        for frame in SteadyReader(path):
            while coming and coming[0].span.start <= frame.number:
                clip = coming.pop(0)
                active.append((clip, FrameEncoder((size, size)), _stored_points(clip.waiting)))
            for entry in list(active):
                clip, encoder, points = entry
                encoder.add(apply_crop(frame.rgb, clip.crop, size))
                self._relabel(frame.rgb, points, frame.number - clip.span.start)
                if frame.number + 1 == clip.span.stop:
                    active.remove(entry)
                    yield clip, encoder.finish(), points
            if not coming and not active:
                return
        raise RuntimeError(
            f"{self.footage.name} gave fewer frames when read again; is its storage unreliable?"
        )

    def _relabel(self, rgb: np.ndarray, points: np.ndarray, i: int) -> None:
        """DWPose's landmarks instead of ours, where it is asked for and finds the person."""
        if self.config.dwpose is not None:
            found = _dwpose(self.config.dwpose).relabel(rgb, points[i])
            points[i] = points[i] if found is None else found

    def _sample(self, clip: _Clip, mp4: bytes, points: np.ndarray) -> Sample:
        span, footage = clip.span, self.footage
        with np.load(clip.waiting) as stored:
            pose, flac = stored["pose"], stored["flac"].tobytes()
        clip.waiting.unlink()
        in_crop = clip.crop.to_crop(points, self.config.size_px)
        record = ClipRecord(
            clip_id=span.clip_id,
            person_id=footage.person_id,
            split=footage.split,
            num_frames=span.num_frames,
            size_px=self.config.size_px,
            source=footage.name.rsplit("/", 1)[-1],
            licence=self.config.licence,
        )
        arrays = {
            "points68": in_crop,
            "lip_gap": lip_gap(in_crop).astype(np.float32),
            "eye_opening": eye_opening(in_crop).astype(np.float32),
            "pose": pose,
            "visemes": np.full(len(in_crop) * VISEMES_PER_FRAME, UNKNOWN_VISEME, np.int16),
        }
        return Sample(record=record, mp4=mp4, flac=flac, arrays=arrays)

    def _judged_by_syncnet(self, span: Span, sample: Sample) -> Span:
        """SyncNet looks at the finished crop, where its weights are given."""
        if self.config.syncnet is None or span.num_frames < MIN_SYNCNET_FRAMES:
            return span
        sound = decode_sound(sample.flac)
        frames = syncnet_crop(decode_frames(sample.mp4), sample.arrays["points68"])
        score = syncnet_score(_syncnet(self.config.syncnet), frames, sound)
        found = {"sync_c": round(score.confidence, 4), "sync_d": round(score.distance, 4)}
        measures = span.measures | found
        return replace(span, measures=measures, reasons=judge(measures, self.config.thresholds))

    def _name(self, start: int) -> str:
        """A name for what begins at this frame; several people at once get letters."""
        name = f"{self.footage.video_id}-{start:06d}"
        letters = ("", *(f"-{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"))
        name = next(name + letter for letter in letters if name + letter not in self.names)
        self.names.add(name)
        return name

    def _write_strip(self, name: str, thumbnails: list[np.ndarray]) -> None:
        """Five pictures of a stretch, side by side."""
        if not thumbnails:
            return
        chosen = np.linspace(0, len(thumbnails) - 1, STRIP_PICTURES).round().astype(int)
        strip = cv2.cvtColor(np.concatenate([thumbnails[i] for i in chosen], 1), cv2.COLOR_RGB2BGR)
        with atomic_write(strip_path(self.config.out, name)) as partial_path:
            partial_path.write_bytes(cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes())


def _require_access(path: Path) -> None:
    """An OSError where the file is gone or locked: nothing that could be said about the video."""
    with open(path, "rb"):
        pass


def _read_sound(path: Path) -> _Sound:
    sound = open_sound(path)
    notes = "; ".join(sound.notes).replace(str(path), path.name)
    return _Sound(sound.waveform, sound.start_s, notes)


def _holes(spans: list[Span], num_frames: int, reader: SteadyReader) -> Iterator[Span]:
    """Frames that could not be decoded."""
    is_covered = np.zeros(num_frames + 1, bool)
    for span in spans:
        is_covered[span.start : span.stop] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_covered[:num_frames], [True]]).astype(int)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        detail = f"no picture for {(stop - start) / FPS:.2f} s from {start / FPS:.2f} s on"
        if stop == num_frames and reader.info.num_misplaced:
            detail = (
                f"the times of {reader.info.num_misplaced} pictures go back to what was shown already: two recordings "
                "in one file? Write them to files of their own"
            )
        elif stop == num_frames and reader.num_promised == num_frames:
            detail = (
                f"the pictures end after {start / FPS:.2f} s, the header promises {num_frames / FPS:.2f} s"
            )
        if reader.info.num_undecodable:
            detail += f"; {reader.info.num_undecodable} packets could not be decoded"
        yield Span(start=int(start), stop=int(stop), reasons=(Reason(name="damaged", detail=detail),))


def _why_empty(item: Empty) -> Reason:
    """Why nobody could be followed."""
    if (
        item.picture is not None
        and item.picture.mean() < BLACK_LEVEL
        and item.picture.std() < BLACK_LEVEL / 2
    ):
        return Reason(name="black picture", detail=f"mean brightness {item.picture.mean():.0f} of 255")
    if item.picture is not None and item.stop - item.start >= MIN_TURNED_FRAMES:
        for turns in (2, 1, 3):
            if _landmarker().detect(np.ascontiguousarray(np.rot90(item.picture, turns))):
                detail = (
                    f"a face is found when the picture is turned by {90 * turns} degrees; turn the file first"
                )
                return Reason(name="extreme rotation", detail=detail)
    return Reason(name="no face", detail=f"none found in {item.stop - item.start} frames")


def _stored_points(path: Path) -> np.ndarray:
    with np.load(path) as stored:
        return stored["points"].copy()


@lru_cache(maxsize=1)
def _landmarker() -> PeopleLandmarker:
    """One per process."""
    return NetworkLandmarker()


@lru_cache(maxsize=1)
def _dwpose(folder: Path) -> DWPoseLandmarker:
    return DWPoseLandmarker(folder)


@lru_cache(maxsize=1)
def _syncnet(path: Path):
    return load_syncnet(path)


def remove_unfinished(out: Path, videos: list[str]) -> None:
    """What an interrupted run left behind: working folders, failures, and samples whose record was not written."""
    for place in (out, out / VIDEOS, out / STRIPS):
        for left_over in [*place.glob(".*.partial*"), *place.glob(".work-*"), *place.glob("*.failed")]:
            if left_over.is_dir():
                shutil.rmtree(left_over)
            else:
                left_over.unlink(missing_ok=True)
    for video in videos:
        if not record_path(out, video).exists():
            with contextlib.suppress(FileNotFoundError):
                samples_path(out, video).unlink()
