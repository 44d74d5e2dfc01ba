"""Video in and out: H.264 with the original sound, written frame by frame in bounded memory.

Sound and picture both start at 0. The sound keeps its rate (where AAC has it) and its channels (more than eight become
two), and all of it is written, whatever the number of frames. A file appears when it is whole (`VideoWriter`); a stream
can be played while it is made (`StreamWriter`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream

from openloopy.media.audio import SAMPLE_RATE_HZ, SoundArray
from openloopy.media.channels import AAC_CHANNELS, mixed_down, powers_of
from openloopy.media.files import MediaError, atomic_write, ffmpeg_url, require_file
from openloopy.media.screen import StreamLook, film_of, shown
from openloopy.media.sound_file import SoundBlock, SoundReader
from openloopy.media.video_format import CRF, FPS, PRESET

AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
KEPT_LAYOUTS = frozenset({*AAC_CHANNELS.values(), "2.1", "quad", "6.0", "hexagonal", "7.0"})
MAX_BIT_RATE_PER_CHANNEL = 160_000
MAX_BITS_PER_SAMPLE = 5
"""AAC allows 6144 bits in a frame of 1024 samples; a little less keeps the encoder from clamping."""
UNKNOWN_FPS = 25.0
"""Where a file does not say, as FFmpeg has it."""
STREAM_PRESET = "superfast"
FRAGMENT_S = 0.2
"""Of a stream: what a player has to wait for before it shows a frame."""
SOUND_LEAD_S = 0.12
"""By which a stream's sound is written before its picture: AAC gives it back two of its frames later (128 ms at
16 kHz), and the container holds pictures back until the sound has caught up."""
KEY_FRAMES_S = 2
"""A stream can be joined at a key frame."""
NATIVE_TAGS = frozenset({"title", "artist", "album", "comment", "description", "copyright", "date", "genre"})
"""Tags that players read from an mp4; others need the `mdta` form of the container."""
BT709 = 1
LIMITED_RANGE = 1
_TO_YCBCR = np.array(
    [
        [0.2126 * 219, 0.7152 * 219, 0.0722 * 219, 16 * 255],
        [-0.2126 / 1.8556 * 224, -0.7152 / 1.8556 * 224, 0.5 * 224, 128 * 255],
        [0.5 * 224, -0.7152 / 1.5748 * 224, -0.0722 / 1.5748 * 224, 128 * 255],
    ],
    np.float32,
) / np.float32(255)
"""RGB in 0..255 to Y, Cb, Cr of ITU-R BT.709 in limited range."""


class VideoError(MediaError):
    """A video that cannot be read or written as asked."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds; its frames are counted."""

    width: int
    height: int
    fps: float
    num_frames: int
    duration_s: float
    has_audio: bool


Sound = Path | str | np.ndarray | SoundArray | Iterator[SoundBlock]
"""What a video sounds like: a file, 16 kHz mono samples, an array that knows its rate, or blocks as they come."""


class VideoWriter:
    """Context manager that writes an mp4, whole or not at all.

    The file appears under its name when the block ends well; an exception or an interrupt leaves nothing.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        size: tuple[int, int],
        fps: int = FPS,
        sound: Sound | None = None,
        tags: Mapping[str, str] | None = None,
        crf: int = CRF,
    ) -> None:
        """size: (width, height), both even."""
        if Path(path).suffix.lower() != ".mp4":
            raise VideoError(f"cannot write {path}: the name must end in .mp4")
        _check_video_size(size)
        self.path, self.size, self.fps = Path(path), tuple(size), fps
        self._sound, self._tags, self._crf = sound, dict(tags or {}), crf
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VideoWriter:
        # Without macroblock trees, whose SIMD code gives other bytes for equal frames, depending on what memory held.
        x264 = {"crf": str(self._crf), "preset": PRESET, "x264-params": "mbtree=0"}
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path))
            options = {"movflags": _movflags("+faststart", self._tags)}
            blocks = None
            if self._sound is not None:
                rate_hz, blocks = _begun(self._sound)
                # In which an mp4 states where its tracks end: a thousandth of a second would be too coarse for sound.
                options["movie_timescale"] = str(rate_hz)
            container = stack.enter_context(av.open(ffmpeg_url(temporary), "w", options=options))
            container.metadata.update(self._tags)
            self._film = _Film(container, self.size, self.fps, blocks, x264)
            self._stack = stack.pop_all()
        return self

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return self._film.num_frames

    def write(self, frame: np.ndarray) -> None:
        """Append one `H W 3` uint8 RGB frame, and the sound up to its end."""
        self._film.write(frame)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.num_frames == 0:
                raise VideoError(f"no frame was written to {self.path}; nothing to save")
            self._film.finish()


class StreamWriter:
    """Context manager that writes a fragmented mp4 to an open file or pipe, playable while it is made.

    What leaves it is at most FRAGMENT_S and a frame behind what was written to it. An exception ends the stream where
    it is.
    """

    def __init__(
        self,
        sink: BinaryIO,
        *,
        size: tuple[int, int],
        fps: int = FPS,
        sound: Sound | None = None,
        tags: Mapping[str, str] | None = None,
        crf: int = CRF,
    ) -> None:
        """size: (width, height), both even."""
        _check_video_size(size)
        x264 = {"crf": str(crf), "preset": STREAM_PRESET, "tune": "zerolatency", "g": str(KEY_FRAMES_S * fps)}
        # The head is written with the first fragment: only then it can say that the sound's encoder has a delay.
        movflags = _movflags("+empty_moov+default_base_moof+delay_moov", tags or {})
        options = {"movflags": movflags, "frag_duration": str(round(FRAGMENT_S * 1e6)), "flush_packets": "1"}
        self._container = av.open(_OnlyWritten(sink), "w", format="mp4", options=options)
        self._container.metadata.update(tags or {})
        blocks = None if sound is None else _blocks_of(sound)
        self._film = _Film(self._container, tuple(size), fps, blocks, x264, SOUND_LEAD_S)

    def __enter__(self) -> StreamWriter:
        return self

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return self._film.num_frames

    def write(self, frame: np.ndarray) -> None:
        """Append one `H W 3` uint8 RGB frame, and the sound up to its end."""
        self._film.write(frame)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._film.finish()
        finally:
            # A reader that went away makes closing fail as well; the first error is the one to tell.
            with contextlib.suppress(*([OSError, av.error.FFmpegError] if kind is not None else [])):
                self._container.close()


class _OnlyWritten:
    """A sink without a position, whatever it is: pipes claim to have one until it is asked for."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        self._sink.write(data)
        self._sink.flush()
        return len(data)


class _Film:
    """Encoders of picture and sound of one container."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        size: tuple[int, int],
        fps: int,
        blocks: Iterator[SoundBlock] | None,
        x264: dict[str, str],
        sound_lead_s: float = 0.0,
    ) -> None:
        self.size, self.fps, self.num_frames, self._sound_lead_s = size, fps, 0, sound_lead_s
        self._container, self._video = container, _add_x264(container, size, fps, x264)
        self._track = None if blocks is None else _SoundTrack(container, blocks)

    def write(self, frame: np.ndarray) -> None:
        width, height = self.size
        if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
            raise ValueError(
                f"expected a uint8 frame of shape {(height, width, 3)}, got {frame.dtype} {frame.shape}"
            )
        picture = av.VideoFrame.from_ndarray(to_yuv420(np.ascontiguousarray(frame)), format="yuv420p")
        picture.colorspace, picture.color_range = BT709, LIMITED_RANGE
        picture.pts, picture.time_base = self.num_frames, Fraction(1, self.fps)
        self._container.mux(self._video.encode(picture))
        self.num_frames += 1
        if self._track:
            self._track.write_until(self.num_frames / self.fps + self._sound_lead_s)

    def finish(self) -> None:
        self._container.mux(self._video.encode(None))
        if self._track:
            self._track.finish()


class _SoundTrack:
    """An AAC stream that takes blocks of sound as the picture advances."""

    def __init__(self, container: av.container.OutputContainer, blocks: Iterator[SoundBlock]) -> None:
        self._container, self._blocks = container, blocks
        self._pending: SoundBlock | None = next(blocks)
        self._num_samples = 0
        self._rate_hz = self._pending.sample_rate_hz
        self._layout = _aac_layout(self._pending)
        self._stream = _add_aac(container, self._rate_hz, self._layout)

    def write_until(self, time_s: float) -> None:
        while self._pending is not None and self._num_samples < time_s * self._rate_hz:
            self._encode(self._pending)
            self._pending = next(self._blocks, None)

    def finish(self) -> None:
        self.write_until(float("inf"))
        self._container.mux(self._stream.encode(None))

    def _encode(self, block: SoundBlock) -> None:
        interleaved = np.ascontiguousarray(block.samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = (
            self._rate_hz,
            self._num_samples,
            Fraction(1, self._rate_hz),
        )
        self._container.mux(self._stream.encode(frame))
        self._num_samples += block.samples.shape[1]


def read_frames(path: Path | str) -> Iterator[np.ndarray]:
    """The pictures of a video in order, as a player shows them (`media.screen`): `H W 3` uint8 sRGB each."""
    with _open_video(path) as container:
        try:
            stream = film_of(container)
            look = StreamLook(stream)
            for frame in container.decode(stream):
                yield shown(frame, look.now())
        except av.error.FFmpegError as error:
            raise VideoError(f"{path} is damaged or cut off ({error}); re-export it") from error


def probe_video(path: Path | str) -> VideoInfo:
    """Size, rate and number of frames; counts the frames' packets without decoding them all."""
    first = next(read_frames(path), None)
    if first is None:
        raise VideoError(f"{path} holds no pictures")
    with _open_video(path) as container:
        stream = film_of(container)
        num_frames = sum(packet.size > 0 for packet in container.demux(stream))
        fps = float(stream.average_rate or stream.guessed_rate or UNKNOWN_FPS)
        has_audio = bool(container.streams.audio)
    return VideoInfo(first.shape[1], first.shape[0], fps, num_frames, num_frames / fps, has_audio)


def contact_sheet(frames: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size side by side, row by row; the last row is filled up with white."""
    if not frames or columns < 1:
        raise ValueError(f"expected at least one frame and one column, got {len(frames)} and {columns}")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"expected frames of one size, got {sorted({frame.shape for frame in frames})}")
    height, width = frames[0].shape[:2]
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        row, column = divmod(i, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    return sheet


def to_yuv420(rgb: np.ndarray) -> np.ndarray:
    """`H W 3` uint8 -> the planes Y, Cb and Cr one under the other, `1.5H W` uint8; chroma is the mean of four pixels.

    In a quarter of the time of swscale on 512x512 px, in half of it on larger pictures.
    """
    height, width = rgb.shape[:2]
    planes = np.empty((height * 3 // 2, width), np.uint8)
    cv2.extractChannel(cv2.transform(rgb, _TO_YCBCR), 0, dst=planes[:height])
    small = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    small = cv2.transform(small, _TO_YCBCR)
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    for i in (0, 1):
        cv2.extractChannel(small, i + 1, dst=chroma[i])
    return planes


def _check_video_size(size: tuple[int, int]) -> None:
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise ValueError(f"width and height must be even and positive for H.264, got {size}")


def _movflags(flags: str, tags: Mapping[str, str]) -> str:
    return flags if set(tags) <= NATIVE_TAGS else f"{flags}+use_metadata_tags"


def _add_x264(
    container: av.container.OutputContainer, size: tuple[int, int], fps: int, options: dict[str, str]
) -> av.VideoStream:
    video = container.add_stream("libx264", rate=fps, options=options)
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    video.time_base = Fraction(1, fps)
    context = video.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    return video


def _blocks_of(sound: Sound) -> Iterator[SoundBlock]:
    if isinstance(sound, np.ndarray):
        if sound.ndim != 1 or len(sound) == 0:
            raise ValueError(
                f"expected mono sound of shape (samples,) at {SAMPLE_RATE_HZ} Hz, got {sound.shape}"
            )
        sound = SoundArray(sound, SAMPLE_RATE_HZ)
    if isinstance(sound, SoundArray):
        return sound.blocks()
    if not isinstance(sound, Path | str):
        return mixed_down(sound)
    reader = SoundReader(sound)
    is_wide = len(next(iter(reader)).samples) > max(AAC_CHANNELS)
    return mixed_down(reader, powers_of(reader) if is_wide else None)


def _begun(sound: Sound) -> tuple[int, Iterator[SoundBlock]]:
    """The rate at which a sound will be written, and its blocks."""
    blocks = _blocks_of(sound)
    first = next(blocks)
    return _aac_rate_hz(first.sample_rate_hz), chain([first], blocks)


def _aac_rate_hz(sample_rate_hz: int) -> int:
    """The least that AAC has and that keeps everything."""
    return min((rate for rate in AAC_RATES_HZ if rate >= sample_rate_hz), default=AAC_RATES_HZ[-1])


def _aac_layout(block: SoundBlock) -> str:
    return block.layout if block.layout in KEPT_LAYOUTS else AAC_CHANNELS[len(block.samples)]


def _add_aac(container: av.container.OutputContainer, sample_rate_hz: int, layout: str) -> AudioStream:
    rate_hz = _aac_rate_hz(sample_rate_hz)
    stream = container.add_stream("aac", rate=rate_hz, layout=layout)
    bit_rate_per_channel = min(MAX_BIT_RATE_PER_CHANNEL, MAX_BITS_PER_SAMPLE * rate_hz)
    stream.bit_rate = bit_rate_per_channel * stream.codec_context.channels
    return stream


@contextlib.contextmanager
def _open_video(path: Path | str) -> Iterator[av.container.InputContainer]:
    path = require_file(path, "a video")
    try:
        container = av.open(ffmpeg_url(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"{path} is not a video that can be decoded ({error})") from error
    with container:
        if film_of(container) is None:
            raise VideoError(f"{path} has no pictures in it (a cover is none)")
        yield container
