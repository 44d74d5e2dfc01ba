"""Visemes: what the mouth does for each sound, and when.

Source: ours; targets and dominances follow Cohen and Massaro's coarticulation model (1993). How far the lips part was
set by filmed people whose phonemes are known (docs/log.md, entry 37), all else by eye.
Phonemes come as IPA or ARPAbet and say which, since the alphabets share letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openloopy.puppet.utterance import PAUSE_SYMBOL, Phoneme

SILENCE = "_"
CLOSED = "p"
"""The lips meet: b, m, p."""
TUCKED = "f"
"""The lower lip touches the upper teeth: f, v."""
LABEL_FPS = 50
"""Rate of the audio encoder's tokens."""


@dataclass(frozen=True)
class Viseme:
    """Where the mouth goes for a sound, and how strongly it insists on that against its neighbours."""

    jaw: float
    """Opening, 0 to 1."""
    wide: float
    """Spread (1) to rounded (-1)."""
    up: float
    """Upper lip raised, 0 to 1."""
    low: float
    """Lower lip lowered, 0 to 1."""
    tip: float
    """Tongue tip raised, 0 to 1."""
    tongue: float
    """Tongue body height, 0 to 1."""
    jaw_dominance: float
    wide_dominance: float
    lip_dominance: float


TABLE: dict[str, Viseme] = {
    #              jaw   wide   up    low  tip  tongue  dominances: jaw wide lip
    SILENCE: Viseme(0.03, 0.00, 0.00, 0.00, 0.0, 0.3, 0.90, 0.50, 0.6),
    "a": Viseme(0.95, 0.10, 0.40, 0.30, 0.0, 0.0, 1.20, 0.70, 0.6),
    "æ": Viseme(0.78, 0.40, 0.50, 0.45, 0.0, 0.1, 1.20, 0.80, 0.6),
    "ʌ": Viseme(0.55, 0.05, 0.35, 0.25, 0.0, 0.2, 1.00, 0.50, 0.5),
    "ə": Viseme(0.45, 0.00, 0.35, 0.25, 0.0, 0.3, 0.60, 0.30, 0.4),
    "ɛ": Viseme(0.80, 0.45, 0.40, 0.50, 0.0, 0.3, 1.00, 0.90, 0.6),
    "e": Viseme(0.70, 0.55, 0.40, 0.55, 0.0, 0.4, 1.00, 0.90, 0.6),
    "ɪ": Viseme(0.55, 0.55, 0.40, 0.65, 0.0, 0.5, 0.80, 0.80, 0.6),
    "i": Viseme(0.42, 0.85, 0.45, 0.75, 0.0, 0.6, 1.00, 1.20, 0.8),
    "ɔ": Viseme(0.68, -0.55, 0.25, 0.30, 0.0, 0.1, 1.10, 1.00, 0.6),
    "o": Viseme(0.50, -0.80, 0.20, 0.25, 0.0, 0.2, 1.00, 1.90, 0.6),
    "u": Viseme(0.12, -1.00, 0.10, 0.15, 0.0, 0.4, 1.20, 2.40, 0.6),
    "ʊ": Viseme(0.16, -0.75, 0.10, 0.15, 0.0, 0.4, 0.80, 1.50, 0.5),
    "ɜ": Viseme(0.20, -0.30, 0.20, 0.20, 0.0, 0.4, 0.80, 0.80, 0.5),
    "y": Viseme(0.12, -0.85, 0.10, 0.10, 0.0, 0.6, 1.00, 2.20, 0.6),
    "ø": Viseme(0.28, -0.75, 0.10, 0.15, 0.0, 0.4, 1.00, 1.70, 0.5),
    CLOSED: Viseme(0.10, 0.00, 0.00, 0.00, 0.0, 0.3, 0.90, 0.25, 0.3),
    TUCKED: Viseme(0.05, 0.10, 0.30, 0.00, 0.0, 0.3, 1.20, 0.30, 1.4),
    "θ": Viseme(0.12, 0.10, 0.20, 0.25, 0.8, 0.7, 1.00, 0.30, 0.6),
    "t": Viseme(0.18, 0.15, 0.25, 0.30, 0.6, 0.8, 0.80, 0.25, 0.5),
    "l": Viseme(0.42, 0.10, 0.30, 0.35, 1.0, 0.8, 0.70, 0.25, 0.5),
    "s": Viseme(0.16, 0.35, 0.40, 0.85, 0.2, 0.6, 1.60, 0.60, 1.0),
    "ʃ": Viseme(0.10, -0.60, 0.40, 0.45, 0.1, 0.6, 1.50, 2.00, 1.1),
    "k": Viseme(0.42, 0.05, 0.25, 0.25, 0.0, 0.5, 0.35, 0.15, 0.3),
    "h": Viseme(0.40, 0.00, 0.25, 0.25, 0.0, 0.2, 0.15, 0.10, 0.2),
    "j": Viseme(0.32, 0.60, 0.30, 0.45, 0.0, 0.7, 0.70, 0.70, 0.5),
    "w": Viseme(0.00, -1.05, 0.00, 0.00, 0.0, 0.4, 1.60, 3.20, 1.0),
    "r": Viseme(0.05, -0.60, 0.15, 0.12, 0.2, 0.6, 1.20, 0.80, 0.9),
}

VISEMES: tuple[str, ...] = tuple(TABLE)
"""Class names; silence is index 0."""
VOWELS = frozenset("aæʌəɛeɪiɔouʊɜyø")

_ARPABET = {
    **dict(aa="a", ae="æ", ah="ʌ", ao="ɔ", aw="aʊ", ax="ə", axr="ɜ", ay="aɪ", eh="ɛ", er="ɜ", ey="eɪ"),
    **dict(ih="ɪ", iy="i", ow="oʊ", oy="ɔɪ", uh="ʊ", uw="u", b="p", p="p", m="p", em="əp", f="f", v="f"),
    **dict(th="θ", dh="θ", t="t", d="t", dx="t", n="t", nx="t", en="ət", l="l", el="əl", s="s", z="s"),
    **dict(sh="ʃ", zh="ʃ", ch="tʃ", jh="tʃ", k="k", g="k", ng="k", hh="h", hv="h", y="j", w="w", r="r"),
}
_IPA_LETTERS = {
    **{
        "a": "aɑɐA",
        "æ": "æ",
        "ʌ": "ʌ",
        "ɔ": "ɔɒ",
        "ə": "əɘɵɤ",
        "ɜ": "ɜɚɝɞ",
        "ɛ": "ɛε",
        "e": "e",
        "ɪ": "ɪᵻɨɯ",
    },
    **{"i": "i", "o": "o", "u": "u", "ʊ": "ʊʉᵿ", "y": "yʏɥ", "ø": "øœɶ", CLOSED: "pbmβɓ", TUCKED: "fvɱʋɸⱱ"},
    **{"θ": "θð", "t": "tdnɾʈɖɳɗ", "l": "lʎɫɭɬɮʟɺ", "s": "sz", "ʃ": "ʃʒɕʑʂʐ", "k": "kɡgŋxɣχʁqɢʀcɟɴɰ"},
    **{"h": "hɦħʔʕ", "j": "jɲʝç", "w": "wʍ", "r": "rɹɻɽ"},
}
_IPA = {letter: viseme for viseme, letters in _IPA_LETTERS.items() for letter in letters}

TimedViseme = tuple[float, float, str]
"""Start in s, end in s, viseme."""


def visemes_of_symbol(phoneme: Phoneme) -> str:
    """The viseme letters of one phoneme: several for diphthongs and affricates, none if it is unknown."""
    if phoneme.symbol == PAUSE_SYMBOL:
        return SILENCE
    if phoneme.alphabet == "arpabet":
        return _ARPABET.get(phoneme.symbol, "")
    letters = (char if char in _IPA else unicodedata.normalize("NFD", char)[0] for char in phoneme.symbol)
    visemes = "".join(_IPA.get(letter, "") for letter in letters)
    # An aspiration (kh, tsh) is heard but not seen.
    return visemes.rstrip("h") or visemes[:1]


def phonemes_to_visemes(phonemes: Sequence[Phoneme]) -> list[TimedViseme]:
    """Timed visemes; diphthongs and affricates are split, unknown symbols prolong the viseme before them."""
    timed: list[TimedViseme] = []
    for phoneme in phonemes:
        letters = visemes_of_symbol(phoneme) or (timed[-1][2] if timed else SILENCE)
        first = 0.55 if len(letters) == 2 else 1 / len(letters)
        shares = np.concatenate([[0.0], np.linspace(first, 1, len(letters))])
        cuts = phoneme.start_s + shares * (phoneme.end_s - phoneme.start_s)
        timed += [(float(cuts[i]), float(cuts[i + 1]), letter) for i, letter in enumerate(letters)]
    return timed


def viseme_labels(phonemes: Sequence[Phoneme], num_frames: int, fps: float = LABEL_FPS) -> np.ndarray:
    """Index into VISEMES at the middle of each frame, int64 `(num_frames,)`; silence if nothing is said."""
    labels = np.zeros(num_frames, np.int64)
    middles_s = (np.arange(num_frames) + 0.5) / fps
    for start_s, end_s, viseme in phonemes_to_visemes(phonemes):
        first, last = np.searchsorted(middles_s, (start_s, end_s))
        labels[first:last] = VISEMES.index(viseme)
    return labels


def closure_mask(phonemes: Sequence[Phoneme], num_frames: int, fps: float = LABEL_FPS) -> np.ndarray:
    """Frames of b, m, p, when the lips must meet; bool `(num_frames,)`."""
    return viseme_labels(phonemes, num_frames, fps) == VISEMES.index(CLOSED)
