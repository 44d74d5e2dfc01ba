"""Our nets with diffusers' weights give diffusers' numbers, and the full size holds every SD 1.5 weight."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from openloopy.models.attention import TransformerEntry
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.conditions import Conditions
from openloopy.models.denoiser import Denoiser, DenoiserConfig
from openloopy.models.reference_net import ReferenceNet, fold_timestep
from openloopy.models.unet import UNetConfig

SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SMALL = {
    **SD15,
    "sample_size": 16,
    "block_out_channels": (16, 32, 48, 48),
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
SMALL_CONFIG = UNetConfig(block_channels=(16, 32, 48, 48), norm_groups=8, context_dim=24, num_heads=4)


@pytest.fixture(scope="module", name="peer")
def make_peer() -> UNet2DConditionModel:
    torch.manual_seed(0)
    peer = UNet2DConditionModel(**SMALL).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return peer


def null_conditions(tokens: torch.Tensor, size: tuple[int, int]) -> Conditions:
    ones = torch.ones(tokens.shape[0])
    return Conditions(None, torch.zeros(tokens.shape[0], 4, *size), tokens, None, ones, ones)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (12, 20)])
def test_denoiser_equals_diffusers(peer, size):
    denoiser = Denoiser(DenoiserConfig(unet=SMALL_CONFIG, temporal=None)).eval()
    denoiser.load_state_dict(peer.state_dict(), strict=True)
    x_t, tokens, t = torch.randn(2, 3, 4, *size), torch.randn(2, 3, 7, 24), torch.tensor([3, 977])
    ours = denoiser(x_t, t, null_conditions(tokens, size)).flatten(0, 1)
    theirs = peer(x_t.flatten(0, 1), t.repeat_interleave(3), tokens.flatten(0, 1)).sample
    assert theirs.std() > 0.05
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


@torch.no_grad()
def test_reference_net_equals_diffusers(peer):
    """Its features are what enters diffusers' self-attention, once the text cross-attention adds nothing."""
    net = ReferenceNet(SMALL_CONFIG).eval()
    theirs = fold_timestep(overlap(peer.state_dict(), net))
    net.load_state_dict(theirs, strict=True)
    blocks = [module for name, module in peer.named_modules() if name.endswith("transformer_blocks.0")]
    layers = [module for name, module in peer.named_modules() if name.rsplit(".", 2)[-2:-1] == ["attentions"]]
    seen = SimpleNamespace(tokens=[], maps=[])
    hooks = [
        block.norm1.register_forward_hook(lambda _, __, out: seen.tokens.append(out)) for block in blocks
    ]
    hooks += [block.attn2.register_forward_hook(lambda _, __, out: out * 0) for block in blocks]
    hooks += [layer.register_forward_pre_hook(lambda _, args: seen.maps.append(args[0])) for layer in layers]
    reference, motion = torch.randn(2, 4, 16, 16), torch.randn(2, 3, 4, 16, 16)
    features = net(reference, motion, torch.ones(2, 3))
    peer(torch.cat([reference, motion.flatten(0, 1)]), 0, torch.zeros(8, 1, 24))
    for hook in hooks:
        hook.remove()
    assert len(features.layers) == len(seen.tokens) == len(seen.maps) == 16
    for ours, tokens, maps in zip(features.layers, seen.tokens, seen.maps, strict=True):
        motion_tokens = maps[2:].flatten(2).transpose(1, 2).unflatten(0, (2, 3))
        assert torch.allclose(ours.reference, tokens[:2], atol=1e-4)
        assert torch.allclose(ours.motion, motion_tokens, atol=1e-4)


def overlap(weights: dict[str, torch.Tensor], net: ReferenceNet) -> dict[str, torch.Tensor]:
    """SD 1.5's weights without those that the reference net has no use for, each named here."""
    last = "up_blocks.3.attentions.2."
    after_last = (last + "proj_out", last + "transformer_blocks.0.attn1", last + "transformer_blocks.0.norm3")
    unused = (*after_last, last + "transformer_blocks.0.ff", "conv_norm_out", "conv_out")
    assert isinstance(net.up_blocks[-1].attentions[-1], TransformerEntry)
    is_text = {name for name in weights if ".attn2." in name or ".transformer_blocks.0.norm2." in name}
    return {
        name: value for name, value in weights.items() if name not in is_text and not name.startswith(unused)
    }


def test_full_size_holds_every_weight_of_sd15():
    with torch.device("meta"):
        theirs = {name: value.shape for name, value in UNet2DConditionModel(**SD15).state_dict().items()}
        denoiser = Denoiser(DenoiserConfig())
        net = ReferenceNet(UNetConfig())
    ours = {name: value.shape for name, value in denoiser.state_dict().items()}
    assert {name: shape for name, shape in ours.items() if ".temporal." not in name} == theirs
    assert len(theirs) == 686 and any(".temporal." in name for name in ours)
    folded = {name: shape for name, shape in overlap(theirs, net).items() if "time_emb" not in name}
    assert {name: value.shape for name, value in net.state_dict().items()} == folded


def test_default_audio_is_wav2vec2_base():
    assert AudioProjectionConfig() == AudioProjectionConfig(num_layers=12, layer_width=768, window=5)
