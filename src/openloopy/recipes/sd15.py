"""`sd15`: the paper's size, Stable Diffusion 1.5 widths at 512x512, trained as the paper says (Loopy sec. 3.4 and 4).

    openloopy prepare VIDEOS SHARDS
    openloopy import SD15 SD-VAE-FT-MSE WAV2VEC2-BASE [MM_SD_V15_V2.CKPT] START
    torchrun --nproc-per-node 8 -m openloopy train sd15 --data SHARDS --run-folder RUN --start-model START
    # several machines: runs/sd15_multinode.sh; on one 24 GB card:
    openloopy train sd15.stage1 --data SHARDS --run RUN --start START --set loop.accumulation=24 \\
        --set loop.optim.kind=adamw8bit --set loop.optim.ema_device=cpu

Steps: `features` (latents and audio features, once), `stage1` (single frames), `stage2` (clips of 12 frames with the
124 before them). The batch of 24 is shared by the processes and their pieces (`loop.accumulation`); the numbers do not
depend on how. The paper: 24 A100, one clip each, AdamW, learning rate 1e-5; it does not say how many steps. Ours,
30,000 a stage, is what published stages of this family take; `loop.num_steps` changes it.

Hardware and memory: docs/training.md, "The paper's size", has what was measured and what was not. Nobody has run this
recipe to its end: no expected curve is known beyond the first steps, where the loss of stage 1 should lie near that of
Stable Diffusion on single frames and fall slowly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from openloopy.data.batch import BatchConfig
from openloopy.data.cache import CachedClip, CacheInfo, decode_clip
from openloopy.data.feature_shards import FeatureShards
from openloopy.data.shards import read_shards
from openloopy.models.audio_encoder import AudioEncoderConfig, load_audio_encoder
from openloopy.models.codec import load_codec
from openloopy.models.folder import AUDIO_ENCODER_FOLDER, CODEC_FOLDER, load_config, save_model
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.weight_files import mismatch_report
from openloopy.recipes.line import DenoiseRecipe, Place, picture_model
from openloopy.recipes.preview import NUM_PEOPLE, clip_preview, frame_preview
from openloopy.training.denoise import WEIGHTS_NAME, DenoiseTask, Preview, load_stage1, validation_loss
from openloopy.training.features import build_feature_shards
from openloopy.training.loop import LoopConfig, train
from openloopy.training.optim import OptimConfig
from openloopy.training.processes import Piece, is_main, rank_and_count
from openloopy.training.stages import StageConfig
from openloopy.training.stats import write_numbers

VALIDATION_BATCHES = 8


def loopy_config() -> LoopyConfig:
    """The paper's model: all defaults of `LoopyConfig` are its settings."""
    return LoopyConfig(name="sd15")


def audio_encoder_config() -> AudioEncoderConfig:
    """wav2vec2-base-960h, on sound normalised as a whole."""
    return AudioEncoderConfig(loudness="normalised")


@dataclass(frozen=True, kw_only=True)
class FeaturesRecipe:
    """Where latents and audio features are computed."""

    device: str = "cuda"


@dataclass(frozen=True, kw_only=True)
class SD15Config:
    """All steps. The model is that of the folder to start from."""

    features: FeaturesRecipe = field(default_factory=FeaturesRecipe)
    stage1: DenoiseRecipe
    stage2: DenoiseRecipe


def sd15() -> SD15Config:
    """The paper's settings; where it is silent, see the file's header."""
    # Eq. 1 is a plain mean square: no region counts more.
    batch = BatchConfig(mouth_weight=1.0, eye_weight=1.0)
    return SD15Config(
        stage1=DenoiseRecipe(training=StageConfig(number=1, batch_size=24, batch=batch), loop=_loop()),
        stage2=DenoiseRecipe(training=StageConfig(number=2, batch_size=24, batch=batch), loop=_loop()),
    )


def _loop() -> LoopConfig:
    optim = OptimConfig(
        learning_rate=1e-5, warmup_steps=500, decay_fraction=0.0, betas=(0.9, 0.999), ema_decay=0.9995
    )
    return LoopConfig(
        num_steps=30_000,
        optim=optim,
        checkpoint_every=500,
        keep_checkpoints=2,
        sample_every=2000,
        precision="bfloat16",
        device="cuda",
        recompute=True,
    )


def make_features(line: SD15Config, place: Place) -> None:
    """Latents and audio features of the whole corpus -> run/features; each process takes its share of the shards."""
    start, device = _start(place), torch.device(_device(line.features.device))
    config = load_config(start)
    codec = load_codec(start / CODEC_FOLDER, config.size_px).to(device).eval()
    encoder = load_audio_encoder(start / AUDIO_ENCODER_FOLDER).to(device)
    out = place.run / "features"
    build_feature_shards(place.data, codec, encoder, out, piece=Piece(*rank_and_count()))


def train_stage1(line: SD15Config, place: Place) -> None:
    """Denoiser and reference net on single frames -> run/stage1."""
    config = picture_model(load_config(_start(place)))
    loopy = LoopyModel(config)
    start_from(loopy, _start(place) / WEIGHTS_NAME)
    _train(line.stage1, place, loopy, "stage1")


def train_stage2(line: SD15Config, place: Place) -> None:
    """Everything on clips -> run/stage2, and the finished model folder run/model."""
    start = _start(place)
    config = load_config(start)
    loopy = LoopyModel(config)
    start_from(loopy, start / WEIGHTS_NAME)
    load_stage1(loopy, place.run / "stage1" / WEIGHTS_NAME)
    network = _train(line.stage2, place, loopy, "stage2")
    if is_main():
        codec = load_codec(start / CODEC_FOLDER, config.size_px)
        encoder = load_audio_encoder(start / AUDIO_ENCODER_FOLDER)
        save_model(place.run / "model", network.cpu(), codec, encoder, config, storage=torch.float16)
        print(f"model folder: {place.run / 'model'}")


STEPS = {"features": make_features, "stage1": train_stage1, "stage2": train_stage2}


def start_from(loopy: LoopyModel, path: Path) -> None:
    """Fill a model from a larger one's weights: what it has besides (audio and time, in stage 1) is left out."""
    weights, wanted = load_file(path), loopy.state_dict()
    taken = {name: w for name, w in weights.items() if name in wanted}
    shapes = [{name: tuple(w.shape) for name, w in each.items()} for each in (taken, wanted)]
    report = mismatch_report(*shapes)
    if report:
        raise ValueError(f"{path} does not hold this model:\n{report}")
    loopy.load_state_dict(taken)


def _train(recipe: DenoiseRecipe, place: Place, loopy: LoopyModel, step: str) -> LoopyModel:
    folder = place.run / "features"
    torch.manual_seed(recipe.training.seed)
    preview = _preview(recipe, place, loopy.config, folder)
    task = DenoiseTask(loopy, FeatureShards(folder, "train"), recipe.training, preview=preview)
    return train(task, recipe.loop, place.run / step)


def _preview(recipe: DenoiseRecipe, place: Place, config: LoopyConfig, features: Path) -> Preview:
    """Pictures or a video of held-out people, and the loss on their clips with draws that are always the same."""

    def write(network: LoopyModel, path: Path) -> None:
        held_out = HeldOut(place.data, config.size_px)
        codec = load_codec(_start(place) / CODEC_FOLDER, config.size_px).eval()
        with torch.inference_mode():
            if recipe.training.number == 1:
                frame_preview(codec.to(next(network.parameters()).device), held_out)(network, path)
            else:
                encoder = load_audio_encoder(_start(place) / AUDIO_ENCODER_FOLDER)
                clip_preview(codec, encoder, held_out)(network, path)
            metrics = validation_loss(
                network,
                FeatureShards(features, held_out.split),
                recipe.training,
                batches=VALIDATION_BATCHES,
                precision=recipe.loop.precision,
            )
        write_numbers(path.with_suffix(".json"), {"split": held_out.split} | metrics)

    return write


class HeldOut:
    """A few held-out clips, decoded; where there are none, clips of the training data (`split` says which)."""

    def __init__(self, folders: Sequence[Path], size_px: int) -> None:
        info = CacheInfo(kind="pixels", size_px=size_px, source_sha256="")
        for self.split in ("val", "train"):
            samples = (sample for folder in folders for sample in read_shards(folder, self.split))
            self._clips = [decode_clip(sample, info) for sample in islice(samples, NUM_PEOPLE)]
            if self._clips:
                break

    def __len__(self) -> int:
        return len(self._clips)

    def clip(self, i: int) -> CachedClip:
        record, arrays = self._clips[i]
        return CachedClip(record=record, **arrays)

    def waveform(self, i: int) -> np.ndarray:
        """`samples` float32 in [-1, 1], 16 kHz."""
        return self._clips[i][1]["waveform"].astype(np.float32) / 32768


def _start(place: Place) -> Path:
    if place.start is None:
        raise ValueError(
            "sd15 starts from other weights: make a folder of them with `openloopy import`, and give it as --start"
        )
    return place.start


def _device(device: str) -> str:
    """Of several processes each takes its own GPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
