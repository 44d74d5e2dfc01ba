"""Judges audio encoders on human speech: filmed people, recorded and synthetic voices that no training heard.

    python benchmarks/hearing.py --encoder DIR|hama [...] --videos DIR [...] --speech DIR [...] [--held-out PEOPLE]
        [--out DIR] [--minutes 25]

Each `--encoder` is a folder (as in a model's audio_encoder), or `hama`, the installed phoneme recogniser. `--videos`
are folders of filmed clips (GRID's with `align/` or `alignments/` beside them; where there is a MANIFEST.csv, its
clips of use test, and those of the people in `--held-out`); of the same folders the clips of use train, but those
people's, teach the reading of lips. `--speech` are speech folders (`openloopy speech`): their split train teaches the
reading of curves and visemes, their val and test are judged. Linear maps read all encoders alike. `--out` keeps the
lip gaps found in videos, which take most of the time. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hearing_clips import (
    FilmedClip,
    closure_times_s,
    filmed_clips,
    highest_around,
    opening_times_s,
    silent_frames,
)
from hearing_readout import Readout, fit_classes, fit_ridge, stacked_states
from identity import area_under_curve
from provenance import ROOT, provenance, rounded, save_result

from openloopy.measures.sync import lip_gap_correlation
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.models.audio_encoder import (
    AudioEncoder,
    AudioEncoderConfig,
    AudioFeatureReader,
    load_audio_encoder,
)
from openloopy.models.conformer import Conformer, ConformerConfig
from openloopy.puppet.augment import background
from openloopy.puppet.sentences import UNHEARD_LANGUAGES
from openloopy.puppet.speech_folder import Spoken, read_speech_folder
from openloopy.puppet.visemes import SILENCE, VISEMES, viseme_labels
from openloopy.recipes.speech_bank import ARTICULATION, SpeechBankConfig, known_of, make_utterance
from openloopy.training.hama import hama_file, start_from_hama

SHIPPED = ROOT / "src" / "openloopy" / "weights" / "mini" / "audio_encoder"
HAMA = "hama"
HAMA_REACH = 100_000
"""hama hears a sound as a whole."""
MAX_LAG = 5
NOISE_DB = 20.0
FPS = 25
JAW, CLOSE = ARTICULATION.index("jaw"), ARTICULATION.index("close")
QUIET_S = 6.0
LABELLED = ("kokoro", "recorded")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The maps that read one encoder."""

    curves: Readout
    visemes: Readout
    lips: Readout | None
    """Lip gaps, as filmed people's; None without clips to learn from."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What is read of one filmed clip, in frames."""

    clip: FilmedClip
    curves: np.ndarray
    lips: np.ndarray
    silence: np.ndarray
    """Chance that nobody speaks."""


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    test, train = [], []
    for folder in options.videos:
        test += filmed_clips(folder, options.out, "test", options.held_out)
        if (folder / "MANIFEST.csv").exists():
            train += filmed_clips(folder, options.out, "train", options.held_out)
    spoken = [sound for folder in options.speech for sound in read_speech_folder(folder)]
    result = {
        "benchmark": "hearing",
        "clips": len(test),
        "people": sorted({clip.person for clip in test}),
        "aligned_clips": sum(bool(clip.words) for clip in test),
        "encoders": {
            name: judge(load(name), train, test, spoken, options.minutes) for name in options.encoder
        },
    }
    result = rounded({**result, **provenance()})
    save_result("hearing", result)
    print(json.dumps(result))


def load(name: str) -> AudioEncoder:
    """An encoder folder, or hama."""
    if name != HAMA:
        return load_audio_encoder(Path(name)).float()
    network = ConformerConfig(reach=HAMA_REACH)
    encoder = AudioEncoder(AudioEncoderConfig(loudness="as_is", network=network)).eval()
    assert isinstance(encoder.network, Conformer)
    start_from_hama(encoder.network, hama_file())
    return encoder


def judge(
    encoder: AudioEncoder,
    train: Sequence[FilmedClip],
    test: Sequence[FilmedClip],
    spoken: Sequence[Spoken],
    minutes: float,
) -> dict:
    """All measures of one encoder."""
    reading = learn_to_read(encoder, train, spoken, minutes)
    heard = [hear(encoder, reading, clip) for clip in test]
    noisy = [hear(encoder, reading, clip, with_noise) for clip in test if clip.words]
    return {
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "times_real_time": speed(encoder),
        "jaw": follow([(one.clip, one.curves[:, JAW]) for one in heard]),
        "filmed_lips": follow([(one.clip, one.lips) for one in heard]) if reading.lips else None,
        "closure_auc": {
            "heard_close": closure_auc(test, [one.curves[:, CLOSE] for one in heard]),
            "heard_jaw": closure_auc(test, [-one.curves[:, JAW] for one in heard]),
            "heard_lips": closure_auc(test, [-one.lips for one in heard]),
            "seen_gap": closure_auc(test, [-clip.gap for clip in test]),
        },
        "silence_auc": {"clean": silence_auc(heard), "noise_20_db": silence_auc(noisy)},
        "visemes": {
            name: viseme_accuracy(encoder, reading, sounds) for name, sounds in test_sets(spoken).items()
        },
        "quiet": quiet(encoder, reading, [clip for clip in test if clip.words]),
        "level": level(encoder, reading, test),
    }


def learn_to_read(
    encoder: AudioEncoder, film: Sequence[FilmedClip], spoken: Sequence[Spoken], minutes: float
) -> Reading:
    """Readouts from synthetic, Kokoro's and recorded speech, a third of the minutes each, and from filmed lips."""
    config, rng = SpeechBankConfig(num_utterances=0, seed=7), np.random.default_rng(0)
    num_made = round(minutes * 20 / config.utterance_s)
    known = [make_utterance(config, "train", number) for number in range(num_made)]
    for engine in LABELLED:
        sounds = [s for s in spoken if s.engine == engine and s.split == "train" and s.phonemes is not None]
        left_s = minutes * 20
        for index in rng.permutation(len(sounds)):
            known.append(known_of(sounds[index].read(), rng))
            left_s -= sounds[index].duration_s
            if left_s <= 0:
                break
    states = np.concatenate(
        [stacked_states(encoder, one.waveform.astype(np.float32) / 32768) for one in known]
    )
    curves = np.concatenate([one.curves[:, : len(ARTICULATION)] for one in known]).astype(np.float32)
    labels = np.concatenate([one.visemes[::2] for one in known])
    lips = None
    if film:
        filmed = [(stacked_states(encoder, clip.waveform), clip.gap, clip.person) for clip in film]
        lips = fit_lips(filmed)
    return Reading(
        curves=fit_ridge(states, curves), visemes=fit_classes(states, labels, len(VISEMES)), lips=lips
    )


def fit_lips(filmed: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> Readout:
    """Lip gaps, each person's in units of their own spread."""
    parts = []
    for person in {person for _, _, person in filmed}:
        own = [(states, gap) for states, gap, p in filmed if p == person]
        gaps = np.concatenate([gap for _, gap in own])
        states = np.concatenate([states[: len(gap)] for states, gap in own])
        known = np.isfinite(gaps)
        parts.append((states[known], (gaps[known] - gaps[known].mean()) / max(gaps[known].std(), 1e-4)))
    return fit_ridge(
        *(np.concatenate(part) for part in zip(*((s, g[:, None]) for s, g in parts), strict=True))
    )


def hear(
    encoder: AudioEncoder,
    reading: Reading,
    clip: FilmedClip,
    change: Callable[[np.ndarray], np.ndarray] = lambda sound: sound,
) -> Heard:
    """What is read of a clip's sound, perhaps a changed one."""
    states = stacked_states(encoder, change(clip.waveform))[: len(clip.gap)]
    lips = reading.lips(states)[:, 0] if reading.lips else np.zeros(len(states))
    return Heard(clip=clip, curves=reading.curves(states), lips=lips, silence=silence_chance(reading, states))


def silence_chance(reading: Reading, states: np.ndarray) -> np.ndarray:
    logits = torch.from_numpy(reading.visemes(states))
    return logits.softmax(-1)[:, VISEMES.index(SILENCE)].numpy()


def with_noise(sound: np.ndarray) -> np.ndarray:
    """White noise, 20 dB below the sound."""
    noise = np.random.default_rng(3).standard_normal(len(sound)).astype(np.float32)
    return sound + noise * np.float32(np.sqrt((sound**2).mean()) * 10 ** (-NOISE_DB / 20))


def follow(tracks: Sequence[tuple[FilmedClip, np.ndarray]]) -> dict:
    """How tracks follow filmed lips: medians over people of each person's median, in step and at the best lag."""
    scores = [(clip, lip_gap_correlation(track, clip.gap, MAX_LAG)) for clip, track in tracks]
    people = sorted({clip.person for clip, _ in scores})
    by_person = {
        person: [
            float(np.median([value(score) for clip, score in scores if clip.person == person]))
            for value in (lambda s: s.r, lambda s: s.best_r, lambda s: float(s.best_lag))
        ]
        for person in people
    }
    in_step, best, lags = (np.array(values) for values in zip(*by_person.values(), strict=True))
    return {
        "in_step": float(np.median(in_step)),
        "best_lag": float(np.median(best)),
        "lag_frames": float(np.median(lags)),
        "by_person": by_person,
    }


def closure_auc(clips: Sequence[FilmedClip], tracks: Sequence[np.ndarray]) -> float:
    """The chance that a track's highest value around a b, m or p exceeds that around an open vowel."""
    closed, opened = [], []
    for clip, track in zip(clips, tracks, strict=True):
        closed += [highest_around(track, time_s) for time_s in closure_times_s(clip.words)]
        opened += [highest_around(track, time_s) for time_s in opening_times_s(clip.words)]
    known = [np.array(values)[np.isfinite(values)] for values in (closed, opened)]
    return area_under_curve(known[0], known[1])


def silence_auc(heard: Sequence[Heard]) -> dict[str, float]:
    """Silence told from words by the heard closure, and by the chance of the viseme."""
    aligned = [one for one in heard if one.clip.words]
    silent = np.concatenate([silent_frames(one.clip.words, len(one.clip.gap)) for one in aligned])
    tracks = {
        "close": np.concatenate([one.curves[:, CLOSE] for one in aligned]),
        "viseme": np.concatenate([one.silence for one in aligned]),
    }
    return {name: area_under_curve(track[silent], track[~silent]) for name, track in tracks.items()}


def test_sets(spoken: Sequence[Spoken]) -> dict[str, list[Spoken]]:
    """Sounds of val and test with known phonemes; recorded ones whose words somebody wrote down."""
    known = [s for s in spoken if s.split != "train" and s.phonemes is not None]
    return {
        "human_english": [s for s in known if s.engine == "recorded" and s.language == "en" and s.text],
        "kokoro": [s for s in known if s.engine == "kokoro" and s.split == "test" and not _is_unheard(s)],
        "unheard_language": [
            s for s in known if s.engine == "kokoro" and s.split == "test" and _is_unheard(s)
        ],
    }


def viseme_accuracy(encoder: AudioEncoder, reading: Reading, sounds: Sequence[Spoken]) -> dict[str, float]:
    """Share of frames whose viseme is read rightly, and the same of those in which somebody speaks."""
    right, is_speech = [], []
    for sound in sounds:
        utterance = sound.read()
        states = stacked_states(encoder, utterance.waveform)
        labels = viseme_labels(utterance.phonemes, len(states), FPS)
        right.append(reading.visemes(states).argmax(1) == labels)
        is_speech.append(labels != VISEMES.index(SILENCE))
    if not right:
        return {}
    right, is_speech = np.concatenate(right), np.concatenate(is_speech)
    return {
        "all": float(right.mean()),
        "speech": float(right[is_speech].mean()),
        "minutes": len(right) / FPS / 60,
    }


def quiet(encoder: AudioEncoder, reading: Reading, clips: Sequence[FilmedClip]) -> dict[str, float]:
    """How open the heard jaw is where nobody speaks, relative to speech: 95th percentiles, 0 is the mouth at rest."""
    speech = np.concatenate([_jaw(encoder, reading, clip.waveform) for clip in clips])
    rng, samples = np.random.default_rng(5), round(QUIET_S * SAMPLE_RATE_HZ)
    white = rng.standard_normal(samples).astype(np.float32)
    sounds = {"digital_silence": np.zeros(samples, np.float32)}
    sounds |= {f"white_{db}_db": white * np.float32(10 ** (-db / 20)) for db in (60, 50, 40)}
    sounds |= {
        f"background_{i}": background(samples, rng).astype(np.float32) * np.float32(0.03) for i in range(8)
    }
    open_speech = float(np.percentile(speech, 95))
    return {
        name: float(np.percentile(_jaw(encoder, reading, s), 95)) / open_speech for name, s in sounds.items()
    }


def level(encoder: AudioEncoder, reading: Reading, clips: Sequence[FilmedClip]) -> float:
    """Mean difference of the heard jaw at -30 dB to that at 0 dB, over its range (5th to 95th percentile)."""
    loud = [clip.waveform / max(float(np.abs(clip.waveform).max()), 1e-6) for clip in clips]
    tracks = [_jaw(encoder, reading, sound) for sound in loud]
    soft = [
        _jaw(encoder, reading, np.round(sound * 32767 * 10 ** (-30 / 20)) / np.float32(32767))
        for sound in loud
    ]
    difference = np.abs(np.concatenate(tracks) - np.concatenate(soft)).mean()
    low, high = np.percentile(np.concatenate(tracks), (5, 95))
    return float(difference / (high - low))


def speed(encoder: AudioEncoder) -> float:
    """Seconds of sound per second of one core."""
    sound = np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE_HZ).astype(np.float32) * np.float32(
        0.05
    )
    start = time.perf_counter()
    reader = AudioFeatureReader(encoder, sound)
    for first in range(0, reader.num_frames, 100):
        reader.window(first, min(100, reader.num_frames - first))
    return 60 / (time.perf_counter() - start)


def _jaw(encoder: AudioEncoder, reading: Reading, sound: np.ndarray) -> np.ndarray:
    return reading.curves(stacked_states(encoder, sound.astype(np.float32)))[:, JAW]


def _is_unheard(sound: Spoken) -> bool:
    return sound.language in UNHEARD_LANGUAGES


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=Path, action="append", required=True)
    parser.add_argument("--speech", type=Path, action="append", required=True)
    parser.add_argument("--encoder", action="append", help=f"a folder, or {HAMA}; repeat it [{SHIPPED}]")
    parser.add_argument("--held-out", type=lambda names: names.split(","), default=[])
    parser.add_argument("--minutes", type=float, default=25, help="of speech, to fit the readouts")
    parser.add_argument("--out", type=Path, help="keeps the lip gaps")
    options = parser.parse_args()
    options.encoder = options.encoder or [str(SHIPPED)]
    return options


if __name__ == "__main__":
    main()
