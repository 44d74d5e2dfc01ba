"""A bank of puppets' landmarks and their sound, without pictures: what the lip-sync network learns from."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from openloopy.data.tasks import end_with_parent, without_main
from openloopy.media.files import atomic_write
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.portraits import load_meshes
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.points import PuppetPoints
from openloopy.training.sync import SyncBank

Split = Literal["train", "val"]


@dataclass(frozen=True, kw_only=True)
class SyncBankConfig:
    """How much, of how many faces. Every utterance is a function of (seed, split, its number) and the faces."""

    num_utterances: int
    utterance_s: float = 5.0
    num_drawn: int = 40
    """Faces drawn by code, where a corpus has no portraits."""
    seed: int = 0
    workers: int = 2


def build_sync_bank(config: SyncBankConfig, meshes: np.ndarray, split: Split, path: Path) -> SyncBank:
    """Make the bank, or read it where `path` (.npz) exists. meshes: `n 478 3` px."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make = partial(_make_utterance, config, meshes, split)
        with (
            without_main(),
            ProcessPoolExecutor(config.workers, get_context("spawn"), end_with_parent) as pool,
        ):
            made = list(pool.map(make, range(config.num_utterances), chunksize=8))
        sounds, points = (np.stack(part) for part in zip(*made, strict=True))
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, waveforms=sounds, points=points)
    with np.load(path) as arrays:
        return SyncBank(arrays["waveforms"], arrays["points"])


def corpus_meshes(corpus: Path, config: SyncBankConfig, split: Split) -> np.ndarray:
    """Face meshes of a split's people: of a corpus of portraits, or of drawn faces, `n 478 3` px."""
    path = corpus / "portraits.npz"
    if path.exists():
        found = [person.mesh for person in load_meshes(path) if person.portrait.split == split]
        if not found:
            raise ValueError(
                f"{path} holds nobody of the split {split!r}; make the corpus with a larger --val-share"
            )
        return np.stack(found)
    drawn = range(config.num_drawn)
    return np.stack([draw_face(np.random.default_rng([config.seed, split == "val", i])).mesh for i in drawn])


def _make_utterance(
    config: SyncBankConfig, meshes: np.ndarray, split: Split, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sound (int16) and landmarks (`f 68 2` float32, px) of one utterance."""
    rng = np.random.default_rng([config.seed, split == "val", number])
    utterance = utter(rng, draw_speaker(rng, split), config.utterance_s, split)
    moved = face_states(utterance, draw_style(rng), rng)
    points = PuppetPoints(meshes[rng.integers(len(meshes))]).track(moved)
    return (utterance.waveform * 32767).round().astype(np.int16), points
