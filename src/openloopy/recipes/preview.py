"""What a network in training makes now: pictures for stage 1, a short video with sound for stage 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from openloopy.data.cache import LatentCache, PixelCache
from openloopy.diffusion.sampler import sample
from openloopy.inference.pipeline import LoopyPipeline
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.image import write_image
from openloopy.media.video import FPS, VideoWriter
from openloopy.models.audio_encoder import AudioEncoder
from openloopy.models.codec import KLCodec
from openloopy.models.conditions import Conditions
from openloopy.models.folder import LoadedModel
from openloopy.models.rig_codec import Portrait
from openloopy.training.denoise import Preview, validation_loss
from openloopy.training.features import to_pixels
from openloopy.training.stages import DropoutConfig, StageConfig
from openloopy.training.stats import write_numbers

NUM_PEOPLE = 6
VALIDATION_CLIPS, VALIDATION_BATCHES = 64, 16
PREVIEW_S = 3.0


def frame_preview(codec: KLCodec, pixels: PixelCache) -> Preview:
    """Rows: held-out references, and frames drawn from noise given them alone."""
    count = min(NUM_PEOPLE, len(pixels))
    references = to_pixels(np.stack([pixels.clip(i).frames[0] for i in range(count)]))

    @torch.inference_mode()
    def write(network: nn.Module, path: Path) -> None:
        latents = codec.encode(references.to(_device(codec)))
        drawn = _draw_frames(network, latents.to(_device(network))).to(latents.device)
        pictures = codec.to_pixels(drawn)
        rows = torch.stack([references, pictures.cpu().float()]).clamp(-1, 1)
        grid = rearrange((rows * 127.5 + 127.5).byte(), "r n c h w -> (r h) (n w) c")
        write_image(path.with_suffix(".png"), grid.numpy())

    return write


def clip_preview(codec: KLCodec, audio_encoder: AudioEncoder, pixels: PixelCache) -> Preview:
    """A held-out person, ours beside the truth, with the true sound."""

    def write(network: nn.Module, path: Path) -> None:
        config, device = network.config, _device(network)
        model = LoadedModel(
            config, network, codec.to(device), audio_encoder.to(device), device, torch.float32
        )
        clip = pixels.clip(0)
        sound = pixels.waveform(0)[: round(PREVIEW_S * SAMPLE_RATE_HZ)]
        portrait = Portrait(_resized(clip.frames[0], config.size_px))
        frames = LoopyPipeline(model).generate(portrait, (sound, SAMPLE_RATE_HZ))
        with VideoWriter(
            path.with_suffix(".mp4"), size=(2 * config.size_px, config.size_px), fps=FPS, sound=sound
        ) as video:
            for frame, true in zip(frames, clip.frames, strict=False):
                video.write(np.concatenate([frame, _resized(true, config.size_px)], axis=1))

    return write


def state_preview(held_out: LatentCache, config: StageConfig, precision: str) -> Preview:
    """The losses on held-out clips, with draws that are always the same and nothing taken away, as JSON."""
    nothing = DropoutConfig(
        without_sound=0,
        nothing=0,
        audio=0,
        motion_latents=0,
        reference=0,
        motion_frames=0,
        motion_noise_max=0,
    )
    config = replace(
        config, batch_size=VALIDATION_CLIPS, dropout=nothing, timestep_power=1.0, loss_weight="uniform"
    )

    def write(network: nn.Module, path: Path) -> None:
        losses = validation_loss(network, held_out, config, batches=VALIDATION_BATCHES, precision=precision)
        write_numbers(path.with_suffix(".json"), losses)

    return write


def _draw_frames(network: nn.Module, latents: Tensor) -> Tensor:
    """Single frames from noise, given the reference's latents alone: `b c h w` -> `b c h w`."""
    config = network.config
    no_motion = latents.new_zeros(len(latents), 0, *latents.shape[1:])
    features = network.reference_net(latents, no_motion, no_motion.new_zeros(len(latents), 0))
    ones = torch.ones(len(latents), device=latents.device)
    conditions = Conditions(
        reference=network.denoiser.cache_reference(features),
        reference_latents=latents,
        audio_tokens=None,
        motion_latents=None,
        keep_reference=ones,
        keep_motion=ones,
    )
    noise = torch.randn(latents[:, None].shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
    sampler = config.defaults.sampler
    drawn = sample(
        lambda x_t, t: network.denoiser(x_t, t, conditions),
        noise,
        config=sampler,
        schedule=config.schedule,
        prediction=config.prediction,
    )
    return drawn[:, 0]


def _resized(frame: np.ndarray, side: int) -> np.ndarray:
    return frame if frame.shape[0] == side else cv2.resize(frame, (side, side), interpolation=cv2.INTER_CUBIC)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
