"""Picture codecs: warping, sizes, shared references, saving, and diffusers' autoencoder behind the contract."""

from __future__ import annotations

import pytest
import torch

from openloopy.models.reference_decoder import ReferenceCodecConfig, Window, warp
from openloopy.models.vae import KLCodec, ReferenceCodec, load_codec, save_codec
from tests.tiny import shake

CONFIG = ReferenceCodecConfig(
    size_px=32,
    output_px=64,
    latent_channels=4,
    encoder_channels=(8, 8, 8),
    reference_channels=(8, 8, 8),
    decoder_channels=(8, 8, 8),
)


@pytest.fixture
def codec() -> ReferenceCodec:
    torch.manual_seed(0)
    return ReferenceCodec(CONFIG).eval()


def pictures(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_no_flow_moves_nothing():
    picture = pictures(2, 16)
    torch.testing.assert_close(warp(picture, torch.zeros(2, 2, 16, 16)), picture)


def test_flow_points_to_where_it_takes_from():
    picture = pictures(1, 16)
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0] = 2 * 3 / 16  # three pixels to the right, in half pictures
    torch.testing.assert_close(warp(picture, flow)[..., :13], picture[..., 3:], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_latents_and_pictures_have_their_sizes(codec):
    reference = codec.prepare_reference(pictures(1, 64))
    latents = codec.encode(pictures(3, 64))
    assert latents.shape == (3, 4, 4, 4)
    assert codec.decode(latents, reference).shape == (3, 3, 64, 64)
    small = codec.prepare_reference(pictures(1, 32))
    assert codec.decode(latents, small).shape == (3, 3, 32, 32)


@torch.inference_mode()
def test_a_picture_encodes_alike_at_both_sizes(codec):
    large = pictures(2, 64)
    small = torch.nn.functional.avg_pool2d(large, 2)
    torch.testing.assert_close(codec.encode(large), codec.encode(small))


@torch.inference_mode()
def test_one_reference_for_all_equals_one_each(codec):
    latents, picture = codec.encode(pictures(3, 32)), pictures(1, 32)
    shared = codec.decode(latents, codec.prepare_reference(picture))
    each = codec.decode(latents, codec.prepare_reference(picture.repeat(3, 1, 1, 1)))
    torch.testing.assert_close(shared, each)


@torch.inference_mode()
def test_larger_output_keeps_the_reference_detail(codec):
    """Where the mask trusts the reference and nothing moves, the output is the reference at its own size."""
    picture = pictures(1, 64)
    for level in codec.decoder.levels:
        level.flow.weight.zero_()
        level.flow.bias.zero_()
    codec.decoder.mask[1].bias.fill_(30.0)
    decoded = codec.decode(codec.encode(picture), codec.prepare_reference(picture))
    torch.testing.assert_close(decoded, picture, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_a_window_shows_what_the_whole_picture_shows_there():
    """Away from the window's border, where convolutions see less."""
    torch.manual_seed(0)
    codec = ReferenceCodec(ReferenceCodecConfig(size_px=256, output_px=256)).eval()
    reference = codec.prepare_reference(pictures(2, 256))
    latents, window = codec.encode(pictures(2, 256).flip(0)), Window(top=(8, 3), left=(5, 16), side=16)
    whole, part = codec.decode_parts(latents, reference), codec.decode_parts(latents, reference, window)
    inside = (..., slice(48, 80), slice(48, 80))
    torch.testing.assert_close(part.image[inside], window.cut(whole.image, 8)[inside], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(part.coarse_flow, whole.coarse_flow)


def test_every_parameter_learns(codec):
    codec.train()
    shake(codec)  # the finest level starts by changing nothing
    reference = codec.prepare_reference(pictures(2, 32))
    decoded = codec.decode_parts(codec.encode(pictures(2, 32)), reference)
    decoded.image.square().mean().backward()
    without = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_wrong_size_says_what_to_do(codec):
    with pytest.raises(ValueError, match="32 or 64 px, got 48x48"):
        codec.encode(pictures(1, 48))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        ReferenceCodecConfig(size_px=100)


@torch.inference_mode()
def test_saved_codec_decodes_the_same(codec, tmp_path):
    save_codec(tmp_path, codec)
    loaded = load_codec(tmp_path, 32)
    picture = pictures(1, 64)
    ours, theirs = (c.decode(c.encode(picture), c.prepare_reference(picture)) for c in (codec, loaded))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


@torch.inference_mode()
def test_kl_codec_is_diffusers_autoencoder(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
    ).eval()
    codec = KLCodec(vae, size_px=32)
    save_codec(tmp_path, codec)
    loaded = load_codec(tmp_path, 32)
    picture = pictures(1, 32)
    latents = loaded.encode(picture)
    torch.testing.assert_close(latents, vae.encode(picture).latent_dist.mode() * vae.config.scaling_factor)
    decoded = loaded.decode(latents, loaded.prepare_reference(picture))
    torch.testing.assert_close(decoded, vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1))
