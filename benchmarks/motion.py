"""What the motion of a model of face states is worth, in a minute: nothing is drawn.

    python benchmarks/motion.py --model FOLDER --cache RUN/cache/latents-val-... [--steps 5] [--guidance 1.5]
        [--film SHARDS --film-cache DIR]

FOLDER is a model folder, the cache what `openloopy train` made of the held-out clips with that model's audio encoder.
People move in step from a frame of their own, without a past. Their states move the landmarks of one average head, and
the measures are those of `quality.py`, which sees the finished videos; so steps, guidance and temperatures are chosen
here, and confirmed there. `--film`, shards of `openloopy prepare`: filmed people of split val besides, whose lips are
followed; what is computed of them is kept in DIR. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance, rounded
from quality_cases import spoken
from state_corpus import landmarks
from state_motion import People, generate_latents

from openloopy.data.cache import open_latent_cache
from openloopy.data.records import ClipRecord
from openloopy.diffusion.guidance import Guidance
from openloopy.diffusion.sampler import SamplerConfig
from openloopy.face.movement import eye_opening, lip_gap
from openloopy.measures.behaviour import blink_intervals, interval_distance
from openloopy.measures.motion import blinks, border_step_ratio, exp, glo, head_speed
from openloopy.measures.sync import closures, false_closures, pearson
from openloopy.media.video import FPS
from openloopy.models.audio_to_latents import AudioCondition
from openloopy.models.folder import LoadedModel, load_model
from openloopy.models.loopy import GenerationDefaults
from openloopy.models.rig_codec import RigCodec
from openloopy.rig.state import States
from openloopy.training.state_features import build_state_cache

HEARD = ("jaw", "wide", "close")
FILM_S = 15.0
"""Of a filmed clip."""


@dataclass(frozen=True)
class Moved:
    """Face states of a video, the landmarks that they move, and what is said in it."""

    states: States
    points: np.ndarray
    record: ClipRecord


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    defaults = model.config.defaults
    if options.temperatures:
        defaults = replace(defaults, part_temperatures=tuple(options.temperatures))
    sampler = SamplerConfig(
        steps=options.steps or defaults.steps, spacing=defaults.spacing, order=defaults.order
    )
    guidance = Guidance(
        audio=options.guidance or defaults.audio_guidance, reference=defaults.reference_guidance
    )
    cache = open_latent_cache(options.cache)
    frames = model.config.clip_frames
    num_clips = round(options.seconds * FPS) // frames
    numbers = [i for i in range(len(cache)) if cache.records[i].num_frames >= num_clips * frames]
    people = People(cache=cache, numbers=tuple(numbers[: options.people]), num_clips=num_clips)
    made = generate_latents(
        model.loopy,
        people,
        AudioCondition,
        sampler=sampler,
        guidance=guidance,
        noise_scale=defaults.temperature * torch.tensor(defaults.part_temperatures or 1.0),
    )
    records = [cache.records[i] for i in people.numbers]
    ours, true = (_move(model.codec, latents, records) for latents in (made, people.true_latents()))
    used = {
        "steps": sampler.steps,
        "audio_guidance": guidance.audio,
        "temperatures": defaults.part_temperatures,
    }
    numbers = compare(ours, true, frames)
    if options.film:
        numbers["film"] = follow_film(model, options, sampler, guidance, defaults)
    print(json.dumps(rounded({**provenance(), **used, **numbers})))


def follow_film(
    model: LoadedModel,
    options: argparse.Namespace,
    sampler: SamplerConfig,
    guidance: Guidance,
    defaults: GenerationDefaults,
) -> dict[str, Any]:
    """Lips of filmed people against ours: medians over people, each of the median of their clips.

    `other_sound`: what a clip's lips have in common with those made from the next person's sound.
    """
    audio_encoder = model.audio_encoder
    cache = build_state_cache([options.film], model.codec, audio_encoder, options.film_cache, split="val")
    made, true = [], []
    for number, record in enumerate(cache.records):
        num_clips = min(record.num_frames, round(FILM_S * FPS)) // model.config.clip_frames
        latents = generate_latents(
            model.loopy,
            People(cache=cache, numbers=(number,), num_clips=num_clips),
            AudioCondition,
            sampler=sampler,
            guidance=guidance,
            noise_scale=defaults.temperature * torch.tensor(defaults.part_temperatures or 1.0),
        )
        made.append(lip_gap(landmarks(model.codec.decode_states(latents[0]))))
        true.append(np.asarray(cache.rows("lip_gap", number)[: len(made[-1])], np.float64))
    return film_numbers([record.person_id for record in cache.records], made, true)


def film_numbers(
    people: Sequence[str], made: Sequence[np.ndarray], true: Sequence[np.ndarray]
) -> dict[str, Any]:
    """`lips`, `other_sound` and each person's correlation; clips of a person count as one."""
    own: dict[str, list[float]] = {}
    other: dict[str, list[float]] = {}
    for k, person in enumerate(people):
        own.setdefault(person, []).append(_known_pearson(made[k], true[k]))
        stranger = next(
            (j % len(people) for j in range(k + 1, k + len(people)) if people[j % len(people)] != person), k
        )
        length = min(len(made[stranger]), len(true[k]))
        other.setdefault(person, []).append(_known_pearson(made[stranger][:length], true[k][:length]))
    by_person = {person: float(np.median(values)) for person, values in own.items()}
    return {
        "lips": float(np.median(list(by_person.values()))),
        "other_sound": float(np.median([np.median(values) for values in other.values()])),
        "by_person": by_person,
    }


def _known_pearson(made: np.ndarray, true: np.ndarray) -> float:
    known = np.isfinite(true)
    return pearson(made[known], true[known])


def compare(ours: list[Moved], true: list[Moved], clip_frames: int) -> dict[str, float]:
    """Numbers of all people together: medians, sums of counts, and ratios of medians."""
    found: dict[str, float] = {"people": len(ours)}
    gaps = [(lip_gap(a.points), lip_gap(b.points)) for a, b in zip(ours, true, strict=True)]
    found["lips"] = float(np.median([pearson(*both) for both in gaps]))
    found["lips_sd_ratio"] = float(np.median([a.std() / b.std() for a, b in gaps]))
    for name in HEARD:
        pairs = [(a.states[name], b.states[name]) for a, b in zip(ours, true, strict=True)]
        found[name] = float(np.median([pearson(*both) for both in pairs]))
    for name, count, sounds in (("closures", closures, "closures"), ("vowels", false_closures, "vowels")):
        for whose, side in (("", 0), ("_truth", 1)):
            counted = [
                count(both[side], both[1], getattr(spoken(video.record.phonemes), sounds))
                for both, video in zip(gaps, true, strict=True)
            ]
            asked = sum(c.num_intervals for c in counted)
            found[f"{name}_shut{whose}"] = sum(c.num_closed for c in counted) / max(asked, 1)
    for suffix, videos in (("", ours), ("_truth", true)):
        found[f"blinks{suffix}"] = sum(len(blinks(eye_opening(v.points), FPS)) for v in videos)
        found[f"border_step{suffix}"] = float(
            np.median([border_step_ratio(v.points, clip_frames) for v in videos])
        )
    intervals = [np.concatenate([blink_intervals(v.points, FPS) for v in videos]) for videos in (ours, true)]
    if all(map(len, intervals)):
        found["blink_interval_distance"] = interval_distance(*intervals)
    for name, measure in (("glo", glo), ("exp", exp), ("head_speed", lambda p: head_speed(p, FPS))):
        values = [np.median([measure(v.points) for v in videos]) for videos in (ours, true)]
        found[f"{name}_ratio"] = float(values[0] / values[1])
    for part, names in (
        ("head", ("yaw", "pitch", "roll")),
        ("gaze", ("gaze_x", "gaze_y")),
        ("brow", ("brow_left", "brow_right")),
        ("smile", ("smile_left", "smile_right")),
    ):
        values = [
            np.mean([[v.states[name].var() for name in names] for v in videos]) for videos in (ours, true)
        ]
        found[f"{part}_variance_ratio"] = float(values[0] / values[1])
    return found


def _move(codec: RigCodec, latents: torch.Tensor, records: list[ClipRecord]) -> list[Moved]:
    states = [codec.decode_states(video) for video in latents]
    return [Moved(States(s), landmarks(s), record) for s, record in zip(states, records, strict=True)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--temperatures", type=float, nargs=3, metavar=("MOUTH", "HEAD", "EYES"))
    parser.add_argument("--film", type=Path, help="shards with filmed clips of split val")
    parser.add_argument("--film-cache", type=Path, help="where their states and features are kept")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.film and not options.film_cache:
        parser.error("--film needs --film-cache, a folder")
    return options


if __name__ == "__main__":
    main()
