"""`sd15`: the paper's size, Stable Diffusion 1.5 widths at 512x512 (Loopy sec. 3 and 4).

The configuration of the model and its ablations; same code as `mini`. Its weights come from training: none are public.
"""

from __future__ import annotations

from dataclasses import replace

from openloopy.models.audio_encoder import AudioEncoderConfig
from openloopy.models.loopy import LoopyConfig
from openloopy.models.segments import SegmentConfig
from openloopy.models.temporal import TemporalConfig


def loopy_config() -> LoopyConfig:
    """The paper's model: all defaults of `LoopyConfig` are its settings."""
    return LoopyConfig(name="sd15")


def audio_encoder_config() -> AudioEncoderConfig:
    """wav2vec2-base-960h: transformers' default sizes, on sound normalised as a whole."""
    return AudioEncoderConfig(loudness="normalised")


def single_temporal_layer(config: LoopyConfig, motion_frames: int) -> LoopyConfig:
    """Ablation: one temporal layer over the last `motion_frames` frames (EMO, Hallo style: 4; the paper also tries 20)."""
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
