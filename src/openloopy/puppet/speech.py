"""Synthetic speech with known phoneme times: espeak-ng (many languages and voices), flite and Kokoro, where they are.

Source: ours. Validation and test have voices and sentences of their own, so that a model cannot have heard them; test
has languages of its own besides. Part of the training speech is bent into other voices, or sung.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from scipy.signal import resample_poly

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.espeak import ESPEAK_LOCK, Espeak
from openloopy.puppet.kokoro import draw_voice, kokoro_voices, speak_kokoro
from openloopy.puppet.sentences import LANGUAGES, UNHEARD_LANGUAGES, Split, draw_sentence, is_english
from openloopy.puppet.utterance import PAUSE_SYMBOL, Engine, Phoneme, Speaker, Utterance
from openloopy.puppet.voice_bending import (
    Timbre,
    bend_voice,
    draw_melody,
    draw_timbre,
    median_pitch_hz,
)

Manner = Literal["plain", "bent", "sung"]
"""As the engine speaks; as another voice in another rhythm; or as song."""

MIN_DURATION_S = 0.1
FLITE_SHARE = 0.35
"""Share of speakers drawn from flite where it is installed: few voices, but the more natural ones."""
FLITE_VOICES: dict[str, tuple[str, ...]] = {"train": ("slt", "slt", "rms", "rms", "kal16"), "val": ("awb",)}
FLITE_PITCH_HZ = {"slt": 180.0, "rms": 100.0, "awb": 130.0, "kal16": 105.0}
FLITE_NATURAL_WPM = 165.0

ESPEAK_VARIANTS: dict[str, tuple[str, ...]] = {
    "train": (
        *("", "m1", "m2", "m4", "m5", "m6", "m8", "f1", "f2", "f4", "f1", "f2", "f4"),
        *("Alex", "Andy", "Andrea", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Lee", "Marco", "Mike"),
        *("adam", "anika", "anika", "antonio", "aunty", "belinda", "belinda", "benjamin", "boris", "caleb"),
        *("david", "ed", "edward", "gustave", "ian", "iven", "iven3", "john", "klatt2", "klatt4", "linda"),
        *("linda", "marcelo", "max", "miguel", "norbert", "paul", "quincy", "rob", "robert", "sandro"),
        *("shelby", "steph", "steph2", "victor", "zac", "grandma", "klatt"),
    ),
    "val": (
        "m3",
        "m7",
        "f3",
        "f5",
        "Alicia",
        "Annie",
        "Mario",
        "pablo",
        "pedro",
        "travis",
        "steph3",
        "michel",
    ),
}
"""Timbres of espeak-ng; female ones stand twice in the training list because they are few."""
ESPEAK_ENGLISH_SHARE = 0.45
KOKORO_HELD_OUT: dict[str, tuple[str, ...]] = {
    "val": ("af_nova", "am_eric", "bm_lewis", "em_santa", "hm_psi", "zf_xiaoni"),
    "test": (
        *(
            "af_river",
            "af_sarah",
            "am_puck",
            "bf_lily",
            "bm_daniel",
            "ef_dora",
            "hf_beta",
            "hm_omega",
            "if_sara",
        ),
        *("im_nicola", "jf_nezumi", "pm_santa", "zm_yunyang"),
    ),
}
"""All other voices train; mixtures are of one split."""
KOKORO_RATE_WPM, KOKORO_SHIFT_SD = (115.0, 235.0), 0.06
KOKORO_LANGUAGE_SHARES = {"en-us": 0.3, "en": 0.15}
"""The rest is spread over KOKORO_LANGUAGES."""
KOKORO_LANGUAGES = (
    *(
        "es",
        "fr",
        "pt-br",
        "de",
        "pl",
        "nl",
        "tr",
        "ru",
        "ro",
        "cs",
        "id",
        "fi",
        "sv",
        "hr",
        "ca",
        "sw",
        "af",
        "uk",
    ),
)

MANNER_SHARES: dict[Split, dict[Manner, float]] = {
    "train": {"plain": 0.5, "bent": 0.35, "sung": 0.15},
    "val": {"plain": 1.0},
    "test": {"plain": 1.0},
}
SUNG_VOWEL_S = (0.12, 0.45)
"""A short note of a song, of which vowels hold half to three."""
_IPA_VOWELS = frozenset("aɑɐæʌɔɒəɘɵɤɜɚɝɞɛeɪᵻɨɯiouʊʉᵿyʏøœɶ")


_Synthesize = Callable[[Speaker, str], tuple[np.ndarray, int, list[Phoneme]]]
"""Speaker and text to a waveform, its rate in Hz, and its phonemes."""


def draw_speaker(rng: np.random.Generator, split: Split, kokoro_share: float = 0.0) -> Speaker:
    """A random speaker of a split; the voices of the splits are different ones.

    Raises:
        ValueError: a test speaker that is not Kokoro's; espeak-ng and flite have voices for train and val alone.
    """
    if kokoro_share and rng.random() < kokoro_share:
        return _draw_kokoro_speaker(rng, split)
    if split == "test":
        raise ValueError("only Kokoro has test voices: ask for kokoro_share=1")
    engine: Engine = "flite" if rng.random() < FLITE_SHARE and has_flite() else "espeak"
    voices = FLITE_VOICES[split] if engine == "flite" else ESPEAK_VARIANTS[split]
    size = _draw_size(rng)
    return Speaker(
        engine=engine,
        language="en-us" if engine == "flite" else _draw_language(rng),
        voice=voices[rng.integers(len(voices))],
        rate_wpm=rng.uniform(110, 230),
        pitch_scale=2 ** (0.5 * size + rng.uniform(-0.3, 0.3)),
        pitch_range=rng.uniform(0.4, 1.8),
        shift=2 ** (0.2 * size + rng.uniform(-0.12, 0.12)),
    )


def speak(speaker: Speaker, text: str) -> Utterance:
    """Synthesize a text; the voice's own loudness and length."""
    with _open_engine(speaker.engine) as synthesize:
        return _speak(synthesize, speaker, text)


def utter(rng: np.random.Generator, speaker: Speaker, duration_s: float, split: Split) -> Utterance:
    """Random sentences of a split with pauses between them, `duration_s` long in all (the last is cut)."""
    if duration_s < MIN_DURATION_S:
        raise ValueError(f"expected an utterance of at least {MIN_DURATION_S} s, got {duration_s} s")
    num_samples = round(duration_s * SAMPLE_RATE_HZ)
    waveform = np.zeros(num_samples, np.float32)
    position = round(rng.uniform(0.05, 0.6) * SAMPLE_RATE_HZ)
    timbre, manner = draw_timbre(rng), _draw_manner(rng, speaker, split)
    phonemes, texts = [], []
    with _open_engine(speaker.engine) as synthesize:
        while position < num_samples:
            text = draw_sentence(rng, speaker.language, split)
            sentence = _in_manner(manner, _speak(synthesize, _vary(rng, speaker), text), timbre, rng)
            part = sentence.waveform[: num_samples - position]
            waveform[position : position + len(part)] = part * rng.uniform(0.7, 1.0)
            phonemes += delayed(sentence.phonemes, position / SAMPLE_RATE_HZ, num_samples / SAMPLE_RATE_HZ)
            texts.append(text)
            position += len(sentence.waveform) + round(_draw_pause_s(rng) * SAMPLE_RATE_HZ)
    waveform *= rng.uniform(0.5, 0.9) / max(float(np.abs(waveform).max()), 1e-6)
    return Utterance(waveform=waveform, phonemes=tuple(phonemes), text=" ".join(texts), speaker=speaker)


def bend(utterance: Utterance, timbre: Timbre, rng: np.random.Generator) -> Utterance:
    """Another voice saying the same, in a tempo and rhythm of its own; phoneme times follow."""
    tempo = 2 ** rng.uniform(-0.3, 0.3)
    durations_s = np.diff(_borders_s(utterance))
    stretched_s = durations_s * tempo * np.exp(0.18 * rng.standard_normal(len(durations_s)))
    new_s = np.concatenate([[0.0], np.cumsum(stretched_s)])
    return _rebuilt(
        utterance, new_s, bend_voice(utterance.waveform, _borders_s(utterance), new_s, timbre, rng)
    )


def sing(utterance: Utterance, timbre: Timbre, rng: np.random.Generator) -> Utterance:
    """The utterance as song: vowels held on the notes of a scale, with vibrato; phoneme times follow."""
    old_s = _borders_s(utterance)
    is_vowel = _vowel_spans(utterance.phonemes, len(old_s) - 1)
    notes_s = rng.uniform(*SUNG_VOWEL_S) * np.array([0.5, 1, 1, 2, 3])[rng.integers(5, size=len(is_vowel))]
    durations_s = np.diff(old_s)
    held_s = np.maximum(notes_s, durations_s)
    new_s = np.concatenate([[0.0], np.cumsum(np.where(is_vowel, held_s, durations_s))])
    onsets_s = new_s[:-1][is_vowel] if is_vowel.any() else np.zeros(1)
    melody = draw_melody(rng, onsets_s, median_pitch_hz(utterance.waveform) * timbre.pitch)
    return _rebuilt(utterance, new_s, bend_voice(utterance.waveform, old_s, new_s, timbre, rng, melody))


def has_flite() -> bool:
    """Is the flite program on the PATH?"""
    return shutil.which("flite") is not None


def make_demo_speech(folder: Path) -> None:
    """Write demo_speech.flac (about 6 s of clear English) and demo_speech.json (text, speaker, phonemes).

    Made with flite's voice slt, so that program must be installed; the result is shipped with the package.
    """
    speaker = Speaker(engine="flite", language="en-us", voice="slt", rate_wpm=160)
    texts = ("Hello, and welcome.", "My lips move because a model hears every word I say.")
    pause = np.zeros(round(0.3 * SAMPLE_RATE_HZ), np.float32)
    sentences = [speak(speaker, text) for text in texts]
    waveform = np.concatenate([pause, sentences[0].waveform, pause, sentences[1].waveform, pause])
    starts_s = (0.3, 0.6 + sentences[0].duration_s)
    phonemes = [
        phoneme
        for sentence, start_s in zip(sentences, starts_s, strict=True)
        for phoneme in delayed(sentence.phonemes, start_s, len(waveform) / SAMPLE_RATE_HZ)
    ]
    waveform *= 0.8 / np.abs(waveform).max()
    soundfile.write(folder / "demo_speech.flac", waveform, SAMPLE_RATE_HZ)
    rows = [[round(p.start_s, 3), round(p.end_s, 3), p.symbol, p.alphabet] for p in phonemes]
    description = {"text": " ".join(texts), "speaker": asdict(speaker), "phonemes": rows}
    (folder / "demo_speech.json").write_text(json.dumps(description, ensure_ascii=False) + "\n")


def _speak(synthesize: _Synthesize, speaker: Speaker, text: str) -> Utterance:
    """Bring what an engine made to 16 kHz, and shift its frequencies."""
    waveform, rate_hz, phonemes = synthesize(speaker, text)
    ratio = Fraction(SAMPLE_RATE_HZ / (rate_hz * speaker.shift)).limit_denominator(200)
    stretch = float(ratio) * rate_hz / SAMPLE_RATE_HZ
    waveform = resample_poly(waveform, ratio.numerator, ratio.denominator).astype(np.float32)
    scaled = [replace(p, start_s=p.start_s * stretch, end_s=p.end_s * stretch) for p in phonemes]
    # flite's last pause may reach beyond the sound it writes.
    kept = delayed(scaled, 0.0, len(waveform) / SAMPLE_RATE_HZ)
    return Utterance(waveform=waveform, phonemes=tuple(kept), text=text, speaker=speaker)


@contextmanager
def _open_engine(engine: Engine) -> Iterator[_Synthesize]:
    """The function that speaks with an engine; espeak-ng is loaded anew, so that a seed gives the same sound."""
    if engine != "espeak":
        yield {"flite": _speak_flite, "kokoro": speak_kokoro}[engine]
        return
    with ESPEAK_LOCK:
        espeak = Espeak()
        try:
            yield espeak.speak
        finally:
            espeak.close()


def _draw_kokoro_speaker(rng: np.random.Generator, split: Split) -> Speaker:
    held_out = {voice for voices in KOKORO_HELD_OUT.values() for voice in voices}
    voices = [
        v for v in kokoro_voices() if (v not in held_out if split == "train" else v in KOKORO_HELD_OUT[split])
    ]
    if not voices:
        raise RuntimeError(
            f"of Kokoro's {split} voices none is here; kokoro.make_kokoro_folder says where they are"
        )
    languages = list(KOKORO_LANGUAGES)
    named, kind = np.cumsum(list(KOKORO_LANGUAGE_SHARES.values())), rng.random()
    if split == "test":
        languages = [*UNHEARD_LANGUAGES, *KOKORO_LANGUAGES[:3]]
    if kind < named[-1]:
        languages = [list(KOKORO_LANGUAGE_SHARES)[int(np.searchsorted(named, kind, side="right"))]]
    return Speaker(
        engine="kokoro",
        language=languages[rng.integers(len(languages))],
        voice=draw_voice(rng, voices),
        rate_wpm=rng.uniform(*KOKORO_RATE_WPM),
        shift=2 ** (KOKORO_SHIFT_SD * rng.standard_normal()),
    )


def _draw_language(rng: np.random.Generator) -> str:
    english = [language for language in LANGUAGES if is_english(language)]
    others = [language for language in LANGUAGES if not is_english(language)]
    options = english if rng.random() < ESPEAK_ENGLISH_SHARE else others
    return options[rng.integers(len(options))]


def _draw_size(rng: np.random.Generator) -> float:
    """Of the speaker: near 1 for children, near -1 for deep voices, most in between."""
    kind = rng.random()
    if kind < 0.2:
        return rng.uniform(0.6, 1.2)
    return rng.uniform(-1.2, -0.6) if kind < 0.4 else rng.uniform(-0.5, 0.5)


def _draw_manner(rng: np.random.Generator, speaker: Speaker, split: Split) -> Manner:
    if speaker.engine == "kokoro":
        return "plain"
    manners = list(MANNER_SHARES[split])
    return manners[rng.choice(len(manners), p=list(MANNER_SHARES[split].values()))]


def _in_manner(manner: Manner, spoken: Utterance, timbre: Timbre, rng: np.random.Generator) -> Utterance:
    if manner == "plain":
        return spoken
    return (bend if manner == "bent" else sing)(spoken, timbre, rng)


def _borders_s(utterance: Utterance) -> np.ndarray:
    """0, where each phoneme starts, where the last one ends, and the end of the sound: rising, `phonemes + 3`."""
    starts = [phoneme.start_s for phoneme in utterance.phonemes]
    last = utterance.phonemes[-1].end_s if utterance.phonemes else 0.0
    return np.array([0.0, *starts, last, max(utterance.duration_s, last)])


def _vowel_spans(phonemes: Sequence[Phoneme], num_spans: int) -> np.ndarray:
    """Which of the spans between the borders are vowels, bool `spans`."""
    is_vowel = np.zeros(num_spans, bool)
    is_vowel[1 : 1 + len(phonemes)] = [_is_vowel(phoneme) for phoneme in phonemes]
    return is_vowel


def _is_vowel(phoneme: Phoneme) -> bool:
    first = phoneme.symbol.lstrip("ˈˌ")[:1]
    return first in (set("aeiou") if phoneme.alphabet == "arpabet" else _IPA_VOWELS) and first != ""


def _rebuilt(utterance: Utterance, new_s: np.ndarray, waveform: np.ndarray) -> Utterance:
    """The utterance in the time of new borders."""
    old_s, end_s = _borders_s(utterance), len(waveform) / SAMPLE_RATE_HZ
    moved = (
        replace(
            phoneme,
            start_s=float(np.interp(phoneme.start_s, old_s, new_s)),
            end_s=min(float(np.interp(phoneme.end_s, old_s, new_s)), end_s),
        )
        for phoneme in utterance.phonemes
    )
    return replace(utterance, waveform=waveform, phonemes=tuple(p for p in moved if p.start_s < p.end_s))


def _draw_pause_s(rng: np.random.Generator) -> float:
    """Between .05 and .8 s, short ones being the more frequent."""
    return 0.05 * 16 ** rng.uniform(0, 1)


def _vary(rng: np.random.Generator, speaker: Speaker) -> Speaker:
    """The same voice in the mood of another sentence."""
    return replace(
        speaker,
        rate_wpm=speaker.rate_wpm * rng.uniform(0.9, 1.1),
        pitch_scale=speaker.pitch_scale * rng.uniform(0.95, 1.06),
        pitch_range=speaker.pitch_range * rng.uniform(0.8, 1.25),
    )


def delayed(phonemes: Sequence[Phoneme], delay_s: float, end_s: float) -> list[Phoneme]:
    """Phonemes moved by a delay and cut at the end of the sound."""
    moved = (replace(p, start_s=p.start_s + delay_s, end_s=min(p.end_s + delay_s, end_s)) for p in phonemes)
    return [p for p in moved if p.start_s < end_s]


# ----------------------------------------------------------------------------------------------------------
# flite


def _speak_flite(speaker: Speaker, text: str) -> tuple[np.ndarray, int, list[Phoneme]]:
    """Waveform, its rate in Hz, and ARPAbet phonemes as `flite -psdur` prints them (`symbol:end`)."""
    if not has_flite():
        raise RuntimeError("flite is not on the PATH; install it (Debian: apt install flite) or use espeak")
    # The later resampling by `shift` also moves pitch and tempo, which the speaker states for the result.
    settings = {
        "duration_stretch": FLITE_NATURAL_WPM / speaker.rate_wpm * speaker.shift,
        "int_f0_target_mean": FLITE_PITCH_HZ[speaker.voice] * speaker.pitch_scale,
        "int_f0_target_stddev": 15 * speaker.pitch_range,
    }
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", speaker.voice, "-psdur", "-t", text, "-o", file.name]
        for name, value in settings.items():
            command += ["--setf", f"{name}={value:.4f}"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        waveform, rate_hz = soundfile.read(file.name, dtype="float32")
    return waveform, rate_hz, _parse_flite(printed)


def _parse_flite(printed: str) -> list[Phoneme]:
    phonemes, start_s = [], 0.0
    for token in printed.split():
        name, _, end = token.rpartition(":")
        symbol = PAUSE_SYMBOL if name in ("pau", "ssil", "brth") else name
        phonemes.append(Phoneme(start_s=start_s, end_s=float(end), symbol=symbol, alphabet="arpabet"))
        start_s = float(end)
    return phonemes
