"""Texts become sounds: limits, languages, engines."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from openloopy.apps import text_to_speech
from openloopy.apps.text_to_speech import (
    LANGUAGES,
    MAX_CHARACTERS,
    PIECE_CHARACTERS,
    SpeechError,
    Voice,
    check_text,
    pieces,
    speak,
    voices,
)
from openloopy.puppet import kokoro

SAID = {
    **{"ar": "مرحبا بكم", "bn": "আমি ভালো আছি", "cmn": "你好世界", "el": "Καλημέρα σας", "fa": "سلام دوست من"},
    **{"hi": "नमस्ते दुनिया", "ko": "안녕하세요", "ru": "Привет, мир", "ta": "வணக்கம்", "uk": "Привіт, світе"},
    "ur": "آپ کیسے ہیں",
}
"""Something to say in those that are not written in Latin letters."""
needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="needs espeakng_loader (extra `puppet`)"
)
WOMAN = Voice("Woman", "espeak", "f2")


@needs_espeak
@pytest.mark.parametrize("language", LANGUAGES.values())
def test_every_language_is_spoken(language):
    rate_hz, sound = speak(SAID.get(language, "Alma, bona tarde."), language, WOMAN)
    assert sound.dtype == np.int16 and 0.4 < len(sound) / rate_hz < 6
    assert np.abs(sound.astype(int)).max() == pytest.approx(text_to_speech.PEAK * 32767, abs=1)


@needs_espeak
def test_every_voice_of_espeak_sounds_different():
    sounds = {speak("Hello there.", "en-us", v)[1].tobytes() for v in voices() if v.engine == "espeak"}
    assert len(sounds) == sum(voice.engine == "espeak" for voice in voices()) >= 4


@needs_espeak
def test_more_text_takes_longer():
    def duration_s(text):
        rate_hz, sound = speak(text, "en-us", WOMAN)
        return len(sound) / rate_hz

    assert duration_s("One two three four five six.") > 2 * duration_s("One two.")


@pytest.mark.parametrize("text", ["", "  \n ", "...", "!?"])
def test_nothing_to_say(text):
    with pytest.raises(SpeechError, match="nothing to say"):
        check_text(text)


def test_a_long_text_is_refused_with_its_length():
    assert check_text(" " + "a" * MAX_CHARACTERS + " ") == "a" * MAX_CHARACTERS
    with pytest.raises(SpeechError, match=f"{MAX_CHARACTERS + 1} characters, at most {MAX_CHARACTERS}"):
        check_text("a" * (MAX_CHARACTERS + 1))


def test_an_unknown_language_is_refused():
    with pytest.raises(SpeechError, match="no language 'xx'"):
        speak("Hello", "xx", WOMAN)


def test_long_texts_are_cut_between_sentences_and_words():
    text = "A short one. " + "word " * 100 + "end! ... Another?\nLast"
    cut = pieces(text)
    assert cut[0] == "A short one." and cut[-2:] == ["Another?", "Last"]
    assert all(0 < len(piece) <= PIECE_CHARACTERS for piece in cut)
    assert " ".join(cut).split() == text.replace(" ...", "").split()
    assert [len(piece) for piece in pieces("x" * 450)] == [200, 200, 50]


def test_kokoro_speaks_piece_by_piece_with_pauses(monkeypatch):
    said = []

    def speak_kokoro(speaker, text):
        said.append((speaker.voice, speaker.language, text))
        return np.full(2400, 0.25, np.float32), 24_000, []

    monkeypatch.setattr(kokoro, "speak_kokoro", speak_kokoro)
    rate_hz, sound = speak("One. Two.", "fr", Voice("Heart", "kokoro", "af_heart"))
    assert said == [("af_heart", "fr", "One."), ("af_heart", "fr", "Two.")]
    assert rate_hz == 24_000 and len(sound) == 2 * 2400 + 24_000 * text_to_speech.PAUSE_S
    assert not sound[2400 : 2400 + 6000].any() and sound[:2400].all() and sound[-2400:].all()


def test_what_kokoro_cannot_say_is_told_with_a_way_out(monkeypatch):
    def refuse(speaker, text):
        raise ValueError("Kokoro has no letters for 'x' in ta")

    monkeypatch.setattr(kokoro, "speak_kokoro", refuse)
    with pytest.raises(SpeechError, match="no letters.*choose one of espeak"):
        speak("x", "ta", Voice("Heart", "kokoro", "af_heart"))


def test_voices_are_those_that_are_installed(monkeypatch):
    monkeypatch.setattr(text_to_speech, "has_speech", lambda: True)
    monkeypatch.setattr(kokoro, "has_kokoro", lambda: True)
    monkeypatch.setattr(kokoro, "kokoro_voices", lambda: ["af_heart", "bm_lewis"])
    found = voices()
    assert [voice.engine for voice in found] == ["espeak"] * 4 + ["kokoro"] * 2
    assert found[-2].title == "Heart, woman (Kokoro, slower)" and found[-1].title.startswith("Lewis, man")
    monkeypatch.setattr(kokoro, "has_kokoro", lambda: False)
    assert {voice.engine for voice in voices()} == {"espeak"}
    monkeypatch.setattr(text_to_speech, "has_speech", lambda: False)
    assert voices() == []
