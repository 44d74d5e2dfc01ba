"""Encoding and decoding of a shard's pictures and sound, in memory, through PyAV and soundfile.

One thread each: parallelism is over clips. Equal frames give equal bytes, so that a corpus can be written again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice

import av
import numpy as np
import soundfile

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.video import FPS

X264_OPTIONS = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
"""Without macroblock trees, whose SIMD code gave other bytes for equal frames, depending on what memory held."""


class FrameEncoder:
    """Makes an mp4 (H.264, yuv420p, crf 16, no sound) in memory, frame by frame."""

    def __init__(self, size: tuple[int, int], *, fps: int = FPS) -> None:
        """size: (width, height), both even."""
        width, height = size
        if height % 2 or width % 2:
            raise ValueError(
                f"H.264 with yuv420p needs even sides, got {width} x {height} px; resize the frames"
            )
        self._content = io.BytesIO()
        self._container = av.open(self._content, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=fps, options=X264_OPTIONS)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"

    def add(self, frame: np.ndarray) -> None:
        """The next frame, `H W 3` uint8 RGB."""
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def finish(self) -> bytes:
        """The whole file; nothing can be added any more."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._content.getvalue()


def encode_frames(frames: Sequence[np.ndarray], *, fps: int = FPS) -> bytes:
    """Frames `H W 3` uint8 RGB, even sides -> mp4 (H.264, yuv420p, crf 16), without sound."""
    encoder = FrameEncoder(frames[0].shape[1::-1], fps=fps)
    for frame in frames:
        encoder.add(frame)
    return encoder.finish()


def decode_frames(mp4: bytes, size_px: int | None = None) -> np.ndarray:
    """All frames `f H W 3` uint8 RGB; with `size_px`, area-averaged to that square size."""
    with av.open(io.BytesIO(mp4)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        size = (size_px or stream.width, size_px or stream.height)
        frames = np.empty((stream.frames, *size[::-1], 3), np.uint8)
        num_decoded = 0
        for num_decoded, frame in enumerate(islice(container.decode(stream), len(frames)), 1):
            frames[num_decoded - 1] = _to_rgb(frame, size)
    if not num_decoded or num_decoded < len(frames):
        raise ValueError(
            f"the mp4 holds {num_decoded} frames, its header says {len(frames)}; write the shard again"
        )
    return frames


def encode_sound(waveform: np.ndarray) -> bytes:
    """Waveform `samples` float32 in [-1, 1], 16 kHz -> 16-bit flac."""
    if waveform.ndim != 1:
        raise ValueError(
            f"expected mono audio (samples,), got {waveform.shape}; call media.audio.to_mono first"
        )
    content = io.BytesIO()
    soundfile.write(content, waveform, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return content.getvalue()


def decode_sound(flac: bytes) -> np.ndarray:
    """Waveform `samples` float32 in [-1, 1], 16 kHz."""
    waveform, rate_hz = soundfile.read(io.BytesIO(flac), dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ or waveform.ndim != 1:
        raise ValueError(f"flac of {rate_hz} Hz, shape {waveform.shape}; expected {SAMPLE_RATE_HZ} Hz mono")
    return waveform


def _to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    return frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray()
