"""A codec that grows from one of half the size gives the same latents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from openloopy.models.growth import grow_codec
from openloopy.models.reference_decoder import ReferenceCodecConfig
from openloopy.models.vae import FIRST_CODEC_KIND, ReferenceCodec, load_codec

SMALL = ReferenceCodecConfig(
    size_px=32,
    output_px=32,
    latent_channels=4,
    encoder_channels=(6, 8, 10),
    reference_channels=(4, 6, 8),
    decoder_channels=(8, 10, 12),
)
LARGE = ReferenceCodecConfig(
    size_px=64,
    output_px=64,
    latent_channels=4,
    encoder_channels=(6, 8, 10),
    reference_channels=(4, 4, 6, 8),
    decoder_channels=(6, 8, 10, 12),
)
FIRST_NAMES = {2: "coarse", 1: "middle", 0: "fine"}


def first_version_weights(path: Path) -> ReferenceCodec:
    """A codec of the first version on disk, and the same encoder as a codec of today."""
    torch.manual_seed(0)
    codec = ReferenceCodec(SMALL).eval()
    codec.encoder.norm.running_mean.normal_()
    codec.encoder.norm.running_var.uniform_(0.5, 2)
    reference, like = SMALL.reference_channels, ReferenceCodec(LARGE).decoder
    state = {k: v for k, v in codec.state_dict().items() if k.startswith("encoder.")}
    state |= {f"decoder.draw.{k}": v for k, v in like.draw[1].state_dict().items()}
    state |= {f"decoder.mask.{k}": v for k, v in like.mask[1].state_dict().items()}
    for level, name in FIRST_NAMES.items():
        new = like.levels[level + 1]
        state |= {
            f"decoder.{name}.0.{k.removeprefix('0.')}": v
            for k, v in new.merge.state_dict(prefix="0.").items()
        }
        state |= {
            f"decoder.{name}.{i + 1}.{k}": v for i in (0, 1) for k, v in new.blocks[i].state_dict().items()
        }
        state |= {f"decoder.flow_{name}.{k}": v for k, v in new.flow.state_dict().items()}
    state |= {f"decoder.reference_stages.{k}": v for k, v in like.reference_stages.state_dict().items()}
    state["decoder.reference_stages.0.1.0.weight"] = torch.randn(reference[0], 12, 3, 3)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
    return codec


@torch.inference_mode()
def test_the_grown_encoder_gives_the_latents_of_the_small_one(tmp_path):
    small = first_version_weights(tmp_path / "model.safetensors")
    large = ReferenceCodec(LARGE).eval()
    new = grow_codec(large, tmp_path / "model.safetensors")
    assert {name.split(".")[1] for name in new} == {"reference_detail", "levels", "draw", "mask"}
    assert {name.split(".")[2] for name in new} == {"0"}
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    halved = torch.nn.functional.avg_pool2d(pictures, 2)
    torch.testing.assert_close(large.encode(pictures), small.encode(halved), rtol=1e-4, atol=1e-4)


def test_a_codec_of_other_widths_is_refused_with_what_differs(tmp_path):
    first_version_weights(tmp_path / "model.safetensors")
    wider = ReferenceCodec(ReferenceCodecConfig(**{**vars(LARGE), "encoder_channels": (6, 8, 16)}))
    with pytest.raises(ValueError, match="of another shape"):
        grow_codec(wider, tmp_path / "model.safetensors")


def test_the_first_version_is_not_loaded_as_today_s(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"kind": FIRST_CODEC_KIND, "settings": {}}))
    with pytest.raises(ValueError, match="first version.*--start"):
        load_codec(tmp_path, 64)
