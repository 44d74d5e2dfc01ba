"""A model small enough for tests: random weights, 32 px pictures, every part of the real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.audio_encoder import AudioEncoder, AudioEncoderConfig
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.audio_to_latents import A2LConfig
from openloopy.models.codec import KLCodec
from openloopy.models.denoiser import DenoiserConfig
from openloopy.models.folder import LoadedModel
from openloopy.models.loopy import GenerationDefaults, LoopyConfig, LoopyModel
from openloopy.models.rig_codec import RigCodec
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig
from openloopy.models.wav2vec2 import Wav2Vec2Config
from openloopy.recipes.tiny import autoencoder_settings
from openloopy.rig.state import HIGH, LOW, TOKEN_WIDTH

SIZE_PX = 32
LATENT_CHANNELS = 4


def tiny_config(**changes) -> LoopyConfig:
    """A config of the mini kind: v prediction, zero terminal SNR, reference also at the input."""
    unet = UNetConfig(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_channels=(8, 16),
        layers_per_block=1,
        attention_levels=(True, True),
        num_heads=2,
        norm_groups=4,
        context_dim=12,
    )
    config = LoopyConfig(
        name="tiny",
        size_px=SIZE_PX,
        denoiser=DenoiserConfig(
            unet=unet,
            temporal=TemporalConfig(num_heads=2),
            audio=AudioProjectionConfig(num_layers=2, layer_width=16),
            reference_input="attention+concat",
        ),
        a2l=A2LConfig(num_embeddings=4, width=16, num_heads=2),
        schedule=ScheduleConfig(zero_terminal_snr=True),
        prediction="v",
        defaults=GenerationDefaults(steps=2, spacing="trailing", audio_guidance=3.0, reference_guidance=2.0),
    )
    return replace(config, **changes)


def tiny_codec(seed: int = 0) -> KLCodec:
    """An AutoencoderKL from 32 px to 4 x 4 latents."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return KLCodec(AutoencoderKL(**autoencoder_settings()), SIZE_PX).eval()


def tiny_audio_encoder(seed: int = 0) -> AudioEncoder:
    """wav2vec 2.0 with two layers of width 16."""
    torch.manual_seed(seed)
    settings = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        # Groups of 4 channels: PyTorch 2.13 gives wrong bfloat16 sums for groups of 8 on CPUs with AMX.
        num_conv_pos_embedding_groups=4,
    )
    return AudioEncoder(AudioEncoderConfig(network=settings)).eval()


def tiny_model(seed: int = 0, **changes) -> LoadedModel:
    """A whole model, frozen as a loaded one is.

    Layers that start as the identity are shaken, so that every condition makes a difference.
    """
    return _assembled(tiny_config(**changes), tiny_codec(seed), seed)


def tiny_rig_model(seed: int = 0, size_px: int = 64) -> LoadedModel:
    """As `tiny_model`, on face states: its portrait itself moves, by a little about a neutral face."""
    unet = UNetConfig(
        in_channels=TOKEN_WIDTH,
        out_channels=TOKEN_WIDTH,
        block_channels=(8,),
        layers_per_block=1,
        attention_levels=(True,),
        num_heads=2,
        norm_groups=4,
        context_dim=12,
        kernel_size=(1, 3),
    )
    config = tiny_config(name="tiny-states", size_px=size_px, latent_size=RigCodec.latent_shape[1:])
    codec = RigCodec(size_px).eval()
    codec.state_scale.copy_(torch.from_numpy(0.05 * (HIGH - LOW)))
    return _assembled(replace(config, denoiser=replace(config.denoiser, unet=unet)), codec, seed)


def _assembled(config: LoopyConfig, codec: KLCodec | RigCodec, seed: int) -> LoadedModel:
    audio_encoder = tiny_audio_encoder(seed)
    torch.manual_seed(seed)
    loopy = LoopyModel(config).eval()
    shake(loopy)
    for module in (loopy, codec, audio_encoder):
        module.requires_grad_(False)
    return LoadedModel(config, loopy, codec, audio_encoder, torch.device("cpu"), torch.float32)


def shake(module: nn.Module) -> None:
    """Give parameters that are all zero (fresh output layers) small random values."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)


def tiny_portrait(seed: int = 0) -> np.ndarray:
    """`32 32 3` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def tiny_sound(duration_s: float, seed: int = 0) -> np.ndarray:
    """Mono 16 kHz noise."""
    return np.random.default_rng(seed).normal(0, 0.1, round(duration_s * 16_000)).astype(np.float32)
