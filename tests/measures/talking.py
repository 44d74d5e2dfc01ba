"""Talking faces without pictures: landmarks that move, frames that show nothing, and a landmarker that knows both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np

from openloopy.face.mesh import MESH_TO_68, canonical_mesh

SAMPLES_PER_FRAME = 640
LOWER_LIP, LIDS = (65, 66, 67), ((37, 41), (38, 40), (43, 47), (44, 46))
SIZE_PX = 64


def talking(num_frames: int = 75, seed: int = 0) -> np.ndarray:
    """A face that talks, nods and blinks every second, `f 68 2` px of a picture of `SIZE_PX`."""
    rng = np.random.default_rng(seed)
    mean = canonical_mesh().vertices[MESH_TO_68, :2]
    points = np.repeat(3.0 * (mean - mean.mean(0))[None] + SIZE_PX / 2, num_frames, axis=0)
    noise = np.convolve(rng.standard_normal(num_frames + 4), np.ones(5) / 5, "valid")
    points[:, LOWER_LIP, 1] += 1.5 * np.abs(noise)[:, None]
    points += np.cumsum(0.1 * rng.standard_normal((num_frames, 1, 2)), axis=0)
    for start in range(10, num_frames - 5, 25):
        for upper, lower in LIDS:
            points[start : start + 4, upper] = points[start : start + 4, lower]
    return points.astype(np.float32)


def lost(points: np.ndarray, keep: slice | Sequence[int] = slice(0)) -> np.ndarray:
    """The same with a face in these frames alone."""
    left = np.full_like(points, np.nan)
    left[keep] = points[keep]
    return left


def pictures(num_frames: int = 75, size_px: int = SIZE_PX, seed: int = 0) -> np.ndarray:
    """A texture that drifts, `f H W 3` uint8."""
    texture = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), np.uint8)
    return np.stack([np.roll(texture, k, axis=1) for k in range(num_frames)])


def reader(frames: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter(frames)


def speech(num_frames: int = 75, seed: int = 0) -> np.ndarray:
    """Noise whose loudness changes, `samples` float32."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0, 0.3, num_frames), SAMPLES_PER_FRAME)
    return (loudness * rng.standard_normal(len(loudness))).astype(np.float32)


class KnownFaces:
    """A landmarker that was told the landmarks, `f 68 2` px; NaN: no face."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points

    def tracker(self) -> KnownFaces:
        self._next = iter(self.points)
        return self

    def follow(self, frames: Sequence[np.ndarray]) -> list[SimpleNamespace | None]:
        found = [next(self._next) for _ in frames]
        return [SimpleNamespace(points68=points) if np.isfinite(points).all() else None for points in found]
