"""Synthetic speech: lengths, phoneme times against the sound, and the split of voices and sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

import openloopy
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.espeak import _decode_symbol, read_aloud
from openloopy.puppet.sentences import (
    ENGLISH,
    LANGUAGES,
    LINKS,
    OPENINGS,
    OTHERS,
    UNHEARD_LANGUAGES,
    draw_sentence,
)
from openloopy.puppet.speech import (
    ESPEAK_VARIANTS,
    FLITE_VOICES,
    _parse_flite,
    draw_speaker,
    has_flite,
    make_demo_speech,
    speak,
    utter,
)
from openloopy.puppet.utterance import PAUSE_SYMBOL, Phoneme, Speaker

ESPEAK = Speaker(engine="espeak", language="en-us", voice="")
FLITE = Speaker(engine="flite", language="en-us", voice="slt")
needs_flite = pytest.mark.skipif(not has_flite(), reason="the flite program is not installed")
EACH_ENGINE = [ESPEAK, pytest.param(FLITE, marks=needs_flite)]


def brightness(waveform: np.ndarray) -> np.ndarray:
    """Share of high frequencies per 5 ms, log."""
    frames = waveform[: len(waveform) // 80 * 80].reshape(-1, 80)
    return np.log((np.diff(frames, axis=1) ** 2).mean(1) + 1e-9) - np.log((frames**2).mean(1) + 1e-9)


def centroid_hz(waveform: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return float((np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE_HZ) * power).sum() / power.sum())


@pytest.mark.parametrize("duration_s", [0.1, 1.013, 6.0])
@pytest.mark.parametrize("speaker", EACH_ENGINE)
def test_utterance_fills_exactly_the_duration(speaker: Speaker, duration_s: float) -> None:
    utterance = utter(np.random.default_rng(3), speaker, duration_s, "train")
    assert utterance.waveform.shape == (round(duration_s * SAMPLE_RATE_HZ),)
    assert utterance.waveform.dtype == np.float32
    times = [time for phoneme in utterance.phonemes for time in (phoneme.start_s, phoneme.end_s)]
    assert all(a <= b + 1e-9 for a, b in pairwise(times))
    assert not times or (times[0] >= 0 and times[-1] <= duration_s + 1e-4)


@pytest.mark.parametrize("speaker", EACH_ENGINE)
def test_utterance_is_loud_and_mostly_speech(speaker: Speaker) -> None:
    utterance = utter(np.random.default_rng(4), speaker, 8.0, "val")
    assert 0.45 < np.abs(utterance.waveform).max() < 0.95
    spoken = sum(p.end_s - p.start_s for p in utterance.phonemes if p.symbol != PAUSE_SYMBOL)
    assert spoken > 4
    assert len({p.symbol for p in utterance.phonemes}) > 12


def test_same_seed_same_sound() -> None:
    """Whatever was said before: espeak-ng keeps state between calls unless loaded anew."""
    first = utter(np.random.default_rng(5), ESPEAK, 3.0, "train")
    speak(ESPEAK, "Something else.")
    second = utter(np.random.default_rng(5), ESPEAK, 3.0, "train")
    np.testing.assert_array_equal(first.waveform, second.waveform)
    assert first.phonemes == second.phonemes
    assert utter(np.random.default_rng(6), ESPEAK, 3.0, "train").text != first.text


@pytest.mark.parametrize("speaker", EACH_ENGINE)
def test_phoneme_times_agree_with_the_sound(speaker: Speaker) -> None:
    text = "Pass it to Sam, she sits at the top of the coffee pot. Stop! Is she sure, Sissy asks?"
    utterance = speak(speaker, text)
    bright = brightness(utterance.waveform)

    def agreement(shift: int) -> float:
        labels = np.zeros(len(bright))
        for phoneme in utterance.phonemes:
            if phoneme.symbol in ("s", "ʃ", "sh"):
                first, last = (max(0, int(t * 200) + shift) for t in (phoneme.start_s, phoneme.end_s))
                labels[first:last] = 1
        return float(np.corrcoef(labels, bright)[0, 1])

    best = max(range(-20, 21), key=agreement)
    assert abs(best) <= 3, f"the phonemes are {5 * best} ms off"
    assert agreement(0) > 0.25


def test_plosive_includes_its_closure() -> None:
    """espeak marks the burst; the silence before it must belong to the plosive, not to the vowel."""
    utterance = speak(ESPEAK, "a happy papa")
    plosives = [p for p in utterance.phonemes if p.symbol == "p"]
    assert len(plosives) == 3
    for phoneme in plosives:
        first = int(phoneme.start_s * SAMPLE_RATE_HZ)
        opening = utterance.waveform[first + 80 : first + 400]
        assert np.abs(opening).max() < 0.05 * np.abs(utterance.waveform).max()
        assert phoneme.end_s - phoneme.start_s > 0.05


def test_every_phoneme_has_time() -> None:
    """The l of "mall" melts into its vowel and comes without any time of its own."""
    symbols = [p.symbol for p in speak(ESPEAK, "at the mall.").phonemes]
    assert "l" in symbols


@pytest.mark.parametrize("speaker", EACH_ENGINE)
def test_shift_raises_all_frequencies_but_not_the_tempo(speaker: Speaker) -> None:
    text = "We are moving all the apples away before noon."
    low, high = (speak(replace(speaker, shift=shift), text) for shift in (0.88, 1.12))
    assert centroid_hz(high.waveform) > 1.1 * centroid_hz(low.waveform)
    assert high.duration_s == pytest.approx(low.duration_s, rel=0.12)
    assert high.phonemes[-1].end_s == pytest.approx(high.duration_s, abs=0.05)


def test_every_language_and_variant_speaks() -> None:
    rng = np.random.default_rng(0)
    for language in LANGUAGES:
        utterance = speak(replace(ESPEAK, language=language), draw_sentence(rng, language, "val"))
        assert 0.6 < utterance.duration_s < 15 and len(utterance.phonemes) > 5, language
    for variant in {*ESPEAK_VARIANTS["train"], *ESPEAK_VARIANTS["val"]}:
        waveform = speak(replace(ESPEAK, voice=variant), "Bob and Pam bumped into Mom.").waveform
        assert 0.02 < np.sqrt((waveform**2).mean()) < 0.5, variant


def test_splits_share_no_voice() -> None:
    assert not set(ESPEAK_VARIANTS["train"]) & set(ESPEAK_VARIANTS["val"])
    assert not set(FLITE_VOICES["train"]) & set(FLITE_VOICES["val"])
    rng = np.random.default_rng(0)
    drawn = {split: {draw_speaker(rng, split).voice for _ in range(200)} for split in ("train", "val")}
    assert not drawn["train"] & drawn["val"]
    assert len(drawn["train"]) > 30 and len(drawn["val"]) > 8


def test_splits_share_no_sentence_nor_english_content_word() -> None:
    for kind in ("nouns", "verbs", "adjectives", "sentences"):
        assert not set(getattr(ENGLISH["train"], kind)) & set(getattr(ENGLISH["val"], kind)), kind
    for language, sentences in OTHERS.items():
        assert not set(sentences["train"]) & set(sentences["val"]), language
    for language in LANGUAGES:
        rng = np.random.default_rng(1)
        train = {draw_sentence(rng, language, "train") for _ in range(300)}
        assert not train & {draw_sentence(rng, language, "val") for _ in range(300)}, language


def test_val_grammar_uses_no_train_word() -> None:
    rng = np.random.default_rng(2)
    ready_made = set(ENGLISH["val"].sentences)
    # Small words are common to both.
    train_only = {*ENGLISH["train"].nouns, *ENGLISH["train"].verbs, *ENGLISH["train"].adjectives}
    train_only -= set(" ".join([*LINKS, *OPENINGS]).split())
    for _ in range(300):
        sentence = draw_sentence(rng, "en-us", "val")
        if sentence not in ready_made:
            words = set(sentence.lower().strip(".?!").replace(",", "").split())
            assert not words & train_only, sentence


def test_unheard_languages_are_kept_for_tests() -> None:
    assert set(UNHEARD_LANGUAGES) <= set(OTHERS) and not set(UNHEARD_LANGUAGES) & set(LANGUAGES)
    rng = np.random.default_rng(3)
    italian = {draw_sentence(rng, "it", "test").rstrip(".") for _ in range(200)}
    assert italian == {*OTHERS["it"]["train"], *OTHERS["it"]["val"]}


def test_read_aloud_keeps_punctuation_and_drops_language_marks() -> None:
    assert read_aloud("en-us", "Hello, my friend!") == "həlˈoʊ, maɪ fɹˈɛnd!"
    assert "(" not in read_aloud("fr", "le weekend, c'est cool")
    with pytest.raises(ValueError, match="no voice 'xx-nowhere'"):
        read_aloud("xx-nowhere", "hello")


@pytest.mark.parametrize(
    "data, symbol",
    [
        (b"b\0\x81\x03\0\0\0\0", "b"),
        ("ˈɑː".encode() + b"\0\x90", "ˈɑː"),
        (b"\0\xca\x83\0\0\0\0\0", ""),
        ("ˈɔːɹ".encode()[:8], "ˈɔːɹ"),
        ("ˈɐ̃ʊ̃".encode()[:8], "ˈɐ̃ʊ"),
        ("aˈɔːɹ".encode()[:8], "aˈɔː"),
    ],
)
def test_decode_symbol(data: bytes, symbol: str) -> None:
    assert _decode_symbol(data) == symbol


def test_parse_flite() -> None:
    parsed = _parse_flite("pau:0.193 b:0.217 aa:0.428 pau:0.5")
    assert parsed[1] == Phoneme(start_s=0.193, end_s=0.217, symbol="b", alphabet="arpabet")
    assert [p.symbol for p in parsed] == [PAUSE_SYMBOL, "b", "aa", PAUSE_SYMBOL]


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no voice 'xx-nowhere'"):
        speak(replace(ESPEAK, language="xx-nowhere"), "hello")
    with pytest.raises(ValueError, match=r"at least 0.1 s, got 0.01"):
        utter(np.random.default_rng(0), ESPEAK, 0.01, "train")


def test_missing_flite_is_reported_and_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="flite is not on the PATH"):
        speak(FLITE, "hello")
    rng = np.random.default_rng(0)
    assert {draw_speaker(rng, "train").engine for _ in range(50)} == {"espeak"}


def test_shipped_demo_speech() -> None:
    folder = Path(openloopy.__file__).parent / "assets"
    waveform, rate_hz = soundfile.read(folder / "demo_speech.flac", dtype="float32")
    description = json.loads((folder / "demo_speech.json").read_text())
    assert rate_hz == SAMPLE_RATE_HZ and waveform.ndim == 1
    assert 5 < len(waveform) / rate_hz < 7
    assert description["phonemes"][-1][1] <= len(waveform) / rate_hz
    assert 0.7 < np.abs(waveform).max() < 0.9


@needs_flite
def test_make_demo_speech(tmp_path: Path) -> None:
    make_demo_speech(tmp_path)
    shipped = Path(openloopy.__file__).parent / "assets" / "demo_speech.json"
    assert json.loads((tmp_path / "demo_speech.json").read_text())["text"] in shipped.read_text()
