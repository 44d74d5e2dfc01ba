"""Sound in: whatever FFmpeg decodes becomes mono float32 at 16 kHz; nothing is cut in silence.

Durations are counted from decoded samples, never taken from headers. Long sounds go through the disk, so that
memory does not grow with length.
"""

from __future__ import annotations

import contextlib
import numbers
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import soxr

from openloopy.media.channels import AAC_CHANNELS, ChannelPowers, one_channel, to_mono
from openloopy.media.sound_clock import SoundLoss
from openloopy.media.sound_file import (
    CODEC_FRAME_SAMPLES,
    MIN_DURATION_S,
    MIN_RATE_HZ,
    AudioError,
    AudioInfo,
    SoundBlock,
    SoundReader,
)

SAMPLE_RATE_HZ = 16_000
MAX_IN_MEMORY_S = 60
"""Longer waveforms are memory-mapped from an unlinked temporary file."""
LOUDEST = 4.0
"""Arrays with larger samples are not in [-1, 1], but in some other unit."""
CHECKED_SAMPLES = 1 << 22
"""Of an array that may be a memory map, at a time."""


class SpooledWaveform:
    """A waveform, float32 mono at 16 kHz, in a file that vanishes with it: what is read is in memory, no more."""

    def __init__(self, file: IO[bytes], num_samples: int, losses: Sequence[SoundLoss] = ()) -> None:
        """losses: of the sound that it is made from."""
        self._file, self._num_samples = file, num_samples
        self._gaps = [
            (round(loss.at_s * SAMPLE_RATE_HZ), round((loss.at_s + loss.lost_s) * SAMPLE_RATE_HZ))
            for loss in losses
            if loss.is_gap
        ]

    def __len__(self) -> int:
        return self._num_samples

    def read(self, first: int, count: int) -> np.ndarray:
        """At most `count` samples from `first` (at least 0) on."""
        self._file.seek(4 * first)
        return np.frombuffer(self._file.read(4 * max(count, 0)), dtype=np.float32)

    def whole(self) -> np.ndarray:
        """All samples; above MAX_IN_MEMORY_S a read-only memory map."""
        if len(self) > MAX_IN_MEMORY_S * SAMPLE_RATE_HZ:
            return np.memmap(self._file, dtype=np.float32, mode="r", shape=(len(self),))
        return self.read(0, len(self))

    def num_lost(self, first: int, count: int) -> int:
        """How many of `count` samples from `first` on are silence in place of lost sound."""
        return sum(max(min(first + count, end) - max(first, begin), 0) for begin, end in self._gaps)


@dataclass(frozen=True, eq=False)
class OpenSound:
    """The sound of a file, read once."""

    waveform: SpooledWaveform
    info: AudioInfo
    start_s: float
    """When its first sample is heard, on the clock of the file."""
    losses: tuple[SoundLoss, ...]
    notes: tuple[str, ...]
    """What a user should know of it, in sentences; losses are among them."""


def open_sound(path: Path | str) -> OpenSound:
    """The sound of an audio or video file as the model hears it, and what was found in it.

    Raises:
        AudioError: there is no sound in it, or less than MIN_DURATION_S.
    """
    reader, powers = SoundReader(path), ChannelPowers()
    spool, num_samples = _spooled(powers.watch(reader))
    notes = reader.told()
    if powers.cancel:
        spool, num_samples = _spooled(SoundReader(path), powers.loudest)
        notes.append(cancelled(path, powers.loudest))
    return OpenSound(
        waveform=SpooledWaveform(spool, num_samples, reader.losses),
        info=reader.info,
        start_s=reader.start_s,
        losses=tuple(reader.losses),
        notes=tuple(notes),
    )


def open_waveform(path: Path | str, say: Callable[[str], None] | None = None) -> np.ndarray:
    """The whole sound of an audio or video file: float32 `(samples,)`, mono, 16 kHz, within [-1, 1].

    Above MAX_IN_MEMORY_S the result is a read-only memory map of a file that is already unlinked.

    Args:
        say: called with what a user should know, such as that some of the sound is lost.
    """
    sound = open_sound(path)
    for note in sound.notes if say else ():
        say(note)
    return sound.waveform.whole()


@dataclass(frozen=True, eq=False)
class SoundArray:
    """A sound that is in memory: samples, `(samples,)` or `channels samples`, floats of full scale 1."""

    samples: np.ndarray
    sample_rate_hz: int

    @staticmethod
    def of(samples: Any, sample_rate_hz: Any) -> SoundArray:
        """An array of numpy or torch, checked.

        Raises:
            AudioError: not floats, of another shape, not numbers, far beyond full scale, or too short.
        """
        is_number = isinstance(sample_rate_hz, numbers.Real) and not isinstance(sample_rate_hz, bool)
        if not is_number or sample_rate_hz % 1 or not sample_rate_hz >= MIN_RATE_HZ:
            raise AudioError(f"expected a sample rate in Hz, such as 16000, got {sample_rate_hz!r}")
        array = np.asanyarray(samples.detach().cpu() if hasattr(samples, "detach") else samples)
        if not np.issubdtype(array.dtype, np.floating):
            raise AudioError(
                f"expected samples as floats in [-1, 1], got {array.dtype}; divide 16-bit integers by 32768"
            )
        if array.ndim not in (1, 2) or (array.ndim == 2 and not 0 < array.shape[0] <= max(AAC_CHANNELS)):
            raise AudioError(
                f"expected sound of shape (samples,) or (channels, samples) of at most {max(AAC_CHANNELS)} channels, "
                f"got {array.shape}; transpose it, or mix it down"
            )
        sound = SoundArray(array, int(sample_rate_hz))
        if sound.duration_s < MIN_DURATION_S:
            raise AudioError(
                f"the sound lasts {sound.duration_s:.3f} s; at least {MIN_DURATION_S} s of sound is needed"
            )
        sound._check_samples()
        return sound

    @property
    def duration_s(self) -> float:
        return self.samples.shape[-1] / self.sample_rate_hz

    def waveform(self) -> np.ndarray:
        """Mono at 16 kHz in [-1, 1], float32 `(samples,)`; what is so already is not copied."""
        channel = self._heard_channel
        mono = to_mono(self.samples) if channel is None else self.samples[channel]
        if self.sample_rate_hz == SAMPLE_RATE_HZ and mono.dtype == np.float32:
            return mono
        return np.clip(resample(mono.astype(np.float32), self.sample_rate_hz, SAMPLE_RATE_HZ), -1, 1)

    def told(self) -> list[str]:
        """Sentences about what a user should know."""
        return [] if self._heard_channel is None else [cancelled("the sound", self._heard_channel)]

    def blocks(self) -> Iterator[SoundBlock]:
        """The same as blocks of a file."""
        samples = np.atleast_2d(self.samples)
        layout = AAC_CHANNELS[len(samples)]
        for start in range(0, samples.shape[1], CODEC_FRAME_SAMPLES):
            block = samples[:, start : start + CODEC_FRAME_SAMPLES].astype(np.float32)
            yield SoundBlock(
                samples=block, sample_rate_hz=self.sample_rate_hz, layout=layout, codec="pcm_f32le"
            )

    @cached_property
    def _heard_channel(self) -> int | None:
        """The one channel that the model hears; None: their mean."""
        if self.samples.ndim == 1:
            return None
        powers = ChannelPowers()
        for start in range(0, self.samples.shape[1], CHECKED_SAMPLES):
            powers.add(self.samples[:, start : start + CHECKED_SAMPLES])
        return powers.loudest if powers.cancel else None

    def _check_samples(self) -> None:
        for start in range(0, self.samples.shape[-1], CHECKED_SAMPLES):
            loudest = float(np.abs(self.samples[..., start : start + CHECKED_SAMPLES]).max())
            if not np.isfinite(loudest):
                raise AudioError("the sound holds samples that are not numbers (NaN or infinite)")
            if loudest > LOUDEST:
                raise AudioError(
                    f"the sound has samples up to {loudest:.3g}, expected floats in [-1, 1]; "
                    "divide 16-bit ones by 32768"
                )


def as_sound(sound: Any) -> Path | SoundArray:
    """A sound file's path, or an array: `(samples, rate)` of numpy or torch, checked."""
    if isinstance(sound, SoundArray):
        return SoundArray.of(sound.samples, sound.sample_rate_hz)
    if isinstance(sound, str | os.PathLike):
        return Path(sound)
    if isinstance(sound, tuple) and len(sound) == 2:
        return SoundArray.of(*sound)
    shape = f" of shape {tuple(sound.shape)}" if hasattr(sound, "shape") else ""
    raise AudioError(
        f"expected a sound as a path or as (samples, rate), such as (samples, 16000); got {type(sound).__name__}{shape}"
    )


def as_waveform(sound: Any, say: Callable[[str], None] | None = None) -> np.ndarray:
    """A sound (see `as_sound`) as the model hears it: mono float32 `(samples,)` at 16 kHz in [-1, 1].

    Args:
        say: called with what a user should know, such as that some of the sound is lost.
    """
    sound = as_sound(sound)
    if not isinstance(sound, SoundArray):
        return open_waveform(sound, say)
    for note in sound.told() if say else ():
        say(note)
    return sound.waveform()


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Mono float32 `(samples,)` at another rate, of round(samples * to_hz / from_hz) samples."""
    if waveform.ndim != 1:
        raise ValueError(f"expected mono sound of shape (samples,), got {waveform.shape}; call to_mono first")
    if from_hz == to_hz:
        return waveform
    return soxr.resample(waveform.astype(np.float32, copy=False), from_hz, to_hz)


def _spooled(blocks: Iterable[SoundBlock], channel: int | None = None) -> tuple[IO[bytes], int]:
    """A sound as the model hears it in a temporary file, and its number of samples. channel: see `one_channel`."""
    spool, num_samples = tempfile.TemporaryFile(), 0
    try:
        for piece in _resampled(blocks, channel):
            num_samples += len(piece)
            with _naming_the_place():
                spool.write(np.clip(piece, -1, 1).tobytes())
        with _naming_the_place():
            spool.flush()
    except BaseException:
        spool.close()
        raise
    return spool, num_samples


@contextlib.contextmanager
def _naming_the_place() -> Iterator[None]:
    """A file without a name is full: where it lies is what the user can change."""
    try:
        yield
    except OSError as error:
        what = (
            f"the temporary folder cannot hold the sound ({error.strerror}); free space there, or set TMPDIR"
        )
        raise OSError(error.errno, what, tempfile.gettempdir()) from error


def _resampled(blocks: Iterable[SoundBlock], channel: int | None) -> Iterator[np.ndarray]:
    """Mono pieces at SAMPLE_RATE_HZ; the stream's tail is flushed, so that no sample is lost."""
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(block.sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
        yield stream.resample_chunk(one_channel(block.samples, channel))
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def cancelled(name: Path | str, channel: int) -> str:
    """What is said where one channel alone is heard."""
    return (
        f"the channels of {name} are out of phase and cancel each other; only the louder one, channel {channel + 1}, "
        "moves the lips"
    )
