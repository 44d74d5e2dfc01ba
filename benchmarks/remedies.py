"""Which choices of `mini` help? Short training runs of equal length that differ in one choice.

    python benchmarks/remedies.py codec    --data SHARDS --run RUN --steps 250 --out DIR  # the autoencoder's remedies
    python benchmarks/remedies.py denoiser --data SHARDS --run RUN --steps 60 --out DIR   # prediction, weights, noise

RUN is the run folder of `mini`, whose caches of SHARDS (repeat --data for several folders) are made or used. Codec arms
start from nothing, at 128 px with one level less and the same 16x16 grid of latents; they are judged by PSNR at mouth
and eyes of `val` frames whose state differs from the reference, and where it is alike. Denoiser arms start from a
finished model (those that change the prediction from nothing, on single frames) and are judged by the error of x_0 on
`val` clips: in the boxes of mouth and eyes and everywhere, at three noise levels, with true history and sound. A
finished arm is not repeated; arms with another seed show how far chance alone goes; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance, rounded, save_result
from quality_cases import Tracked
from quality_numbers import autoencoder_errors, autoencoder_psnr

from openloopy.data.batch import BatchConfig, sample_clip_batch, sample_frame_batch
from openloopy.data.cache import LatentCache, PixelCache, open_latent_cache
from openloopy.data.regions import region_boxes
from openloopy.diffusion.prediction import add_noise, to_x_0
from openloopy.diffusion.schedule import alpha_bars
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.reference_decoder import ReferenceCodecConfig
from openloopy.models.vae import ReferenceCodec
from openloopy.recipes.line import Place, picture_model, start_loopy
from openloopy.recipes.mini import mini
from openloopy.training.codec import CodecTask, CodecTrainingConfig
from openloopy.training.denoise import (
    WEIGHTS_NAME,
    DenoiseTask,
    Draws,
    clip_conditions,
    picture_conditions,
)
from openloopy.training.features import to_pixels
from openloopy.training.loop import LoopConfig, train
from openloopy.training.optim import OptimConfig
from openloopy.training.stages import DropoutConfig, StageConfig

SMALL_CODEC = ReferenceCodecConfig(
    size_px=128,
    output_px=128,
    reference_channels=(16, 40, 64),
    decoder_channels=(32, 64, 128),
)
CODEC_BATCH = 8
JUDGED_FRAMES = 12
"""Frames of each val clip on which a codec is judged."""
NOISE_LEVELS = (0.3, 0.6, 0.9)
"""Shares of the schedule at which a denoiser is judged."""
JUDGED_BATCHES, JUDGED_BATCH = 6, 4


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    arms = {"codec": codec_arms, "denoiser": denoiser_arms}[options.what](options)
    results = {name: _once(options, name, run_arm) for name, run_arm in arms.items()}
    result = rounded(
        {
            "benchmark": f"remedies_{options.what}",
            "steps": options.steps,
            "arms": results,
            "threads": options.threads,
            **provenance(),
        }
    )
    save_result(f"remedies_{options.what}", result)
    print(json.dumps(result))


def codec_arms(options: argparse.Namespace) -> dict[str, Any]:
    """The remedies together, each left out, and other numbers of latent channels."""
    full = CodecTrainingConfig(batch_size=CODEC_BATCH)
    training = {
        "all remedies": full,
        "all remedies, another seed": replace(full, seed=1),
        "no references of another state": replace(full, other_state_share=0.0),
        "nothing hidden": replace(full, hide_region_share=0.0, hide_all_share=0.0),
        "boxes not weighted": replace(full, mouth_weight=1.0, eye_weight=1.0),
        "no loss on what is drawn": replace(full, drawn_weight=0.0),
        "patch discriminator": replace(full, adversarial_weight=0.02, adversarial_start=options.steps // 3),
    }
    arms = {name: (SMALL_CODEC, config) for name, config in training.items()}
    arms |= {f"{n} channels": (replace(SMALL_CODEC, latent_channels=n), full) for n in (4, 16)}
    return {name: lambda out, arm=arm: run_codec_arm(options, out, *arm) for name, arm in arms.items()}


def run_codec_arm(
    options: argparse.Namespace, out: Path, model: ReferenceCodecConfig, config: CodecTrainingConfig
) -> dict[str, float]:
    """Train one autoencoder from nothing and judge it."""
    torch.manual_seed(config.seed)
    cache = options.place.pixels(model.size_px, "train")
    network = train(CodecTask(ReferenceCodec(model), cache, config), _loop(options.steps, 1e-3), out)
    return judge_codec(network.codec, options.place.pixels(model.size_px, "val"))


@torch.inference_mode()
def judge_codec(codec: ReferenceCodec, cache: PixelCache) -> dict[str, float]:
    """PSNR by place and state, puppets and footage apart."""
    errors: dict[str, list] = {"puppets": [], "footage": []}
    for i in range(len(cache)):
        clip = cache.clip(i)
        chosen = np.linspace(0, len(clip.frames) - 1, JUDGED_FRAMES).round().astype(int)
        frames = np.ascontiguousarray(clip.frames[chosen])
        pixels = to_pixels(frames)
        decoded = codec.decode(codec.encode(pixels), codec.prepare_reference(pixels[:1]))
        shown = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        truth = Tracked(frames=frames, points=clip.points68[chosen])
        errors["footage" if clip.record.is_footage else "puppets"].append(autoencoder_errors(truth, shown))
    return {
        f"{kind}_{name.removeprefix('autoencoder_')}": value
        for kind, found in errors.items()
        if found
        for name, value in autoencoder_psnr(found).items()
        if "psnr" in name
    }


def denoiser_arms(options: argparse.Namespace) -> dict[str, Any]:
    """Prediction (from nothing, single frames); loss weights and noise on motion frames (going on, clips)."""
    line = mini()
    # Without the state loss: its probe would be one more thing to train.
    stage1, stage2 = line.stage1.training, replace(line.stage2.training, state_weight=0.0)
    stage1 = replace(stage1, batch_size=32)

    def from_nothing(prediction: str, weight: str):
        model = replace(picture_model(line.model), prediction=prediction)
        return lambda out: run_denoiser_arm(options, out, model, replace(stage1, loss_weight=weight))

    def going_on(batch: BatchConfig, noise: float, **others):
        dropout = replace(stage2.dropout, motion_noise_max=noise)
        config = replace(stage2, batch=batch, dropout=dropout, **others)
        return lambda out: run_denoiser_arm(options, out, line.model, config)

    batch, noise = stage2.batch, stage2.dropout.motion_noise_max
    return {
        "stage 1: v": from_nothing("v", "uniform"),
        "stage 1: x0, clipped SNR weight": from_nothing("x0", "min_snr"),
        "stage 2: as in the recipe": going_on(batch, noise),
        "stage 2: the same, another seed": going_on(batch, noise, seed=1),
        "stage 2: mouth and eyes not weighted": going_on(
            replace(batch, mouth_weight=1.0, eye_weight=1.0), noise
        ),
        "stage 2: mouth 6, eyes 3": going_on(replace(batch, mouth_weight=6.0, eye_weight=3.0), noise),
        "stage 2: no noise on motion frames": going_on(batch, 0.0),
        "stage 2: noise up to .4 on motion frames": going_on(batch, 0.4),
    }


def run_denoiser_arm(
    options: argparse.Namespace, out: Path, model: LoopyConfig, config: StageConfig
) -> dict[str, float]:
    """Train one denoiser and judge it."""
    torch.manual_seed(config.seed)
    loopy = LoopyModel(model)
    if config.number == 2:
        start_loopy(loopy, options.start / WEIGHTS_NAME)
    cache = latents_of(options, "train")
    task = DenoiseTask(loopy, cache, config, preview=lambda network, path: None)
    rate = 6e-4 if config.number == 1 else 2e-4
    network = train(task, _loop(options.steps * (3 if config.number == 1 else 1), rate), out)
    return judge_denoiser(network, config, options)


def latents_of(options: argparse.Namespace, split: str) -> LatentCache:
    """The run's latents of this split, which training has made."""
    return open_latent_cache(options.run / "cache" / f"latents-{split}-{options.place.data_hash}")


@torch.inference_mode()
def judge_denoiser(network: LoopyModel, config: StageConfig, options: argparse.Namespace) -> dict[str, float]:
    """Mean squared error of x_0 on val latents, by place and noise level; the same batches for every arm."""
    cache = latents_of(options, "val")
    quiet = replace(config, dropout=NO_DROPOUT)
    all_bars = alpha_bars(network.config.schedule)
    errors: dict[str, list[float]] = {}
    for step in range(JUDGED_BATCHES):
        draws = Draws(7, step, JUDGED_BATCH, range(JUDGED_BATCH))
        draw = dict(seed=7, step=step, batch_size=JUDGED_BATCH, config=config.batch)
        if config.number == 1:
            batch = sample_frame_batch(cache, **draw)
            latents, points = batch.latents[:, None], batch.points68
            conditions = picture_conditions(network, batch.reference, quiet, draws)
        else:
            batch = sample_clip_batch(cache, **draw)
            latents, points = batch.latents, batch.points68.flatten(0, 1)
            conditions = clip_conditions(network, batch, quiet, draws)
        mouth, eyes = (box.unflatten(0, latents.shape[:2]) for box in region_boxes(points, latents.shape[-1]))
        noise, model = draws.normal(*latents.shape[1:]), network.config
        for level in NOISE_LEVELS:
            t = torch.full((len(latents),), int(level * len(all_bars)))
            x_t = add_noise(model.to_residual(latents, batch.reference), noise, all_bars[t])
            x_0 = to_x_0(model.prediction, network.denoiser(x_t, t, conditions), x_t, all_bars[t])
            error = (model.from_residual(x_0, batch.reference) - latents) ** 2
            for place, box in {"mouth": mouth, "eyes": eyes, "all": torch.ones_like(mouth)}.items():
                inside = (error * box).sum() / (box.sum() * latents.shape[2])
                errors.setdefault(f"x0_error_{place}_{level}", []).append(inside.item())
    return {name: float(np.mean(values)) for name, values in errors.items()}


NO_DROPOUT = DropoutConfig(
    without_sound=0.0, nothing=0.0, audio=0.0, motion_latents=0.0, reference=0.0, motion_frames=0.0
)


def _once(options: argparse.Namespace, name: str, run_arm) -> dict[str, float]:
    folder = options.out / name.replace(" ", "_").replace(":", "").replace(",", "")
    path = folder / "judged.json"
    if not path.exists():
        print(f"--- {name}", flush=True)
        judged = run_arm(folder)
        path.write_text(json.dumps(judged, indent=1) + "\n")
    return json.loads(path.read_text())


def _loop(steps: int, rate: float) -> LoopConfig:
    optim = OptimConfig(learning_rate=rate, warmup_steps=20, ema_decay=0.98)
    return LoopConfig(num_steps=steps, optim=optim, log_every=50, checkpoint_every=10**6, sample_every=10**6)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("codec", "denoiser"))
    parser.add_argument("--run", type=Path, required=True, help="run folder of mini, with its caches")
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="folder of shards; repeatable"
    )
    parser.add_argument("--start", type=Path, help="model folder that stage-2 arms go on from [RUN/model]")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.place = Place(tuple(options.data), options.run)
    options.start = options.start or options.run / "model"
    return options


if __name__ == "__main__":
    main()
