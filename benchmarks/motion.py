"""What the motion of a model of face states is worth, in a minute: nothing is drawn.

    python benchmarks/motion.py --model FOLDER --cache RUN/cache/latents-val-... [--steps 5] [--guidance 1.5]

FOLDER is a model folder, the cache what `openloopy train` made of the held-out clips with that model's audio encoder.
People move in step from a frame of their own, without a past. Their states move the landmarks of one average head, and
the measures are those of `quality.py`, which sees the finished videos; so steps, guidance and temperatures are chosen
here, and confirmed there. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

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
from openloopy.models.folder import load_model
from openloopy.models.rig_codec import RigCodec
from openloopy.rig.state import States

HEARD = ("jaw", "wide", "close")


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
    print(json.dumps(rounded({**provenance(), **used, **compare(ours, true, frames)})))


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
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
