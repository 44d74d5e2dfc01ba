"""What Pillow leaves unread at the head of a picture file: codes and profiles of colours, the size of a JPEG XL.

Sources: PNG, third edition (chunk cICP); ISO/IEC 14496-12 (boxes, which AVIF, JPEG 2000 and JPEG XL share, and `colr`);
ISO/IEC 15444-1, annex I (`colr` of JPEG 2000); ISO/IEC 18181-1, "size header" (JPEG XL).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEAD_BYTES = 1 << 20
"""What is looked for stands before the picture itself."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JXL_CODESTREAM = b"\xff\x0a"
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height, where the width is not written."""
ICC_METHODS = (2, 3)
"""Of a `colr` box of JPEG 2000: restricted profile, any profile."""

Codes = tuple[int, int]
"""Primaries and transfer characteristics, by the numbers of ITU-T H.273."""


def png_codes(head: bytes) -> Codes | None:
    """The colours of a PNG's chunk cICP."""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(head):
        length, kind = struct.unpack_from(">I4s", head, at)
        if kind == b"cICP" and length == 4:
            return (head[at + 8], head[at + 9]) if at + 10 <= len(head) else None
        if kind == b"IDAT":
            return None
        at += 12 + length
    return None


def avif_codes(head: bytes) -> Codes | None:
    """The colours of an AVIF's first `colr` box that names them by number."""
    for meta in _contents(boxes(head), b"meta"):
        for properties in _contents(boxes(meta[4:]), b"iprp"):
            for container in _contents(boxes(properties), b"ipco"):
                for colours in _contents(boxes(container), b"colr"):
                    if colours[:4] == b"nclx" and len(colours) >= 8:
                        primaries, transfer = struct.unpack_from(">HH", colours, 4)
                        return primaries, transfer
    return None


def jpeg2000_profile(head: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 file."""
    for header in _contents(boxes(head), b"jp2h"):
        for colours in _contents(boxes(header), b"colr"):
            if colours and colours[0] in ICC_METHODS:
                return colours[3:]
    return None


def jxl_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG XL as it is stored; None where its head is damaged.

    content: of the whole file, since much may stand before the picture.
    """
    bits = _Bits(_jxl_codestream(content)[len(JXL_CODESTREAM) :])
    try:
        is_small = bits.read(1)
        height = _jxl_side(bits, is_small)
        ratio = bits.read(3)
        if ratio == 0:
            return _jxl_side(bits, is_small), height
    except EOFError:
        return None
    across, down = JXL_RATIOS[ratio - 1]
    return height * across // down, height


def boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of one box after the other; the last may be cut off by the end of what was read."""
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        start = 8
        if size == 1 and at + 16 <= len(content):
            (size,) = struct.unpack_from(">Q", content, at + 8)
            start = 16
        elif size == 0:
            size = len(content) - at
        if size < start:
            return
        yield kind, content[at + start : at + size]
        at += size


def _contents(found: Iterator[tuple[bytes, bytes]], kind: bytes) -> Iterator[bytes]:
    return (content for other, content in found if other == kind)


def _jxl_codestream(content: bytes) -> bytes:
    """Its beginning, at least."""
    if content.startswith(JXL_CODESTREAM):
        return content
    for kind, part in boxes(content):
        if kind == b"jxlc":
            return part
        if kind == b"jxlp":
            return part[4:]
    return b""


def _jxl_side(bits: _Bits, is_small: int) -> int:
    if is_small:
        return 8 * (1 + bits.read(5))
    return 1 + bits.read((9, 13, 18, 30)[bits.read(2)])


class _Bits:
    """Reads numbers from bytes, least bit first."""

    def __init__(self, content: bytes) -> None:
        # The size is over within the first 12 bytes.
        self._rest, self._left = int.from_bytes(content[:12], "little"), 8 * len(content[:12])

    def read(self, count: int) -> int:
        if count > self._left:
            raise EOFError("the head of the picture is cut off")
        value = self._rest & ((1 << count) - 1)
        self._rest, self._left = self._rest >> count, self._left - count
        return value
