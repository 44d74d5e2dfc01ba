"""Speech with the rig's controls instead of pictures: a small corpus on which a motion model learns within minutes.

A frame's latents are its 23 controls, `c 1 3`: one token each for mouth, head, eyes and brows.
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
from openloopy.puppet.motion import Curves, curves, draw_style
from openloopy.puppet.rig_expression import FACE_CONTROLS, MOUTH_CONTROLS, POSE_CONTROLS
from openloopy.puppet.rig_points import PuppetPoints
from openloopy.puppet.speech import Utterance, draw_speaker, utter

PARTS = {"mouth": MOUTH_CONTROLS, "head": POSE_CONTROLS, "eyes": FACE_CONTROLS}
"""The token of each group of controls, in order."""
CHANNELS = max(map(len, PARTS.values()))
NAMES = tuple(name for names in PARTS.values() for name in names)
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
                    "latents": to_latents((moved - scales["mean"]) / scales["scale"]).astype(np.float16),
                    "audio": hear(encoder, sound, len(moved)),
                    "points68": points,
                    "lip_gap": lip_gap(points).astype(np.float32),
                }
                writer.add_clip(_record(split, i, len(moved)), arrays)
    return open_latent_cache(out / "train"), open_latent_cache(out / "val")


def to_latents(controls: np.ndarray) -> np.ndarray:
    """Controls `f 23` in the order of NAMES -> `f 9 1 3`; channels that a part does not have are 0."""
    latents, first = np.zeros((len(controls), CHANNELS, 1, len(PARTS)), np.float32), 0
    for token, names in enumerate(PARTS.values()):
        latents[:, : len(names), 0, token] = controls[:, first : first + len(names)]
        first += len(names)
    return latents


def to_controls(latents: np.ndarray, corpus: Path) -> np.ndarray:
    """The inverse, in the rig's units: `f 9 1 3` -> `f 23`."""
    scales = np.load(corpus / SCALES_NAME)
    parts = [latents[:, : len(names), 0, token] for token, names in enumerate(PARTS.values())]
    return np.concatenate(parts, 1) * scales["scale"] + scales["mean"]


def landmarks(controls: np.ndarray) -> np.ndarray:
    """The 68 points of an average face, `f 68 2` px, moved by controls `f 23`."""
    moved = Curves(**{name: controls[:, i] for i, name in enumerate(NAMES)})
    return PuppetPoints(canonical_mesh().vertices * PX_PER_CM + FACE_PX / 2).track(moved)


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
    moved = curves(spoken, style, rng)
    controls = np.stack([moved[name] for name in NAMES], 1)
    return spoken.waveform, controls, landmarks(controls)


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
