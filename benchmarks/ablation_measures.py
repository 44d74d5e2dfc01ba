"""What is measured of one trained variant: how well it knows what comes next, and what its videos look like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ablation_reader import LatentReader
from ablation_videos import draw, latents_in_step, meet, told
from quality_cases import spoken

from openloopy.data.batch import BatchConfig, ClipBatch, sample_clip_batch
from openloopy.data.cache import LatentCache
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.regions import region_boxes
from openloopy.data.shards import Sample, read_shards
from openloopy.diffusion.prediction import add_noise, to_x_0
from openloopy.diffusion.schedule import alpha_bars
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.inference.pipeline import GenerationOptions
from openloopy.measures.drift import colours_of, mean_colours
from openloopy.measures.identity import face_descriptor, face_similarity, texture_similarity
from openloopy.measures.motion import points_of
from openloopy.measures.quality import flicker, sharpness
from openloopy.measures.smoothness import smooth_blend
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.files import atomic_write
from openloopy.media.video import FPS, VideoWriter
from openloopy.models.conditions import Conditions
from openloopy.models.folder import LoadedModel

SHOWN = (slice(0, 6 * FPS), slice(-6 * FPS, None))
"""Of a video's frames those that are drawn: six seconds at either end."""
FLICKER_FRAMES = 50
LOOKED_AT_STEP = 10
NOISE_LEVELS = (0.9,)
"""Shares of the schedule at which a denoiser is asked for the clean latents: where little of them is left."""
PASTS = {"true": 10**6, "near": 12, "none": 0}
"""How much of the true past is shown, in frames."""
LOSS_BATCHES, LOSS_BATCH = 20, 4
LOSS_HISTORY = 252
"""The longest history of any variant, so that all are asked the same."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A test person: first frame, sound, and what the puppet really did."""

    name: str
    clip: str
    frames: np.ndarray
    """`f H W 3` uint8."""
    points: np.ndarray
    """`f 68 2` px, exact."""
    waveform: np.ndarray
    closures: np.ndarray
    """Start and end of each b, m, p, `n 2` frames; vowels likewise."""
    vowels: np.ndarray


def read_people(shards: Path, wanted: Sequence[str], seconds: float) -> list[Person]:
    """The first clip of each wanted person, whatever its split, cut to `seconds`; none wanted: of everyone.

    Raises:
        ValueError: a wanted person is not there, or has no clip that long; says which.
    """
    found: dict[str, Person] = {}
    for sample in read_shards(shards):
        name = sample.record.person_id
        if name not in found and sample.record.num_frames >= round(seconds * FPS):
            found[name] = _person(sample, round(seconds * FPS))
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{shards} has no clip of {seconds:g} s of {missing}; it has {sorted(found)}")
    return [found[name] for name in wanted or found]


def _person(sample: Sample, num_frames: int) -> Person:
    when = spoken(sample.record.phonemes)
    return Person(
        name=sample.record.person_id,
        clip=sample.record.clip_id,
        frames=decode_frames(sample.mp4)[:num_frames],
        points=sample.arrays["points68"][:num_frames],
        waveform=decode_sound(sample.flac)[: round(num_frames / FPS * SAMPLE_RATE_HZ)],
        closures=when.closures,
        vowels=when.vowels,
    )


@torch.inference_mode()
def losses_with_past(model: LoadedModel, cache: LatentCache) -> dict[str, list[float]]:
    """Squared error of x_0 of held-out clips, one number per clip: `PLACE_LEVEL_PAST` -> list.

    The same clips, portraits (a frame of the clip's video) and noise for every variant; audio-to-latents hears sound
    alone, as in generation; the past is the true one, as much of it as `PASTS` says. No sampling, so it is the least
    noisy of all measures.
    """
    errors: dict[str, list[float]] = {}
    for step in range(LOSS_BATCHES):
        batch = sample_clip_batch(
            cache,
            seed=7,
            step=step,
            batch_size=LOSS_BATCH,
            config=BatchConfig(num_history=LOSS_HISTORY),
        ).to(model.device)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(batch.latents.shape, generator=generator).to(model.device)
        for past, frames in PASTS.items():
            conditions = _heard(model, batch, frames)
            for level in NOISE_LEVELS:
                for place, values in _errors(model, batch, conditions, noise, level).items():
                    errors.setdefault(f"{place}_{level}_{past}", []).extend(values)
    return errors


def _heard(model: LoadedModel, batch: ClipBatch, past_frames: int) -> Conditions:
    loopy, count = model.loopy, len(batch.latents)
    mask = batch.history_mask.clone()
    mask[:, : max(LOSS_HISTORY - past_frames, 0)] = 0
    features = loopy.read_reference(
        batch.reference, batch.history, mask, torch.Generator().manual_seed(count)
    )
    return told(loopy, features, batch.reference, loopy.audio_projection(batch.audio))


def _errors(
    model: LoadedModel, batch: ClipBatch, conditions: Conditions, noise: torch.Tensor, level: float
) -> dict[str, list[float]]:
    config, latents = model.config, batch.latents
    bars = alpha_bars(config.schedule).to(model.device)
    t = torch.full((len(latents),), int(level * len(bars)), device=model.device)
    x_t = add_noise(config.to_residual(latents, batch.reference), noise, bars[t])
    x_0 = to_x_0(config.prediction, model.loopy.denoiser(x_t, t, conditions), x_t, bars[t])
    x_0 = config.from_residual(x_0, batch.reference)
    error = ((x_0 - latents) ** 2).mean(2, keepdim=True)
    points = batch.points68.flatten(0, 1)
    mouth, eyes = (
        box.unflatten(0, error.shape[:2]).to(error.device)
        for box in region_boxes(points.cpu(), error.shape[-1])
    )
    places = {"all": torch.ones_like(error), "mouth": mouth, "eyes": eyes}
    return {
        place: ((error * box).sum((1, 2, 3, 4)) / box.sum((1, 2, 3, 4))).tolist()
        for place, box in places.items()
    }


def make_and_measure(
    model: LoadedModel,
    reader: LatentReader,
    people: Sequence[Person],
    options: GenerationOptions,
    out: Path,
) -> None:
    """Videos of all people, read and measured -> out/NAME.npz (states of every frame, landmarks), .json, .mp4.

    Pictures are drawn, measured and kept of `SHOWN` alone: the beginning and the end.
    """
    out.mkdir(parents=True, exist_ok=True)
    known = meet(model, [each.frames[0] for each in people], [each.waveform for each in people])
    made = torch.cat(list(latents_in_step(model, known, options)), 1)
    for number, person in enumerate(people):
        states = reader.read(made[number], known.latents[number : number + 1])
        frames = [draw(model, made[number, part], known.pictures[number]) for part in SHOWN]
        write_person(person, states, frames, out)
        height, width = frames[0].shape[1:3]
        with VideoWriter(out / f"{person.name}.mp4", size=(width, height)) as video:
            for frame in np.concatenate(frames):
                video.write(frame)


def write_person(person: Person, states: np.ndarray, shown: Sequence[np.ndarray], out: Path) -> None:
    """What is known of a video: states `f 4`, and landmarks and numbers of each shown part `f H W 3`; numbers last."""
    tracks = [points_of(NetworkLandmarker().track(frames)) for frames in shown]
    np.savez_compressed(out / f"{person.name}.npz", states=states.astype(np.float32), points=np.stack(tracks))
    blocks = [block_numbers(person, *block) for block in zip(shown, tracks, strict=True)]
    with atomic_write(out / f"{person.name}.json") as path:
        path.write_text(json.dumps({"clip": person.clip, "blocks": blocks}, indent=1) + "\n")


def block_numbers(person: Person, frames: np.ndarray, points: np.ndarray) -> dict[str, Any]:
    """Pictures of a part: how they change from frame to frame, how sharp, how like the portrait, which colours."""
    known = [i for i in range(0, len(frames), LOOKED_AT_STEP) if np.isfinite(points[i]).all()]
    portrait = person.frames[0], person.points[0]
    descriptor = face_descriptor(*portrait)
    boxes = {i: np.concatenate([points[i].min(0), points[i].max(0)]) for i in known}
    colours = mean_colours([colours_of(frame) for frame in frames[::LOOKED_AT_STEP]])
    numbers = {
        "flicker": flicker(frames[:FLICKER_FRAMES]),
        "smooth": smooth_blend(frames),
        "lab": colours.lab.tolist(),
        "saturation": colours.saturation,
        "contrast": colours.contrast,
        "found": float(np.isfinite(points).all((1, 2)).mean()),
    }
    if not known:
        return numbers | {"sharpness": 0.0, "identity": 0.0, "texture": 0.0}
    return numbers | {
        "sharpness": median(sharpness(frames[i], boxes[i]) for i in known),
        "identity": float(
            np.mean([face_similarity(face_descriptor(frames[i], points[i]), descriptor) for i in known])
        ),
        "texture": float(np.mean([texture_similarity(frames[i], points[i], *portrait) for i in known])),
    }
