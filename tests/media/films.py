"""Videos made by code, with pixels and colours of all kinds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


@contextlib.contextmanager
def keeps_priority() -> Iterator[None]:
    """SVT-AV1, where it may (as root), lets its caller run before all others (SCHED_FIFO, 99): that ends with this.

    It would starve the tests beside it, and Chromium, which inherits it, can make a machine of two cores stand still.
    """
    knows = hasattr(os, "sched_setscheduler")  # Linux
    before = (os.sched_getscheduler(0), os.sched_getparam(0)) if knows else None
    try:
        yield
    finally:
        if before:
            os.sched_setscheduler(0, *before)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    aspect: Fraction | None = None,
    codec: str = "libx264",
    **context,
) -> Path:
    """`context`: attributes of the encoder."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
