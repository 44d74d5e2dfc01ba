"""Small nets and conditions for the tests of this folder."""

import torch

from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.conditions import Conditions, ReferenceFeatures
from openloopy.models.denoiser import Denoiser, DenoiserConfig
from openloopy.models.reference_net import ReferenceNet
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig

BATCH, FRAMES, MOTION, CHANNELS, SIZE, TOKENS, CONTEXT = 2, 3, 4, 4, 8, 5, 12


def tiny_unet() -> UNetConfig:
    return UNetConfig(
        block_channels=(16, 32),
        layers_per_block=1,
        attention_levels=(True, True),
        num_heads=2,
        norm_groups=8,
        context_dim=CONTEXT,
    )


def clip_config(**changes) -> DenoiserConfig:
    settings = {
        "unet": tiny_unet(),
        "temporal": TemporalConfig(num_heads=2, max_clip_frames=FRAMES, max_motion_frames=MOTION),
        "audio": AudioProjectionConfig(num_layers=2, layer_width=8),
    }
    return DenoiserConfig(**{**settings, **changes})


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter that starts at zero random values, so that each part has an effect."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module


def tiny_denoiser(config: DenoiserConfig | None = None) -> Denoiser:
    torch.manual_seed(0)
    return awake(Denoiser(config or clip_config())).eval()


def tiny_features(motion_mask: torch.Tensor | None = None) -> ReferenceFeatures:
    torch.manual_seed(1)
    net = ReferenceNet(tiny_unet()).eval()
    mask = torch.ones(BATCH, MOTION) if motion_mask is None else motion_mask
    with torch.no_grad():
        return net(
            torch.randn(BATCH, CHANNELS, SIZE, SIZE), torch.randn(BATCH, MOTION, CHANNELS, SIZE, SIZE), mask
        )


def tiny_conditions(reference: ReferenceFeatures | None, time_dim: int = 64) -> Conditions:
    torch.manual_seed(2)
    return Conditions(
        reference=reference,
        reference_latents=torch.randn(BATCH, CHANNELS, SIZE, SIZE),
        audio_tokens=torch.randn(BATCH, FRAMES, TOKENS, CONTEXT),
        motion_latents=torch.randn(BATCH, FRAMES, time_dim),
        keep_reference=torch.ones(BATCH),
        keep_motion=torch.ones(BATCH),
    )


def noisy_clip() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(BATCH, FRAMES, CHANNELS, SIZE, SIZE), torch.tensor([37, 811])
