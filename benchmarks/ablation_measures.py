"""What is measured of one trained variant: how well it knows what comes next, and the motion that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from quality_cases import spoken
from state_corpus import landmarks
from state_motion import People, generate_latents, shown, told
from torch import Tensor

from openloopy.data.batch import BatchConfig, ClipBatch, sample_clip_batch
from openloopy.data.cache import LatentCache
from openloopy.data.records import ClipRecord
from openloopy.diffusion.prediction import add_noise, to_x_0
from openloopy.diffusion.schedule import alpha_bars
from openloopy.face.movement import NOSE_TIP, eye_distance, eye_opening, lip_gap
from openloopy.inference.pipeline import ClipPlan
from openloopy.media.files import atomic_write
from openloopy.media.video import FPS
from openloopy.models.audio_to_latents import AudioCondition
from openloopy.models.conditions import Conditions
from openloopy.models.folder import LoadedModel
from openloopy.models.rig_codec import RigCodec
from openloopy.rig.state import PARTS

SEEN_CLIPS = 21
"""True clips of 12 frames before the first that is made, ten seconds: what the longest history of any variant holds
(252 frames). A person's habits show nowhere else."""
MADE_AT_ONCE = 12
NOISE_LEVELS = (0.9,)
"""Shares of the schedule at which a denoiser is asked for the clean latents: where little of them is left."""
PASTS = {"true": 10**6, "near": 12, "none": 0}
"""How much of the true past is shown, in frames."""
LOSS_BATCHES, LOSS_BATCH = 10, 32
LOSS_HISTORY = 252
"""The longest history of any variant, so that all are asked the same."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A test clip, and what it really does in the frames that are made."""

    name: str
    number: int
    """Of the clip in the cache."""
    points: np.ndarray
    """`f 68 2` px of one face that all share."""
    closures: np.ndarray
    """Start and end of each b, m, p, `n 2` frames; vowels likewise."""
    vowels: np.ndarray


def read_people(cache: LatentCache, codec: RigCodec, seconds: float, count: int | None) -> list[Person]:
    """The first clips of different people that are long enough; count None: of all of them.

    Raises:
        ValueError: fewer than asked for.
    """
    frames, found = made_frames(seconds), {}
    for number, record in enumerate(cache.records):
        if record.num_frames >= frames.stop and record.person_id not in found:
            found[record.person_id] = _person(cache, codec, number, frames)
    if not found or len(found) < (count or 1):
        raise ValueError(
            f"{cache.folder} has {len(found)} people with a clip of {frames.stop / FPS:g} s, not {count or 'one'}"
        )
    return list(found.values())[:count]


def made_frames(seconds: float) -> slice:
    """Which frames of a clip are made: whole clips after those that are seen, about so long."""
    clips = max(round(seconds * FPS / 12), 1)
    return slice(12 * SEEN_CLIPS, 12 * (SEEN_CLIPS + clips))


def _person(cache: LatentCache, codec: RigCodec, number: int, frames: slice) -> Person:
    record: ClipRecord = cache.records[number]
    when = spoken(record.phonemes)
    latents = torch.from_numpy(np.array(cache.rows("latents", number)[frames])).float()
    return Person(
        name=record.person_id,
        number=number,
        points=points_of_latents(codec, latents),
        closures=_within(when.closures, frames),
        vowels=_within(when.vowels, frames),
    )


def _within(spans: np.ndarray, frames: slice) -> np.ndarray:
    """Those of the spans `n 2` that lie in these frames, counted from the first."""
    spans = np.asarray(spans, float).reshape(-1, 2)
    return spans[(spans[:, 0] >= frames.start) & (spans[:, 1] < frames.stop)] - frames.start


def points_of_latents(codec: RigCodec, latents: Tensor) -> np.ndarray:
    """The 68 points of an average face in the states of latents `f c 1 3`: `f 68 2` px."""
    return landmarks(codec.decode_states(latents))


def curves(points: np.ndarray) -> np.ndarray:
    """Lip gap, eye opening and the nose's place of landmarks `f 68 2`, in eye distances: `f 4`."""
    nose = points[:, NOSE_TIP] / np.median(eye_distance(points))
    return np.concatenate([np.stack([lip_gap(points), eye_opening(points)], -1), nose], -1)


@torch.inference_mode()
def losses_with_past(model: LoadedModel, cache: LatentCache) -> dict[str, list[float]]:
    """Squared error of x_0 of held-out clips, one number per clip: `PLACE_LEVEL_PAST` -> list.

    The same clips, portraits (a frame of the clip's video) and noise for every variant; audio-to-latents hears sound
    alone, as in generation; the past is the true one, as much of it as `PASTS` says. No sampling, so it is the least
    noisy of all measures.
    """
    errors: dict[str, list[float]] = {}
    config = BatchConfig(num_history=LOSS_HISTORY, mouth_weight=1.0, eye_weight=1.0)
    for step in range(LOSS_BATCHES):
        batch = sample_clip_batch(cache, seed=7, step=step, batch_size=LOSS_BATCH, config=config)
        batch = batch.to(model.device)
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(step))
        for past, frames in PASTS.items():
            conditions = told(
                model.loopy,
                shown(batch, frames),
                lambda _, tokens: AudioCondition(tokens),
                generator=torch.Generator().manual_seed(step),
            )
            for level in NOISE_LEVELS:
                for place, values in _errors(model, batch, conditions, noise.to(model.device), level).items():
                    errors.setdefault(f"{place}_{level}_{past}", []).extend(values)
    return errors


def _errors(
    model: LoadedModel, batch: ClipBatch, conditions: Conditions, noise: Tensor, level: float
) -> dict[str, list[float]]:
    """Of each clip, over all states and over those of each part of the face."""
    config, latents = model.config, batch.latents
    bars = alpha_bars(config.schedule).to(model.device)
    t = torch.full((len(latents),), int(level * len(bars)), device=model.device)
    x_t = add_noise(latents, noise, bars[t])
    x_0 = to_x_0(config.prediction, model.loopy.denoiser(x_t, t, conditions), x_t, bars[t])
    error = (x_0 - latents) ** 2
    parts = {part: error[:, :, : len(values), 0, token] for token, (part, values) in enumerate(PARTS.items())}
    parts["all"] = torch.cat(list(parts.values()), -1)
    return {part: values.flatten(1).mean(1).tolist() for part, values in parts.items()}


def make_and_measure(
    model: LoadedModel, cache: LatentCache, people: Sequence[Person], plan: ClipPlan, out: Path
) -> None:
    """The motion of all people, from sound and ten seconds of their true past -> out/NAME.npz."""
    for start in range(0, len(people), MADE_AT_ONCE):
        some = people[start : start + MADE_AT_ONCE]
        made = generate_latents(
            model.loopy,
            People(
                cache=cache,
                numbers=tuple(person.number for person in some),
                num_clips=len(some[0].points) // 12,
                seen_clips=SEEN_CLIPS,
            ),
            AudioCondition,
            sampler=plan.sampler,
            guidance=plan.guidance,
            seed=plan.seed + start,
        )
        for person, latents in zip(some, made, strict=True):
            write_points(out / f"{person.name}.npz", points_of_latents(model.codec, latents))


def write_points(path: Path, points: np.ndarray) -> None:
    """Landmarks of a video, `f 68 2`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, points=points.astype(np.float32))
