"""How good are the videos? Puppets, filmed speakers and portraits that training never saw; and two minutes on end.

    python benchmarks/quality.py --model mini --out DIR --data SHARDS \\
        [--videos DIR] [--portraits DIR --sounds DIR] [--parts puppets,real,portraits,quiet,drift]

puppets    SHARDS is a puppet corpus with `val` clips: people, voices and sentences that training never saw. A
           clip's first frame is the portrait and its sound the speech; our lips are held against what the puppet
           really did.
real       filmed speakers of `--videos` (`--held-out` names the files), from their first frame and their sound.
portraits  every portrait with one of the sounds, read as `openloopy generate` reads them.
quiet      portraits with closed mouths: speech, the same 30 dB softer, digital silence, white noise at -50 dB.
drift      puppets that speak for `--drift-minutes`: the second half against the first.

DIR gets, for each part, contact sheets and the videos (ours left, truth right). A part that is finished is kept in
DIR/PART.json, and not made again by the same options, model and code. The last line printed is one JSON object,
which benchmarks/README.md explains; its `aims` say what is reached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from provenance import folder_hash, provenance, rounded, save_result
from quality_parts import Bench, run_drift, run_portraits, run_puppets, run_quiet, run_real

import openloopy
from openloopy.apps.doctor import choose
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline, plan_clips
from openloopy.media.files import sha256_file
from openloopy.models.folder import find_model_folder, load_config

HELD_OUT = "grid_f_lbbc2a,grid_f_lrwp9a,grid_m_lbax4n,grid_m_pwij3p,grid_m_sbwe5n,grid_s2_swwp2s"  # of the GRID corpus


@dataclass(frozen=True)
class Part:
    """One part of the benchmark."""

    run: Callable[[Bench, argparse.Namespace], dict[str, Any]]
    needs: tuple[str, ...]
    """Options without which it cannot run."""
    uses: tuple[str, ...] = ()
    """Other options that decide its numbers, besides `EVERY_PART_USES`."""


@dataclass(frozen=True)
class Aim:
    """What a number of a part should reach: limits, or without them its first control."""

    number: str
    at_least: float | None = None
    at_most: float | None = None
    controls: tuple[str, ...] = ()
    """Numbers of the same part without which this one can deceive; shown beside it."""

    def judge(self, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The value in the results of the parts, the aim, and whether it is met; None where it is not known."""
        part, _, name = self.number.partition(".")
        numbers = results.get(part, {})
        value = rounded(numbers.get(name))
        controls = {control: rounded(numbers.get(control)) for control in self.controls}
        if self.at_least is None and self.at_most is None:
            limit = controls[self.controls[0]]
            is_met = None if value is None or limit is None else value <= limit
            return {"value": value, "aim": f"<= {self.controls[0]}", "met": is_met, **controls}
        is_met = None if value is None else self._holds(value)
        return {"value": value, "aim": str(self), "met": is_met, **controls}

    def _holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        if self.at_least is None or self.at_most is None:
            return f"<= {self.at_most}" if self.at_least is None else f">= {self.at_least}"
        return f"{self.at_least} to {self.at_most}"


EVERY_PART_USES = (
    "seed",
    "steps",
    "audio_guidance",
    "reference_guidance",
    "temperature",
    "device",
    "dtype",
    "seconds",
    "size",
)
CODE_ROOMS = ("diffusion", "face", "inference", "measures", "media", "models", "rig")
PARTS = {
    "puppets": Part(run_puppets, needs=("data",), uses=("people",)),
    "real": Part(run_real, needs=("videos",), uses=("held_out",)),
    "portraits": Part(run_portraits, needs=("portraits", "sounds"), uses=("pairs", "portrait_seconds")),
    "quiet": Part(
        run_quiet, needs=("portraits", "sounds"), uses=("pairs", "portrait_seconds", "quiet_people")
    ),
    "drift": Part(
        run_drift, needs=("data",), uses=("people", "drift_people", "drift_minutes", "drift_steps")
    ),
}
AIMS = (
    Aim(
        "puppets.lip_gap_correlation",
        at_least=0.85,
        controls=("lip_gap_correlation_truth", "lip_gap_correlation_shuffled"),
    ),
    Aim("real.lip_gap_correlation", at_least=0.65, controls=("lip_gap_correlation_shuffled",)),
    Aim("real.lip_gap_correlation_shuffled", at_most=0.15),
    Aim("puppets.closure_rate", at_least=0.95, controls=("closure_rate_truth",)),
    Aim("puppets.false_closure_rate", at_most=0.1, controls=("false_closure_rate_truth",)),
    Aim("puppets.lip_gap_lag_frames", at_least=-0.5, at_most=0.5),
    Aim("real.lip_gap_lag_frames", at_least=-0.5, at_most=0.5),
    *(Aim(f"puppets.{name}_ratio", at_least=0.75, at_most=1.25) for name in ("blink", "glo", "exp")),
    Aim("puppets.blink_interval_distance", controls=("blink_interval_distance_people",)),
    Aim("puppets.border_step_ratio", at_most=1.2, controls=("border_step", "border_step_truth")),
    Aim("portraits.portrait_sharpness_ratio", at_least=0.9),
    *(
        Aim(f"{part}.{measure}_similarity_ratio", at_least=0.97, at_most=1.03)
        for part in ("puppets", "real")
        for measure in ("face", "texture")
    ),
    Aim("puppets.face_found", at_least=0.99),
    Aim("portraits.face_found", at_least=0.99),
    Aim("quiet.silence_gap_ratio", at_most=0.03),
    Aim("quiet.noise_gap_ratio", at_most=0.05),
    Aim("quiet.level_difference", at_most=0.05),
    Aim("drift.colour_drift", at_most=0.01),
    Aim("drift.identity_drift", at_most=0.01),
)


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    started_s = time.monotonic()
    choice = choose(options.device, options.dtype, load_config(find_model_folder(options.model)))
    pipeline = LoopyPipeline.from_pretrained(options.model, device=choice.device, dtype=choice.dtype)
    bench = Bench(
        pipeline=pipeline,
        landmarker=NetworkLandmarker(),
        generation=generation(options),
        out=options.out,
    )
    facts = settings(options, pipeline)
    results = {name: run_part(name, bench, options, facts) for name in PARTS}
    result = {
        "benchmark": "quality",
        **results,
        **facts,
        "seconds": time.monotonic() - started_s,
        "aims": {aim.number: aim.judge(results) for aim in AIMS},
    }
    report(result, options)


def generation(options: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        seed=options.seed,
        steps=options.steps,
        audio_guidance=options.audio_guidance,
        reference_guidance=options.reference_guidance,
        temperature=options.temperature,
        size_px=options.size,
    )


def run_part(name: str, bench: Bench, options: argparse.Namespace, facts: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a part: kept ones if the same command made them, or a note on why there are none."""
    part, path = PARTS[name], bench.out / f"{name}.json"
    missing = [f"--{need}" for need in part.needs if getattr(options, need) is None]
    if name not in options.parts or missing:
        reason = f"needs {' and '.join(missing)}" if missing else "not among --parts"
        return {"note": f"not run: {reason}"}
    made_by = settings_key(part, options, facts)
    if path.exists() and (kept := json.loads(path.read_text("utf-8")))["made_by"] == made_by:
        print(f"{name}: kept from {path}", flush=True)
        return kept["result"]
    (bench.out / name).mkdir(parents=True, exist_ok=True)
    result = rounded(part.run(bench, options))
    path.write_text(json.dumps({"made_by": made_by, "result": result}, indent=1) + "\n", "utf-8")
    return result


def settings_key(part: Part, options: argparse.Namespace, facts: dict[str, Any]) -> dict[str, Any]:
    """What decides a part's numbers: its options, the model and the code."""
    names = (*EVERY_PART_USES, *part.needs, *part.uses)
    chosen = {name: str(getattr(options, name)) for name in names}
    return {**chosen, "model_hash": facts["model_hash"], "code_hash": code_hash()}


def code_hash() -> str:
    """sha256 over the code that makes and judges videos: better than a commit, which edits may lie on top of."""
    digest = hashlib.sha256()
    rooms = [path for room in CODE_ROOMS for path in (Path(openloopy.__file__).parent / room).glob("*.py")]
    for path in sorted([*rooms, *Path(__file__).parent.glob("quality*.py")]):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def settings(options: argparse.Namespace, pipeline: LoopyPipeline) -> dict[str, Any]:
    """Model, command and machine."""
    folder = find_model_folder(options.model)
    plan = plan_clips(pipeline.model.config, generation(options), pipeline.model.device)
    return {
        "model": options.model,
        "model_hash": folder_hash(folder),
        "device": str(pipeline.model.device),
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        "threads": options.threads,
        "seed": plan.seed,
        "steps": plan.sampler.steps,
        "audio_guidance": plan.guidance.audio,
        "reference_guidance": plan.guidance.reference,
        "temperature": plan.temperature,
        "seconds_per_clip": options.seconds,
        "size": pipeline.output_px(generation(options)),
        **provenance(),
    }


def report(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Keep the result beside the pictures, and a whole one among the dated results; print it as the last line."""
    result = rounded(result)
    (options.out / "quality.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if all("note" not in result[name] for name in PARTS):
        save_result("quality", result)
    print(json.dumps(result))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", help='"mini", a model folder or a hub id')
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=_names, default=list(PARTS), help="some of " + ",".join(PARTS))
    parser.add_argument("--data", type=Path, help="shards with val clips, for puppets and drift")
    parser.add_argument("--people", type=int, default=10, help="puppets")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each clip, at most")
    parser.add_argument("--videos", type=Path, help="folder of filmed speakers, 25 fps with sound")
    parser.add_argument(
        "--held-out", type=_names, default=HELD_OUT.split(","), help="which of them, without endings"
    )
    parser.add_argument("--portraits", type=Path, help="folder of pictures")
    parser.add_argument("--sounds", type=Path, help="folder of sounds")
    parser.add_argument("--pairs", type=int, default=20, help="of a portrait and a sound")
    parser.add_argument("--portrait-seconds", type=float, default=4.0)
    parser.add_argument("--quiet-people", type=int, default=3, help="portraits whose mouth is closed")
    parser.add_argument("--drift-minutes", type=float, default=2.0)
    parser.add_argument("--drift-people", type=int, default=1)
    parser.add_argument("--drift-steps", type=int, help="of sampling, for drift alone [as --steps]")
    parser.add_argument("--size", type=int, help="side of the videos, px; give the corpus' own [the model's]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of sampling; fewer are faster")
    parser.add_argument("--audio-guidance", type=float)
    parser.add_argument("--reference-guidance", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"unknown parts {unknown}; choose from {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    main()
