"""Each ablation of the paper is a configuration that builds, runs and generates; `mini` keeps its parameter budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.inference.pipeline import LoopyPipeline
from openloopy.models.audio_encoder import AudioEncoder
from openloopy.models.folder import LoadedModel
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.segments import SegmentConfig
from openloopy.models.vae import ReferenceCodec
from openloopy.recipes import mini, sd15, tiny
from openloopy.recipes.ablations import (
    single_temporal_layer,
    with_segments,
    without_audio_to_latents,
    without_segments,
)

TINY = tiny.loopy_config()
ABLATIONS = {
    "single layer, 4 motion frames": single_temporal_layer(TINY, 4),
    "single layer, 20 motion frames": single_temporal_layer(TINY, 20),
    "no segment module": without_segments(TINY),
    "no audio-to-latents": without_audio_to_latents(TINY),
    "s=1": with_segments(TINY, SegmentConfig(stride=1)),
    "s=4 r=1": with_segments(TINY, SegmentConfig(expand_ratio=1)),
    "mean": with_segments(TINY, SegmentConfig(sampling="mean")),
    "random": with_segments(TINY, SegmentConfig(sampling="random")),
    "six segments": with_segments(TINY, SegmentConfig(num_segments=6)),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_generates(name):
    torch.manual_seed(0)
    config, line = ABLATIONS[name], tiny.tiny()
    networks = LoopyModel(config), ReferenceCodec(line.codec.model), AudioEncoder(line.audio.model)
    for network in networks:
        network.eval().requires_grad_(False)
    pipeline = LoopyPipeline(LoadedModel(config, *networks, torch.device("cpu"), torch.float32))
    portrait = np.full((64, 64, 3), 120, np.uint8)
    frames = list(pipeline.generate(portrait, np.zeros(16_000, np.float32)))
    assert len(frames) == 25 and frames[0].shape == (64, 64, 3)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablation_survives_json(name):
    assert LoopyConfig.from_dict(ABLATIONS[name].to_dict()) == ABLATIONS[name]


def test_ablations_are_what_they_say():
    assert ABLATIONS["single layer, 20 motion frames"].segments.span == 20
    assert ABLATIONS["single layer, 4 motion frames"].denoiser.temporal.kind == "single"
    assert ABLATIONS["no segment module"].denoiser.temporal.kind == "dual"
    assert ABLATIONS["no segment module"].segments.span == 4
    assert ABLATIONS["no audio-to-latents"].a2l is None
    assert ABLATIONS["six segments"].segments.span == 252
    assert len({config.name for config in ABLATIONS.values()}) == len(ABLATIONS)


def test_sd15_is_the_paper():
    config = sd15.loopy_config()
    assert (config.size_px, config.prediction, config.denoiser.reference_input) == (
        512,
        "epsilon",
        "attention",
    )
    assert (config.segments.span, config.segments.num_kept, config.clip_frames) == (124, 20, 12)
    defaults = config.defaults
    assert (defaults.steps, defaults.audio_guidance, defaults.reference_guidance) == (25, 5.0, 3.0)


def test_mini_is_within_its_budget():
    line = mini.mini()
    networks = LoopyModel(line.model), ReferenceCodec(line.codec.model), AudioEncoder(line.audio.model)
    assert sum(p.numel() for network in networks for p in network.parameters()) <= 15e6
