"""Does long-term motion help? The paper's ablations (Loopy sec. 4, table 3) on face states, where the truth is known.

    python benchmarks/ablation.py train   --data SHARDS --out DIR --seeds 0 1 [--variants full single4 ...]
    python benchmarks/ablation.py measure --out DIR --seeds 0 1 --test SHARDS [--people 24] [--seconds 40]
    python benchmarks/ablation.py cost    --out DIR
    python benchmarks/ablation.py table   --out DIR --seeds 0 1 --test SHARDS

SHARDS come from `openloopy puppet --states`; `--test`'s val clips, of a minute, show people, voices and sentences that
training never saw. Each is given its first ten seconds as they were, as the past, and goes on from there by its sound:
so a person's habits (blinks, sway, liveliness) can be known, by a model that looks back far enough. States are measured
directly, on the landmarks of one face that all share; no picture is drawn.
Every variant is a recipe, `openloopy train ablation-NAME`, and all have the same budget: steps, data, draws of clips,
reference and noise. Scales, hearing and latents are shared by everything below DIR; stage 1 is trained once per seed.

What is finished is not repeated; several calls with different seeds may run side by side once DIR/shared is there.
`table` writes DIR/table.md and prints one JSON object; every difference to `full` is of the same people and seeds,
with 95 % intervals of a bootstrap over people, seeds and blocks of ten seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from statistics import median

import torch
from ablation_measures import Person, losses_with_past, make_and_measure, read_people
from ablation_table import summarise, write_table
from provenance import provenance, rounded, save_result

from openloopy.data.cache import LatentCache
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline, plan_clips
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import atomic_write
from openloopy.models.audio_encoder import AudioEncoder, load_audio_encoder
from openloopy.models.codec import PreparedLatents, load_codec
from openloopy.models.folder import AUDIO_ENCODER_FOLDER, CODEC_FOLDER, EMBEDDED_MINI, LoadedModel, load_model
from openloopy.models.loopy import LoopyModel
from openloopy.models.rig_codec import RigCodec
from openloopy.recipes import load_line, overridden, run_recipe
from openloopy.recipes.ablations import VARIANTS
from openloopy.recipes.line import Place, prepare_latents
from openloopy.training.state_features import build_state_cache

SHARED = ("codec", "audio", "cache")
COST_ROUNDS = 10
COST_SKIPPED = 21
"""Clips until the longest history (252 frames) is there; what is timed comes after."""


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    {"train": train_all, "measure": measure_all, "cost": cost, "table": table}[options.what](options)


def train_all(options: argparse.Namespace) -> None:
    """Everything up to the model folders DIR/seedN/VARIANT/model."""
    shared = options.out / "shared"
    hearing = shared / "audio" / AUDIO_ENCODER_FOLDER
    if not hearing.exists():
        shutil.copytree(options.hearing, hearing)
    run_recipe("ablation.codec", options.data, shared)
    line = overridden(load_line("ablation"), "stage2", {"loop.device": options.device})
    prepare_latents(line, Place((options.data,), shared))
    for seed in options.seeds:
        run = _seed_folder(options.out, seed)
        if not (run / "stage1" / "loopy.safetensors").exists():
            run_recipe("ablation.stage1", options.data, run, _settings(options, options.stage1_steps, seed))
        for variant in options.variants:
            if not (run / variant / "model" / "config.json").exists():
                print(f"--- {variant}, seed {seed}", flush=True)
                name = f"ablation-{variant}.stage2"
                run_recipe(name, options.data, run, _settings(options, options.stage2_steps, seed))


def measure_all(options: argparse.Namespace) -> None:
    """Losses and motion of every trained variant -> DIR/seedN/VARIANT/measured."""
    held_out, codec = _held_out(options)
    people = read_people(held_out, codec, options.seconds, options.people)
    generation = GenerationOptions(
        seed=options.generation_seed, steps=options.steps, audio_guidance=options.audio_guidance
    )
    for seed in options.seeds:
        for variant in options.variants:
            folder = _seed_folder(options.out, seed) / variant
            _measure(folder, people, held_out, generation, options.device)


def _measure(
    folder: Path, people: list[Person], held_out: LatentCache, generation: GenerationOptions, device: str
) -> None:
    out = folder / "measured"
    todo = [person for person in people if not (out / f"{person.name}.npz").exists()]
    if not todo and (out / "losses.json").exists():
        return
    started_s, model = time.monotonic(), load_model(folder / "model", device=device)
    if not (out / "losses.json").exists():
        _write(out / "losses.json", losses_with_past(model, held_out))
    if todo:
        # All of them: the noise of a person depends on its number.
        make_and_measure(model, held_out, people, plan_clips(model.config, generation, model.device), out)
    print(f"{folder}: measured in {time.monotonic() - started_s:.0f} s", flush=True)


def cost(options: argparse.Namespace) -> None:
    """Seconds for the states of a clip, all variants in turn, untrained: the weights' values cost nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in options.variants}
    models = {name: _untrained(name) for name in options.variants}
    total_frames = (COST_SKIPPED + COST_ROUNDS) * 12
    num_samples = total_frames * SAMPLE_RATE_HZ // 25
    sound = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0)).numpy()
    portrait = PreparedLatents(torch.zeros(1, *RigCodec.latent_shape))
    runs = {
        name: LoopyPipeline(model).clips(
            portrait, sound, total_frames, plan_clips(model.config, GenerationOptions(), model.device)
        )
        for name, model in models.items()
    }
    for clips in runs.values():
        for _ in range(COST_SKIPPED):
            next(clips)
    for number in range(COST_ROUNDS):
        for name, clips in runs.items():
            started = time.perf_counter()
            next(clips)
            seconds[name].append(time.perf_counter() - started)
        print(f"round {number + 1}", flush=True)
    full = median(seconds["full"])
    found = {
        name: {
            "clip_s": median(values),
            "against_full": median(values) / full,
            "motion_frames": models[name].config.segments.num_kept,
            "span": models[name].config.segments.span,
        }
        for name, values in seconds.items()
    }
    _write(options.out / "cost.json", found)
    print(json.dumps(rounded(found)))


def table(options: argparse.Namespace) -> None:
    """All numbers together, with intervals -> DIR/table.md, results/."""
    people = read_people(*_held_out(options), options.seconds, options.people)
    summary = summarise(options.out, options.seeds, options.variants, people)
    cost_path = options.out / "cost.json"
    result = rounded(
        {
            "benchmark": "ablation",
            "seeds": options.seeds,
            "people": len(people),
            "seconds": options.seconds,
            **summary,
            "cost": json.loads(cost_path.read_text()) if cost_path.exists() else {},
            **provenance(),
        }
    )
    write_table(result, options.out / "table.md")
    save_result("ablation", result)
    print(json.dumps(result))


def _seed_folder(out: Path, seed: int) -> Path:
    """The run folder of a seed, to which the shared parts are linked."""
    run = out / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    for part in SHARED:
        if not (run / part).is_symlink():
            os.symlink(Path("..") / "shared" / part, run / part, target_is_directory=True)
    return run


def _settings(options: argparse.Namespace, num_steps: int | None, seed: int = 0) -> dict[str, str]:
    length = {} if num_steps is None else {"loop.num_steps": str(num_steps)}
    seeds = {"training.seed": str(seed), "loop.seed": str(seed)}
    return {**seeds, "loop.device": options.device, **length}


def _held_out(options: argparse.Namespace) -> tuple[LatentCache, RigCodec]:
    """The test clips, and what turns their latents into states."""
    shared, line = options.out / "shared", load_line("ablation")
    codec = load_codec(shared / "codec" / CODEC_FOLDER, line.model.size_px)
    encoder = load_audio_encoder(shared / "audio" / AUDIO_ENCODER_FOLDER).eval()
    cache = build_state_cache([options.test], codec, encoder, options.out / "test", split="val")
    return cache, codec


def _untrained(variant: str) -> LoadedModel:
    line = load_line(f"ablation-{variant}")
    torch.manual_seed(0)
    networks = LoopyModel(line.model), RigCodec(line.model.size_px), AudioEncoder(line.audio.model)
    for network in networks:
        network.eval().requires_grad_(False)
    return LoadedModel(line.model, *networks, torch.device("cpu"), torch.float32)


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("train", "measure", "cost", "table"))
    parser.add_argument("--data", type=Path, help="shards of face states to train on")
    parser.add_argument("--test", type=Path, help="shards whose val clips, of a minute, are the test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--hearing",
        type=Path,
        default=EMBEDDED_MINI / AUDIO_ENCODER_FOLDER,
        help="folder of the audio encoder [the embedded model's]",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--people", type=int, help="test people [all]")
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="made of each, after ten of the past [40]"
    )
    parser.add_argument("--stage1-steps", type=int)
    parser.add_argument("--stage2-steps", type=int)
    parser.add_argument("--steps", type=int, help="of sampling [the model's]")
    parser.add_argument("--audio-guidance", type=float)
    parser.add_argument("--generation-seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    needed = {"train": ("data",), "measure": ("test",), "table": ("test",), "cost": ()}[options.what]
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        parser.error(f"{options.what} needs {', '.join(missing)}")
    return options


if __name__ == "__main__":
    main()
