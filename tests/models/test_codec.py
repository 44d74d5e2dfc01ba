"""The pixel codec behind the contract, and what a codec's folder must be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from openloopy.models.codec import KLCodec, load_codec, save_codec
from openloopy.models.rig_codec import Portrait, RigCodec
from tests.tiny import SIZE_PX, tiny_codec, tiny_portrait


def pictures(count: int, side: int = SIZE_PX) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.inference_mode()
def test_kl_codec_is_diffusers_autoencoder(tmp_path):
    codec = tiny_codec()
    save_codec(tmp_path, codec)
    loaded, picture, scale = load_codec(tmp_path, SIZE_PX), pictures(1), codec.vae.config.scaling_factor
    assert isinstance(loaded, KLCodec)
    latents = loaded.encode(picture)
    assert latents.shape == (1, 4, SIZE_PX // 8, SIZE_PX // 8)
    torch.testing.assert_close(latents, codec.vae.encode(picture).latent_dist.mode() * scale)
    decoded = loaded.to_pixels(latents)
    torch.testing.assert_close(decoded, codec.vae.decode(latents / scale).sample.clamp(-1, 1))


@torch.inference_mode()
def test_a_portrait_is_encoded_as_a_frame_of_training_is():
    codec, portrait = tiny_codec(), tiny_portrait()
    pixels = torch.from_numpy(portrait).permute(2, 0, 1)[None] / 127.5 - 1
    prepared = codec.prepare(Portrait(portrait), SIZE_PX)
    assert prepared.latents.dtype == torch.float32 and prepared.notes == ()
    torch.testing.assert_close(prepared.latents, codec.encode(pixels))


@torch.inference_mode()
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_frames_are_the_rounded_pixels_however_many_at_once(at_once):
    codec = tiny_codec()
    latents = codec.encode(pictures(3))
    frames = list(codec.decode([latents], codec.prepare(Portrait(tiny_portrait()), SIZE_PX), at_once))
    assert len(frames) == 3
    expected = (codec.to_pixels(latents).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    for frame, wanted in zip(frames, expected, strict=True):
        assert frame.shape == (SIZE_PX, SIZE_PX, 3) and frame.dtype == np.uint8
        assert np.abs(frame - wanted).max() <= 0.501


@torch.inference_mode()
def test_in_half_precision_it_takes_and_gives_single_precision():
    codec, half = tiny_codec(), tiny_codec()
    for parameter in half.parameters():
        parameter.data = parameter.data.bfloat16()
    prepared, exact = (each.prepare(Portrait(tiny_portrait()), SIZE_PX) for each in (half, codec))
    assert prepared.latents.dtype == torch.float32
    assert (prepared.latents - exact.latents).abs().max() < 0.05 * exact.latents.std()
    (frame,), (wanted,) = (list(each.decode([exact.latents], prepared, 1)) for each in (half, codec))
    assert np.abs(frame.astype(int) - wanted).mean() < 2


def test_a_portrait_must_be_a_square_of_bytes():
    for rgb in (np.zeros((8, 6, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="expected a square portrait `S S 3` of uint8"):
            Portrait(rgb)


def test_a_rig_codec_comes_back_with_its_numbers(tmp_path):
    codec = RigCodec(128)
    for buffer in codec.buffers():
        buffer.copy_(torch.rand(buffer.shape))
    save_codec(tmp_path, codec)
    loaded = load_codec(tmp_path, 256)
    assert isinstance(loaded, RigCodec) and loaded.size_px == 256
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    for name, value in codec.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_folder_that_is_no_codec_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"holds no codec: config\.json is missing"):
        load_codec(tmp_path, 64)


@pytest.mark.parametrize("kind", ["openloopy.ReferenceCodec", "openloopy.ReferenceCodec.2"])
def test_retired_codecs_name_what_can_open_them(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"kind": kind, "size_px": 128}))
    with pytest.raises(ValueError, match=r"made by openloopy 0\.1, .* use openloopy 0\.1 with it"):
        load_codec(tmp_path, 256)


@pytest.mark.parametrize(
    "change",
    [{"state_version": 2}, {"states": ["jaw", "wide"]}, {"shape": ["face_width"]}, {"more": 1}],
)
def test_numbers_of_another_list_of_states_are_refused(tmp_path, change):
    save_codec(tmp_path, RigCodec())
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    version = change.get("state_version", 1)
    with pytest.raises(
        ValueError, match=rf"config\.json is of face states version {version}, of other names"
    ):
        load_codec(tmp_path, 256)
