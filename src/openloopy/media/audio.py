"""Sound in: whatever FFmpeg decodes becomes mono float32 at 16 kHz; nothing is cut in silence.

Durations are counted from decoded samples, never taken from headers. Long sounds go through the disk, so that
memory does not grow with length.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from av.container import InputContainer

from openloopy.media.files import MediaError, require_file

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.1
MAX_IN_MEMORY_S = 60
"""Longer waveforms are memory-mapped from an unlinked temporary file."""

MIN_HOLE_S, MAX_HOLE_S = 0.1, 10.0
"""Shorter holes between time stamps are jitter; longer ones are damage."""

MP4_FORMAT, MATROSKA_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
EXACT_HEADERS = ("w64", "aiff", "flac", MP4_FORMAT)
"""Formats whose header tells the length; in the others it is a guess from the bit rate or absent."""
HEADER_TOLERANCE_FRAMES = 4
RIFF_SIZE_UNKNOWN = 0x7FFF_0000
"""Programs that write wav to a pipe put 0 or something from here up in place of the size."""
RIFF_SLACK_BYTES = 8
"""Some programs count the header twice, or a padding byte that they do not write."""
CODEC_FRAME_SAMPLES = 1024
LOUDEST = 4.0
"""Arrays with larger samples are not in [-1, 1], but in some other unit."""
CHECKED_SAMPLES = 1 << 22
"""Of an array that may be a memory map, at a time."""
MP3_FRAME_BYTES = 2048
AAC_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""By number of channels, where nothing says which they are, and for twins of these layouts such as 5.1(side)."""
REMEDY = "re-export it, for example with `ffmpeg -i IN OUT.wav`"


class AudioError(MediaError):
    """A sound that cannot be used as it is."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file holds, counted and not read from its header."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    codec: str


@dataclass(frozen=True, kw_only=True)
class SoundBlock:
    """Some consecutive samples as they are in the file."""

    samples: np.ndarray
    """`channels samples`, float32, full scale 1."""
    sample_rate_hz: int
    layout: str
    """FFmpeg's name, such as "stereo" or "5.1"."""
    codec: str


def open_waveform(path: Path | str) -> np.ndarray:
    """The whole sound of an audio or video file: float32 `(samples,)`, mono, 16 kHz, within [-1, 1].

    Above MAX_IN_MEMORY_S the result is a read-only memory map of a file that is already unlinked.
    """
    spooled, damage = salvage_waveform(path)
    if damage is not None:
        raise damage
    return spooled.whole()


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
        if isinstance(sample_rate_hz, bool) or int(sample_rate_hz) != sample_rate_hz or sample_rate_hz < 1:
            raise AudioError(f"expected a sample rate in Hz, such as 16000, got {sample_rate_hz!r}")
        array = np.asanyarray(samples.detach().cpu() if hasattr(samples, "detach") else samples)
        if not np.issubdtype(array.dtype, np.floating):
            raise AudioError(
                f"expected samples as floats in [-1, 1], got {array.dtype}; divide 16-bit integers by 32768"
            )
        if array.ndim not in (1, 2) or (array.ndim == 2 and not 0 < array.shape[0] <= max(AAC_CHANNELS)):
            raise AudioError(
                f"expected sound of shape (samples,) or (channels, samples), got {array.shape}; transpose it"
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
        mono = to_mono(self.samples)
        if self.sample_rate_hz == SAMPLE_RATE_HZ and mono.dtype == np.float32:
            return mono
        return np.clip(resample(mono.astype(np.float32), self.sample_rate_hz, SAMPLE_RATE_HZ), -1, 1)

    def blocks(self) -> Iterator[SoundBlock]:
        """The same as blocks of a file."""
        samples = np.atleast_2d(self.samples)
        layout = AAC_CHANNELS[len(samples)]
        for start in range(0, samples.shape[1], CODEC_FRAME_SAMPLES):
            block = samples[:, start : start + CODEC_FRAME_SAMPLES].astype(np.float32)
            yield SoundBlock(
                samples=block, sample_rate_hz=self.sample_rate_hz, layout=layout, codec="pcm_f32le"
            )

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
        return sound
    if isinstance(sound, str | os.PathLike):
        return Path(sound)
    if isinstance(sound, tuple) and len(sound) == 2:
        return SoundArray.of(*sound)
    shape = f" of shape {tuple(sound.shape)}" if hasattr(sound, "shape") else ""
    raise AudioError(
        f"expected a sound as a path or as (samples, rate), such as (samples, 16000); got {type(sound).__name__}{shape}"
    )


def as_waveform(sound: Any) -> np.ndarray:
    """A sound (see `as_sound`) as the model hears it: mono float32 `(samples,)` at 16 kHz in [-1, 1]."""
    sound = as_sound(sound)
    return sound.waveform() if isinstance(sound, SoundArray) else open_waveform(sound)


class SpooledWaveform:
    """A waveform, float32 mono at 16 kHz, in a file that vanishes with it: what is read is in memory, no more."""

    def __init__(self, file: IO[bytes], num_samples: int) -> None:
        self._file, self._num_samples = file, num_samples

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


def salvage_waveform(path: Path | str) -> tuple[SpooledWaveform, AudioError | None]:
    """As `open_waveform`, but where a file is damaged on the way, what came before, and the error.

    Raises:
        AudioError: there is no sound at all.
    """
    damage, num_samples = None, 0
    spool = tempfile.TemporaryFile()
    try:
        for block in _resampled(read_blocks(path)):
            spool.write(np.clip(block, -1, 1).tobytes())
            num_samples += len(block)
    except AudioError as error:
        if not num_samples:
            spool.close()
            raise
        damage = error
    spool.flush()
    return SpooledWaveform(spool, num_samples), damage


def probe_audio(path: Path | str) -> AudioInfo:
    """Length, rate and channels of a sound; decodes all of it to count its samples."""
    num_samples, block = 0, None
    for block in read_blocks(path):
        num_samples += block.samples.shape[1]
    assert block is not None, "read_blocks raises rather than yield nothing"
    channels = len(block.samples)
    return AudioInfo(num_samples / block.sample_rate_hz, block.sample_rate_hz, channels, block.codec)


def read_blocks(path: Path | str) -> Iterator[SoundBlock]:
    """The sound block by block, as stored: own rate, own channels.

    Raises:
        AudioError: not decodable, no sound in it, damaged on the way, shorter than its header promises, or
            shorter than MIN_DURATION_S. It comes where it is met: consume the iterator to be sure.
    """
    path = require_file(path, "a sound or video")
    _check_riff(path)
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(f"{path} is not a sound that can be decoded ({error}); {REMEDY}") from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path} has no sound in it (streams: {_stream_kinds(container)})")
        stream = container.streams.best("audio") or container.streams.audio[0]
        promised_s = _promised_s(container, stream, path)
        blocks = _decoded(container, stream, path)
        if container.format.name == MP4_FORMAT and promised_s is not None:
            blocks = _without_padding(blocks, promised_s)
        yield from _checked(blocks, promised_s, path)


def decode_blocks(container: InputContainer, name: str) -> Iterator[SoundBlock]:
    """The sound of an open container that is closed afterwards, as it comes; its length is not known."""
    with container:
        if not container.streams.audio:
            raise AudioError(f"{name} has no sound in it (streams: {_stream_kinds(container)})")
        stream = container.streams.audio[0]
        first_sample = 0
        for block in _decoded(container, stream, name):
            if not np.isfinite(block.samples).all():
                at_s = first_sample / block.sample_rate_hz
                raise AudioError(f"{name} holds samples that are not numbers near {at_s:.2f} s")
            first_sample += block.samples.shape[1]
            yield block


def to_mono(waveform: np.ndarray) -> np.ndarray:
    """Mean of the channels: `(samples,)` or `channels samples` -> `(samples,)`."""
    if waveform.ndim == 1:
        return waveform
    if waveform.ndim != 2 or waveform.shape[0] > waveform.shape[1]:
        raise ValueError(
            f"expected sound of shape (channels, samples), got {waveform.shape}; transpose it first"
        )
    return waveform.mean(axis=0, dtype=np.float32)


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Mono float32 `(samples,)` at another rate, of round(samples * to_hz / from_hz) samples."""
    if waveform.ndim != 1:
        raise ValueError(f"expected mono sound of shape (samples,), got {waveform.shape}; call to_mono first")
    if from_hz == to_hz:
        return waveform
    return soxr.resample(waveform.astype(np.float32, copy=False), from_hz, to_hz)


def _resampled(blocks: Iterator[SoundBlock]) -> Iterator[np.ndarray]:
    """Mono blocks at SAMPLE_RATE_HZ; the stream's tail is flushed, so that no sample is lost."""
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(block.sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
        yield stream.resample_chunk(block.samples.mean(axis=0, dtype=np.float32))
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _decoded(container: InputContainer, stream: AudioStream, path: Path | str) -> Iterator[SoundBlock]:
    """All samples, with silence where the file's time stamps leave a hole, as players do."""
    to_float, codec = av.AudioResampler(format="flt"), stream.codec_context.name
    first, num_samples = None, 0
    try:
        for frame in container.decode(stream):
            first = first or frame
            _check_form(frame, first, path)
            hole = _hole(frame, first, num_samples, path)
            for samples in (hole, *(_channels_first(part) for part in to_float.resample(frame))):
                num_samples += samples.shape[1]
                if samples.shape[1]:
                    yield SoundBlock(
                        samples=samples,
                        sample_rate_hz=frame.sample_rate,
                        layout=frame.layout.name,
                        codec=codec,
                    )
    except av.error.FFmpegError as error:
        decoded_s = num_samples / first.sample_rate if first else 0
        raise AudioError(
            f"{path} is damaged or cut off after {decoded_s:.2f} s ({error}); {REMEDY}"
        ) from error


def _check_form(frame: av.AudioFrame, first: av.AudioFrame, path: Path | str) -> None:
    forms = [(f.sample_rate, f.layout.name, f.format.name) for f in (first, frame)]
    if forms[0] != forms[1]:
        raise AudioError(f"{path} changes from {forms[0]} to {forms[1]} on the way; {REMEDY}")


def _channels_first(frame: av.AudioFrame) -> np.ndarray:
    """Interleaved float frame -> `channels samples`."""
    return np.ascontiguousarray(frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T)


def _hole(frame: av.AudioFrame, first: av.AudioFrame, num_samples: int, path: Path | str) -> np.ndarray:
    """Silence for what is missing before this frame; usually no samples at all, `channels 0`."""
    missing_s = 0.0
    if frame.pts is not None and first.pts is not None:
        missing_s = float((frame.pts - first.pts) * frame.time_base) - num_samples / frame.sample_rate
    if missing_s > MAX_HOLE_S:
        at_s = num_samples / frame.sample_rate
        raise AudioError(f"{path} has a hole of {missing_s:.1f} s in its sound at {at_s:.2f} s; {REMEDY}")
    missing = round(missing_s * frame.sample_rate) if missing_s > MIN_HOLE_S else 0
    return np.zeros((frame.layout.nb_channels, missing), np.float32)


def _without_padding(blocks: Iterator[SoundBlock], promised_s: float) -> Iterator[SoundBlock]:
    """Drop the silence with which encoders fill their last frame: an mp4 states where the sound ends.

    Anything more than padding beyond the stated end is kept.
    """
    num_samples = 0
    for block in blocks:
        num_samples += block.samples.shape[1]
        excess = num_samples - round(promised_s * block.sample_rate_hz)
        if 0 < excess < min(CODEC_FRAME_SAMPLES, block.samples.shape[1]):
            block = replace(block, samples=block.samples[:, :-excess])
        yield block


def _checked(blocks: Iterator[SoundBlock], promised_s: float | None, path: Path) -> Iterator[SoundBlock]:
    """The same blocks; raises where they do not add up to one usable sound."""
    num_samples, first = 0, None
    for block in blocks:
        first = first or block
        if not np.isfinite(block.samples).all():
            at_s = num_samples / first.sample_rate_hz
            raise AudioError(f"{path} holds samples that are not numbers near {at_s:.2f} s; {REMEDY}")
        num_samples += block.samples.shape[1]
        yield block
    if first is None or num_samples == 0:
        raise AudioError(f"{path} holds no samples: its sound is empty")
    _check_length(num_samples / first.sample_rate_hz, promised_s, first.sample_rate_hz, path)


def _check_length(duration_s: float, promised_s: float | None, sample_rate_hz: int, path: Path) -> None:
    tolerance_s = HEADER_TOLERANCE_FRAMES * CODEC_FRAME_SAMPLES / sample_rate_hz
    if promised_s is not None and duration_s < promised_s - tolerance_s:
        raise AudioError(
            f"{path} is cut off: its header promises {promised_s:.2f} s, {duration_s:.2f} s are there; "
            f"get the whole file, or {REMEDY} to keep what is there"
        )
    if duration_s < MIN_DURATION_S:
        raise AudioError(f"{path} lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s of sound is needed")


def _check_riff(path: Path) -> None:
    """FFmpeg quietly accepts a wav file that is shorter than it says."""
    with open(path, "rb") as stream:
        name, size = struct.unpack("<4sI", stream.read(8).ljust(8, b"\0"))
    there, promised = path.stat().st_size, size + 8
    if name == b"RIFF" and size < RIFF_SIZE_UNKNOWN and there < promised - RIFF_SLACK_BYTES:
        raise AudioError(
            f"{path} is cut off: its header promises {promised} bytes, {there} are there; "
            f"get the whole file, or {REMEDY} to keep what is there"
        )


def _promised_s(container: InputContainer, stream: AudioStream, path: Path) -> float | None:
    """The length that the file itself states, where it does; estimates from the bit rate do not count."""
    name = container.format.name
    if name == MATROSKA_FORMAT:
        return _seconds(stream.metadata.get("DURATION"))
    is_stated = name in EXACT_HEADERS or (name == "mp3" and _has_xing_header(path))
    return float(stream.duration * stream.time_base) if is_stated and stream.duration else None


def _seconds(clock: str | None) -> float | None:
    """ "00:01:02.5" -> 62.5; None for anything else."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", clock or "")
    return (
        sum(float(part) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
        if match
        else None
    )


def _has_xing_header(path: Path) -> bool:
    """Whether an mp3 counts its frames, in a first frame made for that (behind the ID3 tag, if there is one)."""
    with open(path, "rb") as stream:
        head = stream.read(10)
        if head[:3] == b"ID3":
            stream.seek(
                10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            )
        first_frame = stream.read(MP3_FRAME_BYTES)
    return any(mark in first_frame for mark in (b"Xing", b"Info", b"VBRI"))


def _stream_kinds(container: InputContainer) -> str:
    return ", ".join(stream.type for stream in container.streams) or "none"
