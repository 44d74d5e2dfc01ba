"""Files made worse: bytes, and the parts that a format has. Everything derives from the generator that is given."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.campaign.structure import Part, parts_of, sealed

ODD_NUMBERS = (
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
FIELDS = (">B", "<H", ">H", "<I", ">I", "<Q", ">Q")
HEADER_BYTES = 64
"""Of a part: where fields are likely."""
SEALED_SHARE = 0.7
MAX_GROWTH = 4
"""What is repeated makes no file longer than so many times its length."""

Damage = Callable[[bytes, list[Part], random.Random], bytes]


def damaged(data: bytes, rng: random.Random, times: int = 1) -> bytes:
    """The file with some of its bytes or parts changed; its checksums are made good more often than not."""
    whole = len(data)
    for _ in range(times):
        if not data:
            return data
        kind = rng.choice(KINDS)
        data = kind(data, parts_of(data), rng)[: MAX_GROWTH * whole + 1024]
    return sealed(data) if rng.random() < SEALED_SHARE else data


def cut_off(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """Anywhere, or where a part begins or ends."""
    place = rng.choice(rng.choice(parts)) if rng.random() < 0.5 else rng.randrange(len(data))
    return data[:place]


def flipped(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """Some bytes are others: anywhere, near the beginning, or in one part."""
    changed = bytearray(data)
    start, stop = rng.choice([(0, len(data)), (0, min(256, len(data))), rng.choice(parts)])
    for _ in range(rng.choice([1, 1, 2, 4, 16, 64])):
        changed[rng.randrange(start, stop)] = rng.randrange(256)
    return bytes(changed)


def lied(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """A field says something else: a length, a size, a rate, a count."""
    start, stop = rng.choice(parts)
    field = rng.choice(FIELDS)
    size = struct.calcsize(field)
    last = min(start + HEADER_BYTES, stop) - size
    if last < start:
        return flipped(data, parts, rng)
    at = (
        start + size * rng.randrange((last - start) // size + 1)
        if rng.random() < 0.8
        else rng.randint(start, last)
    )
    number = rng.choice((*ODD_NUMBERS, rng.getrandbits(8 * size)))
    return data[:at] + struct.pack(field, number % (1 << 8 * size)) + data[at + size :]


def without_part(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """A part is missing."""
    start, stop = rng.choice(parts)
    return data[:start] + data[stop:]


def with_part_twice(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """A part comes again, at once or later."""
    start, stop = rng.choice(parts)
    place = rng.choice([stop, rng.choice(parts)[1]])
    return data[:place] + data[start:stop] * rng.choice([1, 1, 1, 50]) + data[place:]


def with_parts_swapped(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """Two parts are in each other's place."""
    (a, b), (c, d) = sorted([rng.choice(parts), rng.choice(parts)])
    if b > c:
        return with_part_twice(data, parts, rng)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def emptied(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """A part holds zeros, ones or noise."""
    start, stop = rng.choice(parts)
    start = min(start + rng.choice([0, 4, 8]), stop)
    length = stop - start
    return data[:start] + rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)]) + data[stop:]


def with_junk(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """Bytes that do not belong there: before, between, after."""
    place = rng.choice([0, len(data), rng.choice(parts)[0]])
    junk = rng.randbytes(rng.choice([1, 16, 300, 5000]))
    return data[:place] + rng.choice([junk, bytes(len(junk)), data[: len(junk)]]) + data[place:]


def with_a_hole(data: bytes, parts: list[Part], rng: random.Random) -> bytes:
    """Bytes are missing from the middle."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 4, 100, 4096]) :]


KINDS: tuple[Damage, ...] = (
    *(cut_off, flipped, flipped, lied, lied, lied),
    *(without_part, with_part_twice, with_parts_swapped, emptied, with_junk, with_a_hole),
)
