"""Reading raw footage: the pictures of any file at a steady 25 fps, and what is to be known about the file.

Source: ours. At each instant of the steady rate the picture of the file that is nearest in time is shown. Pictures are
upright and not interlaced. What cannot be decoded is skipped and counted; it leaves a hole in the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from openloopy.media.audio import MATROSKA_FORMAT, MP4_FORMAT, AudioError
from openloopy.media.files import require_file
from openloopy.media.video import FPS, VideoError, upright

MAX_GAP_S = 0.5
"""Where the next picture comes later than this, there is a hole."""
VARIABLE_SHARE = 0.05
"""A rate is variable if more of the steps between pictures than this are off the usual step by a tenth."""
DEFAULT_STEP_S = 1 / FPS
EPSILON_S = 1e-6


class SteadyFrame(NamedTuple):
    """One picture of the steady rate."""

    number: int
    """From 0; steps over what a hole swallowed."""
    rgb: np.ndarray
    """`H W 3` uint8."""
    is_repeated: bool
    """Whether the frame before shows the same picture of the file."""


@dataclass(kw_only=True)
class FootageInfo:
    """What was found while reading a file. Complete once its frames have been read."""

    width: int = 0
    height: int = 0
    """Upright."""
    rotation_deg: int = 0
    codec: str = ""
    fps: float = 0.0
    """From the usual step between pictures."""
    has_variable_rate: bool = False
    is_interlaced: bool = False
    num_pictures: int = 0
    num_sound_tracks: int = 0
    num_undecodable: int = 0
    """Packets that could not be decoded."""
    first_time_s: float = 0.0
    promised_s: float | None = None
    """The pictures' length by the header, where the format states it."""

    def to_json(self) -> dict[str, Any]:
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass
class SteadyReader:
    """The pictures of a file at 25 fps, one at a time, in bounded memory."""

    path: Path
    info: FootageInfo = field(default_factory=FootageInfo)

    def __iter__(self) -> Iterator[SteadyFrame]:
        """Raises VideoError where there is no picture to show."""
        self.info = FootageInfo()
        clock = _Clock()
        before: tuple[float, av.VideoFrame] | None = None
        for time_s, frame in self._timed_frames():
            if before is not None:
                yield from _shown(before[1], clock.until(before[0], time_s))
            before = time_s, frame
        if before is None:
            raise VideoError(f"{self.path} holds no pictures that can be decoded")
        yield from _shown(before[1], clock.to_end(before[0]))
        self._finish(clock)

    @property
    def num_promised(self) -> int:
        """Frames that the header promises; 0 where it says nothing."""
        return round((self.info.promised_s or 0) * FPS)

    def _timed_frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Decoded pictures with their rising times from the first one."""
        last_s = -math.inf
        with open_footage(self.path) as container:
            stream = container.streams.video[0]
            self._note_streams(container)
            for frame in self._deinterlaced(self._decoded(container, stream)):
                if frame.time is None or frame.time <= last_s:
                    continue
                if self.info.num_pictures == 0:
                    self._note_first(frame)
                last_s = frame.time
                self.info.num_pictures += 1
                yield frame.time - self.info.first_time_s, frame

    def _decoded(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.VideoFrame]:
        stream.thread_type = "SLICE"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                yield from packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.info.num_undecodable += 1
                if self.info.num_undecodable > 1000 + self.info.num_pictures:
                    return

    def _deinterlaced(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        first = next(frames, None)
        if first is None:
            return
        if not first.interlaced_frame:
            yield first
            yield from frames
            return
        self.info.is_interlaced = True
        graph = _deinterlacer(first)
        graph.push(first)
        for frame in frames:
            graph.push(frame)
            yield from _pulled(graph)
        graph.push(None)
        yield from _pulled(graph)

    def _note_streams(self, container: av.container.InputContainer) -> None:
        stream = container.streams.video[0]
        self.info.codec = stream.codec_context.name
        self.info.num_sound_tracks = len(container.streams.audio)
        self.info.promised_s = _promised_s(container, stream)

    def _note_first(self, frame: av.VideoFrame) -> None:
        self.info.rotation_deg = frame.rotation
        sideways = frame.rotation % 180 != 0
        self.info.width, self.info.height = (
            (frame.height, frame.width) if sideways else (frame.width, frame.height)
        )
        self.info.first_time_s = frame.time

    def _finish(self, clock: _Clock) -> None:
        steps = np.array(clock.steps_s or [DEFAULT_STEP_S])
        usual = float(np.median(steps))
        self.info.fps = 1 / usual
        self.info.has_variable_rate = bool((abs(steps - usual) > 0.1 * usual).mean() > VARIABLE_SHARE)


class _Clock:
    """Which instants of the steady rate a picture is shown at."""

    def __init__(self) -> None:
        self.next = 0
        self.steps_s: list[float] = []

    def until(self, shown_s: float, following_s: float) -> range:
        """Instants at which the picture of `shown_s` is nearer than the one that follows."""
        step = following_s - shown_s
        if step > MAX_GAP_S:
            instants = self._take(shown_s + self.usual_s / 2)
            self.next = max(self.next, math.ceil((following_s - self.usual_s / 2) * FPS - EPSILON_S))
            return instants
        self.steps_s.append(step)
        return self._take(shown_s + step / 2)

    def to_end(self, shown_s: float) -> range:
        """The last picture is shown for as long as pictures usually are."""
        stop = max(round((shown_s + self.usual_s) * FPS), 1)
        return range(self.next, stop)

    @property
    def usual_s(self) -> float:
        return float(np.median(self.steps_s)) if self.steps_s else DEFAULT_STEP_S

    def _take(self, last_s: float) -> range:
        """All instants up to a time that have not been shown."""
        stop = math.floor((last_s + EPSILON_S) * FPS) + 1
        instants = range(self.next, max(stop, self.next))
        self.next = instants.stop
        return instants


def sound_start(path: Path) -> float:
    """When the sound of a file begins, seconds on its clock; an AudioError where there is none."""
    with open_footage(path) as container:
        if not container.streams.audio:
            raise AudioError(f"{path} has no sound in it")
        stream = container.streams.best("audio") or container.streams.audio[0]
        try:
            first = next((frame for frame in container.decode(stream) if frame.time is not None), None)
        except av.error.FFmpegError as error:
            raise AudioError(f"the sound of {path} cannot be decoded ({error})") from error
    if first is None:
        raise AudioError(f"{path} holds no samples of sound, or does not say when they begin")
    return float(first.time)


def open_footage(path: Path) -> av.container.InputContainer:
    """An open container with pictures in it."""
    path = require_file(path, "a video")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError, UnicodeDecodeError) as error:
        raise VideoError(f"{path} is damaged or no video ({error})") from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path} has no pictures in it")
    return container


def _shown(frame: av.VideoFrame, instants: range) -> Iterator[SteadyFrame]:
    """The picture at these instants; it is converted only if there is one."""
    if len(instants):
        rgb = upright(frame.to_ndarray(format="rgb24"), frame.rotation)
        for number in instants:
            yield SteadyFrame(number, rgb, number > instants.start)


def _deinterlacer(like: av.VideoFrame) -> av.filter.Graph:
    """Lines of the other field are drawn anew in frames that are marked as interlaced."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=like.width, height=like.height, format=like.format.name, time_base=like.time_base
    )
    fields = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(fields)
    fields.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _promised_s(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Length of the pictures by the header, in formats whose headers can be trusted."""
    name = container.format.name
    if name == MP4_FORMAT and stream.duration:
        return float(stream.duration * stream.time_base)
    if name == MATROSKA_FORMAT:
        clock = stream.metadata.get("DURATION", "").split(":")
        return (
            sum(float(p) * u for p, u in zip(clock, (3600, 60, 1), strict=True)) if len(clock) == 3 else None
        )
    return None
