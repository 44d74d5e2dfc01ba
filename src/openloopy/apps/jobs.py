"""A queue of videos to make: one at a time, first come, first served, on the disk, so that a restart loses none.

FOLDER/ID/job.json    what was asked for, and what became of it
FOLDER/ID/image, audio    as they were uploaded
FOLDER/ID/stream.mp4  the video while it is made (fragmented mp4)
FOLDER/ID/video.mp4, video.json    the video and its sidecar, once it is whole
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import math
import os
import re
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from openloopy.apps.generate import GenerateRequest, Progress, Studio
from openloopy.apps.request import check_inputs
from openloopy.apps.settings import VideoSettings
from openloopy.media.audio import AudioError
from openloopy.media.duration import in_words
from openloopy.media.files import BusyError, MediaError, atomic_write, make_folder, only_run_in
from openloopy.media.image import as_rgb
from openloopy.media.sound_file import SoundReader
from openloopy.media.text_file import expected, made_of, read_json

log = logging.getLogger(__name__)
Status = Literal["queued", "running", "done", "failed", "cancelled"]
FINISHED = frozenset({"done", "failed", "cancelled"})
MAX_ATTEMPTS = 2
"""How often a job is begun that each time ended the whole service."""
FIRST_GUESS = 0.6
"""Seconds per second of video, before any was made here."""
HOUSEKEEPING_S = 5.0
TAIL_WAIT_S = 0.05
TAIL_BLOCK_BYTES = 1 << 16
JOB_EXPECTED = "a job of this service"
ID_PATTERN = re.compile(r"[0-9a-f]{32}")


class QueueFullError(RuntimeError):
    """No more jobs are taken at the moment; retry_after_s: when to ask again."""

    def __init__(self, num_waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{num_waiting} videos are waiting already; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class StoppedError(Exception):
    """The job is to end; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one service takes on."""

    max_waiting: int = 16
    max_image_bytes: int = 32 << 20
    max_audio_bytes: int = 256 << 20
    max_audio_s: float = 600.0
    max_job_s: float = 3600.0
    """Computing one video."""
    keep_s: float = 24 * 3600.0
    """After which a finished job is deleted."""
    idle_s: float = 300.0
    """After which the model's memory is given back, until the next job."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number that is not negative, got {value}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video, asked for."""

    id: str
    settings: VideoSettings
    audio_s: float
    created_s: float
    """Seconds since 1970."""
    number: int
    """Its place in the order of coming."""
    status: Status = "queued"
    attempts: int = 0
    finished_s: float | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    video: dict[str, Any] = field(default_factory=dict)
    """Width, height, number of frames and timings, once it is done."""

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


@dataclass(frozen=True)
class Standing:
    """A job and how far it is at the moment."""

    job: Job
    progress: Progress | None = None
    num_before: int = 0
    """Jobs that come first."""
    left_s: float | None = None
    """Until it is done, by guess; None: it is finished."""


class JobQueue:
    """Takes jobs, and makes their videos in a thread of its own; a context manager.

    Its state is changed under one lock; videos are made outside of it.
    """

    def __init__(self, folder: Path, studio: Studio, limits: Limits = Limits()) -> None:
        """
        Args:
            folder: for the jobs; no other queue may use it at the same time.
            studio: makes the videos.
        """
        self.folder, self.studio, self.limits = folder, studio, limits
        make_folder(folder)
        self._lock_file = _lock(folder)
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[str] = deque()
        self._running: str | None = None
        self._progress: Progress | None = None
        self._stops: dict[str, str] = {}
        self._expected: tuple[Path, VideoSettings] | None = None
        self._is_closed = False
        self._speed, self._used_s, self._cleaned_s = FIRST_GUESS, time.monotonic(), time.monotonic()
        with self._changed:
            self._take_up()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def __enter__(self) -> JobQueue:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """A video that is being made ends here; it is made anew at the next start."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._lock_file.close()

    def check_room(self) -> None:
        """Refuse, before any upload is read, what would not be taken."""
        with self._changed:
            if len(self._waiting) >= self.limits.max_waiting:
                raise QueueFullError(len(self._waiting), max(1, round(self._left_before(None))))

    @contextlib.contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A folder for the uploads of a job that `add` takes over; deleted if it does not."""
        folder = self.folder / f"{secrets.token_hex(16)}.new"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, folder: Path, settings: VideoSettings) -> Job:
        """Take a job whose uploads, `image` and `audio`, lie in a folder from `new_folder`.

        Raises:
            QueueFullError: too many are waiting.
            ValueError: what was uploaded is no picture or no sound, or too long.
        """
        check_inputs(folder / "image", folder / "audio", ("the image", "the audio"))
        as_rgb(folder / "image")
        audio_s = self.audio_s(folder / "audio")
        with self._changed:
            self.check_room()
            number = max((job.number for job in self._jobs.values()), default=-1) + 1
            job = Job(
                id=folder.name.split(".")[0],
                settings=settings,
                audio_s=audio_s,
                created_s=time.time(),
                number=number,
            )
            _write(folder, job)
            folder.rename(self.folder / job.id)
            self._jobs[job.id] = job
            self._waiting.append(job.id)
            self._changed.notify_all()
        return job

    def find(self, id: str) -> Standing | None:
        """A job by its id; None if there is none (any more)."""
        with self._changed:
            job = self._jobs.get(id)
            if job is None:
                return None
            if job.is_finished:
                return Standing(job)
            if job.id == self._running:
                left_s = self._progress.left_s if self._progress else job.audio_s * self._speed
                return Standing(job, self._progress, left_s=left_s)
            before = self._waiting.index(id) + (self._running is not None)
            return Standing(job, None, before, self._left_before(id) + job.audio_s * self._speed)

    def cancel(self, id: str) -> None:
        """End a job that is not finished; its folder stays."""
        with self._changed:
            job = self._jobs.get(id)
            if job is None or job.is_finished:
                return
            if id == self._running:
                self._stops[id] = "cancelled"
            else:
                self._waiting.remove(id)
                self._finish(replace(job, status="cancelled", error="cancelled"))

    def forget(self, id: str) -> bool:
        """Cancel a job and delete all that belongs to it; whether there was one."""
        with self._changed:
            if id not in self._jobs:
                return False
            self.cancel(id)
            del self._jobs[id]
            is_running = id == self._running
        if not is_running:  # else the thread that makes it deletes it
            shutil.rmtree(self.folder / id, ignore_errors=True)
        return True

    def wait(self, id: str, timeout_s: float) -> Standing | None:
        """Blocks until a job is finished or gone, or for so long."""
        with self._changed:
            self._changed.wait_for(lambda: id not in self._jobs or self._jobs[id].is_finished, timeout_s)
        return self.find(id)

    def video_path(self, id: str) -> Path:
        """Where its video lies, once it is done."""
        return self.folder / id / "video.mp4"

    def sidecar_path(self, id: str) -> Path:
        """Where its settings and versions lie, once it is done."""
        return self.folder / id / "video.json"

    def stream(self, id: str) -> Iterator[bytes | None]:
        """The video as fragmented mp4 while it is made, from its beginning; None: nothing new for a moment.

        Ends with the job; after it is finished all is there at once.
        """
        path, position = self.folder / id / "stream.mp4", 0
        while True:
            standing = self.find(id)  # before reading: what a finished job has written is read to its end
            data = b""
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(position)
                data = file.read(TAIL_BLOCK_BYTES)
            position += len(data)
            if data:
                yield data
            elif standing is None or standing.job.is_finished:
                return
            else:
                yield None

    def audio_s(self, path: Path) -> float:
        """Length of a sound, read no further than it may be long.

        Raises:
            AudioError: no sound, or too long.
        """
        num_samples = 0
        for block in SoundReader(path):
            num_samples += block.samples.shape[1]
            if num_samples > self.limits.max_audio_s * block.sample_rate_hz:
                raise AudioError(
                    f"the sound is longer than {in_words(self.limits.max_audio_s)}; cut it into several, or run a "
                    "service with a higher --max-audio-s"
                )
        return num_samples / block.sample_rate_hz

    def warm(self, portrait: Path, settings: VideoSettings) -> None:
        """Prepare a portrait for a job that is likely to come, unless there is something to do; the last one counts."""
        with self._changed:
            if self._running is None and not self._waiting:
                self._expected = (portrait, settings)
                self._changed.notify_all()

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self._changed:
            found = {status: 0 for status in ("queued", "running", "done", "failed", "cancelled")}
            for job in self._jobs.values():
                found[job.status] += 1
            return found

    def _left_before(self, id: str | None) -> float:
        """Seconds until all jobs before this one are done, by guess; None: all jobs."""
        waiting = list(self._waiting)
        ahead = waiting[: waiting.index(id)] if id else waiting
        left_s = sum(self._jobs[each].audio_s for each in ahead) * self._speed
        if self._running in self._jobs:
            running = self._jobs[self._running]
            left_s += self._progress.left_s if self._progress else running.audio_s * self._speed
        return left_s

    def _take_up(self) -> None:
        """What an earlier run has left: finished jobs are kept, the others are made."""
        for path in self.folder.glob("*.new"):
            shutil.rmtree(path, ignore_errors=True)
        found = (_read(path.parent) for path in self.folder.glob("*/job.json"))
        for job in sorted((job for job in found if job), key=lambda job: job.number):
            self._jobs[job.id] = job
            if job.is_finished:
                continue
            if job.attempts >= MAX_ATTEMPTS:
                error = f"lost: the service ended {job.attempts} times while it was made"
                self._finish(replace(job, status="failed", error=error))
            else:
                self._set(replace(job, status="queued"))
                self._waiting.append(job.id)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._expected or self._is_closed, HOUSEKEEPING_S
                )
                if self._is_closed:
                    return
                job, expected, self._expected = None, self._expected, None
                if self._waiting:
                    job = self._jobs[self._waiting.popleft()]
                    job = self._set(replace(job, status="running", attempts=job.attempts + 1))
                    self._running, self._progress = job.id, None
            if job is None:
                if expected:
                    self._prepare(*expected)
                self._keep_house()
                continue
            done = self._made(job)
            with self._changed:
                self._running = self._progress = None
                self._stops.pop(job.id, None)
                is_wanted = job.id in self._jobs
                if is_wanted and done is None:
                    self._set(replace(job, status="queued", attempts=job.attempts - 1))
                elif is_wanted:
                    self._finish(done)
            if not is_wanted:
                shutil.rmtree(self.folder / job.id, ignore_errors=True)
            self._used_s = time.monotonic()
            self._keep_house()

    def _prepare(self, portrait: Path, settings: VideoSettings) -> None:
        # What is wrong with it a job says that asks for it; the queue goes on.
        with contextlib.suppress(Exception):
            self.studio.scene(as_rgb(portrait), settings)
        self._used_s = time.monotonic()

    def _made(self, job: Job) -> Job | None:
        """The job as it ended; None: the queue was closed meanwhile."""
        folder, notes, begun_s = self.folder / job.id, [], time.monotonic()
        request = GenerateRequest(
            portrait=folder / "image",
            audio=folder / "audio",
            out=folder / "video.mp4",
            settings=job.settings,
            may_overwrite=True,
        )

        def watch(progress: Progress) -> None:
            with self._changed:
                self._progress = progress
                stop = self._stops.get(job.id)
                is_closed = self._is_closed
            if is_closed or stop:
                raise StoppedError(stop or "closed")
            if time.monotonic() - begun_s > self.limits.max_job_s:
                raise StoppedError(
                    f"it took longer than {in_words(self.limits.max_job_s)}, the most that this service gives"
                )

        try:
            with open(folder / "stream.mp4", "wb") as stream:
                report = self.studio.make(request, say=notes.append, watch=watch, stream=stream)
        except StoppedError as stopped:
            if str(stopped) == "closed":
                return None
            status = "cancelled" if str(stopped) == "cancelled" else "failed"
            return replace(job, status=status, error=str(stopped), notes=_plain(notes, folder))
        except ValueError as error:
            return replace(
                job, status="failed", error=_plain([str(error)], folder)[0], notes=_plain(notes, folder)
            )
        except Exception as error:  # ours; the queue goes on with the next job
            reason = f"{type(error).__name__}: {error}"
            return replace(job, status="failed", error=f"unexpected: {_plain([reason], folder)[0]}")
        self._speed = report.timings["seconds_per_video_second"]
        video = {
            "width": report.width,
            "height": report.height,
            "num_frames": report.num_frames,
            "timings": report.timings,
        }
        return replace(job, status="done", notes=_plain(notes, folder), video=video)

    def _set(self, job: Job) -> Job:
        self._jobs[job.id] = job
        try:
            _write(self.folder / job.id, job)
        except OSError as error:  # of a full disk; the queue goes on with what it knows
            log.error("%s; after a restart video %s is as it was before", error, job.id)
        return job

    def _finish(self, job: Job) -> None:
        self._set(replace(job, finished_s=time.time()))
        self._changed.notify_all()

    def _keep_house(self) -> None:
        """Delete what is old, and give back the memory of a model that nobody needs."""
        now_s = time.monotonic()
        if now_s - self._used_s > self.limits.idle_s and self.studio.unload():
            _trim_memory()
        if now_s - self._cleaned_s < HOUSEKEEPING_S:
            return
        self._cleaned_s = now_s
        with self._changed:
            old = [
                job.id
                for job in self._jobs.values()
                if job.finished_s is not None and time.time() - job.finished_s > self.limits.keep_s
            ]
        for id in old:
            self.forget(id)


def _lock(folder: Path) -> contextlib.ExitStack:
    """Held as long as the queue lives: two of them would make the same jobs."""
    lock = contextlib.ExitStack()
    try:
        lock.enter_context(only_run_in(folder))
    except BusyError as error:
        raise ValueError(f"another service uses {folder}; stop it, or give another --folder") from error
    return lock


def _write(folder: Path, job: Job) -> None:
    facts = asdict(job) | {"settings": job.settings.as_text()}
    with atomic_write(folder / "job.json") as partial:
        partial.write_text(json.dumps(facts, indent=1, allow_nan=False))


def _read(folder: Path) -> Job | None:
    """The job of a folder; None if there is no sound one, which is told and left as it is."""
    path = folder / "job.json"
    try:
        facts = read_json(path, JOB_EXPECTED)
        with expected(path, JOB_EXPECTED):
            settings = VideoSettings.from_text(facts["settings"])
            job = made_of(Job, facts | {"settings": settings, "notes": tuple(facts["notes"])})
            if job.id != folder.name or not ID_PATTERN.fullmatch(job.id):
                raise ValueError(f"it calls itself {job.id!r}")
    except (MediaError, OSError) as error:
        log.warning("%s; it is left out", error)
        return None
    return job


def _plain(texts: list[str], folder: Path) -> tuple[str, ...]:
    """Messages without the place of files on the server."""
    names = {f"{folder / 'image'}": "the image", f"{folder / 'audio'}": "the audio", f"{folder}{os.sep}": ""}
    plain = []
    for text in texts:
        for path, name in names.items():
            text = text.replace(path, name)
        plain.append(text)
    return tuple(plain)


def _trim_memory() -> None:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # of glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
