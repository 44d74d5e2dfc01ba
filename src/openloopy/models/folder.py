"""The model folder: everything that generation needs, as safetensors and JSON.

    config.json          schema version and all settings
    loopy.safetensors    denoiser, reference net, audio projection, audio-to-latents
    vae/                 the codec: diffusers' AutoencoderKL, or the mean and scale of face states (`RigCodec`)
    audio_encoder/       wav2vec 2.0, in transformers' format

Loading is strict: a missing, unexpected or differently shaped tensor is an error that lists them.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from openloopy.models.audio_encoder import AudioEncoder, load_audio_encoder, save_audio_encoder
from openloopy.models.codec import KLCodec, load_codec, save_codec
from openloopy.models.foreign_files import read_settings
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.rig_codec import RigCodec
from openloopy.models.weight_files import buildable, check_weights, load_weights, replacing, save_weights

Codec = KLCodec | RigCodec
Module = TypeVar("Module", bound=nn.Module)

EMBEDDED_MINI = Path(__file__).parents[1] / "weights" / "mini"
"""The model that comes with the package; its name is "mini"."""
CONFIG_FILE = "config.json"
LOOPY_FILE = "loopy.safetensors"
CODEC_FOLDER = "vae"
AUDIO_ENCODER_FOLDER = "audio_encoder"
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate: all parts on one device, their parameters in one dtype."""

    config: LoopyConfig
    loopy: LoopyModel
    codec: Codec
    audio_encoder: AudioEncoder
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        """The parts describe themselves; here they meet."""
        unet, audio = self.config.denoiser.unet, self.config.denoiser.audio
        codec, encoder = self.codec, self.audio_encoder
        if (codec.latent_channels, codec.size_px) != (unet.in_channels, self.config.size_px):
            raise ValueError(
                f"the codec has {codec.latent_channels} latent channels and pictures of {codec.size_px} px, "
                f"the model expects {unet.in_channels} and {self.config.size_px} px; they belong to different models"
            )
        if audio is not None and (encoder.num_layers, encoder.width) != (audio.num_layers, audio.layer_width):
            raise ValueError(
                f"the audio encoder has {encoder.num_layers} layers of width {encoder.width}, the model expects "
                f"{audio.num_layers} of {audio.layer_width}; they belong to different models"
            )


def save_model(
    folder: Path | str,
    loopy: LoopyModel,
    codec: Codec,
    audio_encoder: AudioEncoder,
    config: LoopyConfig,
    *,
    storage: torch.dtype = torch.float32,
) -> Path:
    """Write a model folder, config.json last.

    Args:
        config: as `loopy.config`, but its name and generation defaults may differ.
        storage: dtype of the parameters on disk; buffers (running statistics) keep theirs.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(_with_parameters_in(storage, copy.deepcopy(loopy)), folder / LOOPY_FILE)
    save_codec(folder / CODEC_FOLDER, _with_parameters_in(storage, copy.deepcopy(codec)))
    save_audio_encoder(
        folder / AUDIO_ENCODER_FOLDER, _with_parameters_in(storage, copy.deepcopy(audio_encoder))
    )
    with replacing(folder / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    return folder


def load_model(
    name: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Open a model by name: "mini", a folder, or a hub id such as "owner/model" (see `find_model_folder`)."""
    folder = find_model_folder(name)
    config = load_config(folder)
    with buildable(folder / CONFIG_FILE), torch.device("meta"):
        loopy = LoopyModel(config)
    load_weights(loopy, folder / LOOPY_FILE)
    codec = _load_codec(folder / CODEC_FOLDER, config)
    audio_encoder = load_audio_encoder(folder / AUDIO_ENCODER_FOLDER)
    for module in (loopy, codec, audio_encoder):
        _with_parameters_in(dtype, module).to(device).eval().requires_grad_(False)
    return LoadedModel(config, loopy, codec, audio_encoder, torch.device(device), dtype)


def find_model_folder(name: Path | str, **hub: Any) -> Path:
    """The local folder of a model; a hub id is downloaded on first use.

    Args:
        name: "mini" (embedded), a folder, or a hub id "owner/model".
        hub: for a hub id, what `huggingface_hub.snapshot_download` takes: revision, token, cache_dir, force_download,
            local_files_only.
    """
    if str(name) == "mini":
        return _checked_folder(
            EMBEDDED_MINI, "the embedded model is not installed; reinstall, or name a folder"
        )
    path = Path(name).expanduser()
    if path.exists():
        return _checked_folder(path, "it is not an openloopy model; `openloopy import` converts others")
    if isinstance(name, Path) or name.count("/") != 1 or name[0] in "./~":
        raise ValueError(
            f'no model at {str(name)!r}: give "mini", an existing folder, or a hub id "owner/model"'
        )
    return _checked_folder(
        _download(name, hub), "it is not an openloopy model; `openloopy import` converts others"
    )


def load_config(folder: Path) -> LoopyConfig:
    """The settings of a model folder."""
    path = folder / CONFIG_FILE
    settings = read_settings(path)
    try:
        return LoopyConfig.from_dict(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load_codec(folder: Path, config: LoopyConfig) -> Codec:
    codec = load_codec(folder, config.size_px)
    if isinstance(codec, KLCodec):
        check_weights(codec.vae, folder / DIFFUSERS_FILE)
    return codec


def _with_parameters_in(dtype: torch.dtype, module: Module) -> Module:
    """Buffers stay as they are: running statistics lose too much in half precision.

    Always a copy: a tensor that still maps its file would change with the file.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype, copy=True)
    return module


def _checked_folder(folder: Path, remedy: str) -> Path:
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no {CONFIG_FILE}: {remedy}")
    return folder


def _download(hub_id: str, hub: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"], **hub))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{hub_id!r} is no folder here, and fetching it from the Hugging Face hub failed "
            f'({type(error).__name__}: {error}); without a network, give a folder or use "mini"'
        ) from error
