"""The paper's ablations as configurations (Loopy sec. 4, table 3), and a few that it does not have.

The functions work on any model: `sd15.loopy_config()`, `mini.loopy_config()`, or one's own. `VARIANTS` gives each a
name, by which `openloopy train ablation-NAME` runs it (also `mini-NAME` and `tiny-NAME`); see `recipes.ablation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from openloopy.models.loopy import LoopyConfig
from openloopy.models.segments import SegmentConfig
from openloopy.models.temporal import TemporalConfig
from openloopy.recipes.line import LineConfig
from openloopy.training.stages import DropoutConfig


def single_temporal_layer(config: LoopyConfig, motion_frames: int) -> LoopyConfig:
    """Ablation: one temporal layer over the last `motion_frames` frames (as EMO, Hallo: 4; also 20)."""
    temporal = replace(_temporal(config), kind="single", max_motion_frames=motion_frames)
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


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of an ablation table."""

    title: str
    model: Callable[[LoopyConfig], LoopyConfig] = lambda config: config
    dropout: Callable[[DropoutConfig], DropoutConfig] = lambda config: config
    paper: str = ""
    """What the paper says of it against the full model; empty where it says nothing."""


def _segments(**settings) -> Callable[[LoopyConfig], LoopyConfig]:
    return lambda config: with_segments(config, replace(config.segments, **settings))


VARIANTS = {
    "full": Variant(title="full: two layers, s=4, r=2, 5 segments"),
    "single4": Variant(
        title="one temporal layer, 4 motion frames (as EMO, Hallo)",
        model=lambda config: single_temporal_layer(config, 4),
        paper="worse",
    ),
    "single20": Variant(
        title="one temporal layer, 20 motion frames",
        model=lambda config: single_temporal_layer(config, 20),
        paper="worse: Smooth .9752 for .9932, IQA 4.07 for 4.51",
    ),
    "nosegments": Variant(
        title="no segment module: two layers, 4 motion frames",
        model=without_segments,
        paper="worse: IQA 4.39 for 4.51",
    ),
    "noa2l": Variant(title="no audio-to-latents", model=without_audio_to_latents, paper="worse"),
    "s1": Variant(title="s=1, r=2 (31 frames, 5 kept)", model=_segments(stride=1), paper="worse than s=4"),
    "s2": Variant(title="s=2, r=2 (62 frames, 10 kept)", model=_segments(stride=2), paper="worse than s=4"),
    "s3": Variant(title="s=3, r=2 (93 frames, 15 kept)", model=_segments(stride=3), paper="worse than s=4"),
    "s4r1": Variant(
        title="s=4, r=1 (20 frames, 20 kept)",
        model=_segments(expand_ratio=1),
        paper="slightly worse: Sync-D 8.00 for 7.75, IQA 4.42 for 4.51",
    ),
    "mean": Variant(
        title="mean of each interval", model=_segments(sampling="mean"), paper="worse than uniform"
    ),
    "random": Variant(
        title="a random frame of each interval",
        model=_segments(sampling="random"),
        paper="worse than uniform",
    ),
    "six": Variant(title="6 segments (252 frames, 24 kept)", model=_segments(num_segments=6)),
    "nodropout": Variant(
        title="reference never dropped",
        dropout=lambda dropout: replace(dropout, nothing=0.0, reference=0.0),
    ),
    "nomask": Variant(
        title="motion frames never masked", dropout=lambda dropout: replace(dropout, motion_frames=0.0)
    ),
    "rawmotion": Variant(
        title="motion frames' features as they are (as in the paper), not less the portrait's",
        model=lambda config: _with_temporal(config, relative_motion=False),
    ),
    "noise": Variant(
        title="noise up to the change between frames on the past in training",
        dropout=lambda dropout: replace(dropout, motion_noise_max=1.0),
    ),
}
"""By name; the first is what the others are held against. `mini` sees motion frames as they are: there `rawmotion` is
`full` again."""


def vary(line: LineConfig, name: str) -> LineConfig:
    """The line with a variant's stage 2, in a folder of its own; everything before stage 2 is shared.

    Raises:
        ValueError: no such variant; lists them.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}; there are: {', '.join(VARIANTS)}")
    variant, training = VARIANTS[name], line.stage2.training
    model = variant.model(line.model)
    batch = replace(training.batch, num_history=max(training.batch.num_history, model.segments.span))
    training = replace(training, dropout=variant.dropout(training.dropout), batch=batch)
    return replace(line, model=model, stage2=replace(line.stage2, training=training), variant=name)


def _with_temporal(config: LoopyConfig, **settings) -> LoopyConfig:
    temporal = replace(_temporal(config), **settings)
    return replace(config, denoiser=replace(config.denoiser, temporal=temporal))


def _temporal(config: LoopyConfig) -> TemporalConfig:
    if config.denoiser.temporal is None:
        raise ValueError(
            f"{config.name} has no temporal layers to ablate; start from a stage-2 configuration"
        )
    return config.denoiser.temporal


def _last_frames(count: int) -> SegmentConfig:
    return SegmentConfig(stride=count, expand_ratio=1, num_segments=1)
