"""Where the parts of a file begin and end: chunks, segments, boxes, pages, elements, entries, members.

Only what damage needs: parts in order, the small ones of headers too, so that a mutation is as likely to hit a field of
eight bytes as a megabyte of pixels. Sources: the formats' own specifications, named at each function.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise

Part = tuple[int, int]
"""First byte, and one past the last."""
BOXES_OF_BOXES = frozenset(
    b"moov trak mdia minf stbl edts udta dinf moof traf mvex meta iprp ipco ilst stsd avc1 mp4a hvc1".split()
)
BOX_HEADERS = {b"meta": 12, b"stsd": 16, b"avc1": 86, b"hvc1": 86, b"mp4a": 36}
"""Bytes before the first inner box; 8 for the others."""
EBML_MASTERS = frozenset(
    bytes.fromhex(text)
    for text in "18538067 1654ae6b ae 1f43b675 1549a966 1c53bb6b 114d9b74 a0 e0 e1".split()
)
OGG_POLYNOMIAL = 0x04C11DB7
NUM_EQUAL_PARTS = 16


def parts_of(data: bytes) -> list[Part]:
    """The parts of a file of any kind; equal shares of what has no structure that is known here."""
    found = [part for part in _parts(data) if 0 <= part[0] < part[1] <= len(data)]
    return found if len(found) > 1 else _equal_parts(data)


def sealed(data: bytes) -> bytes:
    """The same with its checksums made good (PNG, Ogg), so that damage is not turned away at the door."""
    if data.startswith(b"\x89PNG"):
        return _sealed_png(data)
    return _sealed_ogg(data) if data.startswith(b"OggS") else data


def _parts(data: bytes) -> Iterator[Part]:
    if data.startswith(b"\x89PNG"):
        return _chunks(data, 8, ">", extra=4, id_first=False)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_segments(data)
    if data[:4] in (b"RIFF", b"RF64"):
        return _chunks(data, 12, "<")
    if data[:4] == b"FORM":
        return _chunks(data, 12, ">")
    if data[:4] == b"OggS":
        return _between(data, rb"OggS")
    if data[:4] == b"fLaC":
        return _flac_blocks(data)
    if data[:4] == b"\x1aE\xdf\xa3":
        return _ebml_elements(data, 0, len(data))
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_entries(data)
    if data[:4] == b"PK\x03\x04":
        return _between(data, rb"PK[\x01\x03\x05][\x02\x04\x06]")
    if data[:3] == b"GIF":
        return _between(data, rb"GIF8|\x21[\xf9\xff\xfe]|\x00\x2c")
    if data[257:262] == b"ustar":
        return _tar_members(data)
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"styp", b"JXL "):
        return _boxes(data, 0, len(data))
    if data[:1] == b"\x47" and len(data) > 188 and data[188:189] == b"\x47":
        return iter([(i, i + 188) for i in range(0, len(data), 188)])
    if data[:4] == b"\0\0\x01\xba":
        return _between(data, rb"\0\0\x01[\xba\xbd\xc0\xe0]")
    if data[:3] == b"ID3" or data[:1] == b"\xff":
        return _between(data, rb"\xff[\xe0-\xff]")
    if data[8:10] == b'{"' and len(data) > 16:
        return _safetensors_parts(data)
    return iter(())


def _chunks(data: bytes, at: int, order: str, *, extra: int = 0, id_first: bool = True) -> Iterator[Part]:
    """RIFF, AIFF (name, size, content, padded) and PNG (size, name, content, checksum)."""
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(order + "I", data, at + (4 if id_first else 0))
        if id_first and data[at : at + 4] == b"LIST":
            size = 4
        stop = min(at + 8 + size + extra, len(data))
        stop += stop % 2 if id_first else 0
        yield at, min(stop, len(data))
        at = stop


def _jpeg_segments(data: bytes) -> Iterator[Part]:
    """ITU-T T.81: markers until the scan, then the scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        stop = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        yield at, min(stop, len(data))
        at = stop
    yield at, min(at + 16, len(data))
    yield at + 16, len(data)


def _boxes(data: bytes, at: int, stop: int) -> Iterator[Part]:
    """ISO 14496-12: boxes, those inside others too."""
    while at + 8 <= stop:
        size, kind = struct.unpack_from(">I", data, at)[0], data[at + 4 : at + 8]
        size = stop - at if size in (0, 1) else size
        end = min(at + max(size, 8), stop)
        yield at, end
        if kind in BOXES_OF_BOXES:
            yield from _boxes(data, at + BOX_HEADERS.get(kind, 8), end)
        at = end


def _flac_blocks(data: bytes) -> Iterator[Part]:
    """RFC 9639: metadata blocks, then frames."""
    at, is_last = 4, False
    while at + 4 <= len(data) and not is_last:
        is_last = bool(data[at] & 0x80)
        stop = at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        yield at, min(stop, len(data))
        at = stop
    for match in pairwise([*(m.start() for m in re.finditer(rb"\xff[\xf8\xf9]", data[at:])), len(data) - at]):
        yield at + match[0], at + match[1]


def _ebml_elements(data: bytes, at: int, stop: int) -> Iterator[Part]:
    """RFC 8794: elements of Matroska and WebM, those inside its masters too."""
    while at < stop - 1:
        id_length = 9 - data[at].bit_length() if data[at] else 1
        size_at = at + id_length
        if size_at >= stop or not data[size_at]:
            return
        size_length = 9 - data[size_at].bit_length()
        size = int.from_bytes(data[size_at : size_at + size_length], "big") & ((1 << 7 * size_length) - 1)
        content = size_at + size_length
        end = stop if size == (1 << 7 * size_length) - 1 else min(content + size, stop)
        yield at, end
        if data[at : at + id_length] in EBML_MASTERS:
            yield from _ebml_elements(data, content, end)
        at = max(end, at + 1)


def _tiff_entries(data: bytes) -> Iterator[Part]:
    """TIFF 6.0: the header, and each entry of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    yield 0, 8
    if at + 2 > len(data):
        return
    (count,) = struct.unpack_from(order + "H", data, at)
    for i in range(min(count, 100)):
        yield at + 2 + 12 * i, at + 14 + 12 * i
    yield 8, at


def _tar_members(data: bytes) -> Iterator[Part]:
    """POSIX ustar: header and content of each member."""
    at = 0
    while at + 512 <= len(data) and data[at : at + 1] != b"\0":
        size = int(data[at + 124 : at + 135].strip(b"\0 ") or b"0", 8)
        stop = at + 512 + -(-size // 512) * 512
        yield at, at + 512
        yield at + 512, min(stop, len(data))
        at = stop


def _safetensors_parts(data: bytes) -> Iterator[Part]:
    """The length, the header with an entry for each tensor, the numbers."""
    size = min(int.from_bytes(data[:8], "little"), len(data) - 8)
    yield 0, 8
    yield 8, 8 + size
    for match in re.finditer(rb'"[^"]+":\{[^}]*\}', data[8 : 8 + size]):
        yield 8 + match.start(), 8 + match.end()
    yield 8 + size, len(data)


def _between(data: bytes, pattern: bytes) -> Iterator[Part]:
    places = [match.start() for match in re.finditer(pattern, data)]
    return iter(list(pairwise([*places, len(data)])))


def _equal_parts(data: bytes) -> list[Part]:
    edges = [round(i * len(data) / NUM_EQUAL_PARTS) for i in range(NUM_EQUAL_PARTS + 1)]
    return [part for part in pairwise(edges) if part[0] < part[1]] or [(0, len(data))]


def _sealed_png(data: bytes) -> bytes:
    sealed = bytearray(data)
    for start, stop in _chunks(data, 8, ">", extra=4, id_first=False):
        if stop - start >= 12:
            sealed[stop - 4 : stop] = struct.pack(">I", zlib.crc32(data[start + 4 : stop - 4]))
    return bytes(sealed)


def _sealed_ogg(data: bytes) -> bytes:
    sealed = bytearray(data)
    for start, stop in _between(data, rb"OggS"):
        if stop - start >= 27:
            sealed[start + 22 : start + 26] = bytes(4)
            sealed[start + 22 : start + 26] = struct.pack("<I", _ogg_checksum(sealed[start:stop]))
    return bytes(sealed)


def _ogg_checksum(page: bytes) -> int:
    """RFC 3533: CRC-32 with the bits in their order, from 0."""
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (OGG_POLYNOMIAL if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    return checksum
