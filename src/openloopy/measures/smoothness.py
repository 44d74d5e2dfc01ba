"""Smoothness of motion: how well every second frame follows from its neighbours.

Source: VBench (Huang et al., CVPR 2024), dimension "motion smoothness"; its script
https://github.com/Vchitect/VBench/blob/master/vbench/motion_smoothness.py, which published numbers come from, draws the
missing frames with AMT-S. Frames are compared as 8-bit pictures at their own size.

We differ: never scaled down for want of GPU memory, as the script may be; frames that change their size within a
video are an error and not resized.

A still picture has the highest score, so compare with that of the true video; more is not better without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Protocol

import numpy as np

from openloopy.measures.amt import halfway, load_amt
from openloopy.measures.outside_weights import weights_path

WHITE = 255
MIN_FRAMES = 3
"""One frame to draw, and its two neighbours."""


class Interpolator(Protocol):
    """Draws the frame halfway between two, all `H W 3` uint8."""

    def __call__(self, before: np.ndarray, after: np.ndarray, /) -> np.ndarray: ...


def motion_smoothness(frames: Iterable[np.ndarray], device: str = "cpu") -> float:
    """VBench's motion smoothness: `smoothness` with AMT-S.

    About 4 s a drawn frame at 512 x 512 px on one CPU core. Drawn frames are cut down to whole numbers, so that even a
    still video may lose up to 1/255.

    Args:
        frames: consecutive frames, `H W 3` uint8 RGB, sides of 113 px or more; read one by one.
        device: where the network computes.

    Returns:
        0..1, higher is smoother.

    Raises:
        WeightsMissing: AMT-S is not on this machine; says how to get it.
        ValueError: as `smoothness`, or frames too small for the network.
    """
    network = load_amt(weights_path("amt_s")).to(device)
    return smoothness(frames, partial(halfway, network))


def smooth_blend(frames: Iterable[np.ndarray]) -> float:
    """`smoothness` with the mean of the neighbours, which every machine can compute.

    It judges brightness, not motion: each pixel that does not change evenly in time costs. Flicker and jumps do, but so
    does every edge that moves, however evenly it moves. It is therefore no stand-in for VBench's number: compare it
    with that of the true video of the same person and speech, at the same size and rate.

    Args:
        frames: consecutive frames, `H W 3` uint8; read one by one.

    Returns:
        0..1, higher is smoother.

    Raises:
        ValueError: as `smoothness`.
    """
    return smoothness(frames, blend)


def smoothness(frames: Iterable[np.ndarray], interpolator: Interpolator) -> float:
    """How well the 2nd, 4th, ... frame follows from the frames beside it.

    Args:
        frames: consecutive frames, `H W 3` uint8; read one by one, never more than three held. Of an even number the
            last one has no right neighbour and is left out.
        interpolator: draws the frames anew.

    Returns:
        (255 - d) / 255, where d is the mean absolute difference of drawn and true frames, 0..255.

    Raises:
        ValueError: fewer than 3 frames, or frames of another shape or type.
    """
    differences = [
        mean_difference(interpolator(before, after), true) for before, true, after in _triples(frames)
    ]
    if not differences:
        raise ValueError(f"smoothness of motion needs at least {MIN_FRAMES} frames; give a longer video")
    return (WHITE - float(np.mean(differences))) / WHITE


def blend(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The mean of two frames, cut down to whole numbers as VBench cuts down those of AMT."""
    return ((before.astype(np.uint16) + after) // 2).astype(np.uint8)


def mean_difference(drawn: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute difference of two frames `H W 3` uint8, 0..255."""
    if drawn.shape != true.shape or drawn.dtype != np.uint8:
        raise ValueError(f"expected a drawn frame {true.shape} uint8, got {drawn.shape} {drawn.dtype}")
    return float(np.abs(drawn.astype(np.int16) - true).mean())


def _triples(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every 2nd frame between its neighbours."""
    stream = _checked(frames)
    before = next(stream, None)
    # One iterator twice: pairs of consecutive frames.
    for true, after in zip(stream, stream, strict=False):
        assert before is not None
        yield before, true, after
        before = after


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for index, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.shape != shape:
            raise ValueError(
                f"expected frames H W 3 uint8 of one shape, got {frame.shape} {frame.dtype} at {index} "
                f"where the first is {shape}"
            )
        yield frame
