"""Temporal segment module: which past frames the denoiser may look at.

Source: Loopy (arXiv:2409.02634), sec. 3.2, temporal segment module. Offset 0 is the frame just before the clip.
Segment i (1 = nearest) spans `stride * expand_ratio**(i-1)` frames, cut into `stride` equal intervals; each gives one
frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Sampling = Literal["uniform", "mean", "random"]


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How far back motion is remembered, and how coarsely.

    The last n frames without any segments: `SegmentConfig(stride=n, expand_ratio=1, num_segments=1)`.
    """

    stride: int = 4
    """Frames kept per segment (paper: s)."""
    expand_ratio: int = 2
    """Each older segment spans this many times more frames than the one before (paper: r)."""
    num_segments: int = 5
    sampling: Sampling = "uniform"
    """Which frame stands for an interval: its middle one, the mean of all, or a random one."""

    def __post_init__(self) -> None:
        if min(self.stride, self.expand_ratio, self.num_segments) < 1:
            raise ValueError(f"segment sizes must be at least 1, got {self}")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"unknown sampling {self.sampling!r}; choose one of {get_args(Sampling)}")

    @property
    def span(self) -> int:
        """History frames that are looked at (124 by default)."""
        return sum(self.stride * self.expand_ratio**i for i in range(self.num_segments))

    @property
    def num_kept(self) -> int:
        """Motion frames that are kept (20 by default)."""
        return self.stride * self.num_segments


def segment_intervals(config: SegmentConfig) -> list[tuple[int, int]]:
    """First offset and length of every interval, nearest first."""
    intervals, start = [], 0
    for i in range(config.num_segments):
        length = config.expand_ratio**i
        intervals += [(start + length * j, length) for j in range(config.stride)]
        start += length * config.stride
    return intervals


def segment_offsets(config: SegmentConfig) -> list[int]:
    """Offsets of the kept frames under uniform sampling, nearest first: the middle of each interval."""
    return [start + length // 2 for start, length in segment_intervals(config)]


def gather_segments(
    history: Tensor, mask: Tensor, config: SegmentConfig, fractions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The motion frames of a history; what lies further back than `config.span` is not looked at.

    Args:
        history: latents before the clip, oldest first, `b m c h w`.
        mask: `b m`, 1 where a history frame is present.
        fractions: where in its interval each frame of "random" sampling lies, furthest first, `b s` in [0, 1); drawn
            where it is None, not used otherwise.

    Returns:
        Motion frames `b s c h w`, oldest first and zero where missing, and their mask `b s`.
    """
    if history.shape[1] < config.span or mask.shape != history.shape[:2]:
        raise ValueError(
            f"expected at least {config.span} history frames and a mask of the same `b m`, got {tuple(history.shape)} "
            f"and {tuple(mask.shape)}; put frames that are missing in front, with mask 0"
        )
    if config.sampling == "mean":
        return _mean_frames(history, mask, config)
    frames = history.shape[1] - 1 - _kept_offsets(config, history.shape[0], fractions).to(history.device)
    samples = torch.arange(history.shape[0], device=history.device)[:, None]
    present = mask[samples, frames]
    return history[samples, frames] * present[:, :, None, None, None].to(history.dtype), present


def _kept_offsets(config: SegmentConfig, batch: int, fractions: Tensor | None) -> Tensor:
    """Offsets of the kept frames, furthest first, `b s`."""
    starts, lengths = torch.tensor(segment_intervals(config)[::-1]).unbind(dim=1)
    if config.sampling == "random":
        fractions = torch.rand(batch, len(starts)) if fractions is None else fractions.cpu()
        return starts + (fractions * lengths).long()
    return (starts + lengths // 2).expand(batch, -1)


def _mean_frames(history: Tensor, mask: Tensor, config: SegmentConfig) -> tuple[Tensor, Tensor]:
    """Mean of the frames that are present in each interval, furthest interval first."""
    history = history * mask[:, :, None, None, None].to(history.dtype)
    means, counts, end = [], [], history.shape[1]
    for start, length in segment_intervals(config)[::-1]:
        interval = slice(end - start - length, end - start)
        counts.append(mask[:, interval].sum(dim=1))
        total = history[:, interval].sum(dim=1)
        means.append(total / counts[-1].clamp(min=1).to(history.dtype)[:, None, None, None])
    return torch.stack(means, dim=1), (torch.stack(counts, dim=1) > 0).to(mask.dtype)
