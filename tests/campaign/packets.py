"""Sounds and films remuxed with packets lost, repeated, swapped or corrupted, and with time stamps that are wrong."""

from __future__ import annotations

import random
from pathlib import Path

import av

ODD_SHIFTS = (1, -1, 1000, -1000, 10**6, -(10**6), 2**31, 2**40)


def remuxed(source: Path, target: Path, rng: random.Random) -> Path:
    """A copy of a file whose packets were tampered with; what the muxer refuses ends the copy there."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        streams = {}
        for stream in given.streams:
            if stream.type in ("audio", "video"):
                streams[stream.index] = container.add_stream_from_template(stream)
        packets = [p for p in given.demux() if p.stream.index in streams and p.size]
        for packet in _tampered(packets, rng):
            index = packet.stream.index
            packet.stream = streams[index]
            try:
                container.mux(packet)
            except (av.error.FFmpegError, ValueError, OverflowError):
                break
    target.touch()  # without a packet nothing is written
    return target


def _tampered(packets: list[av.Packet], rng: random.Random) -> list[av.Packet]:
    packets = list(packets)
    for _ in range(rng.choice([1, 1, 2, 4])):
        if not packets:
            break
        rng.choice([_lose, _repeat, _swap, _corrupt, _corrupt, _shift, _shift_rest])(packets, rng)
    return packets


def _lose(packets: list[av.Packet], rng: random.Random) -> None:
    start = rng.randrange(len(packets))
    del packets[start : start + rng.choice([1, 1, 5, 50])]


def _repeat(packets: list[av.Packet], rng: random.Random) -> None:
    i = rng.randrange(len(packets))
    packets.insert(rng.randrange(len(packets) + 1), _copy_of(packets[i], bytes(packets[i])))


def _swap(packets: list[av.Packet], rng: random.Random) -> None:
    i, j = rng.randrange(len(packets)), rng.randrange(len(packets))
    packets[i], packets[j] = packets[j], packets[i]


def _corrupt(packets: list[av.Packet], rng: random.Random) -> None:
    i = rng.randrange(len(packets))
    data = bytearray(bytes(packets[i]))
    for _ in range(rng.choice([1, 4, 40])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    packets[i] = _copy_of(packets[i], bytes(data[: rng.choice([len(data), 1 + len(data) // 2])]))


def _shift(packets: list[av.Packet], rng: random.Random) -> None:
    packet, shift = rng.choice(packets), rng.choice(ODD_SHIFTS)
    packet.pts = None if packet.pts is None else packet.pts + shift
    packet.dts = packet.dts if packet.dts is None or rng.random() < 0.3 else packet.dts + shift


def _shift_rest(packets: list[av.Packet], rng: random.Random) -> None:
    shift = rng.choice(ODD_SHIFTS)
    for packet in packets[rng.randrange(len(packets)) :]:
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift


def _copy_of(packet: av.Packet, data: bytes) -> av.Packet:
    copy = av.Packet(data)
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts = packet.pts, packet.dts
    copy.is_keyframe = packet.is_keyframe
    return copy
