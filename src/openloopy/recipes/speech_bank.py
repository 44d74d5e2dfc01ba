"""A bank of speech with its visemes and the lips of a neutral speaker, or of filmed people: what the audio encoder
learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from openloopy.data.cache import clip_sound
from openloopy.data.shards import Sample, read_shards
from openloopy.data.tasks import end_with_parent, without_main
from openloopy.media.files import atomic_write
from openloopy.models.audio_encoder import SAMPLES_PER_FRAME, STEPS_PER_FRAME
from openloopy.puppet.motion import Style, draw_style, face_states
from openloopy.puppet.speech import bend, draw_speaker, utter
from openloopy.puppet.speech_folder import Spoken, read_speech_folder
from openloopy.puppet.utterance import Utterance
from openloopy.puppet.visemes import viseme_labels
from openloopy.puppet.voice_bending import draw_timbre
from openloopy.training.audio import UNKNOWN, SpeechBank

ARTICULATION = ("jaw", "wide", "close")
"""Values of the face state that the encoder learns to hear."""
CURVES = (*ARTICULATION, "filmed gap")
REST = (0.03, 0.0, 0.97, 0.0)
"""The curves of a neutral speaker who is silent."""
CLOSED_PERCENTILE = 10
"""Of a filmed person's lip gaps: there the lips are closed."""
SPEAKER_POWER = 0.7
"""Of the time that a speaker says: who read for an hour does not drown two hundred who said ten seconds each."""
MIN_FILMED_SPREAD = 0.005
"""Of lip gaps in eye distances; a person whose lips move less says nothing."""


@dataclass(frozen=True, kw_only=True)
class SpeechBankConfig:
    """How much speech, of which split; every synthetic utterance is a function of (seed, split, its number)."""

    num_utterances: int
    """By espeak-ng and flite, of utterance_s each."""
    utterance_s: float = 8.0
    seed: int = 0
    workers: int = 2
    synthetic_share: float = 0.2
    """How much of what is drawn comes from espeak-ng and flite; the rest from speech folders and film, if there are."""
    kokoro_share: float = 0.35
    recorded_share: float = 0.35
    film_share: float = 0.1
    unlabelled_share: float = 0.08
    """Recordings whose phonemes nobody knows: the network guesses (`training.audio.guessed`)."""
    bent_share: float = 0.25
    """Of the sounds of speech folders in training, so many come once more as another voice."""


class Known(NamedTuple):
    """A sound and what is known of it: int16 samples, visemes at 50 Hz, curves at 25 fps."""

    waveform: np.ndarray
    visemes: np.ndarray
    curves: np.ndarray
    speaker: str = ""


def build_speech_bank(
    config: SpeechBankConfig,
    split: Literal["train", "val"],
    path: Path,
    *,
    speech: Sequence[Path] = (),
    film: Sequence[Path] = (),
) -> SpeechBank:
    """Make the bank, or read it where `path` (.npz) exists.

    speech: speech folders; film: folders of shards, of which filmed clips count.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        groups = _groups(config, split, speech, film)
        shares = _shares(config, groups)
        sounds = [sound for group in groups.values() for sound in group]
        if not sounds:
            raise ValueError(
                "the speech bank is empty: num_utterances is 0 and no speech folder was given as --data"
            )
        lengths = [len(sound.curves) for sound in sounds]
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                waveforms=np.concatenate([sound.waveform for sound in sounds]),
                visemes=np.concatenate([sound.visemes for sound in sounds]).astype(np.int8),
                curves=np.concatenate([sound.curves for sound in sounds]).astype(np.float16),
                starts=np.concatenate([[0], np.cumsum(lengths)]),
                shares=shares,
            )
    with np.load(path) as arrays:
        return SpeechBank(
            **{name: arrays[name] for name in ("waveforms", "visemes", "curves", "starts", "shares")}
        )


def neutral_style() -> Style:
    """An average mouth: the encoder hears what is said, not who says it."""
    average = dict(
        articulation=1.0, spread=1.0, upper_lip=0.75, lower_lip=0.75, rest_open=0.0, lip_lead_s=0.035
    )
    return replace(draw_style(np.random.default_rng(0)), **average)


def make_utterance(config: SpeechBankConfig, split: Literal["train", "val"], number: int) -> Known:
    """One utterance of espeak-ng or flite."""
    rng = np.random.default_rng([config.seed, split == "val", number])
    return known_of(utter(rng, draw_speaker(rng, split), config.utterance_s, split), rng)


def known_of(utterance: Utterance, rng: np.random.Generator) -> Known:
    """A sound in whole frames, with the visemes and the neutral mouth of its phonemes."""
    num_frames = len(utterance.waveform) // SAMPLES_PER_FRAME
    whole = replace(utterance, waveform=utterance.waveform[: num_frames * SAMPLES_PER_FRAME])
    moved = face_states(whole, neutral_style(), rng)
    curves = np.full((num_frames, len(CURVES)), np.nan, np.float16)
    curves[:, : len(ARTICULATION)] = np.stack([moved[name] for name in ARTICULATION], 1)[:num_frames]
    visemes = viseme_labels(utterance.phonemes, num_frames * STEPS_PER_FRAME).astype(np.int8)
    return Known((whole.waveform * 32767).round().astype(np.int16), visemes, curves, utterance.speaker.voice)


def _groups(
    config: SpeechBankConfig, split: Literal["train", "val"], speech: Sequence[Path], film: Sequence[Path]
) -> dict[str, list[Known]]:
    spoken = [sound for folder in speech for sound in read_speech_folder(folder, split)]
    groups = {"synthetic": [], "film": list(_filmed(film, split))}
    with without_main(), ProcessPoolExecutor(config.workers, get_context("spawn"), end_with_parent) as pool:
        make = partial(make_utterance, config, split)
        groups["synthetic"] = list(pool.map(make, range(config.num_utterances), chunksize=8))
        read = partial(_read_spoken, config, split)
        for name in ("kokoro", "recorded", "unlabelled"):
            chosen = [(number, sound) for number, sound in enumerate(spoken) if _group_of(sound) == name]
            if name != "unlabelled" or split == "train":
                groups[name] = [known for some in pool.map(read, chosen, chunksize=8) for known in some]
    return groups


def _group_of(sound: Spoken) -> str:
    return sound.engine if sound.phonemes is not None else "unlabelled"


def _read_spoken(config: SpeechBankConfig, split: str, task: tuple[int, Spoken]) -> list[Known]:
    """The sound, and in training some also as another voice."""
    number, sound = task
    rng = np.random.default_rng([config.seed, 7, number])
    utterance = sound.read()
    if sound.phonemes is None:
        return [_unknown_of(utterance)]
    known = [known_of(utterance, rng)]
    if split == "train" and rng.random() < config.bent_share:
        known.append(known_of(bend(utterance, draw_timbre(rng), rng), rng))
    return [one for one in known if len(one.curves)]


def _unknown_of(utterance: Utterance) -> Known:
    """A sound of which only the speaker is known."""
    num_frames = len(utterance.waveform) // SAMPLES_PER_FRAME
    waveform = (utterance.waveform[: num_frames * SAMPLES_PER_FRAME] * 32767).round().astype(np.int16)
    curves = np.full((num_frames, len(CURVES)), np.nan, np.float16)
    return Known(
        waveform, np.full(num_frames * STEPS_PER_FRAME, UNKNOWN, np.int8), curves, utterance.speaker.voice
    )


def _filmed(folders: Sequence[Path], split: Literal["train", "val"]) -> Iterator[Known]:
    """Filmed clips: lip gaps from where a person's lips are closed, in units of their spread."""
    samples = [s for folder in folders for s in read_shards(folder, split) if s.record.is_footage and s.mp4]
    people: dict[str, list[Sample]] = {}
    for sample in samples:
        people.setdefault(sample.record.person_id, []).append(sample)
    for clips in people.values():
        gaps = np.concatenate([clip.arrays["lip_gap"] for clip in clips]).astype(np.float64)
        gaps = gaps[np.isfinite(gaps)]
        spread = gaps.std()
        if spread < MIN_FILMED_SPREAD:
            continue
        for clip in clips:
            yield _filmed_clip(clip, float(np.percentile(gaps, CLOSED_PERCENTILE)), float(spread))


def _filmed_clip(clip: Sample, closed: float, spread: float) -> Known:
    frames = clip.record.num_frames
    sound = clip_sound(clip)
    waveform = np.zeros(frames * SAMPLES_PER_FRAME, np.int16)
    waveform[: len(sound)] = (np.clip(sound, -1, 1) * 32767).round()[: len(waveform)]
    curves = np.full((frames, len(CURVES)), np.nan, np.float16)
    curves[:, -1] = (clip.arrays["lip_gap"] - closed) / spread
    unknown = np.full(frames * STEPS_PER_FRAME, UNKNOWN, np.int8)
    return Known(waveform, unknown, curves, clip.record.person_id)


def _shares(config: SpeechBankConfig, groups: dict[str, list[Known]]) -> np.ndarray:
    """How often each sound is drawn: the share of its group; in it by speaker and by length.

    A speaker who says ten times as much is drawn five times as often. Shares of empty groups go to the others.
    """
    wanted = {
        "synthetic": config.synthetic_share,
        "film": config.film_share,
        "kokoro": config.kokoro_share,
        "recorded": config.recorded_share,
        "unlabelled": config.unlabelled_share,
    }
    shares = []
    for name, group in groups.items():
        spoken = Counter()
        for sound in group:
            spoken[sound.speaker] += len(sound.curves)
        weights = np.array(
            [len(sound.curves) * spoken[sound.speaker] ** (SPEAKER_POWER - 1) for sound in group]
        )
        shares.append(wanted[name] * weights / max(weights.sum(), 1e-12))
    shares = np.concatenate(shares)
    return shares / max(shares.sum(), 1e-12)
