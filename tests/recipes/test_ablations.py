"""Each ablation of the paper is a configuration that builds, runs and generates; `mini` keeps its parameter budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from openloopy.inference.pipeline import LoopyPipeline
from openloopy.models.audio_encoder import AudioEncoder
from openloopy.models.audio_to_latents import AudioCondition
from openloopy.models.codec import KLCodec
from openloopy.models.conditions import Conditions
from openloopy.models.folder import LoadedModel
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.rig_codec import Portrait, RigCodec
from openloopy.models.segments import SegmentConfig
from openloopy.recipes import load_line, mini, recipe_names, run_recipe, sd15, tiny
from openloopy.recipes.ablations import (
    VARIANTS,
    single_temporal_layer,
    vary,
    with_segments,
    without_audio_to_latents,
    without_segments,
)
from openloopy.recipes.line import hearing_model

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
    codec = KLCodec(AutoencoderKL(**line.codec.autoencoder), config.size_px)
    networks = LoopyModel(config), codec, AudioEncoder(line.audio.model)
    for network in networks:
        network.eval().requires_grad_(False)
    pipeline = LoopyPipeline(LoadedModel(config, *networks, torch.device("cpu"), torch.float32))
    portrait = Portrait(np.full((64, 64, 3), 120, np.uint8))
    frames = list(pipeline.generate(portrait, (np.zeros(16_000, np.float32), 16_000)))
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
    networks = LoopyModel(line.model), AudioEncoder(line.audio.model)
    assert sum(p.numel() for network in networks for p in network.parameters()) <= 15e6


def test_mini_is_the_paper_s_motion_model_on_face_states():
    """What is the paper's stays, and the codec's latents fit the denoiser."""
    config, paper = mini.loopy_config(), sd15.loopy_config()
    assert config.segments == paper.segments and config.clip_frames == paper.clip_frames
    temporals = config.denoiser.temporal, paper.denoiser.temporal
    assert len({(each.kind, each.max_clip_frames, each.max_motion_frames) for each in temporals}) == 1
    assert config.a2l is not None and config.denoiser.audio.window == paper.denoiser.audio.window
    assert mini.mini().codec.autoencoder is None
    codec, loopy, encoder = (
        RigCodec(config.size_px),
        LoopyModel(config),
        AudioEncoder(mini.mini().audio.model),
    )
    LoadedModel(config, loopy, codec, encoder, torch.device("cpu"), torch.float32)
    clip, latents = torch.randn(1, 12, *codec.latent_shape), torch.randn(1, *codec.latent_shape)
    with torch.inference_mode():
        features = loopy.read_reference(latents, torch.randn(1, 124, *codec.latent_shape), torch.ones(1, 124))
        tokens = loopy.audio_projection(torch.randn(1, 16, encoder.num_layers, encoder.width))
        motion_latents, ones = loopy.a2l(AudioCondition(tokens)), torch.ones(1)
        last_frames = loopy.last_frames(latents, torch.randn(1, 2, *codec.latent_shape), torch.ones(1, 2))
        told = Conditions(features, latents, tokens, motion_latents, ones, ones, last_frames)
        assert loopy.denoiser(clip, torch.tensor([500]), told).shape == clip.shape


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_every_line_is_a_recipe_that_builds(name):
    for line_name in ("mini", "tiny", "ablation"):
        assert f"{line_name}-{name}.stage2" in recipe_names()
        line = load_line(f"{line_name}-{name}")
        with torch.device("meta"):
            LoopyModel(line.model)
        assert line.variant == name
        assert line.stage2.training.batch.num_history >= line.model.segments.span


def test_variants_differ_from_the_full_line_in_what_they_say_alone():
    full = load_line("ablation-full")
    assert full.model == load_line("ablation").model
    for name in VARIANTS:
        line = load_line(f"ablation-{name}")
        assert (line.codec, line.audio, line.stage1, line.stage2.loop) == (
            full.codec,
            full.audio,
            full.stage1,
            full.stage2.loop,
        )
        differs = {
            "model": line.model != full.model,
            "dropout": line.stage2.training.dropout != full.stage2.training.dropout,
        }
        expected = {"full": set(), **dict.fromkeys(("nodropout", "nomask", "noise"), {"dropout"})}.get(
            name, {"model"}
        )
        assert {part for part, is_other in differs.items() if is_other} == expected, name
    assert load_line("ablation-nodropout").stage2.training.dropout.reference == 0
    assert load_line("ablation-nomask").stage2.training.dropout.motion_frames == 0
    assert load_line("ablation-six").stage2.training.batch.num_history == 252


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown variant 'none'.*single4"):
        vary(tiny.tiny(), "none")
    with pytest.raises(ValueError, match="unknown recipe 'tiny-none'.*single4"):
        run_recipe("tiny-none", [], None)


def test_every_variant_can_start_from_the_model_that_hears():
    """Stage 1 has nothing that a variant lacks, so that all start alike."""
    for name in VARIANTS:
        config = vary(tiny.tiny(), name).model
        with torch.device("meta"):
            start, whole = LoopyModel(hearing_model(config)).state_dict(), LoopyModel(config).state_dict()
        new = set(whole) - set(start)
        assert not set(start) - set(whole)
        assert all(".temporal." in key or key.startswith("a2l.") for key in new)
        assert {key: w.shape for key, w in start.items()} == {key: whole[key].shape for key in start}


def test_ablation_line_is_mini_s_but_smaller_and_shorter():
    line, whole = load_line("ablation"), load_line("mini")
    assert line.steps == whole.steps == ("codec", "audio", "stage1", "stage2")
    assert (line.codec, line.audio, line.model.segments) == (whole.codec, whole.audio, whole.model.segments)
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in LoopyModel(each.model).parameters()) for each in (line, whole)]
    assert sizes[0] < sizes[1] / 2
    assert line.stage2.loop.num_steps < whole.stage2.loop.num_steps / 10
    assert line.stage1.training.number == 2 and line.stage1.training.batch.num_frames > 1  # it hears
