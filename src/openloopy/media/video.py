"""Video in and out: H.264 with the original sound, written frame by frame in bounded memory.

Sound and picture both start at 0. The sound keeps its rate (where AAC has it) and its channels, and all of it
is written, whatever the number of frames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream

from openloopy.media.audio import SAMPLE_RATE_HZ, SoundBlock, read_blocks
from openloopy.media.files import MediaError, atomic_write, require_file

FPS = 25
PRESET, CRF = "veryfast", 18
"""Of x264. "medium" takes 2.5 times as long: a core would work .15 s longer per second of video of 512x512 px, .9 s of
1920x1080."""
AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""By number of channels, for layouts without a name in AAC and for twins such as 5.1(side)."""
KEPT_LAYOUTS = frozenset({*AAC_LAYOUTS.values(), "2.1", "quad", "6.0", "hexagonal", "7.0"})
MAX_BIT_RATE_PER_CHANNEL = 160_000
MAX_BITS_PER_SAMPLE = 5
"""AAC allows 6144 bits in a frame of 1024 samples; a little less keeps the encoder from clamping."""
ARRAY_BLOCK_SAMPLES = 4096
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
        sound: Path | np.ndarray | None = None,
        tags: Mapping[str, str] | None = None,
        crf: int = CRF,
    ) -> None:
        """size: (width, height), both even. sound: a file whose sound is taken, or 16 kHz mono samples."""
        if Path(path).suffix.lower() != ".mp4":
            raise VideoError(f"cannot write {path}: the name must end in .mp4")
        if min(size) < 2 or size[0] % 2 or size[1] % 2:
            raise ValueError(f"width and height must be even and positive for H.264, got {size}")
        self.path, self.size, self.fps, self.num_frames = Path(path), tuple(size), fps, 0
        self._sound, self._tags, self._crf = sound, dict(tags or {}), crf
        self._track: _SoundTrack | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VideoWriter:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path))
            options = {"movflags": _movflags(self._tags)}
            self._container = stack.enter_context(av.open(str(temporary), "w", options=options))
            self._container.metadata.update(self._tags)
            self._video = self._add_video()
            if self._sound is not None:
                self._track = _SoundTrack(self._container, _blocks_of(self._sound))
            self._stack = stack.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one `H W 3` uint8 RGB frame, and the sound up to its end."""
        width, height = self.size
        if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
            raise ValueError(
                f"expected a uint8 frame of shape {(height, width, 3)}, got {frame.dtype} {frame.shape}"
            )
        picture = av.VideoFrame.from_ndarray(_to_yuv420(np.ascontiguousarray(frame)), format="yuv420p")
        picture.colorspace, picture.color_range = BT709, LIMITED_RANGE
        picture.pts, picture.time_base = self.num_frames, Fraction(1, self.fps)
        self._container.mux(self._video.encode(picture))
        self.num_frames += 1
        if self._track:
            self._track.write_until(self.num_frames / self.fps)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.num_frames == 0:
                raise VideoError(f"no frame was written to {self.path}; nothing to save")
            self._container.mux(self._video.encode(None))
            if self._track:
                self._track.finish()

    def _add_video(self) -> av.VideoStream:
        # Without macroblock trees, whose SIMD code gives other bytes for equal frames, depending on what memory held.
        options = {"crf": str(self._crf), "preset": PRESET, "x264-params": "mbtree=0"}
        video = self._container.add_stream("libx264", rate=self.fps, options=options)
        video.width, video.height = self.size
        video.pix_fmt = "yuv420p"
        video.time_base = Fraction(1, self.fps)
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        return video


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
    """The pictures of a video in order, upright: `H W 3` uint8 RGB each."""
    with _open_video(path) as container:
        try:
            for frame in container.decode(container.streams.video[0]):
                yield upright(frame.to_ndarray(format="rgb24"), frame.rotation)
        except av.error.FFmpegError as error:
            raise VideoError(f"{path} is damaged or cut off ({error}); re-export it") from error


def probe_video(path: Path | str) -> VideoInfo:
    """Size, rate and number of frames; counts the frames' packets without decoding them all."""
    first = next(read_frames(path), None)
    if first is None:
        raise VideoError(f"{path} holds no pictures")
    with _open_video(path) as container:
        stream = container.streams.video[0]
        num_frames = sum(packet.size > 0 for packet in container.demux(stream))
        fps = float(stream.average_rate or stream.guessed_rate)
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


def _to_yuv420(rgb: np.ndarray) -> np.ndarray:
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


def _movflags(tags: Mapping[str, str]) -> str:
    return "+faststart" if set(tags) <= NATIVE_TAGS else "+faststart+use_metadata_tags"


def _blocks_of(sound: Path | str | np.ndarray) -> Iterator[SoundBlock]:
    if not isinstance(sound, np.ndarray):
        return read_blocks(sound)
    if sound.ndim != 1 or len(sound) == 0:
        raise ValueError(f"expected mono sound of shape (samples,) at {SAMPLE_RATE_HZ} Hz, got {sound.shape}")
    starts = range(0, len(sound), ARRAY_BLOCK_SAMPLES)
    return (_array_block(sound[start : start + ARRAY_BLOCK_SAMPLES]) for start in starts)


def _array_block(samples: np.ndarray) -> SoundBlock:
    samples = samples[None].astype(np.float32)
    return SoundBlock(samples=samples, sample_rate_hz=SAMPLE_RATE_HZ, layout="mono", codec="pcm_f32le")


def _aac_layout(block: SoundBlock) -> str:
    channels = len(block.samples)
    if channels not in AAC_LAYOUTS:
        most = max(AAC_LAYOUTS)
        raise VideoError(f"the sound has {channels} channels; at most {most} fit, mix it down first")
    return block.layout if block.layout in KEPT_LAYOUTS else AAC_LAYOUTS[channels]


def _add_aac(container: av.container.OutputContainer, sample_rate_hz: int, layout: str) -> AudioStream:
    rate_hz = min((rate for rate in AAC_RATES_HZ if rate >= sample_rate_hz), default=AAC_RATES_HZ[-1])
    stream = container.add_stream("aac", rate=rate_hz, layout=layout)
    bit_rate_per_channel = min(MAX_BIT_RATE_PER_CHANNEL, MAX_BITS_PER_SAMPLE * rate_hz)
    stream.bit_rate = bit_rate_per_channel * stream.codec_context.channels
    return stream


@contextlib.contextmanager
def _open_video(path: Path | str) -> Iterator[av.container.InputContainer]:
    path = require_file(path, "a video")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"{path} is not a video that can be decoded ({error})") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{path} has no pictures in it")
        yield container


def upright(picture: np.ndarray, rotation_degrees: int) -> np.ndarray:
    """Turn counter-clockwise as the container's display matrix asks (FFmpeg's sign)."""
    return np.ascontiguousarray(np.rot90(picture, rotation_degrees // 90)) if rotation_degrees else picture
