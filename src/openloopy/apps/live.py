"""A video of a sound that is still being spoken: frames are written as they are made.

Out comes a fragmented mp4 with the sound, or raw frames (YUV4MPEG2) in real time, as virtual cameras take them. A frame
is behind its sound by the rest of its clip, what the model hears ahead, and the time to compute a clip; `DelayMeter`
measures it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Protocol

import numpy as np

from openloopy.apps.generate import AI_TAG, MINI, Studio, finished
from openloopy.apps.live_request import LiveRequest, check_live, check_live_output
from openloopy.apps.request import ModelChoice
from openloopy.inference.memory import tier_options
from openloopy.inference.options import Say
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import MediaError
from openloopy.media.image import as_rgb
from openloopy.media.live_sound import LiveSound, open_live
from openloopy.media.video import FPS, StreamWriter, to_yuv420

STEP_S, NUM_STEPS = 0.01, 6_000
"""Of measured delays."""


@dataclass(frozen=True)
class LiveReport:
    """What was made, and how far the frames were behind their sound."""

    num_frames: int
    first_frame_s: float
    """From the sound's beginning to the first frame."""
    median_delay_s: float
    worst_delay_s: float
    dropped_s: float
    """Of sound that came faster than it could be used."""
    lost_s: float = 0.0
    """Of sound that was damaged; it is silent there."""

    def __str__(self) -> str:
        dropped = f"; {self.dropped_s:.2f} s of sound were left out, since this machine is too slow for them"
        lost = f"; {self.lost_s:.2f} s of sound were damaged, it is silent there"
        return (
            f"{self.num_frames} frames ({self.num_frames / FPS:.2f} s); the first came {self.first_frame_s:.2f} s "
            f"after the sound began, half of them within {self.median_delay_s:.2f} s of their sound, all within "
            f"{self.worst_delay_s:.2f} s{dropped if self.dropped_s else ''}{lost if self.lost_s else ''}"
        )


def generate_live(
    request: LiveRequest,
    choice: ModelChoice = MINI,
    *,
    say: Say,
    sound: LiveSound | None = None,
    sink: BinaryIO | None = None,
) -> LiveReport:
    """Make a video of a sound as it comes, until it ends.

    Args:
        say: called with things a user should know.
        sound, sink: in place of those that the request names.
    """
    if sink is None:
        check_live(request)
    studio = Studio(choice, say=say)
    rgb = as_rgb(request.portrait, say)
    scene = studio.scene(rgb, request.settings, say=say, name=str(request.portrait))
    options = tier_options(request.settings.options, studio.tier.tier)
    with contextlib.ExitStack() as stack:
        sink = sink or stack.enter_context(_sink(request.out))
        ear = _Ear(request.audio, sound, say)
        stack.callback(ear.close)
        frames = finished(
            studio.pipeline.generate_live(scene, ear.listen, options=options, say=say), request.settings
        )
        first = next(frames, None)
        if first is None:
            raise MediaError("no sound came; nothing was made")
        meter = DelayMeter(ear.sound)
        try:
            with (
                RawWriter(sink, scene.size)
                if request.is_raw
                else _stream(sink, scene.size, ear.sound) as video
            ):
                for frame in meter.measured(chain([first], frames)):
                    video.write(frame)
        except BrokenPipeError:
            say("whoever read the video has gone")
        return meter.report()


class _Ear:
    """Opens the sound when it is asked for: whoever waits until then to speak is not behind from the beginning."""

    def __init__(self, source: str, sound: LiveSound | None, say: Say) -> None:
        self._source, self.sound, self._say = source, sound, say

    def listen(self) -> LiveSound:
        self._say(f"listening to {self._source}")
        self.sound = self.sound or open_live(self._source, say=self._say)
        return self.sound

    def close(self) -> None:
        if self.sound is not None:
            self.sound.close()


class _Writer(Protocol):
    def __enter__(self) -> _Writer: ...

    def __exit__(self, *error: Any) -> None: ...

    def write(self, frame: np.ndarray) -> None: ...


def _stream(sink: BinaryIO, size: tuple[int, int], sound: LiveSound) -> _Writer:
    return StreamWriter(sink, size=size, sound=sound.blocks(), tags={"comment": AI_TAG})


class RawWriter:
    """Frames as YUV4MPEG2, 4:2:0: what they are is said once, and each comes when it is due.

    Clips are made at once; a camera shows frames one by one. So each frame waits until it is its turn after the first.
    """

    def __init__(self, sink: BinaryIO, size: tuple[int, int]) -> None:
        self._sink, self._size, self._due_s = sink, size, 0.0

    def __enter__(self) -> RawWriter:
        width, height = self._size
        self._sink.write(
            f"YUV4MPEG2 W{width} H{height} F{FPS}:1 Ip A1:1 C420jpeg XCOLORRANGE=LIMITED\n".encode()
        )
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._sink.flush()

    def write(self, frame: np.ndarray) -> None:
        """Append one `H W 3` uint8 frame when it is due."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s + 1 / FPS, now_s)
        time.sleep(self._due_s - now_s)
        self._sink.write(b"FRAME\n")
        self._sink.write(to_yuv420(np.ascontiguousarray(frame)).data)
        self._sink.flush()


class DelayMeter:
    """How long after its sound each frame was ready, counted in steps of STEP_S."""

    def __init__(self, sound: LiveSound) -> None:
        self._sound, self._counts = sound, np.zeros(NUM_STEPS, np.int64)
        self._first_s, self._worst_s = 0.0, 0.0

    def measured(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same frames."""
        for number, frame in enumerate(frames):
            now_s = time.monotonic()
            delay_s = now_s - self._sound.arrival_s(round((number + 1) / FPS * SAMPLE_RATE_HZ))
            if number == 0:
                self._first_s = now_s - self._sound.arrival_s(0)
            self._worst_s = max(self._worst_s, delay_s)
            self._counts[min(int(delay_s / STEP_S), NUM_STEPS - 1)] += 1
            yield frame

    def report(self) -> LiveReport:
        """Of all frames so far."""
        total = int(self._counts.sum())
        median_s = STEP_S * int(np.searchsorted(self._counts.cumsum(), total / 2))
        sound = self._sound
        return LiveReport(total, self._first_s, median_s, self._worst_s, sound.dropped_s, sound.losses.lost_s)


@contextlib.contextmanager
def _sink(out: str) -> Iterator[BinaryIO]:
    """Where the video goes; nothing else may be printed there."""
    if (path := check_live_output(out)) is None:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as stream:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            yield stream
        return
    try:
        with open(path, "wb") as stream:
            yield stream
    finally:
        if path.is_file() and path.stat().st_size == 0:  # nothing was made: nothing stays
            path.unlink()
