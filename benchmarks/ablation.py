"""Does long-term motion help? The paper's ablations (Loopy sec. 4, table 3) on puppets, whose habits are known.

    python benchmarks/ablation.py train   --data SHARDS --out DIR --seeds 0 1 [--variants full single4 ...]
    python benchmarks/ablation.py measure --data SHARDS --out DIR --seeds 0 1 --test SHARDS [--people NAME ...]
    python benchmarks/ablation.py cost    --out DIR
    python benchmarks/ablation.py table   --out DIR --seeds 0 1 --test SHARDS

SHARDS come from `openloopy puppet`; those of `--test` show the same people (same --portraits and --seed, another
--name: a person keeps blinks, sway and style) and some others in clips of a minute, with other voices and sentences.
Every variant is a recipe, `openloopy train ablation-NAME`, and all have the same budget: steps, data, draws of clips,
reference and noise. Codec, latents and probe are shared by everything below DIR; stage 1 is trained once per seed.

What is finished is not repeated; several calls with different seeds may run side by side once DIR/shared is there.
`table` writes DIR/table.md and prints one JSON object; every difference to `full` is of the same people and seeds,
with 95 % intervals of a bootstrap over people, seeds and blocks of ten seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

import torch
from ablation_measures import (
    SHOWN,
    Person,
    losses_with_past,
    make_and_measure,
    read_people,
    write_person,
)
from ablation_reader import LatentReader, accuracy, reader, true_states
from ablation_table import summarise, write_table
from provenance import provenance, rounded, save_result

from openloopy.data.cache import LatentCache, build_pixel_cache
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import atomic_write
from openloopy.models.audio_encoder import load_audio_encoder
from openloopy.models.folder import LoadedModel, find_model_folder, load_model
from openloopy.models.loopy import LoopyModel
from openloopy.models.vae import ReferenceCodec, load_codec
from openloopy.recipes import load_line, overridden, run_recipe
from openloopy.recipes.ablations import VARIANTS
from openloopy.recipes.line import Place, prepare_latents
from openloopy.training.features import build_latent_cache

SHARED = ("codec", "cache", "probe")
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
    if not (shared / "codec" / "vae").exists():
        run_recipe("ablation.codec", options.data, shared, _settings(options, options.codec_steps))
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
    """Losses and videos of every trained variant -> DIR/seedN/VARIANT/measured; the truth's -> DIR/truth."""
    people = read_people(options.test, options.people, options.seconds)
    truth = options.out / "truth"
    truth.mkdir(exist_ok=True)
    for person in people:
        if not (truth / f"{person.name}.json").exists():
            shown = [person.frames[part] for part in SHOWN]
            write_person(person, true_states(person.points), shown, truth)
    held_out = _test_latents(options)
    shared, place = options.out / "shared", Place((options.data,), options.out / "shared")
    eyes = reader(prepare_latents(load_line("ablation"), place), shared).to(options.device)
    if not (shared / "reader.json").exists():
        _write(shared / "reader.json", accuracy(eyes, held_out))
    generation = GenerationOptions(
        seed=options.generation_seed,
        steps=options.steps,
        audio_guidance=options.audio_guidance,
        temperature=options.temperature,
    )
    for seed in options.seeds:
        for variant in options.variants:
            folder = _seed_folder(options.out, seed) / variant
            _measure(folder, people, eyes, held_out, generation, options.device)


def _measure(
    folder: Path,
    people: list[Person],
    eyes: LatentReader,
    held_out: LatentCache,
    generation: GenerationOptions,
    device: str,
) -> None:
    out = folder / "measured"
    todo = [person for person in people if not (out / f"{person.name}.json").exists()]
    if not todo and (out / "losses.json").exists():
        return
    started_s, model = time.monotonic(), load_model(folder / "model", device=device)
    if not (out / "losses.json").exists():
        out.mkdir(exist_ok=True)
        _write(out / "losses.json", losses_with_past(model, held_out))
    if todo:
        make_and_measure(model, eyes, todo, generation, out)
    print(f"{folder}: measured in {time.monotonic() - started_s:.0f} s", flush=True)


def cost(options: argparse.Namespace) -> None:
    """Seconds for a clip of 12 frames, all variants in turn, untrained: the weights' values cost nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in options.variants}
    models = {name: _untrained(name) for name in options.variants}
    portrait = torch.zeros(128, 128, 3, dtype=torch.uint8).numpy()
    # One clip more, so that no timed one is cut short.
    num_samples = (COST_SKIPPED + COST_ROUNDS + 1) * 12 * SAMPLE_RATE_HZ // 25
    sound = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0)).numpy()
    runs = {name: LoopyPipeline(model).generate(portrait, sound) for name, model in models.items()}
    for frames in runs.values():
        for _ in range(COST_SKIPPED * 12):
            next(frames)
    for number in range(COST_ROUNDS):
        for name, frames in runs.items():
            started = time.perf_counter()
            for _ in range(12):
                next(frames)
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
    people = read_people(options.test, options.people, options.seconds)
    summary = summarise(options.out, options.seeds, options.variants, people)
    cost_path = options.out / "cost.json"
    result = rounded(
        {
            "benchmark": "ablation",
            "seeds": options.seeds,
            "people": [person.name for person in people],
            "seconds": options.seconds,
            "reader": json.loads((options.out / "shared" / "reader.json").read_text()),
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


def _test_latents(options: argparse.Namespace) -> LatentCache:
    line, folder = load_line("ablation"), options.out / "test"
    codec = load_codec(options.out / "shared" / "codec" / "vae", line.model.size_px)
    encoder = load_audio_encoder(find_model_folder(line.lender) / "audio_encoder")
    pixels = build_pixel_cache(options.test, folder / "pixels", size_px=line.model.size_px, workers=2)
    for network in (codec, encoder):
        network.eval().requires_grad_(False)
    return build_latent_cache(pixels, codec, encoder, folder / "latents")


def _untrained(variant: str) -> LoadedModel:
    line = load_line(f"ablation-{variant}")
    torch.manual_seed(0)
    encoder = load_audio_encoder(find_model_folder(line.lender) / "audio_encoder")
    networks = LoopyModel(line.model), ReferenceCodec(line.codec.model), encoder
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
    parser.add_argument("--data", type=Path, help="puppet shards to train on")
    parser.add_argument("--test", type=Path, help="puppet shards of the same people, one long clip each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--people", nargs="*", default=[], help="ids of the test people [all]")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a test video [60]")
    parser.add_argument("--codec-steps", type=int)
    parser.add_argument("--stage1-steps", type=int)
    parser.add_argument("--stage2-steps", type=int)
    parser.add_argument("--steps", type=int, help="of sampling [the model's]")
    parser.add_argument("--audio-guidance", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--generation-seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    needed = {"train": ("data",), "measure": ("data", "test"), "table": ("test",), "cost": ()}[options.what]
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        parser.error(f"{options.what} needs {', '.join(missing)}")
    return options


if __name__ == "__main__":
    main()
