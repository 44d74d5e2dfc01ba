"""Picture codecs: what turns pixels into latents and back.

Two of them share one contract (`LatentCodec`): our own `ReferenceCodec` for the small models, and diffusers'
`AutoencoderKL` (`sd-vae-ft-mse`) for the paper's size (Loopy sec. 3.1: Stable Diffusion's autoencoder).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.models.config_json import from_json_dict, to_json_dict
from openloopy.models.reference_decoder import (
    Decoded,
    ReferenceCodecConfig,
    ReferenceDecoder,
    ReferencePicture,
    SlimEncoder,
    Window,
)
from openloopy.models.weight_files import load_weights, save_weights


class LatentCodec(Protocol):
    """Pixels `n 3 H W` in [-1, 1] <-> latents `n c h w` of about unit variance."""

    latent_channels: int
    size_px: int
    output_px: int
    downsample: int

    def encode(self, pixels: Tensor) -> Tensor: ...

    def prepare_reference(self, pixels: Tensor) -> ReferencePicture: ...

    def decode(self, latents: Tensor, reference: ReferencePicture) -> Tensor: ...


class ReferenceCodec(nn.Module):
    """Slim encoder and reference decoder (see `reference_decoder`)."""

    def __init__(self, config: ReferenceCodecConfig):
        super().__init__()
        self.config = config
        self.latent_channels, self.size_px, self.output_px = (
            config.latent_channels,
            config.size_px,
            config.output_px,
        )
        self.downsample = config.downsample
        self.encoder = SlimEncoder(config)
        self.decoder = ReferenceDecoder(config)
        self.to(memory_format=torch.channels_last)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels: `n 3 H W` at the working or the output size -> latents `n c h w`."""
        return self.encoder(self.to_working_size(pixels))

    def to_working_size(self, pixels: Tensor) -> Tensor:
        """Reduce pictures of the output size; anything else but the working size is an error."""
        side = pixels.shape[-1]
        if pixels.shape[-2] != side or side not in (self.size_px, self.output_px):
            raise ValueError(
                f"expected square pictures of {self.size_px} or {self.output_px} px, got "
                f"{pixels.shape[-1]}x{pixels.shape[-2]}; crop and resize with face.crop.apply_crop first"
            )
        return pixels if side == self.size_px else F.avg_pool2d(pixels, side // self.size_px)

    def prepare_reference(self, pixels: Tensor) -> ReferencePicture:
        """pixels: `b 3 H W`, best at the output size; done once per video."""
        small = self.to_working_size(pixels)
        return ReferencePicture(pixels, self.encode(small), self.decoder.reference_features(small))

    def decode(self, latents: Tensor, reference: ReferencePicture) -> Tensor:
        """latents `n c h w`, one reference for all or one each -> `n 3 H W` at the reference picture's size."""
        return self.decode_parts(latents, reference).image.clamp(-1, 1)

    def decode_parts(
        self, latents: Tensor, reference: ReferencePicture, window: Window | None = None
    ) -> Decoded:
        """As `decode`, with flow, mask and drawn picture, unclamped: for training and for looking inside.

        window: the part of each picture that is wanted; None: the whole.
        """
        return self.decoder(latents, reference.expand(latents.shape[0]), window)


class KLCodec(nn.Module):
    """diffusers' AutoencoderKL with Stable Diffusion's latent scale; the reference is not used."""

    downsample = 8

    def __init__(self, vae: nn.Module, size_px: int = 512):
        super().__init__()
        self.vae = vae
        self.size_px = self.output_px = size_px
        self.latent_channels = vae.config.latent_channels
        self.scale = vae.config.scaling_factor

    @staticmethod
    def from_pretrained(folder: Path | str, size_px: int = 512) -> KLCodec:
        """Load diffusers-format weights from a local folder; never reaches the network."""
        from diffusers import AutoencoderKL

        return KLCodec(AutoencoderKL.from_pretrained(folder, local_files_only=True), size_px)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels `n 3 H W` in [-1, 1] -> the mode of the posterior, scaled: `n 4 H/8 W/8`."""
        return self.vae.encode(pixels).latent_dist.mode() * self.scale

    def prepare_reference(self, pixels: Tensor) -> ReferencePicture:
        return ReferencePicture.empty()

    def decode(self, latents: Tensor, reference: ReferencePicture) -> Tensor:
        return self.vae.decode(latents / self.scale).sample.clamp(-1, 1)


REFERENCE_CODEC_KIND = "openloopy.ReferenceCodec.2"
FIRST_CODEC_KIND = "openloopy.ReferenceCodec"
"""Of `mini` v0; see `models.growth`."""
CODEC_WEIGHTS = "model.safetensors"


def save_codec(folder: Path, codec: ReferenceCodec | KLCodec) -> None:
    """Write `config.json` and safetensors: our own format, or diffusers' for `KLCodec`."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(codec, KLCodec):
        codec.vae.save_pretrained(folder)
        return
    save_weights(codec, folder / CODEC_WEIGHTS)
    settings = {"kind": REFERENCE_CODEC_KIND, "settings": to_json_dict(codec.config)}
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


def load_codec(folder: Path, size_px: int) -> ReferenceCodec | KLCodec:
    """Load what `save_codec` wrote, or a diffusers AutoencoderKL folder (then `size_px` is the picture's side)."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no autoencoder: config.json is missing")
    settings = json.loads(path.read_text())
    if settings.get("kind") == FIRST_CODEC_KIND:
        raise ValueError(
            f"{folder} is an autoencoder of the first version, which this one only starts training from "
            "(openloopy train mini.codec --start); use version 0.1.0 to generate with it"
        )
    if settings.get("kind") != REFERENCE_CODEC_KIND:
        return KLCodec.from_pretrained(folder, size_px)
    codec = ReferenceCodec(from_json_dict(ReferenceCodecConfig, settings["settings"]))
    return load_weights(codec, folder / CODEC_WEIGHTS).eval()
