"""The whole model and its settings: denoiser, reference net, audio projection and audio-to-latents.

Source: Loopy (arXiv:2409.02634), sec. 3. Codec and audio encoder describe themselves, in their own folders; what the
model must know of them (latent channels, layers of hidden states) is part of the denoiser's settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openloopy.diffusion.prediction import Prediction
from openloopy.diffusion.sampler import Order, SamplerConfig, Spacing
from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.audio_projection import AudioProjection
from openloopy.models.audio_to_latents import A2LConfig, AudioToLatents
from openloopy.models.conditions import ReferenceFeatures, scale_samples
from openloopy.models.config_json import from_json_dict, to_json_dict
from openloopy.models.denoiser import Denoiser, DenoiserConfig
from openloopy.models.reference_net import ReferenceNet
from openloopy.models.segments import SegmentConfig, gather_segments

SCHEMA_VERSION = 3
RETIRED_VERSIONS = (1, 2)
"""Of models made by 0.1, whose codec is gone."""
VERSION_KEY = "schema_version"


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """How the model is sampled unless asked otherwise; the paper's numbers."""

    steps: int = 25
    spacing: Spacing = "leading"
    order: Order = 1
    audio_guidance: float = 5.0
    reference_guidance: float = 3.0
    temperature: float = 1.0
    """Standard deviation of the noise that sampling starts from; below 1 a small model is calmer. Not in the paper."""
    part_temperatures: tuple[float, ...] = ()
    """What the temperature is multiplied by for each column of the latents: with face states mouth, head and eyes.
    Few steps leave heads and eyes calmer than they should be, and of the mouth the likeliest movement is wanted."""

    @property
    def sampler(self) -> SamplerConfig:
        """Its steps."""
        return SamplerConfig(steps=self.steps, spacing=self.spacing, order=self.order)

    def __post_init__(self) -> None:
        self.sampler  # noqa: B018  (checks the steps)
        lowest = min((self.temperature, *self.part_temperatures))
        if lowest < 0:
            raise ValueError(f"temperature must be at least 0, got {lowest}")


@dataclass(frozen=True, kw_only=True)
class LoopyConfig:
    """All settings of a model. The defaults are the paper's."""

    name: str
    size_px: int = 512
    """Side of the video, and of the portrait crop that image latents are made of."""
    latent_size: tuple[int, int] | None = None
    """Height and width of a frame's latents; None: an eighth of the picture's, as Stable Diffusion's autoencoder makes.
    Others are not of images: `RigCodec`'s are (1, 3)."""
    denoiser: DenoiserConfig = DenoiserConfig()
    """Its U-Net is also the reference net's, without audio and time."""
    segments: SegmentConfig = SegmentConfig()
    a2l: A2LConfig | None = A2LConfig()
    """None: the sound acts through cross-attention alone."""
    schedule: ScheduleConfig = ScheduleConfig()
    prediction: Prediction = "epsilon"
    defaults: GenerationDefaults = GenerationDefaults()

    def __post_init__(self) -> None:
        temporal = self.denoiser.temporal
        if self.a2l is not None and self.denoiser.audio is None:
            raise ValueError(
                "audio-to-latents needs the denoiser's audio settings; set denoiser.audio, or a2l=None"
            )
        if temporal is not None and self.segments.num_kept > temporal.max_motion_frames:
            raise ValueError(
                f"segments keep {self.segments.num_kept} motion frames, but the temporal layers have embeddings for "
                f"{temporal.max_motion_frames}; raise denoiser.temporal.max_motion_frames"
            )
        if self.prediction == "epsilon" and self.schedule.zero_terminal_snr:
            raise ValueError(
                "epsilon prediction cannot start from zero terminal SNR; use prediction 'v' or 'x0'"
            )
        parts = len(self.defaults.part_temperatures)
        if parts and parts != self.latent_shape[1]:
            raise ValueError(
                f"got {parts} part temperatures for latents of {self.latent_shape[1]} columns; give one for each"
            )

    @property
    def num_positions(self) -> int:
        """Positions of a frame's latents."""
        height, width = self.latent_shape
        return height * width

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Height and width of a frame's latents."""
        return self.latent_size or (self.size_px // 8,) * 2

    @property
    def clip_frames(self) -> int:
        """Frames generated at a time; one by one without temporal layers."""
        return 1 if self.denoiser.temporal is None else self.denoiser.temporal.max_clip_frames

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `from_dict`."""
        return {VERSION_KEY: SCHEMA_VERSION, **to_json_dict(self)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> LoopyConfig:
        """The settings from what `to_dict` gave, strictly checked."""
        values = dict(values)
        version = values.pop(VERSION_KEY, None)
        if version in RETIRED_VERSIONS:
            raise ValueError(
                f"a model of {VERSION_KEY} {version} was made by openloopy 0.1, with an autoencoder that this version "
                "no longer has; use openloopy 0.1 with it, or the embedded model"
            )
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"expected {VERSION_KEY} {SCHEMA_VERSION}, got {version!r}; "
                "the model was written by another version of openloopy, or is not an openloopy model"
            )
        return from_json_dict(LoopyConfig, values)


class LoopyModel(nn.Module):
    """All that is trained together in stage 2. Absent parts are None."""

    def __init__(self, config: LoopyConfig) -> None:
        super().__init__()
        unet, audio = config.denoiser.unet, config.denoiser.audio
        self.config = config
        self.denoiser = Denoiser(config.denoiser)
        temporal = config.denoiser.temporal
        self.reference_net = ReferenceNet(unet, temporal is not None and temporal.relative_motion)
        self.audio_projection = None if audio is None else AudioProjection(audio, unet.context_dim)
        self.a2l = None
        if config.a2l is not None:
            audio_width = audio.window * unet.context_dim
            self.a2l = AudioToLatents(config.a2l, audio_width=audio_width, time_dim=unet.time_dim)

    def read_reference(
        self,
        reference: Tensor,
        history: Tensor,
        history_mask: Tensor,
        generator: torch.Generator | None = None,
    ) -> ReferenceFeatures:
        """What the reference net sees of the portrait and of the past (Loopy sec. 3.2).

        Args:
            reference: latents, `b c h w`.
            history: latents before the clip, oldest first, `b m c h w`.
            history_mask: `b m`, 1 = present.
            generator: for "random" sampling of the segments; on the CPU.
        """
        segments = self.config.segments
        fractions = torch.rand(len(history), segments.num_kept, generator=generator)
        motion, motion_mask = gather_segments(history, history_mask, segments, fractions)
        return self.reference_net(reference, motion, motion_mask)

    def last_frames(self, reference: Tensor, past: Tensor, mask: Tensor) -> Tensor | None:
        """What the denoiser is given of the frames before the clip besides attention; None where it has no such input.

        Args:
            reference: latents, `b c h w`.
            past: the frames before the clip, oldest first, `b m c h w`; at least two.
            mask: `b m`, 1 where there is one.

        Returns:
            `b 2c+1 h w`: the newest frame's difference to the portrait, that to the frame before it (zero where there
            is none), and a map of ones; all zero where there is no newest frame.
        """
        if self.denoiser.last_frames_in is None:
            return None
        newest, before = past[:, -1], past[:, -2]
        change = scale_samples(newest - before, mask[:, -2])
        known = torch.cat([newest - reference, change, torch.ones_like(newest[:, :1])], dim=1)
        return scale_samples(known, mask[:, -1])
