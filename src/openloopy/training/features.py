"""Latents and audio features of a whole corpus, computed once before the denoiser is trained."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from openloopy.data.cache import (
    AUDIO_MARGIN,
    CACHE_NAME,
    CacheInfo,
    LatentCache,
    PixelCache,
    decode_clip,
    latent_cache_writer,
    open_latent_cache,
    shards_sha256,
)
from openloopy.data.feature_shards import (
    INDEX_NAME,
    FeatureShards,
    finish_feature_shards,
    write_feature_shard,
)
from openloopy.data.records import ClipRecord
from openloopy.data.shards import read_index, read_shard
from openloopy.media.files import make_folder
from openloopy.models.audio_encoder import AudioEncoder, AudioFeatureReader
from openloopy.models.codec import KLCodec
from openloopy.models.precision import autocast
from openloopy.training.processes import WHOLE, Piece

ENCODE_BATCH = 10
"""Frames encoded at a time; with 50 a CPU takes twice as long a frame, since the maps no longer fit its cache."""


def build_latent_cache(
    pixels: PixelCache, codec: KLCodec, audio_encoder: AudioEncoder, out: Path
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


def build_feature_shards(
    folders: Sequence[Path],
    codec: KLCodec,
    audio_encoder: AudioEncoder,
    out: Path,
    *,
    piece: Piece = WHOLE,
    say: Callable[[str], None] = print,
) -> None:
    """Encode all clips of `folders` into tars of features; continues where it stopped, shard by shard.

    piece: which of the shards this process encodes. The first one waits for the others and finishes the folder, which
    `FeatureShards` then opens; all return when it is finished.
    """
    info = CacheInfo(
        kind="features",
        size_px=codec.size_px,
        source_sha256=networks_digest([shards_sha256(folders), codec.size_px], codec, audio_encoder),
    )
    make_folder(out)
    if (out / INDEX_NAME).exists():
        found = FeatureShards(out).info
        if found != info:
            raise ValueError(f"{out} holds features of other networks or other clips; choose another folder")
        return
    shards = [
        (f"{i:02d}-{name}", Path(f) / name) for i, f in enumerate(folders) for name in read_index(f).shards
    ]
    mine = [shard for k, shard in enumerate(shards) if k % piece.count == piece.index]
    for done, (name, path) in enumerate(mine):
        if not (out / name).exists():
            write_feature_shard(out / name, _shard_features(path, info, codec, audio_encoder))
        say(f"features: shard {done + 1} of {len(mine)}")
    if piece.index == 0:
        _wait_for(*(out / name for name, _ in shards))
        finish_feature_shards(out, info, [name for name, _ in shards])
    _wait_for(out / INDEX_NAME)


def _shard_features(
    path: Path, info: CacheInfo, codec: KLCodec, audio_encoder: AudioEncoder
) -> Iterator[tuple[ClipRecord, dict[str, np.ndarray]]]:
    for sample in read_shard(path):
        record, arrays = decode_clip(sample, info)
        waveform = arrays["waveform"].astype(np.float32) / 32768
        features = encode_clip(arrays["frames"], waveform, codec, audio_encoder)
        yield record, features | {"points68": arrays["points68"]}


def _wait_for(*paths: Path) -> None:
    while not all(path.exists() for path in paths):
        time.sleep(0.2)


def _clip_features(
    pixels: PixelCache, i: int, codec: KLCodec, audio_encoder: AudioEncoder
) -> dict[str, np.ndarray]:
    clip = pixels.clip(i)
    features = encode_clip(clip.frames, pixels.waveform(i), codec, audio_encoder)
    return features | {"points68": clip.points68, "lip_gap": clip.lip_gap}


@torch.inference_mode()
def encode_clip(
    frames: np.ndarray, waveform: np.ndarray, codec: KLCodec, audio_encoder: AudioEncoder
) -> dict[str, np.ndarray]:
    """Frames `f H W 3` uint8 and sound -> latents `f c h w` and audio `(f + 2 AUDIO_MARGIN) layers width`, float16."""
    device = _device(codec)
    # Latents are stored in half precision anyhow; bfloat16 halves the time on a device that has it.
    with autocast(device, "auto"):
        batches = [
            codec.encode(to_pixels(frames[start : start + ENCODE_BATCH]).to(device)).float()
            for start in range(0, len(frames), ENCODE_BATCH)
        ]
    audio = AudioFeatureReader(audio_encoder, waveform).window(-AUDIO_MARGIN, len(frames) + 2 * AUDIO_MARGIN)
    return {
        "latents": torch.cat(batches).cpu().numpy().astype(np.float16),
        "audio": audio.cpu().numpy().astype(np.float16),
    }


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 `n H W 3` -> float `n 3 H W` in [-1, 1]."""
    return rearrange(torch.from_numpy(np.array(frames)), "n h w c -> n c h w").float() / 127.5 - 1


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _digest(pixels: PixelCache, *networks: nn.Module) -> str:
    return networks_digest([asdict(pixels.info), len(pixels)], *networks)


def networks_digest(about: list, *networks: nn.Module) -> str:
    """Of something that JSON can say, and of all weights."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
