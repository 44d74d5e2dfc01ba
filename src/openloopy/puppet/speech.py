"""Synthetic speech with known phoneme times: espeak-ng (many languages and voices) and, if installed, flite.

Source: ours. espeak-ng comes as a shared library in the wheel `espeakng_loader` (no system package) and is
called through ctypes in synchronous mode with phoneme events; flite is a program on the PATH. Validation has
voices and sentences of its own, so that a model cannot have heard them. Part of the training speech is bent into
other voices, or sung.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from scipy.signal import resample_poly

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.sentences import LANGUAGES, Split, draw_sentence, is_english
from openloopy.puppet.voice_bending import (
    Timbre,
    bend_voice,
    draw_melody,
    draw_timbre,
    median_pitch_hz,
)

Engine = Literal["espeak", "flite"]
Manner = Literal["plain", "bent", "sung"]
"""As the engine speaks; as another voice in another rhythm; or as song."""

PAUSE_SYMBOL = "_"
"""Symbol of a silence inside an utterance, whatever the engine calls it."""

MIN_DURATION_S = 0.1
FLITE_SHARE = 0.35
"""Share of speakers drawn from flite where it is installed: few voices, but the more natural ones."""
FLITE_VOICES: dict[Split, tuple[str, ...]] = {"train": ("slt", "slt", "rms", "rms", "kal16"), "val": ("awb",)}
FLITE_PITCH_HZ = {"slt": 180.0, "rms": 100.0, "awb": 130.0, "kal16": 105.0}
FLITE_NATURAL_WPM = 165.0

ESPEAK_VARIANTS: dict[Split, tuple[str, ...]] = {
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

MANNER_SHARES: dict[Split, dict[Manner, float]] = {
    "train": {"plain": 0.5, "bent": 0.35, "sung": 0.15},
    "val": {"plain": 1.0},
}
SUNG_VOWEL_S = (0.12, 0.45)
"""A short note of a song, of which vowels hold half to three."""
_IPA_VOWELS = frozenset("aɑɐæʌɔɒəɘɵɤɜɚɝɞɛeɪᵻɨɯiouʊʉᵿyʏøœɶ")


@dataclass(frozen=True, kw_only=True)
class Phoneme:
    """One sound of an utterance."""

    start_s: float
    end_s: float
    symbol: str
    """IPA for espeak (with stress and length marks), ARPAbet for flite; PAUSE_SYMBOL for silence."""
    engine: Engine


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A voice: what synthesizes it and how it is bent."""

    engine: Engine
    language: str
    voice: str
    """espeak-ng variant name ("" is the plain voice) or flite voice name."""
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


_Synthesize = Callable[[Speaker, str], tuple[np.ndarray, int, list[Phoneme]]]
"""Speaker and text to a waveform, its rate in Hz, and its phonemes."""


def draw_speaker(rng: np.random.Generator, split: Split) -> Speaker:
    """A random speaker of a split; the voices of the two splits are different ones."""
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
    timbre, manner = draw_timbre(rng), _draw_manner(rng, split)
    phonemes, texts = [], []
    with _open_engine(speaker.engine) as synthesize:
        while position < num_samples:
            text = draw_sentence(rng, speaker.language, split)
            sentence = _in_manner(manner, _speak(synthesize, _vary(rng, speaker), text), timbre, rng)
            part = sentence.waveform[: num_samples - position]
            waveform[position : position + len(part)] = part * rng.uniform(0.7, 1.0)
            phonemes += _delayed(sentence.phonemes, position / SAMPLE_RATE_HZ, num_samples / SAMPLE_RATE_HZ)
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
        for phoneme in _delayed(sentence.phonemes, start_s, len(waveform) / SAMPLE_RATE_HZ)
    ]
    waveform *= 0.8 / np.abs(waveform).max()
    soundfile.write(folder / "demo_speech.flac", waveform, SAMPLE_RATE_HZ)
    rows = [[round(p.start_s, 3), round(p.end_s, 3), p.symbol, p.engine] for p in phonemes]
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
    kept = _delayed(scaled, 0.0, len(waveform) / SAMPLE_RATE_HZ)
    return Utterance(waveform=waveform, phonemes=tuple(kept), text=text, speaker=speaker)


@contextmanager
def _open_engine(engine: Engine) -> Iterator[_Synthesize]:
    """The function that speaks with an engine; espeak-ng is loaded anew, so that a seed gives the same sound."""
    if engine == "flite":
        yield _speak_flite
        return
    with _ESPEAK_LOCK:
        espeak = _Espeak()
        try:
            yield espeak.speak
        finally:
            espeak.close()


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


def _draw_manner(rng: np.random.Generator, split: Split) -> Manner:
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
    return first in (set("aeiou") if phoneme.engine == "flite" else _IPA_VOWELS) and first != ""


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


def _delayed(phonemes: Sequence[Phoneme], delay_s: float, end_s: float) -> list[Phoneme]:
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
        phonemes.append(Phoneme(start_s=start_s, end_s=float(end), symbol=symbol, engine="flite"))
        start_s = float(end)
    return phonemes


# ----------------------------------------------------------------------------------------------------------
# espeak-ng

_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_EVENT_END, _EVENT_PHONEME = 0, 7
_OUTPUT_SYNCHRONOUS = 2
_OPTIONS = 0x1 | 0x2 | 0x8000  # phoneme events, in IPA, and no exit() when something is wrong
_CHARACTERS_UTF8 = 1
_PLOSIVES = frozenset("pbtdkɡgcɟqʈɖ")
_CLOSURE_S = (0.035, 0.11)
_SILENT = 0.04
"""Amplitude below which a moment counts as silent, relative to the loud parts."""


_ESPEAK_LOCK = threading.Lock()


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; `id` is a union of an int, a pointer and 8 bytes of UTF-8."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_ubyte * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Espeak:
    """The library with fresh state.

    It keeps state in global variables (such as the phase of the pitch flutter) that change the next sound and that
    nothing but loading it anew resets (4 ms); hence also one thread at a time.
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4] + [
            ctypes.c_void_p
        ] * 2
        data_path = str(espeakng_loader.get_data_path()).encode()
        self._rate_hz = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, _OPTIONS)
        if self._rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start with the data in {data_path.decode()}")
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept here: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, speaker: Speaker, text: str) -> tuple[np.ndarray, int, list[Phoneme]]:
        """Waveform float32 at the library's rate, that rate in Hz, and IPA phonemes."""
        self._chunks.clear()
        self._events.clear()
        self._set_voice(speaker)
        data = text.encode()
        status = self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARACTERS_UTF8, None, None)
        if status != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng made no sound of {text!r} as {speaker} (status {status})")
        waveform = np.concatenate(self._chunks).astype(np.float32) / 32768
        return waveform, self._rate_hz, _phonemes_of_events(self._events, waveform, self._rate_hz)

    def close(self) -> None:
        """Unload the library."""
        self._library.espeak_Terminate()
        dlclose(self._library._handle)

    def _set_voice(self, speaker: Speaker) -> None:
        name = f"{speaker.language}+{speaker.voice}" if speaker.voice else speaker.language
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        # The pitch setting is logarithmic around 50 (pitch_adjust_tab in setlengths.c). The later resampling
        # by `shift` also moves pitch and tempo, which the speaker states for the result.
        pitch = 50 + np.log(speaker.pitch_scale / speaker.shift) / 0.0138
        self._set(_PARAMETER_RATE, np.clip(speaker.rate_wpm / speaker.shift, 80, 450))
        self._set(_PARAMETER_PITCH, np.clip(pitch, 0, 99))
        self._set(_PARAMETER_RANGE, np.clip(50 * speaker.pitch_range, 0, 99))

    def _set(self, parameter: int, value: float) -> None:
        self._library.espeak_SetParameter(parameter, round(float(value)), 0)

    def _receive(self, samples, num_samples: int, events) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            if events[i].type == _EVENT_PHONEME:
                self._events.append((events[i].sample, _decode_symbol(bytes(events[i].id))))
            i += 1
        return 0


def _decode_symbol(data: bytes) -> str:
    """The 8-byte field ends at a NUL with older symbols behind it; a long symbol may lose half a letter."""
    return data.split(b"\0")[0].decode("utf-8", "ignore")


def _phonemes_of_events(events: list[tuple[int, str]], waveform: np.ndarray, rate_hz: int) -> list[Phoneme]:
    """Events (start sample, symbol) to phonemes: language marks dropped, pauses named, starts corrected."""
    marks = [(start, symbol or PAUSE_SYMBOL) for start, symbol in events if not symbol.startswith("(")]
    starts = np.array([start for start, _ in marks] + [len(waveform)], float)
    symbols = [symbol for _, symbol in marks]
    _give_length(starts, symbols, rate_hz)
    _add_closures(starts, symbols, waveform, rate_hz)
    times = starts / rate_hz
    return [
        Phoneme(start_s=float(start), end_s=float(end), symbol=symbol, engine="espeak")
        for start, end, symbol in zip(times[:-1], times[1:], symbols, strict=True)
        if end > start
    ]


def _give_length(starts: np.ndarray, symbols: list[str], rate_hz: int) -> None:
    """A consonant melted into the vowel before it has no time of its own: it takes the vowel's last third."""
    for i in range(1, len(symbols)):
        if symbols[i] != PAUSE_SYMBOL and starts[i + 1] == starts[i]:
            starts[i] -= min(0.35 * (starts[i] - starts[i - 1]), 0.08 * rate_hz)


def _add_closures(starts: np.ndarray, symbols: list[str], waveform: np.ndarray, rate_hz: int) -> None:
    """espeak-ng marks a plosive at its burst; the silence before, when the mouth is closed, belongs to it."""
    hop = rate_hz // 200
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    loudness = np.sqrt((frames**2).mean(1))
    is_silent = loudness < _SILENT * np.percentile(loudness, 95)
    for i, symbol in enumerate(symbols):
        if not _PLOSIVES & set(symbol.lstrip("ˈˌ")[:1]):
            continue
        burst, longest = int(starts[i] // hop), int(_CLOSURE_S[1] * 200)
        before = is_silent[max(0, burst - longest) : burst][::-1]
        # The frame next to the burst often holds a little of it.
        silence = 1 + int(np.argmin(np.append(before[1:], False))) if len(before) else 0
        closure = max(silence * hop, _CLOSURE_S[0] * rate_hz)
        room = (starts[i] - starts[i - 1]) * 0.6 if i else starts[i]
        starts[i] -= min(closure, room)
