"""Speech with face states instead of pictures: a small corpus on which a motion model learns within minutes.

A frame's latents are its state, `c 1 3`: one token each for mouth, head, eyes and brows.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from openloopy.data.cache import AUDIO_MARGIN, LatentCache, latent_cache_writer, open_latent_cache
from openloopy.data.records import ClipRecord, Split
from openloopy.face.mesh import canonical_mesh
from openloopy.face.movement import lip_gap
from openloopy.media.video import FPS
from openloopy.models.audio_encoder import AudioEncoder, AudioFeatureReader
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.speech import Utterance, draw_speaker, utter
from openloopy.rig.points import PuppetPoints
from openloopy.rig.state import States, from_tokens, to_tokens

FACE_PX, PX_PER_CM = 100.0, 5.0
"""Picture and scale of the one face whose landmarks are noted."""
NUM_STYLES = {"train": 300, "val": 40}
SCALES_NAME = "scales.npz"


def build_corpus(
    out: Path, encoder: AudioEncoder, *, utterances: dict[Split, int], utterance_s: float, workers: int
) -> tuple[LatentCache, LatentCache]:
    """Training and held-out utterances (other voices, sentences and styles), made or opened; see `open_corpus`."""
    for split, number in utterances.items():
        if (out / split / "cache.json").exists():
            continue
        make = partial(_make_utterance, split, utterance_s)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            made = list(pool.map(make, range(number), chunksize=4))
        if split == "train":
            everything = np.concatenate([moved for _, moved, _ in made])
            np.savez(out / SCALES_NAME, mean=everything.mean(0), scale=everything.std(0) + 1e-4)
        scales = np.load(out / SCALES_NAME)
        with latent_cache_writer(
            out / split, size_px=round(FACE_PX), source_sha256="", split=split
        ) as writer:
            for i, (sound, moved, points) in enumerate(made):
                arrays = {
                    "latents": to_tokens((moved - scales["mean"]) / scales["scale"]).astype(np.float16),
                    "audio": hear(encoder, sound, len(moved)),
                    "points68": points,
                    "lip_gap": lip_gap(points).astype(np.float32),
                }
                writer.add_clip(_record(split, i, len(moved)), arrays)
    return open_latent_cache(out / "train"), open_latent_cache(out / "val")


def to_states(latents: np.ndarray, corpus: Path) -> np.ndarray:
    """Latents as states in their own units: `f 10 1 3` -> `f n`."""
    scales = np.load(corpus / SCALES_NAME)
    return from_tokens(latents) * scales["scale"] + scales["mean"]


def landmarks(states: np.ndarray) -> np.ndarray:
    """The 68 points of an average face, `f 68 2` px, in states `f n`."""
    mesh = canonical_mesh().vertices * PX_PER_CM + FACE_PX / 2
    return PuppetPoints(mesh).track(States(states.astype(np.float32)))


@torch.inference_mode()
def hear(encoder: AudioEncoder, sound: np.ndarray, num_frames: int) -> np.ndarray:
    """Audio features as the cache wants them, float16."""
    reader = AudioFeatureReader(encoder, sound)
    return reader.window(-AUDIO_MARGIN, num_frames + 2 * AUDIO_MARGIN).numpy().astype(np.float16)


def _make_utterance(
    split: Split, utterance_s: float, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([number, split == "val"])
    spoken: Utterance = utter(rng, draw_speaker(rng, split), utterance_s, split)
    person = rng.integers(NUM_STYLES[split])
    style = draw_style(np.random.default_rng([person, split == "val"]))
    moved = face_states(spoken, style, rng)
    return spoken.waveform, moved.values, landmarks(moved.values)


def _record(split: Split, number: int, num_frames: int) -> ClipRecord:
    return ClipRecord(
        clip_id=f"{split}-{number:05d}",
        person_id=f"{split}-{number}",
        split=split,
        num_frames=num_frames,
        fps=FPS,
        size_px=round(FACE_PX),
        seed=number,
        source="synthetic",
        licence="none",
    )
