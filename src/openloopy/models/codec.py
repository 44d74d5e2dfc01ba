"""Codecs: what turns a portrait into latents, and latents into pictures.

Two of them share one contract (`LatentCodec`): `RigCodec`, whose latents are face states and whose portrait itself
moves (`models.rig_codec`), for the embedded model; and diffusers' `AutoencoderKL` (`sd-vae-ft-mse`) for the paper's
size (Loopy sec. 3.1: Stable Diffusion's autoencoder).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from openloopy.models.foreign_files import read_settings
from openloopy.models.rig_codec import Portrait, RigCodec
from openloopy.models.weight_files import load_weights, replacing, save_weights

RIG_CODEC_KIND = "openloopy.RigCodec.1"
RETIRED_KIND = "openloopy.ReferenceCodec"
CODEC_WEIGHTS, SETTINGS_NAME = "model.safetensors", "config.json"


class Prepared(Protocol):
    """What is computed of a portrait once per video."""

    latents: Tensor
    """`1 c h w` float32: the reference."""
    notes: tuple[str, ...]
    """What a user should know of this portrait."""


class LatentCodec(Protocol):
    """Portraits -> latents `n c h w` of about unit variance -> pictures."""

    latent_channels: int
    size_px: int
    """Side of the pictures, unless another is asked for."""
    makes_any_size: bool
    computes_apart: bool
    """Whether decoding leaves the denoiser's device free, so that the next clip may be sampled meanwhile."""

    def source_px(self, size_px: int) -> int:
        """Side of the portrait that is wanted for pictures of a size."""

    def prepare(self, portrait: Portrait, size_px: int) -> Prepared:
        """What is needed of the portrait, for pictures of a size."""

    def decode(self, clips: Iterable[Tensor], prepared: Prepared, at_once: int) -> Iterator[np.ndarray]:
        """Pictures `size size 3` uint8 of clips of latents `f c h w`, at_once at a time.

        A clip without frames asks for all pictures of the clips before it, before the next clip is taken; the first,
        to get ready.
        """


@dataclass(frozen=True)
class PreparedLatents:
    """A portrait of which only the latents, `1 c h w`, are needed."""

    latents: Tensor
    notes: tuple[str, ...] = ()


class KLCodec(nn.Module):
    """diffusers' AutoencoderKL with Stable Diffusion's latent scale; the portrait's pixels are not used."""

    downsample = 8
    makes_any_size, computes_apart = False, False

    def __init__(self, vae: nn.Module, size_px: int = 512):
        super().__init__()
        self.vae = vae
        self.size_px = size_px
        self.latent_channels = vae.config.latent_channels
        self.scale = vae.config.scaling_factor

    @staticmethod
    def from_pretrained(folder: Path | str, size_px: int = 512) -> KLCodec:
        """Load diffusers-format weights from a local folder; never reaches the network."""
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True)
        # torch takes groups of any number, and finds fault only when it computes
        if vae.config.norm_num_groups < 1 or not 0 < vae.config.scaling_factor < math.inf:
            raise ValueError(
                f"norm_num_groups is {vae.config.norm_num_groups}, scaling_factor {vae.config.scaling_factor}"
            )
        return KLCodec(vae, size_px)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels `n 3 H W` in [-1, 1] -> the mode of the posterior, scaled: `n 4 H/8 W/8`."""
        return self.vae.encode(pixels).latent_dist.mode() * self.scale

    def to_pixels(self, latents: Tensor) -> Tensor:
        """latents `n 4 h w` -> pixels `n 3 H W` in [-1, 1]."""
        return self.vae.decode(latents / self.scale).sample.clamp(-1, 1)

    def source_px(self, size_px: int) -> int:
        """The pictures' own size."""
        return size_px

    def prepare(self, portrait: Portrait, size_px: int) -> PreparedLatents:
        """The portrait's latents."""
        parameter = next(self.parameters())
        pixels = torch.from_numpy(portrait.rgb.copy()).permute(2, 0, 1)[None].to(parameter.device) / 127.5 - 1
        with self._autocast(parameter):
            return PreparedLatents(self.encode(pixels).float())

    def decode(
        self, clips: Iterable[Tensor], prepared: PreparedLatents, at_once: int
    ) -> Iterator[np.ndarray]:
        """Pictures `H W 3` uint8, decoded at_once at a time."""
        parameter = next(self.parameters())
        for few in (few for latents in clips if len(latents) for few in latents.split(at_once)):
            with self._autocast(parameter):
                pixels = self.to_pixels(few).float()
            frames = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
            yield from frames.permute(0, 2, 3, 1).cpu().numpy()

    def _autocast(self, parameter: Tensor) -> torch.autocast:
        """It computes in the parameters' dtype but takes and gives float32: autocast, not a cast."""
        dtype = parameter.dtype
        return torch.autocast(parameter.device.type, dtype=dtype, enabled=dtype != torch.float32)


def save_codec(folder: Path, codec: KLCodec | RigCodec) -> None:
    """Write safetensors and, last, `config.json`: diffusers' format, or our own for `RigCodec`."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(codec, KLCodec):
        _save_diffusers(folder, codec)
        return
    save_weights(codec, folder / CODEC_WEIGHTS)
    with replacing(folder / SETTINGS_NAME) as partial:
        partial.write_text(json.dumps({"kind": RIG_CODEC_KIND, **codec.settings()}, indent=1) + "\n")


def load_codec(folder: Path, size_px: int) -> KLCodec | RigCodec:
    """Load what `save_codec` wrote, or a diffusers AutoencoderKL folder; size_px: the pictures' side."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        raise ValueError(f"{folder} holds no codec: {SETTINGS_NAME} is missing")
    settings = read_settings(path)
    kind = str(settings.pop("kind", ""))
    if kind.startswith(RETIRED_KIND):
        raise ValueError(
            f"{folder} is the autoencoder of a model made by openloopy 0.1, which this version no longer has; "
            "use openloopy 0.1 with it, or the embedded model"
        )
    if kind != RIG_CODEC_KIND:
        return _load_diffusers(folder, size_px)
    RigCodec.check_settings(settings, path)
    return load_weights(RigCodec(size_px), folder / CODEC_WEIGHTS).eval()


def _save_diffusers(folder: Path, codec: KLCodec) -> None:
    """diffusers writes its settings first: whoever is killed then would leave a folder that looks whole."""
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    codec.vae.save_pretrained(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == SETTINGS_NAME):
        os.replace(path, folder / path.name)
    partial.rmdir()


def _load_diffusers(folder: Path, size_px: int) -> KLCodec:
    try:
        return KLCodec.from_pretrained(folder, size_px)
    except Exception as error:  # of every kind, by which setting or file does not fit
        raise ValueError(
            f"{folder} holds no autoencoder that can be loaded ({type(error).__name__}: {error}); copy it again"
        ) from error
