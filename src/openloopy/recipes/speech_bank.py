"""A bank of synthetic speech with its visemes and the lips of a neutral speaker: what the audio encoder learns from."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from openloopy.media.files import atomic_write
from openloopy.puppet.motion import Style, draw_style, face_states
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.puppet.visemes import LABEL_FPS, viseme_labels
from openloopy.training.audio import SpeechBank

ARTICULATION = ("jaw", "wide", "close")
"""Values of the face state that the encoder learns to hear."""


@dataclass(frozen=True, kw_only=True)
class SpeechBankConfig:
    """How much speech, of which split; every utterance is a function of (seed, split, its number)."""

    num_utterances: int
    utterance_s: float = 8.0
    seed: int = 0
    workers: int = 2


def build_speech_bank(config: SpeechBankConfig, split: Literal["train", "val"], path: Path) -> SpeechBank:
    """Make the bank, or read it where `path` (.npz) exists."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make = partial(make_utterance, config, split)
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            made = list(pool.map(make, range(config.num_utterances), chunksize=8))
        sounds, visemes, articulation = (np.stack(part) for part in zip(*made, strict=True))
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, waveforms=sounds, visemes=visemes, articulation=articulation)
    with np.load(path) as arrays:
        return SpeechBank(arrays["waveforms"], arrays["visemes"], arrays["articulation"])


def neutral_style() -> Style:
    """An average mouth: the encoder hears what is said, not who says it."""
    average = dict(
        articulation=1.0, spread=1.0, upper_lip=0.75, lower_lip=0.75, rest_open=0.0, lip_lead_s=0.035
    )
    return replace(draw_style(np.random.default_rng(0)), **average)


def make_utterance(
    config: SpeechBankConfig, split: Literal["train", "val"], number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sound (int16), viseme classes at 50 Hz (uint8) and articulation at 25 fps (float16) of one utterance."""
    rng = np.random.default_rng([config.seed, split == "val", number])
    utterance = utter(rng, draw_speaker(rng, split), config.utterance_s, split)
    moved = face_states(utterance, neutral_style(), rng)
    labels = viseme_labels(utterance.phonemes, round(config.utterance_s * LABEL_FPS))
    return (
        (utterance.waveform * 32767).round().astype(np.int16),
        labels.astype(np.uint8),
        np.stack([moved[name] for name in ARTICULATION], 1).astype(np.float16),
    )
