"""What the makers and readers of speech hand on: an utterance with the times of its phonemes.

Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from openloopy.media.audio import SAMPLE_RATE_HZ

Engine = Literal["espeak", "flite", "kokoro", "recorded"]
"""Who speaks: a synthesizer, or a human being."""
Alphabet = Literal["ipa", "arpabet"]

PAUSE_SYMBOL = "_"
"""Symbol of a silence inside an utterance, whatever the engine calls it."""


@dataclass(frozen=True, kw_only=True)
class Phoneme:
    """One sound of an utterance."""

    start_s: float
    end_s: float
    symbol: str
    """IPA with stress and length marks, or ARPAbet in small letters without stress; PAUSE_SYMBOL for silence."""
    alphabet: Alphabet
    """Which of the two: they share letters."""


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A voice: what synthesizes it and how it is bent."""

    engine: Engine
    language: str
    voice: str
    """espeak-ng variant ("" is the plain voice), flite or Kokoro voice (see `kokoro.voice_style`), or a person."""
    rate_wpm: float = 165.0
    pitch_scale: float = 1.0
    """Pitch relative to the voice's own."""
    pitch_range: float = 1.0
    """Liveliness of the intonation relative to the voice's own."""
    shift: float = 1.0
    """All frequencies, formants too, times this (by resampling): a shorter or longer vocal tract."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Speech with its phoneme times."""

    waveform: np.ndarray
    """float32 `(samples,)`, 16 kHz mono in [-1, 1]."""
    phonemes: tuple[Phoneme, ...]
    """In order, not overlapping; uncovered time is silence."""
    text: str
    speaker: Speaker

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / SAMPLE_RATE_HZ
