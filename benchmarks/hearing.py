"""Judges audio encoders on human speech: filmed people, recorded and synthetic voices that no training heard.

    python benchmarks/hearing.py --encoder DIR|hama [...] --film SHARDS [...] --speech DIR [...] [--minutes 25]

Each `--encoder` is a folder (as in a model's audio_encoder), or `hama`, the installed phoneme recogniser. `--film` are
shards of `openloopy prepare`, which puts sound and pictures in step: the lips of their split val are followed, those of
split train teach the reading of lips. `--speech` are speech folders (`openloopy speech`): their split train teaches the
reading of curves and visemes, val and test are judged. Linear maps read all encoders alike. The last line is one JSON
object.
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
from hearing_readout import Readout, fit_classes, fit_ridge, stacked_states
from identity import area_under_curve
from provenance import ROOT, provenance, rounded, save_result

from openloopy.data.cache import clip_sound
from openloopy.data.shards import read_shards
from openloopy.measures.sync import lip_gap_correlation
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.models.audio_encoder import (
    AudioEncoder,
    AudioEncoderConfig,
    AudioFeatureReader,
    load_audio_encoder,
)
from openloopy.models.conformer import ConformerConfig
from openloopy.puppet.augment import background
from openloopy.puppet.sentences import UNHEARD_LANGUAGES
from openloopy.puppet.speech_folder import Spoken, read_speech_folder
from openloopy.puppet.utterance import Utterance
from openloopy.puppet.visemes import CLOSED, SILENCE, VISEMES, phonemes_to_visemes, viseme_labels
from openloopy.recipes.speech_bank import (
    ARTICULATION,
    REST,
    Known,
    SpeechBankConfig,
    known_of,
    make_utterance,
)
from openloopy.training.hama import hama_file, start_from_hama

SHIPPED = ROOT / "src" / "openloopy" / "weights" / "mini" / "audio_encoder"
HAMA = "hama"
HAMA_REACH = 100_000
"""hama hears a sound as a whole."""
FPS, SAMPLES_PER_FRAME = 25, SAMPLE_RATE_HZ // 25
MAX_LAG = 5
MAX_GAPS_S = 15.0
"""Of a filmed clip, so that long ones do not fill the memory."""
NOISE_DB = 20.0
OPEN_VOWELS = frozenset("aæɔ")
MIN_FRAMES = 10
"""Of silence and of speech, without which a voice tells nothing of either."""
SILENT_MARGIN_S = 0.1
"""Away from what is said."""
JAW, CLOSE = ARTICULATION.index("jaw"), ARTICULATION.index("close")
QUIET_S = 6.0
BACKGROUND_S, BACKGROUND_DB = 2.0, (-40.0, 0.0)
"""Of sounds without a voice from which reading is learnt."""
MAX_QUIET_CLIPS = 40
ENGINES = ("kokoro", "recorded")


@dataclass(frozen=True, kw_only=True)
class Filmed:
    """A talking head: 16 kHz, and how far the lips are apart in each frame (eye distances; NaN: no face)."""

    person: str
    waveform: np.ndarray
    gap: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The maps that read one encoder."""

    curves: Readout
    visemes: Readout
    lips: Readout | None
    """Lip gaps as filmed people's; None without clips to learn from."""


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    film = {split: read_film(options.film, split) for split in ("train", "val")}
    spoken = [sound for folder in options.speech for sound in read_speech_folder(folder)]
    result = {
        "benchmark": "hearing",
        "filmed_people": len({clip.person for clip in film["val"]}),
        "filmed_clips": len(film["val"]),
        "minutes_to_read": options.minutes,
        "encoders": {name: judge(load(name), film, spoken, options.minutes) for name in options.encoder},
    }
    result = rounded({**result, **provenance()})
    save_result("hearing", result)
    print(json.dumps(result))


def load(name: str) -> AudioEncoder:
    """An encoder folder, or hama."""
    if name != HAMA:
        return load_audio_encoder(Path(name)).float()
    config = AudioEncoderConfig(loudness="as_is", network=ConformerConfig(reach=HAMA_REACH))
    encoder = AudioEncoder(config).eval()
    start_from_hama(encoder.network, hama_file())
    return encoder


def read_film(folders: Sequence[Path], split: str) -> list[Filmed]:
    """Filmed clips of a split."""
    clips = []
    for folder in folders:
        for sample in read_shards(folder, split):
            if sample.record.is_footage:
                gap = sample.arrays["lip_gap"][: round(MAX_GAPS_S * FPS)]
                sound = np.zeros(len(gap) * SAMPLES_PER_FRAME, np.float32)
                heard = clip_sound(sample)[: len(sound)]
                sound[: len(heard)] = heard
                clips.append(Filmed(person=sample.record.person_id, waveform=sound, gap=gap))
    return clips


def judge(
    encoder: AudioEncoder, film: dict[str, list[Filmed]], spoken: Sequence[Spoken], minutes: float
) -> dict:
    """All measures of one encoder."""
    reading, sets = learn_to_read(encoder, film["train"], spoken, minutes), test_sets(spoken)
    humans = [sound.read() for sound in sets["human_english"]]
    states = [(clip, stacked_states(encoder, clip.waveform)) for clip in film["val"]]
    jaws = [(clip, reading.curves(state)[:, JAW]) for clip, state in states]
    lips = [(clip, reading.lips(state)[:, 0]) for clip, state in states] if reading.lips else []
    return {
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "times_real_time": speed(encoder),
        "jaw": follow(jaws) if jaws else None,
        "filmed_lips": follow(lips) if lips else None,
        "closure_auc": closure_auc(encoder, reading, humans),
        "silence_auc": {
            "clean": silence_auc(encoder, reading, humans),
            "noise_20_db": silence_auc(encoder, reading, humans, with_noise),
        },
        "visemes": {name: viseme_accuracy(encoder, reading, sounds) for name, sounds in sets.items()},
        "quiet": quiet(encoder, reading, humans[:MAX_QUIET_CLIPS]),
        "level": level(encoder, reading, humans[:MAX_QUIET_CLIPS]),
    }


def learn_to_read(
    encoder: AudioEncoder, film: Sequence[Filmed], spoken: Sequence[Spoken], minutes: float
) -> Reading:
    """Readouts from synthetic, Kokoro's and recorded speech, a third of the minutes each, from some sounds in which
    nobody speaks, and from filmed lips."""
    config, rng = SpeechBankConfig(num_utterances=0, seed=7), np.random.default_rng(0)
    known = [
        make_utterance(config, "train", number) for number in range(round(minutes * 20 / config.utterance_s))
    ]
    for engine in ENGINES:
        sounds = [s for s in spoken if s.engine == engine and s.split == "train" and s.phonemes is not None]
        left_s = minutes * 20
        for index in rng.permutation(len(sounds)):
            if left_s <= 0:
                break
            known.append(known_of(sounds[index].read(), rng))
            left_s -= sounds[index].duration_s
    states = np.concatenate(
        [stacked_states(encoder, one.waveform.astype(np.float32) / 32768) for one in known]
    )
    curves = np.concatenate([one.curves[:, : len(ARTICULATION)] for one in known]).astype(np.float32)
    labels = np.concatenate([one.visemes[::2] for one in known])
    lips = fit_lips([(stacked_states(encoder, clip.waveform), clip) for clip in film]) if film else None
    return Reading(
        curves=fit_ridge(states, curves), visemes=fit_classes(states, labels, len(VISEMES)), lips=lips
    )


def nobody(rng: np.random.Generator) -> Known:
    """Two seconds of a room, hum or music, and the mouth at rest."""
    frames = round(BACKGROUND_S * FPS)
    sound = background(frames * SAMPLES_PER_FRAME, rng) * 0.1 * 10 ** (rng.uniform(*BACKGROUND_DB) / 20)
    waveform = (sound * 32767).round().clip(-32768, 32767).astype(np.int16)
    return Known(waveform, np.zeros(2 * frames, np.int8), np.tile(np.array(REST, np.float16), (frames, 1)))


def fit_lips(filmed: Sequence[tuple[np.ndarray, Filmed]]) -> Readout:
    """Lip gaps, each person's in units of their own spread."""
    states, gaps = [], []
    for person in sorted({clip.person for _, clip in filmed}):
        own = [(state, clip.gap) for state, clip in filmed if clip.person == person]
        gap = np.concatenate([gap for _, gap in own])
        known = np.isfinite(gap)
        states.append(np.concatenate([state for state, _ in own])[known])
        gaps.append((gap[known] - gap[known].mean()) / max(float(gap[known].std()), 1e-4))
    return fit_ridge(np.concatenate(states), np.concatenate(gaps)[:, None])


def follow(tracks: Sequence[tuple[Filmed, np.ndarray]]) -> dict:
    """How tracks follow filmed lips: medians over people of each person's median, in step and at the best lag."""
    scores = [(clip, lip_gap_correlation(track, clip.gap, MAX_LAG)) for clip, track in tracks]
    by_person = {
        person: [
            float(np.median([value(score) for clip, score in scores if clip.person == person]))
            for value in (lambda s: s.r, lambda s: s.best_r, lambda s: float(s.best_lag))
        ]
        for person in sorted({clip.person for clip, _ in scores})
    }
    in_step, best, lags = (np.array(values) for values in zip(*by_person.values(), strict=True))
    return {
        "in_step": float(np.median(in_step)),
        "best_lag": float(np.median(best)),
        "lag_frames": float(np.median(lags)),
        "by_person": by_person,
    }


def closure_auc(encoder: AudioEncoder, reading: Reading, sounds: Sequence[Utterance]) -> dict[str, float]:
    """The chance that a b, m or p is heard more closed than an open vowel: by the highest of the closure curve, by the
    lowest of the jaw, and by the chance of the closed viseme in the middle, away from the neighbours."""
    closed, opened = [], []
    for sound in sounds:
        states = stacked_states(encoder, sound.waveform)
        curves, chance = reading.curves(states), viseme_chance(reading, states, CLOSED)
        for start_s, end_s, viseme in phonemes_to_visemes(sound.phonemes):
            if viseme == CLOSED or viseme in OPEN_VOWELS:
                during = curves[round(start_s * FPS) : max(round(end_s * FPS), round(start_s * FPS) + 1)]
                if len(during):
                    middle = min(int((start_s + end_s) / 2 * FPS), len(chance) - 1)
                    (closed if viseme == CLOSED else opened).append(
                        (during[:, CLOSE].max(), -during[:, JAW].min(), chance[middle])
                    )
    closed, opened = np.array(closed), np.array(opened)
    names = ("heard_close", "heard_jaw", "heard_viseme")
    return {name: area_under_curve(closed[:, k], opened[:, k]) for k, name in enumerate(names)} | {
        "closures": len(closed)
    }


def silence_auc(
    encoder: AudioEncoder,
    reading: Reading,
    sounds: Sequence[Utterance],
    change: Callable[[np.ndarray], np.ndarray] = lambda sound: sound,
) -> dict[str, float]:
    """Silence told from speech by the closure curve, and by the chance of the viseme: means over voices."""
    by_voice: dict[str, list[np.ndarray]] = {}
    for sound in sounds:
        states = stacked_states(encoder, change(sound.waveform))
        is_silent, is_said = silence_and_speech(sound, len(states))
        tracks = np.stack(
            [is_silent, reading.curves(states)[:, CLOSE], viseme_chance(reading, states, SILENCE)]
        )
        by_voice.setdefault(sound.speaker.voice, []).append(tracks[:, is_silent | is_said])
    voices = [np.concatenate(parts, axis=1) for parts in by_voice.values()]
    silent = [tracks[0] > 0 for tracks in voices]
    told = [k for k, each in enumerate(silent) if min(each.sum(), (~each).sum()) >= MIN_FRAMES]
    areas = {
        name: [area_under_curve(voices[k][row][silent[k]], voices[k][row][~silent[k]]) for k in told]
        for row, name in ((1, "close"), (2, "viseme"))
    }
    return {name: float(np.mean(values)) for name, values in areas.items()} | {"voices": len(told)}


def silence_and_speech(sound: Utterance, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames a margin away from what is said, and frames in which something is said; bool `frames`."""
    labels = viseme_labels(sound.phonemes, num_frames, FPS)
    is_said = labels != VISEMES.index(SILENCE)
    margin = round(SILENT_MARGIN_S * FPS)
    near = np.convolve(is_said, np.ones(2 * margin + 1), mode="same") > 0
    return ~near, is_said


def viseme_chance(reading: Reading, states: np.ndarray, viseme: str) -> np.ndarray:
    return torch.from_numpy(reading.visemes(states)).softmax(-1)[:, VISEMES.index(viseme)].numpy()


def with_noise(sound: np.ndarray) -> np.ndarray:
    """White noise, 20 dB below the sound."""
    noise = np.random.default_rng(3).standard_normal(len(sound)).astype(np.float32)
    return sound + noise * np.float32(np.sqrt((sound**2).mean()) * 10 ** (-NOISE_DB / 20))


def test_sets(spoken: Sequence[Spoken]) -> dict[str, list[Spoken]]:
    """Sounds of val and test with known phonemes; recorded ones whose words somebody wrote down."""
    known = [s for s in spoken if s.split != "train" and s.phonemes is not None]
    voices = [s for s in known if s.engine == "kokoro" and s.split == "test"]
    return {
        "human_english": [s for s in known if s.engine == "recorded" and s.language == "en" and s.text],
        "kokoro": [s for s in voices if s.language not in UNHEARD_LANGUAGES],
        "unheard_language": [s for s in voices if s.language in UNHEARD_LANGUAGES],
    }


def viseme_accuracy(encoder: AudioEncoder, reading: Reading, sounds: Sequence[Spoken]) -> dict[str, float]:
    """Share of frames whose viseme is read rightly, and of those in which somebody speaks: means over voices."""
    by_voice: dict[str, list[np.ndarray]] = {}
    for sound in sounds:
        utterance = sound.read()
        states = stacked_states(encoder, utterance.waveform)
        labels = viseme_labels(utterance.phonemes, len(states), FPS)
        right = reading.visemes(states).argmax(1) == labels
        by_voice.setdefault(sound.speaker, []).append(np.stack([right, labels != VISEMES.index(SILENCE)]))
    if not by_voice:
        return {}
    voices = [np.concatenate(parts, axis=1) for parts in by_voice.values()]
    return {
        "all": float(np.mean([right.mean() for right, _ in voices])),
        "speech": float(np.mean([right[is_speech].mean() for right, is_speech in voices])),
        "voices": len(voices),
        "minutes": sum(part.shape[1] for part in voices) / FPS / 60,
    }


def quiet(encoder: AudioEncoder, reading: Reading, sounds: Sequence[Utterance]) -> dict[str, float]:
    """How open the jaw is heard where nobody speaks, over speech: 95th percentiles; about 0 is the mouth at rest."""
    rng, samples = np.random.default_rng(5), round(QUIET_S * SAMPLE_RATE_HZ)
    white = rng.standard_normal(samples).astype(np.float32)
    quiets = {"digital_silence": np.zeros(samples, np.float32)}
    quiets |= {f"white_{db}_db": white * np.float32(10 ** (-db / 20)) for db in (60, 50, 40)}
    quiets |= {
        f"background_{i}": background(samples, rng).astype(np.float32) * np.float32(0.03) for i in range(8)
    }
    speech = np.concatenate([heard_jaw(encoder, reading, sound.waveform) for sound in sounds])
    open_speech = float(np.percentile(speech, 95))
    jaws = {name: heard_jaw(encoder, reading, sound) for name, sound in quiets.items()}
    return {name: float(np.percentile(jaw, 95)) / open_speech for name, jaw in jaws.items()}


def level(encoder: AudioEncoder, reading: Reading, sounds: Sequence[Utterance]) -> float:
    """Mean difference of the heard jaw at -30 dB to that at 0 dB, over its range (5th to 95th percentile)."""
    loud = [sound.waveform / max(float(np.abs(sound.waveform).max()), 1e-6) for sound in sounds]
    soft = [np.round(sound * 32767 * 10 ** (-30 / 20)) / np.float32(32767) for sound in loud]
    at_0, at_30 = (np.concatenate([heard_jaw(encoder, reading, s) for s in each]) for each in (loud, soft))
    low, high = np.percentile(at_0, (5, 95))
    return float(np.abs(at_0 - at_30).mean() / (high - low))


def heard_jaw(encoder: AudioEncoder, reading: Reading, sound: np.ndarray) -> np.ndarray:
    return reading.curves(stacked_states(encoder, sound.astype(np.float32)))[:, JAW]


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


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", action="append", help=f"a folder, or {HAMA}; repeat it [{SHIPPED}]")
    parser.add_argument("--film", type=Path, action="append", default=[])
    parser.add_argument("--speech", type=Path, action="append", required=True)
    parser.add_argument("--minutes", type=float, default=25, help="of speech, to fit the readouts")
    options = parser.parse_args()
    options.encoder = options.encoder or [str(SHIPPED)]
    return options


if __name__ == "__main__":
    main()
