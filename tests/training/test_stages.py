"""What trains in which stage, and that a stage 2 without audio is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openloopy.models.loopy import LoopyModel
from openloopy.models.weight_files import save_weights
from openloopy.recipes.line import picture_model
from openloopy.recipes.tiny import loopy_config
from openloopy.training.denoise import Draws, load_stage1
from openloopy.training.stages import DropoutConfig, StageConfig, freeze_all_but, part_of


def test_stage2_without_audio_is_refused():
    with pytest.raises(ValueError, match="must train the 'audio' part"):
        StageConfig(number=2, batch_size=1, trainable=("picture", "reference_net", "temporal"))


def test_a_timestep_power_draws_noisier_steps_more_often():
    draws = Draws(seed=0, step=0, batch_size=20_000, samples=range(20_000))
    t = draws.timesteps(1000, 3.0)
    assert t.min() >= 0 and t.max() <= 999
    assert (t >= 500).float().mean() == pytest.approx(1 - 0.5**3, abs=0.01)
    even = Draws(seed=0, step=0, batch_size=4, samples=range(4)).timesteps(1000, 1.0)
    assert torch.equal(even, Draws(seed=0, step=0, batch_size=4, samples=range(4)).integers(1000))
    with pytest.raises(ValueError, match="timestep_power must be above 0"):
        StageConfig(number=1, batch_size=1, timestep_power=0)


def test_impossible_dropout_is_refused():
    with pytest.raises(ValueError, match="dropout rates"):
        DropoutConfig(audio=1.5)


def test_parts_cover_the_model():
    loopy = LoopyModel(loopy_config())
    parts = {name: part_of(name) for name, _ in loopy.named_parameters()}
    assert set(parts.values()) == {"picture", "reference_net", "temporal", "audio"}
    assert parts["a2l.out.weight"] == "audio"
    assert parts["denoiser.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == "audio"
    assert parts["denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"] == "picture"
    assert parts["denoiser.mid_block.temporal.0.inter.attention.to_q.weight"] == "temporal"
    assert parts["reference_net.conv_in.weight"] == "reference_net"


def test_freezing_leaves_the_named_parts():
    loopy = LoopyModel(loopy_config())
    freeze_all_but(loopy, ("audio",))
    assert all(p.requires_grad == (part_of(n) == "audio") for n, p in loopy.named_parameters())


def test_stage2_starts_as_stage1_and_only_new_parts_are_new(tmp_path):
    config, path = loopy_config(), tmp_path / "loopy.safetensors"
    stage1 = LoopyModel(picture_model(config))
    save_weights(stage1, path)
    stage2 = LoopyModel(config)
    new = load_stage1(stage2, path)
    assert {part_of(name) for name in new} == {"temporal", "audio"}
    torch.testing.assert_close(stage2.denoiser.conv_in.weight, stage1.denoiser.conv_in.weight)


def test_stage1_of_another_model_is_refused(tmp_path):
    config, path = loopy_config(), tmp_path / "loopy.safetensors"
    unet = replace(config.denoiser.unet, block_channels=(16, 32))
    other = replace(config, denoiser=replace(config.denoiser, unet=unet))
    save_weights(LoopyModel(picture_model(other)), path)
    with pytest.raises(ValueError, match="not a stage 1 of this model"):
        load_stage1(LoopyModel(config), path)


def test_missing_stage1_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="train stage 1"):
        load_stage1(LoopyModel(loopy_config()), tmp_path / "absent.safetensors")
