"""The reference net: one entry per attention layer, missing motion frames are zero and cost nothing."""

import pytest
import torch

from openloopy.models.reference_net import ReferenceNet
from openloopy.models.unet import attention_layers
from tests.models.tiny_nets import BATCH, CHANNELS, MOTION, SIZE, tiny_denoiser, tiny_features, tiny_unet

LAYERS = 2 + 1 + 4  # down, middle, up


def make_net() -> ReferenceNet:
    torch.manual_seed(0)
    return ReferenceNet(tiny_unet()).eval()


def random_frames() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(BATCH, CHANNELS, SIZE, SIZE), torch.randn(BATCH, MOTION, CHANNELS, SIZE, SIZE)


def test_one_entry_per_attention_layer_of_the_denoiser():
    features, layers = tiny_features(), attention_layers(tiny_denoiser())
    assert len(features.layers) == len(layers) == LAYERS
    for entry, (attention, _) in zip(features.layers, layers, strict=True):
        width = attention.proj_in.in_channels
        tokens = entry.reference.shape[1]
        assert entry.reference.shape == (BATCH, tokens, width)
        assert entry.motion.shape == (BATCH, MOTION, tokens, width)
    assert features.layers[0].reference.shape[1] == SIZE * SIZE


@torch.no_grad()
def test_features_are_the_map_of_motion_and_the_normalised_tokens_of_the_portrait():
    """Written out at the first layer, whose input is what the first convolution block gives."""
    net, (reference, motion) = make_net(), random_frames()
    maps = []
    net.down_blocks[0].resnets[0].register_forward_hook(lambda module, given, made: maps.append(made))
    first = net(reference, motion, torch.ones(BATCH, MOTION)).layers[0]
    portraits, frames = maps[0][:BATCH], maps[0][BATCH:]
    layer = net.down_blocks[0].attentions[0]
    tokens = layer.proj_in(layer.norm(portraits)).flatten(2).transpose(1, 2)
    assert torch.allclose(first.reference, layer.transformer_blocks[0].norm1(tokens), atol=1e-5)
    assert torch.equal(first.motion.flatten(0, 1), frames.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_missing_motion_frames_are_zero_whatever_they_hold():
    net, (reference, motion) = make_net(), random_frames()
    mask = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 0]])
    broken = torch.where(mask[:, :, None, None, None] > 0, motion, torch.nan)
    partly, full = net(reference, broken, mask), net(reference, motion, torch.ones_like(mask))
    for some, every in zip(partly.layers, full.layers, strict=True):
        assert torch.allclose(some.reference, every.reference, atol=1e-5)
        assert torch.allclose(some.motion, every.motion * mask[:, :, None, None], atol=1e-5)
        assert every.motion[1].abs().max() > 1e-3


@torch.no_grad()
def test_relative_motion_is_what_differs_from_the_portrait():
    net, (reference, motion) = make_net(), random_frames()
    motion[:, 1] = reference
    plain = net(reference, motion, torch.ones(BATCH, MOTION))
    net.relative_motion = True
    mask = torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1]])
    relative = net(reference, motion, mask)
    for entry, raw in zip(relative.layers, plain.layers, strict=True):
        width = raw.motion.shape[-1:]
        even = torch.layer_norm(raw.motion, width)
        expected = (even - even[:, 1:2]) * mask[:, :, None, None]
        assert torch.allclose(entry.motion, expected, atol=1e-4)
        assert torch.allclose(entry.reference, raw.reference, atol=1e-5)
        assert entry.motion[:, 1].abs().max() < 1e-4 < entry.motion[:, 2].abs().max()


@torch.no_grad()
def test_no_motion_frames():
    net, (reference, motion) = make_net(), random_frames()
    features = net(reference, motion[:, :0], torch.ones(BATCH, 0))
    full = net(reference, motion, torch.ones(BATCH, MOTION))
    assert all(layer.motion.shape[1] == 0 for layer in features.layers)
    assert torch.allclose(features.layers[-1].reference, full.layers[-1].reference, atol=1e-5)


def test_every_parameter_is_used():
    """Nothing of the net follows its last feature: each parameter gets a gradient through the denoiser."""
    net, denoiser, (reference, motion) = make_net(), tiny_denoiser(), random_frames()
    cache = denoiser.cache_reference(net(reference, motion, torch.ones(BATCH, MOTION)))
    total = sum(layer.reference_k.square().sum() + layer.motion_v.square().sum() for layer in cache.layers)
    total.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_mismatching_shapes_are_an_error():
    net, (reference, motion) = make_net(), random_frames()
    with pytest.raises(ValueError, match="expected reference `b c h w`"):
        net(reference, motion, torch.ones(BATCH, MOTION + 1))
