"""A text becomes a sound, for those who have none at hand: by espeak-ng, and by Kokoro where its voices are.

Source: ours; the engines are those of `puppet`, which says where they come from. They are imported when they are
needed: Windows cannot import them.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

import numpy as np

from openloopy.puppet.utterance import Speaker

MAX_CHARACTERS = 600
"""Well under a minute of speech."""
PIECE_CHARACTERS = 200
"""Kokoro speaks 510 of its letters at once; a number has more of them than digits."""
PAUSE_S = 0.25
"""Between pieces."""
PEAK = 0.9
LANGUAGES = {
    "English (American)": "en-us",
    "English (British)": "en",
    "Arabic": "ar",
    "Bengali": "bn",
    "Catalan": "ca",
    "Chinese (Mandarin)": "cmn",
    "Croatian": "hr",
    "Czech": "cs",
    "Danish": "da",
    "Dutch": "nl",
    "Finnish": "fi",
    "French": "fr",
    "German": "de",
    "Greek": "el",
    "Hindi": "hi",
    "Hungarian": "hu",
    "Indonesian": "id",
    "Italian": "it",
    "Korean": "ko",
    "Norwegian": "nb",
    "Persian": "fa",
    "Polish": "pl",
    "Portuguese (Brazil)": "pt-br",
    "Portuguese (Portugal)": "pt",
    "Romanian": "ro",
    "Russian": "ru",
    "Spanish": "es",
    "Spanish (Latin America)": "es-419",
    "Swahili": "sw",
    "Swedish": "sv",
    "Tamil": "ta",
    "Turkish": "tr",
    "Ukrainian": "uk",
    "Urdu": "ur",
    "Vietnamese": "vi",
}
"""Name and espeak-ng's code: a part of what it speaks."""
_ESPEAK_VOICES = {"Woman": "f2", "Man": "m3", "Woman, lower": "f4", "Man, deeper": "m7"}
_SENTENCE_END = re.compile(r"(?<=[.!?;:。！？])\s+|\n+")
_KOKORO_KINDS = {"f": "woman", "m": "man"}


class SpeechError(ValueError):
    """A text that cannot be spoken; the message says why."""


@dataclass(frozen=True)
class Voice:
    """Who speaks."""

    title: str
    """What a user chooses by."""
    engine: str
    name: str
    """As the engine calls it."""


def has_speech() -> bool:
    """Is there anything that speaks? All of it needs espeak-ng."""
    return os.name == "posix" and importlib.util.find_spec("espeakng_loader") is not None


def voices() -> list[Voice]:
    """Those that are here: espeak-ng's, who speak at once, then Kokoro's, who sound human and take their time."""
    if not has_speech():
        return []
    from openloopy.puppet.kokoro import has_kokoro, kokoro_voices

    human = [Voice(_kokoro_title(name), "kokoro", name) for name in kokoro_voices()] if has_kokoro() else []
    robots = [Voice(f"{title} (espeak)", "espeak", name) for title, name in _ESPEAK_VOICES.items()]
    return robots + human


def check_text(text: str) -> str:
    """The text without space around it.

    Raises:
        SpeechError: nothing to say in it, or too long.
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise SpeechError(
            f"the text has {len(text)} characters, at most {MAX_CHARACTERS} work; shorten it, or upload a recording"
        )
    if not any(character.isalnum() for character in text):
        raise SpeechError("there is nothing to say; type a sentence")
    return text


def speak(text: str, language: str, voice: Voice) -> tuple[int, np.ndarray]:
    """Rate in Hz and sound, `(samples,)` int16.

    Args:
        language: a code of LANGUAGES.

    Raises:
        SpeechError: a text or a language that does not work.
    """
    text = check_text(text)
    if language not in LANGUAGES.values():
        raise SpeechError(f"no language {language!r}; there are {', '.join(LANGUAGES.values())}")
    speaker = Speaker(engine=voice.engine, language=language, voice=voice.name)
    waveform, rate_hz = (_by_kokoro if voice.engine == "kokoro" else _by_espeak)(speaker, text)
    loudest = max(float(np.abs(waveform).max()), 1e-4)
    return rate_hz, np.round(waveform * (PEAK / loudest * 32767)).astype(np.int16)


def pieces(text: str) -> list[str]:
    """The text cut at the ends of sentences, and between words where a sentence is long."""
    found: list[str] = []
    for sentence in filter(None, (part.strip() for part in _SENTENCE_END.split(text))):
        while len(sentence) > PIECE_CHARACTERS:
            cut = sentence.rfind(" ", 1, PIECE_CHARACTERS)
            cut = cut if cut > 0 else PIECE_CHARACTERS
            found.append(sentence[:cut].strip())
            sentence = sentence[cut:].strip()
        found.append(sentence)
    return [piece for piece in found if any(character.isalnum() for character in piece)]


def _by_espeak(speaker: Speaker, text: str) -> tuple[np.ndarray, int]:
    from openloopy.puppet.espeak import ESPEAK_LOCK, Espeak

    with ESPEAK_LOCK:
        espeak = Espeak()
        try:
            waveform, rate_hz, _ = espeak.speak(speaker, text)
        finally:
            espeak.close()
    return waveform, rate_hz


def _by_kokoro(speaker: Speaker, text: str) -> tuple[np.ndarray, int]:
    from openloopy.puppet.kokoro import speak_kokoro

    parts: list[np.ndarray] = []
    rate_hz = 0
    for piece in pieces(text):
        try:
            waveform, rate_hz, _ = speak_kokoro(speaker, piece)
        except ValueError as error:
            raise SpeechError(f"this voice cannot say that ({error}); choose one of espeak") from error
        parts += [waveform, np.zeros(round(PAUSE_S * rate_hz), np.float32)]
    return np.concatenate(parts[:-1]), rate_hz


def _kokoro_title(name: str) -> str:
    """Such as "Heart, woman (Kokoro, slower)" of `af_heart`."""
    kind, _, own = name.partition("_")
    return f"{own.capitalize()}, {_KOKORO_KINDS.get(kind[-1:], 'voice')} (Kokoro, slower)"
