"""Sound as it lies in a file: block by block, on one time line, in one form, whatever is damaged on the way.

What a player would play is used. Where a file has lost something there is silence of the same length, so that all
that follows stays in its place; what is missing at the end is not made up. Each loss is noted.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from openloopy.media.files import MediaError, ffmpeg_url, require_file
from openloopy.media.sound_clock import SoundClock, SoundLoss
from openloopy.media.sound_headers import MP4_FORMAT, WavLengths, ogg_links, stated_length_s, wav_lengths

MIN_DURATION_S = 0.1
MIN_RATE_HZ = 1000
"""A sound of fewer samples a second holds nothing to hear."""
CODEC_FRAME_SAMPLES = 1024
HEADER_TOLERANCE_FRAMES = 4
MAX_BLOCK_SAMPLES = 1 << 16
MAX_SAMPLE = 1e6
"""Full scale is 1. What is far beyond is no sound, and would make all that follows it overflow."""
OWN_ORDER = re.compile(r"\d+ channels \(|ambisonic")
"""How FFmpeg names channels that are in no usual order."""
REMEDY = "re-export it, for example with `ffmpeg -i IN OUT.wav`"


class AudioError(MediaError):
    """A sound that cannot be used as it is."""


@dataclass(frozen=True, kw_only=True)
class SoundBlock:
    """Some consecutive samples as they are in the file."""

    samples: np.ndarray
    """`channels samples`, float32, full scale 1."""
    sample_rate_hz: int
    layout: str
    """FFmpeg's name, such as "stereo" or "5.1"."""
    codec: str


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file holds, counted and not read from its header."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    codec: str


GAPS = {
    "damaged": "it is damaged",
    "missing": "its time stamps leave a hole",
    "not numbers": "there are samples that are not numbers",
}


def told(losses: Sequence[SoundLoss], name: Path | str) -> list[str]:
    """A sentence about what is lost on the way, and one about the end; none where nothing is."""
    sentences = []
    if gaps := [loss for loss in losses if loss.is_gap]:
        lost, at = _seconds(sum(gap.lost_s for gap in gaps)), f"{gaps[0].at_s:.2f} s"
        where = f"at {at}" if len(gaps) == 1 else f"in {len(gaps)} places, the first at {at}"
        why = " and ".join(GAPS[kind] for kind in dict.fromkeys(gap.why for gap in gaps))
        sentences.append(f"{name} has lost {lost} of its sound {where} ({why}); it is silent there")
    for loss in losses:
        if loss.why == "tail":
            sentences.append(
                f"{name} holds something after {loss.at_s:.2f} s that cannot be decoded; it is left out"
            )
        elif loss.why == "cut off":
            sentences.append(
                f"{name} is cut off: its header promises {loss.at_s + loss.lost_s:.2f} s of sound, {loss.at_s:.2f} s "
                "are there and are used"
            )
    return sentences


class SoundReader:
    """The sound of a file or video block by block, as stored: own rate, own channels; the first form where it changes.

    It may be read again, and gives the same. What is known of the whole is known once it has been read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = require_file(path, "a sound or video")
        self.losses: list[SoundLoss] = []
        self.notes: list[str] = []
        """What else is to be known."""
        self.start_s = 0.0
        """When the first sample is heard, on the clock of the file."""
        self.info = AudioInfo(0.0, 0, 0, "")
        self._stated_s: float | None = None
        self._is_exact = False
        """Whether the header's length is meant to the sample."""

    def __iter__(self) -> Iterator[SoundBlock]:
        """Raises AudioError where there is no sound at all, or less than MIN_DURATION_S."""
        self.losses, self.notes = [], []
        decoder, num_samples, first = SoundDecoder(self.path, self._lose), 0, None
        for block in self._decoded(decoder):
            first = first or block
            num_samples += block.samples.shape[1]
            yield block
        if first is None or num_samples == 0:
            raise AudioError(
                f"{self.path} holds no samples: its sound is empty or cannot be decoded; {REMEDY}"
            )
        rate_hz, self.start_s = first.sample_rate_hz, decoder.start_s
        self.info = AudioInfo(num_samples / rate_hz, rate_hz, len(first.samples), first.codec)
        self._check_end(decoder)

    def told(self) -> list[str]:
        """Sentences about what a user should know."""
        return [*self.notes, *told(self.losses, self.path)]

    def _decoded(self, decoder: SoundDecoder) -> Iterator[SoundBlock]:
        lengths, self._stated_s = wav_lengths(self.path), None
        options = {"ignore_length": "1"} if lengths and lengths.goes_on else {}
        for number, source in enumerate(self._sources()):
            try:
                container, stream = _open(source, options, self.path)
            except AudioError:
                if not number:
                    raise
                self._lose(SoundLoss(at_s=decoder.duration_s, lost_s=0.0, why="tail"))
                continue
            with container:
                blocks = decoder.decode(container, stream)
                if container.format.name == MP4_FORMAT and stream.duration:
                    blocks = _without_padding(blocks, float(stream.duration * stream.time_base))
                yield from blocks
                if not number:
                    self._stated_s = stated_length_s(container, stream, self.path, decoder.start_s)
        self._is_exact = lengths is not None
        if lengths:
            self._note_lengths(lengths, decoder.duration_s)

    def _note_lengths(self, lengths: WavLengths, there_s: float) -> None:
        if lengths.goes_on:
            self.notes.append(f"{self.path} goes on after the end that its header states; all of it is used")
        if lengths.is_joined:
            self.notes.append(f"{self.path} is several wav files in one; only the first is used")
        if lengths.share < 1:
            self._stated_s = there_s / lengths.share

    def _sources(self) -> Iterator[Any]:
        """What FFmpeg is to open, one after the other: it gives up where an Ogg of another form is joined."""
        links = ogg_links(self.path)
        if len(links) < 2:
            yield ffmpeg_url(self.path)
            return
        for begin, end in links:
            with open(self.path, "rb") as file:
                yield _Slice(file, begin, end)

    def _lose(self, loss: SoundLoss) -> None:
        """Notes a loss; what follows another one at once is one with it."""
        last = self.losses[-1] if self.losses else None
        if last and last.why == loss.why and abs(last.at_s + last.lost_s - loss.at_s) < 1e-3:
            self.losses[-1] = replace(last, lost_s=last.lost_s + loss.lost_s)
        else:
            self.losses.append(loss)

    def _check_end(self, decoder: SoundDecoder) -> None:
        there_s = self.info.duration_s
        if there_s < MIN_DURATION_S:
            raise AudioError(
                f"{self.path} lasts {there_s:.3f} s; at least {MIN_DURATION_S} s of sound is needed"
            )
        unusable_s = sum(loss.lost_s for loss in self.losses if loss.why == "not numbers")
        if unusable_s > there_s - MIN_DURATION_S:
            raise AudioError(
                f"{self.path} holds samples that are not numbers, and hardly any that are; {REMEDY}"
            )
        tolerance = 0 if self._is_exact else HEADER_TOLERANCE_FRAMES * CODEC_FRAME_SAMPLES
        tolerance_s = tolerance / decoder.rate_hz
        if self._stated_s is not None and there_s < self._stated_s - tolerance_s:
            self._lose(SoundLoss(at_s=there_s, lost_s=self._stated_s - there_s, why="cut off"))
        elif decoder.tail:
            self._lose(replace(decoder.tail, at_s=there_s))


class SoundDecoder:
    """Packets of a sound, or of several that follow one another, to blocks on one time line."""

    def __init__(self, name: Path | str, lose: Callable[[SoundLoss], None]) -> None:
        """name: of what is decoded. lose: told of each gap."""
        self._name, self._lose = name, lose
        self.rate_hz, self._layout, self._num_channels = 0, "", 0
        self._num_samples = 0
        self._clock, self._codec = SoundClock(""), ""
        self.start_s = 0.0
        """When the first sample is heard, on the clock of the file."""

    @property
    def duration_s(self) -> float:
        """Of all blocks so far."""
        return self._num_samples / self.rate_hz if self.rate_hz else 0.0

    @property
    def tail(self) -> SoundLoss | None:
        """What could not be decoded after the last block."""
        failures = self._clock.failures
        return failures and SoundLoss(at_s=self.duration_s, lost_s=failures.duration_s, why="tail")

    def decode(self, container: InputContainer, stream: AudioStream) -> Iterator[SoundBlock]:
        """The blocks of a stream; they follow those of an earlier one."""
        self._clock, self._codec = SoundClock(container.format.name), stream.codec_context.name
        form = converter = None
        for frame in self._frames(container, stream):
            if _form(frame) != form:
                yield from self._flushed(converter)
                form, converter = _form(frame), self._converter(frame)
            yield from self._blocks(self._gap(frame))
            for part in converter.resample(frame):
                yield from self._blocks(self._usable(_channels_first(part)))
        yield from self._flushed(converter)

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
        """All that can be decoded."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:  # players end here too
                self._clock.note_failure()
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                if packet.size:
                    self._clock.note_failure(packet)
                continue
            self._clock.note_sound(packet)
            yield from (frame for frame in frames if frame.samples)

    def _converter(self, frame: av.AudioFrame) -> av.AudioResampler:
        """To floats at the first form's rate; notes that form."""
        if not self.rate_hz:
            if frame.sample_rate < MIN_RATE_HZ:
                raise AudioError(
                    f"{self._name} has {frame.sample_rate} samples a second, at least {MIN_RATE_HZ} are needed; if "
                    "its header is wrong, re-export it with the right rate"
                )
            self.rate_hz, self._layout = frame.sample_rate, frame.layout.name
            self._num_channels = frame.layout.nb_channels
        return av.AudioResampler(format="flt", rate=self.rate_hz)

    def _gap(self, frame: av.AudioFrame) -> np.ndarray:
        """Silence for what is missing before this frame; usually no samples at all, `channels 0`."""
        loss = self._clock.gap(frame, self.duration_s)
        if self._num_samples == 0:
            self.start_s = self._clock.first_s or 0.0
        if loss:
            self._lose(loss)
        return np.zeros((self._num_channels, round(loss.lost_s * self.rate_hz) if loss else 0), np.float32)

    def _usable(self, samples: np.ndarray) -> np.ndarray:
        """Samples with the first form's number of channels, and silence for those that are not numbers."""
        if len(samples) != self._num_channels:
            mono = samples.mean(axis=0, dtype=np.float32)
            samples = np.repeat(mono[None], self._num_channels, axis=0)
        is_number = (np.abs(samples) <= MAX_SAMPLE).all(axis=0)  # NaN is not either
        if not is_number.all():
            at_s = self.duration_s + float(np.argmin(is_number)) / self.rate_hz
            lost_s = float((~is_number).sum()) / self.rate_hz
            self._lose(SoundLoss(at_s=at_s, lost_s=lost_s, why="not numbers"))
            samples = np.where(is_number, samples, np.float32(0))
        return samples

    def _flushed(self, converter: av.AudioResampler | None) -> Iterator[SoundBlock]:
        """What a change of rate has held back."""
        for part in converter.resample(None) if converter else ():
            yield from self._blocks(self._usable(_channels_first(part)))

    def _blocks(self, samples: np.ndarray) -> Iterator[SoundBlock]:
        """One block, or none of no samples; long silence in several."""
        for start in range(0, samples.shape[1], MAX_BLOCK_SAMPLES):
            block = samples[:, start : start + MAX_BLOCK_SAMPLES]
            self._num_samples += block.shape[1]
            yield SoundBlock(
                samples=block, sample_rate_hz=self.rate_hz, layout=self._layout, codec=self._codec
            )


def decode_blocks(
    container: InputContainer, name: str, lose: Callable[[SoundLoss], None]
) -> Iterator[SoundBlock]:
    """The sound of an open container that is closed afterwards, as it comes; its length is not known."""
    with container:
        decoder = SoundDecoder(name, lose)
        yield from decoder.decode(container, sound_stream(container, name))
        if decoder.tail:
            lose(decoder.tail)


def sound_stream(container: InputContainer, name: Path | str) -> AudioStream:
    """The sound that a player would choose."""
    known = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if not container.streams.audio:
        kinds = ", ".join(stream.type for stream in container.streams) or "none"
        raise AudioError(f"{name} has no sound in it (streams: {kinds})")
    if not known:
        raise AudioError(f"{name} has a sound in a form that FFmpeg does not know; {REMEDY}")
    best = container.streams.best("audio")
    return _in_plain_order(best if best in known else known[0])


def _in_plain_order(stream: AudioStream) -> AudioStream:
    """The stream, its channels in FFmpeg's own order or without names: Apple's files may have an order of their own.

    PyAV (from 17.1 on, https://github.com/PyAV-Org/PyAV/pull/2284) frees the description of such an order twice, which
    ends the process. So the first object that holds it is never let go, and no frame gets another.
    """
    context = stream.codec_context
    layout = context.layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    if layout.nb_channels:
        context.layout = f"{layout.nb_channels} channels" if OWN_ORDER.match(layout.name) else layout.name
    return stream


def _open(source: Any, options: dict[str, str], name: Path) -> tuple[InputContainer, AudioStream]:
    try:
        # Titles in other encodings than UTF-8 are none of our business.
        container = av.open(source, options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(f"{name} is not a sound that can be decoded ({error}); {REMEDY}") from error
    try:
        return container, sound_stream(container, name)
    except AudioError:
        container.close()
        raise


def _form(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _channels_first(frame: av.AudioFrame) -> np.ndarray:
    """Interleaved float frame -> `channels samples`."""
    return np.ascontiguousarray(frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T)


def _without_padding(blocks: Iterator[SoundBlock], stated_s: float) -> Iterator[SoundBlock]:
    """Drop the silence with which encoders fill their last frame: an mp4 states where the sound ends.

    Anything more than padding beyond the stated end is kept.
    """
    num_samples = 0
    for block in blocks:
        num_samples += block.samples.shape[1]
        excess = num_samples - round(stated_s * block.sample_rate_hz)
        if 0 < excess < min(CODEC_FRAME_SAMPLES, block.samples.shape[1]):
            block = replace(block, samples=block.samples[:, :-excess])
        yield block


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else "less than 0.01 s"


class _Slice:
    """A part of a file as a file."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        self._file, self._begin, self._size, self._place = file, begin, end - begin, 0

    def read(self, count: int) -> bytes:
        self._file.seek(self._begin + self._place)
        data = self._file.read(max(min(count, self._size - self._place), 0))
        self._place += len(data)
        return data

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + place
        return self._place

    def tell(self) -> int:
        return self._place
