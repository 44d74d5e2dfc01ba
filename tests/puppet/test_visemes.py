"""Phonemes to visemes: alphabets, splits, labels."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.puppet.sentences import LANGUAGES
from openloopy.puppet.speech import PAUSE_SYMBOL, Phoneme, Speaker, utter
from openloopy.puppet.visemes import (
    _ARPABET,
    _IPA,
    CLOSED,
    SILENCE,
    VISEMES,
    VOWELS,
    closure_mask,
    phonemes_to_visemes,
    viseme_labels,
    visemes_of_symbol,
)


def ipa(symbol: str, start_s: float = 0.0, end_s: float = 0.1) -> Phoneme:
    return Phoneme(start_s=start_s, end_s=end_s, symbol=symbol, alphabet="ipa")


def arpabet(symbol: str, start_s: float = 0.0, end_s: float = 0.1) -> Phoneme:
    return Phoneme(start_s=start_s, end_s=end_s, symbol=symbol, alphabet="arpabet")


@pytest.mark.parametrize(
    "phoneme, visemes",
    [
        (ipa("ˈɑː"), "a"),
        (ipa("m"), "p"),
        (ipa("ˌoʊ"), "oʊ"),
        (ipa("tʃ"), "tʃ"),
        (ipa("ˈã"), "a"),
        (ipa("ç"), "j"),
        (ipa("kʰ"), "k"),
        (ipa("kh"), "k"),
        (ipa("h"), "h"),
        (ipa("aɪɚ"), "aɪɜ"),
        (ipa("əl"), "əl"),
        (ipa(PAUSE_SYMBOL), SILENCE),
        (ipa("ʲ"), ""),
        # The same letters mean other things in the two alphabets.
        (ipa("y"), "y"),
        (arpabet("y"), "j"),
        (arpabet("ax"), "ə"),
        (arpabet("aw"), "aʊ"),
        (arpabet("v"), "f"),
        (arpabet(PAUSE_SYMBOL), SILENCE),
    ],
)
def test_visemes_of_symbol(phoneme: Phoneme, visemes: str) -> None:
    assert visemes_of_symbol(phoneme) == visemes


def test_tables_name_only_visemes() -> None:
    assert set("".join(_ARPABET.values())) <= set(VISEMES)
    assert set(_IPA.values()) <= set(VISEMES)
    assert set(VISEMES) > VOWELS
    assert VISEMES[0] == SILENCE


def test_diphthong_is_split_and_unknown_symbol_prolongs() -> None:
    timed = phonemes_to_visemes([ipa("b", 0, 0.1), ipa("aɪ", 0.1, 0.3), ipa("ʲ", 0.3, 0.4)])
    assert [viseme for *_, viseme in timed] == ["p", "a", "ɪ", "ɪ"]
    np.testing.assert_allclose([start for start, *_ in timed], [0, 0.1, 0.21, 0.3])
    assert timed[-1][1] == pytest.approx(0.4)


def test_labels_at_50_hz() -> None:
    phonemes = [ipa("m", 0.04, 0.1), ipa("iː", 0.1, 0.2), ipa(PAUSE_SYMBOL, 0.2, 0.24), ipa("s", 0.25, 0.3)]
    labels = viseme_labels(phonemes, 16)
    assert labels.dtype == np.int64
    assert "".join(VISEMES[i] for i in labels) == "__pppiiiii__sss_"
    assert closure_mask(phonemes, 16).nonzero()[0].tolist() == [2, 3, 4]


def test_labels_of_nothing_are_silence() -> None:
    assert viseme_labels([], 7).tolist() == [0] * 7


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_sounds_of_a_language_are_known(language: str) -> None:
    speaker = Speaker(engine="espeak", language=language, voice="")
    utterance = utter(np.random.default_rng(0), speaker, 12.0, "train")
    unknown = {p.symbol for p in utterance.phonemes if not visemes_of_symbol(p)}
    assert unknown <= {"ʲ", "ʰ", "ː"}


def test_closures_are_a_good_share_of_english() -> None:
    speaker = Speaker(engine="espeak", language="en-us", voice="")
    utterances = [utter(np.random.default_rng(seed), speaker, 30.0, "train") for seed in range(4)]
    labels = np.stack([viseme_labels(utterance.phonemes, 1500) for utterance in utterances])
    share = (labels == VISEMES.index(CLOSED)).mean()
    assert 0.03 < share < 0.2
