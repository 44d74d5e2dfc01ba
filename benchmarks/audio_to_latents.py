"""Audio-to-latents: does the denoiser use what the motion latents say, and does sound alone gain by it?

    python benchmarks/audio_to_latents.py train   --out DIR [--arms mixed none] [--seeds 0 1] [--steps 600]
    python benchmarks/audio_to_latents.py measure --out DIR [--arms ...] [--seeds ...]
    python benchmarks/audio_to_latents.py table   --out DIR

A small Loopy model learns the motion of puppets (face states, see `state_corpus`), with equal budgets:
    mixed    audio-to-latents with its four conditions
    none     no audio-to-latents
    nolast   as `mixed`, without the last frame at the input
    rare     as `mixed`; guidance's branches are drawn as seldom as independent dropout draws them (.85 and .15 %)
Held out are voices, sentences and styles. Measured: the error of clean latents under each condition, what head and
expression variance do to what is generated, and lips, with sound as the only condition.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from provenance import provenance, rounded, save_result
from state_corpus import build_corpus, landmarks, to_states
from state_motion import Asked, People, generate_latents, told
from torch import Tensor

from openloopy.data.batch import BatchConfig, ClipBatch, sample_clip_batch
from openloopy.data.cache import LatentCache
from openloopy.diffusion.guidance import Guidance
from openloopy.diffusion.prediction import add_noise, to_x_0
from openloopy.diffusion.sampler import SamplerConfig
from openloopy.diffusion.schedule import ScheduleConfig, alpha_bars
from openloopy.face.movement import expression_variance, head_motion_variance, lip_gap
from openloopy.measures.sync import pearson
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.audio_to_latents import (
    A2LConfig,
    AudioCondition,
    ExpressionVariance,
    HeadVariance,
    LandmarkCondition,
    MotionCondition,
    relative_landmarks,
)
from openloopy.models.denoiser import DenoiserConfig
from openloopy.models.folder import load_model
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig
from openloopy.models.weight_files import load_weights
from openloopy.rig.state import PARTS, TOKEN_WIDTH
from openloopy.training.denoise import WEIGHTS_NAME, DenoiseTask
from openloopy.training.loop import LoopConfig, train
from openloopy.training.optim import OptimConfig
from openloopy.training.stages import DropoutConfig, StageConfig

UTTERANCES = {"train": 450, "val": 48}
UTTERANCE_S = 16.0
BATCH = BatchConfig(mouth_weight=1.0, eye_weight=1.0)
LEVELS = {"0.6": 599, "0.9": 899, "1.0": 999}
"""Timesteps at which errors are asked."""
ERROR_BATCHES, ERROR_CLIPS = 8, 48
QUANTILES = (0.02, 0.16, 0.5, 0.84, 0.98)
"""Of the training clips' variances: what is asked for when head and expression are steered."""
STEERED, STEERED_CLIPS = 16, 12
"""Utterances and clips that are generated for each value."""
DIGITS = 7
"""Variances of calm heads are about 1e-5."""
SAMPLER, GUIDANCE = SamplerConfig(steps=8, spacing="trailing"), Guidance(audio=1.5, reference=1.0)
DROPOUT = DropoutConfig(motion_frames=0.05, motion_noise_max=1.0)
RARE_DROPOUT = replace(
    DROPOUT, without_sound=0.0085, nothing=0.0015, audio=0.09, motion_latents=0.09, reference=0.148
)


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    {"train": train_all, "measure": measure_all, "table": table}[options.what](options)


def model_config(arm: str) -> LoopyConfig:
    """The arm's model: everything of the paper, one level of width 64."""
    base = LoopyConfig(
        name=f"a2l-{arm}",
        size_px=64,
        denoiser=DenoiserConfig(
            unet=UNetConfig(
                in_channels=TOKEN_WIDTH,
                out_channels=TOKEN_WIDTH,
                block_channels=(64,),
                layers_per_block=2,
                attention_levels=(True,),
                num_heads=4,
                norm_groups=16,
                context_dim=128,
            ),
            temporal=TemporalConfig(num_heads=4),
            audio=AudioProjectionConfig(num_layers=4, layer_width=160),
            reference_input="attention+concat",
            past_input="last_frames",
        ),
        a2l=A2LConfig(num_embeddings=32, width=128, num_heads=4),
        schedule=ScheduleConfig(zero_terminal_snr=True),
        prediction="v",
    )
    arms = {
        "mixed": base,
        "none": replace(base, a2l=None),
        "nolast": replace(base, denoiser=replace(base.denoiser, past_input=None)),
        "rare": base,
    }
    if arm not in arms:
        raise ValueError(f"unknown arm {arm!r}; choose from {', '.join(arms)}")
    return arms[arm]


def train_all(options: argparse.Namespace) -> None:
    """Every arm with every seed -> DIR/ARM-SEED."""
    corpus, _ = _corpus(options)
    for seed in options.seeds:
        for arm in options.arms:
            print(f"--- {arm}, seed {seed}", flush=True)
            torch.manual_seed(seed)
            stage = StageConfig(
                number=2,
                batch_size=32,
                seed=seed,
                batch=BATCH,
                timestep_power=1.5,
                dropout=RARE_DROPOUT if arm == "rare" else DROPOUT,
            )
            task = DenoiseTask(LoopyModel(model_config(arm)), corpus, stage, preview=_no_preview)
            optim = OptimConfig(
                learning_rate=1e-3, warmup_steps=50, decay_fraction=0.4, betas=(0.9, 0.98), ema_decay=0.99
            )
            loop = LoopConfig(
                num_steps=options.steps,
                seed=seed,
                optim=optim,
                log_every=25,
                checkpoint_every=50,
                precision="float32",
            )
            train(task, loop, options.out / f"{arm}-{seed}")


def measure_all(options: argparse.Namespace) -> None:
    """Every trained arm -> DIR/ARM-SEED/measured.json."""
    corpus, held_out = _corpus(options)
    for seed in options.seeds:
        for arm in options.arms:
            out = options.out / f"{arm}-{seed}" / "measured.json"
            if out.exists():
                continue
            started_s = time.monotonic()
            network = LoopyModel(model_config(arm))
            load_weights(network, out.parent / WEIGHTS_NAME)
            network.eval().requires_grad_(False)
            clips = Clips(held_out, options.out, STEERED, STEERED_CLIPS)
            measured = {"errors": errors(network, held_out), "lips": lips(network, clips)}
            if network.a2l is not None:
                measured |= {"steered": steered(network, corpus, clips)}
            out.write_text(json.dumps(rounded(measured, DIGITS), indent=1) + "\n")
            print(f"{out.parent.name}: measured in {time.monotonic() - started_s:.0f} s", flush=True)


@torch.inference_mode()
def errors(network: LoopyModel, held_out: LatentCache) -> dict[str, dict[str, float]]:
    """Mean squared error of clean latents under each condition: by level, and by part at the last timestep.

    No sampling; the same clips and noise for all. `heard` and `unheard` say whether the audio tokens are given; so
    "zeros, unheard" is the branch `e_ref` of guidance, and "base" the branch `e_base`.
    """
    asked = dict(CONDITIONS) if network.a2l is not None else {"zeros": _zeros}
    sums: dict[str, dict[str, float]] = {}
    levels = alpha_bars(network.config.schedule)
    for step in range(ERROR_BATCHES):
        batch = sample_clip_batch(held_out, seed=0, step=step, batch_size=ERROR_CLIPS, config=BATCH)
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(step))
        cases = {
            f"{name}, {'heard' if hears else 'unheard'}": told(network, batch, ask, hears=hears)
            for hears in (True, False)
            for name, ask in asked.items()
        }
        cases["base"] = cases["zeros, heard"].without_reference()
        for name, conditions in cases.items():
            row = sums.setdefault(name, {})
            for level, t in LEVELS.items():
                x_t = add_noise(batch.latents, noise, levels[t])
                output = network.denoiser(x_t, torch.full((len(noise),), t), conditions)
                error = (to_x_0("v", output, x_t, levels[t]) - batch.latents) ** 2
                _add(row, level, error.mean())
                if t == max(LEVELS.values()):
                    for token, (part, names) in enumerate(PARTS.items()):
                        _add(row, part, error[:, :, : len(names), 0, token].mean())
    return sums


def _zeros(batch: ClipBatch, tokens: Tensor) -> None:
    return None


def _landmarks(batch: ClipBatch, tokens: Tensor) -> LandmarkCondition:
    return LandmarkCondition(relative_landmarks(batch.points68, batch.reference_points68))


def _shuffled(batch: ClipBatch, tokens: Tensor) -> LandmarkCondition:
    """Another clip's."""
    return LandmarkCondition(_landmarks(batch, tokens).points.roll(1, dims=0))


CONDITIONS: dict[str, Asked] = {
    "zeros": _zeros,
    "audio": lambda batch, tokens: AudioCondition(tokens),
    "landmarks": _landmarks,
    "landmarks shuffled": _shuffled,
    "head": lambda batch, tokens: HeadVariance(batch.head_motion_variance),
    "head shuffled": lambda batch, tokens: HeadVariance(batch.head_motion_variance.roll(1)),
    "expression": lambda batch, tokens: ExpressionVariance(batch.expression_variance),
    "expression shuffled": lambda batch, tokens: ExpressionVariance(batch.expression_variance.roll(1)),
}


@dataclass(frozen=True)
class Clips:
    """The first utterances of a held-out corpus, to be generated in step."""

    held_out: LatentCache
    corpus: Path
    count: int
    num_clips: int

    @property
    def people(self) -> People:
        return People(cache=self.held_out, numbers=tuple(range(self.count)), num_clips=self.num_clips)

    def true_points(self) -> np.ndarray:
        """`p f 68 2`."""
        return self.people.true_points()


def generate(
    network: LoopyModel, clips: Clips, condition: Callable[[Tensor], MotionCondition | None]
) -> np.ndarray:
    """Landmarks of what is generated, `p f 68 2`; condition: from audio tokens to what audio-to-latents is given."""
    made = generate_latents(network, clips.people, condition, sampler=SAMPLER, guidance=GUIDANCE)
    return np.stack([landmarks(to_states(one.numpy(), clips.corpus)) for one in made])


def lips(network: LoopyModel, clips: Clips) -> dict[str, float]:
    """Lips generated from sound alone, against the true ones: with motion latents and, where there are any, without."""
    true = lip_gap(clips.true_points())
    ways = {"sound": AudioCondition, "sound, no motion latents": lambda tokens: None}
    measured = {}
    for name, condition in ways.items() if network.a2l is not None else [("sound", lambda tokens: None)]:
        points = generate(network, clips, condition)
        ours = lip_gap(points)
        measured[f"{name}: lip r"] = float(
            np.median([pearson(a, b) for a, b in zip(ours, true, strict=True)])
        )
        control = [pearson(a, b) for a, b in zip(ours, np.roll(true, 1, 0), strict=True)]
        measured[f"{name}: lip r, other sound"] = float(np.median(control))
        measured[f"{name}: head variance over the truth's"] = _over_truth(head_motion_variance, points, clips)
        measured[f"{name}: expression variance over the truth's"] = _over_truth(
            expression_variance, points, clips
        )
    return measured


def steered(network: LoopyModel, corpus: LatentCache, clips: Clips) -> dict[str, list[float]]:
    """What is asked for (quantiles of the training clips' variances), and what comes (median over generated clips)."""
    kinds = {
        "head": (HeadVariance, head_motion_variance, "head_motion_variance"),
        "expression": (ExpressionVariance, expression_variance, "expression_variance"),
    }
    batches = [sample_clip_batch(corpus, seed=1, step=step, batch_size=64, config=BATCH) for step in range(4)]
    found: dict[str, list[float]] = {}
    for name, (kind, measure, field) in kinds.items():
        known = torch.cat([getattr(batch, field) for batch in batches])
        wanted = torch.quantile(known, torch.tensor(QUANTILES))
        found[f"{name} asked"] = wanted.tolist()
        made = [
            generate(network, clips, lambda _, v=value, kind=kind: kind(v.expand(clips.count)))
            for value in wanted
        ]
        found[f"{name} made"] = [float(np.median(_by_clip(measure, points))) for points in made]
    return found


def _by_clip(measure: Callable[[np.ndarray], np.ndarray], points: np.ndarray) -> np.ndarray:
    """A variance of every clip of 12 frames of `p f 68 2`."""
    return measure(points.reshape(-1, 12, 68, 2))


def _over_truth(measure: Callable[[np.ndarray], np.ndarray], points: np.ndarray, clips: Clips) -> float:
    return float(np.median(_by_clip(measure, points)) / np.median(_by_clip(measure, clips.true_points())))


def table(options: argparse.Namespace) -> None:
    """All that was measured, by arm and seed, as one JSON object on the last line and in results/."""
    found = {
        path.parent.name: json.loads(path.read_text()) for path in sorted(options.out.glob("*/measured.json"))
    }
    result = provenance() | {"steps": options.steps, "train_utterances": UTTERANCES["train"], "arms": found}
    save_result("audio_to_latents", result)
    print(json.dumps(result))


def _corpus(options: argparse.Namespace) -> tuple[LatentCache, LatentCache]:
    options.out.mkdir(parents=True, exist_ok=True)
    encoder = load_model("mini").audio_encoder
    return build_corpus(
        options.out, encoder, utterances=UTTERANCES, utterance_s=UTTERANCE_S, workers=options.workers
    )


def _add(row: dict[str, float], name: str, value: Tensor) -> None:
    row[name] = row.get(name, 0.0) + value.item() / ERROR_BATCHES


def _no_preview(network: torch.nn.Module, path: Path) -> None:
    """What these arms make is measured, not looked at: states have no picture."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "measure", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["mixed", "none"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
