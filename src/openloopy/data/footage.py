"""Reading raw footage: the pictures of any file at a steady 25 fps, and what is to be known about the file.

Source: ours. At each instant of the steady rate the picture of the file that is nearest in time is shown. Pictures
are sRGB, upright, not interlaced, and have square pixels (`media.screen`). What cannot be decoded is skipped and
counted; it leaves a hole in the numbers.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from openloopy.media.files import ffmpeg_url, require_file
from openloopy.media.screen import Look, StreamLook, film_of, shown, shown_size
from openloopy.media.sound_headers import MATROSKA_FORMAT, MP4_FORMAT, clock_seconds
from openloopy.media.video import FPS, VideoError

MAX_GAP_S = 0.5
"""Where the next picture comes later than this, there is a hole."""
VARIABLE_SHARE = 0.05
"""A rate is variable if more of the steps between pictures than this are off the usual step by a tenth."""
DEFAULT_STEP_S = 1 / FPS
EPSILON_S = 1e-6
AVI_FORMAT = "avi"
"""Its frames carry the times at which they are decoded, not shown."""
REORDERED_FRAMES = 8
"""Frames within which H.264 may be decoded in another order than shown, where the file does not tell the latter."""


class _Picture(NamedTuple):
    """One picture of the file."""

    time_s: float
    """From the first one on."""
    frame: av.VideoFrame
    look: Look


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
    """As shown: upright, with square pixels."""
    rotation_deg: int = 0
    pixel_aspect: str = "1"
    """Width of a stored pixel over its height."""
    colours: str = ""
    """High dynamic range and wide primaries that became sRGB; empty: usual ones."""
    codec: str = ""
    fps: float = 0.0
    """From the usual step between pictures."""
    has_variable_rate: bool = False
    is_interlaced: bool = False
    num_pictures: int = 0
    num_sound_tracks: int = 0
    num_undecodable: int = 0
    """Packets that could not be decoded."""
    num_misplaced: int = 0
    """Pictures whose time stamps go back to what was shown already; they are left out."""
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
        before: _Picture | None = None
        for picture in self._pictures():
            if before is not None:
                yield from _shown(before, clock.until(before.time_s, picture.time_s))
            before = picture
        if before is None:
            raise VideoError(f"{self.path} holds no pictures that can be decoded and say when they are shown")
        yield from _shown(before, clock.to_end(before.time_s))
        self._finish(clock)

    @property
    def num_promised(self) -> int:
        """Frames that the header promises; 0 where it says nothing."""
        return round((self.info.promised_s or 0) * FPS)

    def _pictures(self) -> Iterator[_Picture]:
        """Decoded pictures with their rising times from the first one."""
        last_s = -math.inf
        with open_footage(self.path) as container:
            stream = film_of(container)
            self._note_streams(container, stream)
            look = StreamLook(stream)
            frames = self._deinterlaced(self._decoded(container, stream))
            is_avi = container.format.name == AVI_FORMAT
            for time_s, frame in _in_order(frames) if is_avi else _timed(frames):
                if time_s <= last_s:
                    self.info.num_misplaced += time_s < last_s - MAX_GAP_S
                    continue
                if self.info.num_pictures == 0:
                    self._note_first(time_s, frame, look.now())
                last_s = time_s
                self.info.num_pictures += 1
                yield _Picture(time_s - self.info.first_time_s, frame, look.now())

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
        deinterlacer = _Deinterlacer()
        for frame in frames:
            yield from deinterlacer.push(frame)
            self.info.is_interlaced = deinterlacer.is_at_work
        yield from deinterlacer.finish()

    def _note_streams(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.info.codec = stream.codec_context.name
        self.info.num_sound_tracks = len(container.streams.audio)
        self.info.promised_s = _promised_s(container, stream)

    def _note_first(self, time_s: float, frame: av.VideoFrame, look: Look) -> None:
        self.info.rotation_deg = frame.rotation
        self.info.width, self.info.height = shown_size(frame, look)
        self.info.pixel_aspect, self.info.colours = str(look.pixel_aspect), look.colours
        self.info.first_time_s = time_s

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


def open_footage(path: Path) -> av.container.InputContainer:
    """An open container with pictures in it."""
    path = require_file(path, "a video")
    try:
        container = av.open(ffmpeg_url(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, UnicodeDecodeError) as error:
        raise VideoError(f"{path} is damaged or no video ({error})") from error
    if film_of(container) is None:
        container.close()
        raise VideoError(f"{path} has no pictures in it (a cover is none)")
    return container


def _timed(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames that say when they are shown, on the clock of the file."""
    return ((frame.time, frame) for frame in frames if frame.time is not None)


def _in_order(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames as they are shown, with all times that they brought in order: the decoder sorts frames, not times."""
    waiting: deque[av.VideoFrame] = deque()
    times_s: list[float] = []
    for time_s, frame in _timed(frames):
        waiting.append(frame)
        heapq.heappush(times_s, time_s)
        if len(waiting) > REORDERED_FRAMES:
            yield heapq.heappop(times_s), waiting.popleft()
    while waiting:
        yield heapq.heappop(times_s), waiting.popleft()


def _shown(picture: _Picture, instants: range) -> Iterator[SteadyFrame]:
    """The picture at these instants; it is converted only if there is one."""
    if len(instants):
        rgb = shown(picture.frame, picture.look)
        for number in instants:
            yield SteadyFrame(number, rgb, number > instants.start)


class _Deinterlacer:
    """Draws the lines of the other field anew in frames that are marked as interlaced, from the first such frame on."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._form: tuple[int, int, str] | None = None

    @property
    def is_at_work(self) -> bool:
        return self._graph is not None

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """What is ready when this frame has come."""
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        form = (frame.width, frame.height, frame.format.name)
        if form != self._form:
            yield from self.finish()
            self._graph, self._form = _deinterlacing_graph(frame), form
        self._graph.push(frame)
        yield from _pulled(self._graph)

    def finish(self) -> Iterator[av.VideoFrame]:
        """What is left when no more frames of this form come."""
        if self._graph is not None:
            self._graph.push(None)
            yield from _pulled(self._graph)


def _deinterlacing_graph(like: av.VideoFrame) -> av.filter.Graph:
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
        return clock_seconds(stream.metadata.get("DURATION"))
    return None
