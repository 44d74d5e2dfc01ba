"""The paper's ablations as configurations (Loopy sec. 4, table 3): each is a function from one model to another.

They work on any model: `sd15.loopy_config()`, `mini.loopy_config()`, or one's own.
"""

from __future__ import annotations

from dataclasses import replace

from openloopy.models.loopy import LoopyConfig
from openloopy.models.segments import SegmentConfig
from openloopy.models.temporal import TemporalConfig


def single_temporal_layer(config: LoopyConfig, motion_frames: int) -> LoopyConfig:
    """Ablation: one temporal layer over the last `motion_frames` frames (as EMO, Hallo: 4; also 20)."""
    temporal = TemporalConfig(
        kind="single",
        num_heads=_temporal(config).num_heads,
        max_clip_frames=_temporal(config).max_clip_frames,
        max_motion_frames=motion_frames,
    )
    return replace(
        config,
        name=f"{config.name}-single{motion_frames}",
        denoiser=replace(config.denoiser, temporal=temporal),
        segments=_last_frames(motion_frames),
    )


def without_segments(config: LoopyConfig, motion_frames: int = 4) -> LoopyConfig:
    """Ablation: both temporal layers, but the history is the last few frames."""
    return replace(config, name=f"{config.name}-nosegments", segments=_last_frames(motion_frames))


def without_audio_to_latents(config: LoopyConfig) -> LoopyConfig:
    """Ablation: the sound acts through cross-attention alone."""
    return replace(config, name=f"{config.name}-noa2l", a2l=None)


def with_segments(config: LoopyConfig, segments: SegmentConfig) -> LoopyConfig:
    """Ablation: another stride, expand ratio, number of segments or sampling."""
    name = f"{config.name}-s{segments.stride}r{segments.expand_ratio}-{segments.sampling}"
    temporal = replace(_temporal(config), max_motion_frames=max(segments.num_kept, 1))
    return replace(config, name=name, segments=segments, denoiser=replace(config.denoiser, temporal=temporal))


def _temporal(config: LoopyConfig) -> TemporalConfig:
    if config.denoiser.temporal is None:
        raise ValueError(
            f"{config.name} has no temporal layers to ablate; start from a stage-2 configuration"
        )
    return config.denoiser.temporal


def _last_frames(count: int) -> SegmentConfig:
    return SegmentConfig(stride=count, expand_ratio=1, num_segments=1)
