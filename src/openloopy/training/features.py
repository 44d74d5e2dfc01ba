"""Latents and audio features of a whole corpus, computed once before the denoiser is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from openloopy.data.cache import CACHE_NAME, LatentCache, PixelCache, latent_cache_writer, open_latent_cache
from openloopy.models.audio_encoder import AudioEncoder, AudioFeatureReader
from openloopy.models.precision import autocast
from openloopy.models.vae import LatentCodec

ENCODE_BATCH = 10
"""Frames encoded at a time; with 50 a CPU takes twice as long a frame, since the maps no longer fit its cache."""


def build_latent_cache(
    pixels: PixelCache, codec: LatentCodec, audio_encoder: AudioEncoder, out: Path
) -> LatentCache:
    """Encode all clips of `pixels` into `out`; continues an interrupted build, opens a finished one.

    The cache remembers a digest of the networks and the pixels, so that it is never mixed up with another model's.
    """
    digest = _digest(pixels, codec, audio_encoder)
    if not (out / CACHE_NAME).exists():
        with latent_cache_writer(
            out, size_px=pixels.info.size_px, source_sha256=digest, split=pixels.info.split
        ) as writer:
            for i in range(len(writer.records), len(pixels)):
                writer.add_clip(pixels.records[i], _clip_features(pixels, i, codec, audio_encoder))
    cache = open_latent_cache(out)
    if cache.info.source_sha256 != digest:
        raise ValueError(
            f"{out} holds latents of other networks or other pixels; delete the folder to build them again"
        )
    return cache


@torch.inference_mode()
def _clip_features(
    pixels: PixelCache, i: int, codec: LatentCodec, audio_encoder: AudioEncoder
) -> dict[str, np.ndarray]:
    clip = pixels.clip(i)
    # Latents are stored in half precision anyhow; bfloat16 halves the time on a device that has it.
    with autocast(_device(codec), "auto"):
        batches = [
            codec.encode(to_pixels(clip.frames[start : start + ENCODE_BATCH]).to(_device(codec))).float()
            for start in range(0, len(clip.frames), ENCODE_BATCH)
        ]
    audio = AudioFeatureReader(audio_encoder, pixels.waveform(i)).window(0, len(clip.frames))
    return {
        "latents": torch.cat(batches).cpu().numpy().astype(np.float16),
        "audio": audio.cpu().numpy().astype(np.float16),
        "points68": clip.points68,
        "lip_gap": clip.lip_gap,
    }


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 `n H W 3` -> float `n 3 H W` in [-1, 1]."""
    return rearrange(torch.from_numpy(np.array(frames)), "n h w c -> n c h w").float() / 127.5 - 1


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _digest(pixels: PixelCache, *networks: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps([asdict(pixels.info), len(pixels)]).encode())
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
