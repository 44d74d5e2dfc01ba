"""The parts that both nets are made of."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from openloopy.models.conditions import Conditions
from openloopy.models.denoiser import Denoiser, DenoiserConfig
from openloopy.models.resnet import ResnetBlock, TimeEmbedding, convolve, timestep_features
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import Anatomy, DownBlock, UNetConfig, UpBlock
from tests.models.tiny_nets import awake

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
    unet = UNetConfig(block_channels=(8,), attention_levels=(True,), norm_groups=4, num_heads=2)
    block, x, time_features = ResnetBlock(unet, 8, 8, 6), torch.randn(2, 8, 5, 5), torch.randn(2, 6)
    hidden = block.conv1(F.silu(block.norm1(x))) + block.time_emb_proj(time_features)[:, :, None, None]
    assert torch.allclose(block(x, time_features), x + block.conv2(F.silu(block.norm2(hidden))), atol=1e-6)
    assert ResnetBlock(unet, 8, 12, 6)(x, time_features).shape == (2, 12, 5, 5)


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


@pytest.mark.parametrize("kernel_size", [(2, 3), (1, 4), (0, 3), (-1, 3)])
def test_kernels_have_a_middle(kernel_size):
    with pytest.raises(ValueError, match=r"kernel_size must be two odd numbers, got \("):
        UNetConfig(kernel_size=kernel_size)


@torch.no_grad()
@pytest.mark.parametrize("width", [3, 6])
def test_kernels_of_one_row_are_those_of_three_whose_others_see_nothing(width):
    """On maps of one row; the reference net and the denoiser are built alike, all levels included."""
    levels = dict(block_channels=(8, 16), attention_levels=(True, True), layers_per_block=1)
    square = UNetConfig(**levels, num_heads=2, norm_groups=4, context_dim=8)
    flat = replace(square, kernel_size=(1, 3))
    torch.manual_seed(0)
    large, small = (
        awake(Denoiser(DenoiserConfig(unet=unet, temporal=None))).eval() for unet in (square, flat)
    )
    taken = {}
    for name, value in small.state_dict().items():
        whole = large.state_dict()[name]
        taken[name] = whole if whole.shape == value.shape else whole[:, :, 1:2]
        assert taken[name].shape == value.shape
    assert any(value.shape[-2:] == (1, 3) for value in taken.values())
    assert taken["down_blocks.0.downsamplers.0.conv.weight"].shape[-2:] == (3, 3)
    small.load_state_dict(taken)
    x_t, t = torch.randn(2, 1, 4, 1, width), torch.tensor([3, 700])
    ones = torch.ones(2)
    told = Conditions(None, torch.zeros(2, 4, 1, width), torch.randn(2, 1, 5, 8), None, ones, ones)
    torch.testing.assert_close(small(x_t, t, told), large(x_t, t, told), atol=1e-5, rtol=1e-5)
    # With a second row the upper and lower taps see something.
    two_rows = torch.randn(2, 1, 4, 2, width), t, replace(told, reference_latents=torch.zeros(2, 4, 2, width))
    assert not torch.allclose(small(*two_rows), large(*two_rows), atol=1e-3)


@pytest.mark.parametrize("kernel_size", [(1, 1), (1, 3), (1, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_of_one_row_equal_pytorchs(kernel_size, bias):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, kernel_size, padding=(0, kernel_size[1] // 2), bias=bias)
    x = torch.randn(3, 4, 1, 7)
    with torch.no_grad():
        torch.testing.assert_close(convolve(conv, x), conv(x))
        assert torch.equal(convolve(conv, x.repeat(1, 1, 2, 1)), conv(x.repeat(1, 1, 2, 1)))
    assert torch.equal(convolve(conv, x), conv(x))  # with gradients
