"""What the headers of sound files say of their length, and where they lie.

Lengths are only used to tell what is missing at the end, and to leave out the padding of the last frame in an mp4;
what is there is counted. Estimates from the bit rate do not count as said.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from av.audio.stream import AudioStream
from av.container import InputContainer

MP4_FORMAT, MATROSKA_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
EXACT_HEADERS = ("aiff", "caf", "flac", "tta", "wv", MP4_FORMAT)
"""Formats whose length FFmpeg takes from the header, and not from the file's size or bit rate."""
RIFF_SIZE_UNKNOWN = 0x7FFF_0000
"""Programs that write wav to a pipe put 0 or something from here up in place of the size."""
RIFF_SLACK_BYTES = 8
"""Some programs count a header or a padding byte that they do not write."""
MIN_STRAY_S = 0.1
"""Shorter rests behind a wav's sound are padding."""
MP3_FRAME_BYTES = 2048
MPEG1_FRAME_SAMPLES, MPEG1_RATES_HZ = 1152, (44_100, 48_000, 32_000)
MPEG_DIVISORS = {3: 1, 2: 2, 0: 4}
"""By version (1, 2, 2.5): what rates are divided by; frames are half as long in the later two."""
OGG_PAGE, OGG_FIRST_PAGE = b"OggS\x00", b"OggS\x00\x02"
OGG_HEADER_BYTES = 27


@dataclass(frozen=True, kw_only=True)
class WavLengths:
    """What a wav says of its sound, and what is there, in bytes."""

    stated: int | None
    """None where it says nothing, as from a program that wrote to a pipe."""
    there: int
    """From the sound's beginning to the file's end."""
    goes_on: bool
    """Whether more sound follows where it should end: from 4 GB on sizes do not fit their field, and a recorder that
    lost its power leaves an old one."""
    is_joined: bool
    """Whether another wav follows, which players leave out."""

    @property
    def share(self) -> float:
        """Of the sound, how much is there."""
        is_whole = self.stated is None or self.there >= self.stated - RIFF_SLACK_BYTES
        return 1.0 if is_whole else self.there / self.stated


def stated_length_s(
    container: InputContainer, stream: AudioStream, path: Path, start_s: float
) -> float | None:
    """The length of the sound that the file itself states, where it does.

    Args:
        start_s: when the track's sound begins on the file's clock, for Matroska states when it ends.
    """
    name = container.format.name
    if name == MATROSKA_FORMAT:
        end_s = clock_seconds(stream.metadata.get("DURATION"))
        return None if end_s is None else end_s - start_s
    if name == "mp3":
        return _mp3_length_s(path)
    is_stated = name in EXACT_HEADERS and stream.duration and stream.time_base
    return float(stream.duration * stream.time_base) if is_stated else None


def wav_lengths(path: Path) -> WavLengths | None:
    """The lengths of a wav's sound; None for other files, and where the header makes no sense."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        form = file.read(12)
        if form[:4] not in (b"RIFF", b"RF64", b"BW64") or form[8:] != b"WAVE":
            return None
        chunks = {name: (begin, length) for name, begin, length in _chunks_until_data(file)}
        if b"data" not in chunks or b"fmt " not in chunks:
            return None
        begin, stated = chunks[b"data"]
        if b"ds64" in chunks:
            stated = _number(file, "<Q", chunks[b"ds64"][0] + 8)
        elif stated == 0 or stated >= RIFF_SIZE_UNKNOWN:
            return WavLengths(stated=None, there=size - begin, goes_on=False, is_joined=False)
        stray = size - begin - stated
        bytes_per_s = _number(file, "<I", chunks[b"fmt "][0] + 8)
        is_long = bytes_per_s > 0 and stray > MIN_STRAY_S * bytes_per_s
        following = _chunk_name(file, begin + stated + stated % 2, size)
        return WavLengths(
            stated=stated,
            there=size - begin,
            goes_on=is_long and following is None,
            is_joined=is_long and following == b"RIFF",
        )


def ogg_links(path: Path) -> list[tuple[int, int]]:
    """Begin and end in bytes of each of the files that were joined to one Ogg; none for other files."""
    with open(path, "rb") as file:
        if file.read(len(OGG_PAGE)) != OGG_PAGE:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            edges = [0, *list(_ogg_beginnings(content))[1:], len(content)]
            return list(zip(edges[:-1], edges[1:], strict=True))


def clock_seconds(clock: str | None) -> float | None:
    """ "00:01:02.5", as Matroska states lengths, -> 62.5; None for anything else."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", clock or "")
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return 3600 * float(hours) + 60 * float(minutes) + float(seconds)


def _chunks_until_data(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and length of a RIFF's chunks, the last of which is the sound."""
    begin = 12
    while len(head := _at(file, begin, 8)) == 8:
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        begin += 8
        yield name, begin, length
        if name == b"data":
            return
        begin += length + length % 2


def _chunk_name(file: BinaryIO, begin: int, size: int) -> bytes | None:
    """The name of what begins here; None if it has none, or does not fit into the file."""
    head = _at(file, begin, 8)
    is_named = len(head) == 8 and all(0x20 <= byte < 0x7F for byte in head[:4])
    fits = is_named and begin + 8 + struct.unpack("<I", head[4:])[0] <= size + 1
    return head[:4] if fits else None


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _number(file: BinaryIO, form: str, place: int) -> int:
    size = struct.calcsize(form)
    return struct.unpack(form, _at(file, place, size).ljust(size, b"\0"))[0]


def _ogg_beginnings(content: mmap.mmap) -> Iterator[int]:
    """Where first pages lie that do not follow another first page: sound and picture of one file begin together."""
    following, place = -1, content.find(OGG_FIRST_PAGE)
    while place >= 0:
        if place != following:
            yield place
        lengths_begin = place + OGG_HEADER_BYTES
        num_lengths = content[lengths_begin - 1] if lengths_begin <= len(content) else 0
        following = lengths_begin + num_lengths + sum(content[lengths_begin : lengths_begin + num_lengths])
        place = content.find(OGG_FIRST_PAGE, max(following, place + 1))


def _mp3_length_s(path: Path) -> float | None:
    """From the number of frames in a first frame made for that, behind the ID3 tag if there is one."""
    with open(path, "rb") as file:
        head = file.read(10)
        begin = 0
        if head[:3] == b"ID3" and len(head) == 10:
            begin = 10 + sum(
                (byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)
            )
        first_frame = _at(file, begin, MP3_FRAME_BYTES)
    num_frames, frame_s = _num_mp3_frames(first_frame), _mp3_frame_s(first_frame)
    return num_frames * frame_s if num_frames and frame_s else None


def _mp3_frame_s(frame: bytes) -> float | None:
    """From its first bytes; None if it is none of layer III."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2 or frame[2] & 0x0C == 0x0C:
        return None
    divisor = MPEG_DIVISORS.get(frame[1] >> 3 & 3)
    if divisor is None:
        return None
    rate_hz = MPEG1_RATES_HZ[frame[2] >> 2 & 3] / divisor
    return MPEG1_FRAME_SAMPLES / min(divisor, 2) / rate_hz


def _num_mp3_frames(first_frame: bytes) -> int:
    """0 where it does not say."""
    for mark in (b"Xing", b"Info"):
        place = first_frame.find(mark)
        if place >= 0 and len(first_frame) >= place + 12:
            flags, num_frames = struct.unpack(">II", first_frame[place + 4 : place + 12])
            return num_frames if flags & 1 else 0
    place = first_frame.find(b"VBRI")
    is_whole = place >= 0 and len(first_frame) >= place + 18
    return struct.unpack(">I", first_frame[place + 14 : place + 18])[0] if is_whole else 0
