"""Small sound files for the tests, written in whatever form FFmpeg has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 6: "hexagonal", 8: "7.1"}


def speechlike(duration_s: float, rate_hz: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Aperiodic sound below 2 kHz with a slow envelope, `channels samples` float32, peak 0.5."""
    rng = np.random.default_rng(seed)
    num_samples = round(duration_s * rate_hz)
    time = np.arange(num_samples) / rate_hz
    tones = rng.uniform(80, 2000, size=(channels, 24, 1))
    phases = rng.uniform(0, 2 * np.pi, size=tones.shape)
    sound = np.sin(2 * np.pi * tones * time + phases).sum(axis=1) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def write_sound(path: Path, samples: np.ndarray, rate_hz: int, codec: str = "pcm_s16le") -> Path:
    """Encode `channels samples` float32 with FFmpeg's encoder of that name."""
    layout = LAYOUTS[len(samples)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        interleaved = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def best_lag(a: np.ndarray, b: np.ndarray, most: int) -> int:
    """How many samples `b` comes after `a`, by cross-correlation."""
    num_samples = min(len(a), len(b))
    spectra = np.fft.rfft(a[:num_samples], 2 * num_samples), np.fft.rfft(b[:num_samples], 2 * num_samples)
    correlation = np.fft.irfft(spectra[1] * np.conj(spectra[0]))
    lags = np.arange(-most, most + 1)
    return int(lags[np.argmax(correlation[lags])])


def write_damaged(
    path: Path, samples: np.ndarray, rate_hz: int, codec: str, bad: Iterable[int], junk: bytes = b"\xff" * 200
) -> Path:
    """As `write_sound`, with these packets (from 0) replaced by bytes that no decoder takes for sound."""
    layout, bad = LAYOUTS[len(samples)], frozenset(bad)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T).reshape(1, -1), format="flt", layout=layout
        )
        frame.sample_rate, frame.pts = rate_hz, 0
        for number, packet in enumerate([*stream.encode(frame), *stream.encode(None)]):
            if number in bad:
                packet = like(packet, junk)
            container.mux(packet)
    return path


def like(packet: av.Packet, content: bytes) -> av.Packet:
    """A packet of other content with the same time stamps."""
    other = av.Packet(content)
    other.stream, other.time_base = packet.stream, packet.time_base
    other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
    return other


def damage_sound(path: Path, bad: Iterable[int], junk: bytes = b"\xff" * 200) -> Path:
    """Replace these packets (from 0) of a video's sound by bytes that no decoder takes for sound."""
    whole, bad, number = path.with_name(f"whole-{path.name}"), frozenset(bad), 0
    path.rename(whole)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                packet, number = like(packet, junk) if number in bad else packet, number + 1
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    whole.unlink()
    return path
