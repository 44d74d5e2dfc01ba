"""The parts that both nets are made of."""

import pytest
import torch
import torch.nn.functional as F

from openloopy.models.resnet import ResnetBlock, TimeEmbedding, timestep_features
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import Anatomy, DownBlock, UNetConfig, UpBlock

MINI = UNetConfig(
    block_channels=(96, 160, 192),
    layers_per_block=1,
    attention_levels=(True, True, True),
    num_heads=4,
    norm_groups=32,
    context_dim=128,
)


def test_timestep_features_are_cosines_then_sines():
    features = timestep_features(torch.tensor([0, 500]), 8)
    assert features[0].tolist() == [1.0] * 4 + [0.0] * 4
    assert torch.allclose(features[1, 1], torch.tensor(500 * 10_000 ** (-1 / 4)).cos(), atol=1e-4)


def test_time_embedding_width():
    assert TimeEmbedding(16, 64)(torch.tensor([1, 2, 3])).shape == (3, 64)


def test_resnet_adds_the_time_between_its_convolutions():
    torch.manual_seed(0)
    block, x, time_features = ResnetBlock(8, 8, 6, 4), torch.randn(2, 8, 5, 5), torch.randn(2, 6)
    hidden = block.conv1(F.silu(block.norm1(x))) + block.time_emb_proj(time_features)[:, :, None, None]
    assert torch.allclose(block(x, time_features), x + block.conv2(F.silu(block.norm2(hidden))), atol=1e-6)
    assert ResnetBlock(8, 12, 6, 4)(x, time_features).shape == (2, 12, 5, 5)


def test_layers_along_time_follow_each_transformer():
    anatomy = Anatomy(unet=MINI, context_width=128, temporal=TemporalConfig(num_heads=4), time_width=None)
    for level in range(3):
        down, up = DownBlock(anatomy, level), UpBlock(anatomy, level)
        assert len(down.attentions) == len(down.temporal) == 1
        assert len(up.attentions) == len(up.temporal) == 2
        for block in (down, up):
            for attention, temporal in zip(block.attentions, block.temporal, strict=True):
                assert attention.proj_in.in_channels == temporal.inter.norm.normalized_shape[0]


def test_steps_see_the_parts_in_order():
    """A block calls its step once per transformer, with the layers along time that belong to it."""
    anatomy = Anatomy(unet=MINI, context_width=None, temporal=TemporalConfig(num_heads=4), time_width=None)
    block, seen = DownBlock(anatomy, 1), []

    def step(x, attention, temporal):
        seen.append((attention, temporal))
        return x * 2

    x, skips = block(torch.randn(1, 96, 8, 8), torch.randn(1, MINI.time_dim), step)
    assert seen == [(block.attentions[0], block.temporal[0])]
    assert x.shape == (1, 160, 4, 4) and [skip.shape[-1] for skip in skips] == [8, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_levels": (True, True)}, "one entry of attention_levels per level"),
        ({"attention_levels": (False, True, True)}, "finest level needs attention"),
        ({"num_heads": 5}, "multiples of norm_groups"),
        ({"norm_groups": 64}, "multiples of norm_groups"),
    ],
)
def test_configs_that_cannot_be_built_are_errors(changes, message):
    settings = {"block_channels": (96, 160, 192), "attention_levels": (True, True, True), **changes}
    with pytest.raises(ValueError, match=message):
        UNetConfig(**settings)
