"""Sound that is still coming: from a pipe, a microphone, or any blocks, decoded by a thread of its own.

What was heard and is no longer needed is forgotten, and a source that is faster than its listener waits: memory does
not grow with time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import av
import numpy as np
import soxr

from openloopy.media.audio import SAMPLE_RATE_HZ, cancelled
from openloopy.media.channels import ChannelPowers, one_channel
from openloopy.media.sound_clock import SoundLoss
from openloopy.media.sound_file import MIN_DURATION_S, AudioError, SoundBlock, decode_blocks, told

MAX_AHEAD_S = 2.0
"""Sound that is taken before it is used."""
WhenFull = Literal["wait", "drop"]
"""What becomes of more than that: a pipe waits, a microphone does not, and what nobody had time for is left out."""
PIPE, RAW, MICROPHONE = "-", "pcm:", "mic"
SOURCES = (
    f"{PIPE!r} (standard input), '{RAW}RATE' (raw 16-bit mono on standard input) or '{MICROPHONE}[:DEVICE]'"
)
DEVICES = {"linux": ("alsa", "default"), "darwin": ("avfoundation", ":default"), "win32": ("dshow", "")}
"""By platform: FFmpeg's input and the name of its usual microphone; Windows has no such name."""
REMEMBERED_ARRIVALS = 4096
"""Blocks whose time of arrival is known."""
PROBED_BYTES = 1 << 15
"""Of a pipe, before it is known what comes: FFmpeg's own 5 MB would be heard minutes late."""


CHANNELS_MEMORY_S = 10.0
"""Whether the channels cancel each other is judged by so much of the past."""
Say = Callable[[str], None]


class LiveLosses:
    """What a sound that is still coming has lost: the first time is told, all is counted."""

    def __init__(self, name: str = "the sound", say: Say | None = None) -> None:
        self._name, self._say = name, say
        self.lost_s = 0.0

    def add(self, loss: SoundLoss) -> None:
        """Counts a loss."""
        if self._say and self.lost_s == 0:
            self._say(told([loss], self._name)[0])
        self.lost_s += loss.lost_s


class LiveSound:
    """The sound so far, float32 mono at 16 kHz, and its blocks as they came."""

    def __init__(
        self,
        blocks: Iterable[SoundBlock],
        max_ahead_s: float = MAX_AHEAD_S,
        when_full: WhenFull = "wait",
        *,
        losses: LiveLosses | None = None,
        say: Say | None = None,
    ) -> None:
        """
        Args:
            losses: told of what the blocks have lost.
            say: called with what a user should know, from another thread.
        """
        self._blocks, self._max_ahead = blocks, round(max_ahead_s * SAMPLE_RATE_HZ)
        self.losses, self._say = losses or LiveLosses(), say
        self._when_full = when_full
        self.dropped_s = 0.0
        """Seconds of sound that were left out."""
        self._changed = threading.Condition()
        self._samples, self._first = np.zeros(0, np.float32), 0
        self._num_samples = self._num_used = 0
        self._unread: deque[SoundBlock] = deque()
        self._arrivals: deque[tuple[int, float]] = deque([(0, time.monotonic())], maxlen=REMEMBERED_ARRIVALS)
        self._has_ended, self._is_closed, self._error = False, False, None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait_for(self, num_samples: int) -> int:
        """Blocks until so many samples have come or the sound has ended; how many there are, at most num_samples.

        Raises:
            AudioError: the sound was damaged on the way.
        """
        with self._changed:
            self._num_used = max(self._num_used, num_samples)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_samples >= num_samples or self._has_ended)
            if self._num_samples < num_samples and self._error is not None:
                raise self._error
            return min(self._num_samples, num_samples)

    @property
    def has_ended(self) -> bool:
        """Whether no more samples come."""
        with self._changed:
            return self._has_ended

    @property
    def num_samples(self) -> int:
        """Samples that have come so far."""
        with self._changed:
            return self._num_samples

    def read(self, begin: int, end: int) -> np.ndarray:
        """Samples begin .. end - 1; zeros where there are none (yet), which `forget` has left."""
        out = np.zeros(max(end - begin, 0), np.float32)
        with self._changed:
            first, last = max(begin, self._first), min(end, self._num_samples)
            if first < last:
                out[first - begin : last - begin] = self._samples[first - self._first : last - self._first]
        return out

    def forget(self, before: int) -> None:
        """Samples before this one are no longer needed."""
        with self._changed:
            before = min(max(before, self._first), self._num_samples)
            self._samples, self._first = self._samples[before - self._first :].copy(), before

    def blocks(self) -> Iterator[SoundBlock]:
        """The sound as it came, each block once; waits for the next."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unread or self._has_ended)
                if not self._unread:
                    return
                block = self._unread.popleft()
            yield block

    def arrival_s(self, sample: int) -> float:
        """When this sample had come (`time.monotonic`); of long ago, the earliest that is remembered."""
        with self._changed:
            return next((at for count, at in self._arrivals if count >= sample), self._arrivals[-1][1])

    def close(self) -> None:
        """Listen no longer."""
        with self._changed:
            self._is_closed = self._has_ended = True
            self._changed.notify_all()

    def _listen(self) -> None:
        stream = None
        try:
            for block, mono in self._heard():
                if stream is None:
                    stream = soxr.ResampleStream(block.sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
                if not self._take(block, stream.resample_chunk(mono)):
                    return
            if stream is not None:
                self._take(None, stream.resample_chunk(np.zeros(0, np.float32), last=True))
            if self._num_samples < MIN_DURATION_S * SAMPLE_RATE_HZ:
                raise AudioError(f"the sound ended before {MIN_DURATION_S} s of it had come")
        except Exception as error:  # handed to whoever waits
            self._error = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _heard(self) -> Iterator[tuple[SoundBlock, np.ndarray]]:
        """The blocks, and what the model hears of each: the mean of the channels, or the louder one if they cancel."""
        powers, is_told = None, False
        for block in self._blocks:
            powers = powers or ChannelPowers(CHANNELS_MEMORY_S * block.sample_rate_hz)
            powers.add(block.samples)
            channel = powers.loudest if powers.cancel else None
            if channel is not None and self._say and not is_told:
                self._say(cancelled("this sound", channel))
                is_told = True
            yield block, one_channel(block.samples, channel)

    def _take(self, block: SoundBlock | None, samples: np.ndarray) -> bool:
        """Whether more is wanted."""
        with self._changed:
            if self._when_full == "drop" and self._num_samples >= self._num_used + self._max_ahead:
                self.dropped_s += len(samples) / SAMPLE_RATE_HZ
                return not self._is_closed
            self._changed.wait_for(
                lambda: self._is_closed or self._num_samples < self._num_used + self._max_ahead
            )
            if block is not None:
                self._unread.append(block)
            self._samples = np.concatenate([self._samples, np.clip(samples, -1, 1)])
            self._num_samples += len(samples)
            self._arrivals.append((self._num_samples, time.monotonic()))
            self._changed.notify_all()
            return not self._is_closed


def open_live(source: str, standard_input: Any = None, *, say: Say | None = None) -> LiveSound:
    """The sound of a source, such as "-"; see SOURCES.

    Args:
        say: called with what a user should know, such as that some of the sound is lost; from another thread.

    Raises:
        AudioError: no such source, or nothing that can be decoded comes from it.
    """
    container, when_full = _open_source(source, standard_input)
    losses = LiveLosses(f"the sound from {source!r}", say)
    blocks = decode_blocks(container, source, losses.add)
    return LiveSound(blocks, when_full=when_full, losses=losses, say=say)


def _open_source(source: str, standard_input: Any) -> tuple[av.container.InputContainer, WhenFull]:
    if source == PIPE:
        return _open(_AsItComes(standard_input), source), "wait"
    if source.startswith(RAW):
        return _open_raw(source, _AsItComes(standard_input)), "wait"
    if source == MICROPHONE or source.startswith(f"{MICROPHONE}:"):
        return _open_microphone(source), "drop"
    raise AudioError(f"{source!r} is not a live sound; give {SOURCES}")


def is_live_source(source: str) -> bool:
    """Whether `open_live` knows this kind of name."""
    return source in (PIPE, MICROPHONE) or source.startswith((RAW, f"{MICROPHONE}:"))


class _AsItComes:
    """Standard input whose reads give what is there: a buffered one would wait for whole blocks."""

    def __init__(self, stream: Any) -> None:
        self._number = (stream or sys.stdin.buffer).fileno()

    def read(self, size: int) -> bytes:
        return os.read(self._number, size)


def _open(file: Any, source: str, **settings: Any) -> av.container.InputContainer:
    options = {"probesize": str(PROBED_BYTES), **settings.pop("options", {})}
    try:
        return av.open(file, options=options, metadata_errors="replace", **settings)
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(
            f"what comes from {source!r} is not a sound that can be decoded ({error})"
        ) from error


def _open_raw(source: str, file: _AsItComes) -> av.container.InputContainer:
    rate = source.removeprefix(RAW)
    if not rate.isdigit() or not 4_000 <= int(rate) <= 192_000:
        raise AudioError(f"expected '{RAW}RATE' with a rate of 4000 to 192000 Hz, got {source!r}")
    # Small packets: FFmpeg's own are of a tenth of a second and more.
    return _open(file, source, format="s16le", options={"sample_rate": rate, "ch_layout": "mono"})


def _open_microphone(source: str) -> av.container.InputContainer:
    if sys.platform not in DEVICES:
        raise AudioError(
            f"microphones are not known on {sys.platform}; record into a pipe, and give {PIPE!r}"
        )
    form, usual = DEVICES[sys.platform]
    device = source.removeprefix(MICROPHONE).removeprefix(":") or usual
    if form not in av.formats_available or not device:
        raise AudioError(
            f"this build of PyAV has no {form}, or it needs '{MICROPHONE}:DEVICE'; a pipe works anywhere"
        )
    try:
        return av.open(device, format=form)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise AudioError(
            f"the microphone {device!r} cannot be opened ({error}); name another: '{MICROPHONE}:DEVICE'"
        ) from error
