"""Clips of any length from the sounds of speech folders: somebody speaks, pauses, speaks on.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.augment import background
from openloopy.puppet.sentences import Split
from openloopy.puppet.speech import bend, delayed
from openloopy.puppet.speech_folder import Spoken, read_speech_folder
from openloopy.puppet.utterance import Utterance
from openloopy.puppet.voice_bending import draw_timbre

BENT_SHARE = 0.2
"""Clips in which the speaker has another voice than recorded."""
PAUSE_S, LONG_PAUSE_S, LONG_PAUSE_SHARE = (0.05, 0.8), (1.0, 4.0), 0.12
FADE_S = 0.02
PEAK = (0.3, 0.9)
QUIET_DB = (-60.0, -15.0)
"""Of a clip in which nobody speaks."""


def spoken_clip(
    rng: np.random.Generator, folders: Sequence[Path], duration_s: float, split: Split
) -> Utterance:
    """Sounds of one speaker after another's, with pauses, exactly so long; the last sound is cut.

    Speakers are drawn by the square root of how much they say, so that one who read for an hour does not speak in every
    clip. A speaker's sounds come in random order, none twice before all came.
    """
    by_speaker = _by_speaker(tuple(folders), split)
    names = list(by_speaker)
    weights = np.sqrt([sum(sound.duration_s for sound in by_speaker[name]) for name in names])
    num_samples = round(duration_s * SAMPLE_RATE_HZ)
    waveform, phonemes, texts = np.zeros(num_samples, np.float32), [], []
    position = round(rng.uniform(*PAUSE_S) * SAMPLE_RATE_HZ)
    timbre = draw_timbre(rng) if rng.random() < BENT_SHARE else None
    speaker = None
    while position < num_samples:
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        for index in rng.permutation(len(by_speaker[name])):
            said = by_speaker[name][index].read()
            said = said if timbre is None else bend(said, timbre, rng)
            speaker = speaker or said.speaker
            part = _faded(said.waveform, rng)[: num_samples - position]
            waveform[position : position + len(part)] = part
            phonemes += delayed(said.phonemes, position / SAMPLE_RATE_HZ, num_samples / SAMPLE_RATE_HZ)
            texts.append(said.text)
            position += len(said.waveform) + round(_pause_s(rng) * SAMPLE_RATE_HZ)
            if position >= num_samples:
                break
    return Utterance(
        waveform=waveform, phonemes=tuple(phonemes), text=" ".join(filter(None, texts)), speaker=speaker
    )


def quiet_clip(rng: np.random.Generator, like: Utterance) -> Utterance:
    """Nobody speaks: a room, hum or music, as long as another clip; now and then nothing at all."""
    sound = background(len(like.waveform), rng).astype(np.float32)
    gain = 0.0 if rng.random() < 0.1 else 10 ** (rng.uniform(*QUIET_DB) / 20)
    waveform = (sound * np.float32(gain)).clip(-1, 1)
    return replace(like, waveform=waveform, phonemes=(), text="")


@lru_cache(maxsize=8)
def _by_speaker(folders: tuple[Path, ...], split: Split) -> dict[str, list[Spoken]]:
    sounds = [s for folder in folders for s in read_speech_folder(folder, split) if s.phonemes]
    if not sounds:
        raise ValueError(
            f"{', '.join(map(str, folders))}: no {split} speech with known phonemes; `openloopy speech` adds some"
        )
    by_speaker: dict[str, list[Spoken]] = {}
    for sound in sounds:
        by_speaker.setdefault(sound.speaker, []).append(sound)
    return by_speaker


def _faded(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At a level of its own, without a click at either end."""
    length = min(round(FADE_S * SAMPLE_RATE_HZ), len(waveform) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    out = waveform * np.float32(rng.uniform(*PEAK) / max(float(np.abs(waveform).max()), 1e-4))
    out[:length] *= ramp
    out[len(out) - length :] *= ramp[::-1]
    return out


def _pause_s(rng: np.random.Generator) -> float:
    """Mostly short, now and then of seconds."""
    low, high = LONG_PAUSE_S if rng.random() < LONG_PAUSE_SHARE else PAUSE_S
    return low * (high / low) ** rng.uniform()
