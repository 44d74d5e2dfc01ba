"""Kokoro's voices: phonemes where the sound has them, mixtures, clear errors. The wheels carry five voices."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.puppet import kokoro
from openloopy.puppet.kokoro import (
    FOLDER_VARIABLE,
    has_kokoro,
    in_letters,
    kokoro_voices,
    make_kokoro_folder,
    phoneme_times,
    voice_style,
)
from openloopy.puppet.speech import KOKORO_HELD_OUT, draw_speaker, speak
from openloopy.puppet.utterance import PAUSE_SYMBOL, Speaker

needs_kokoro = pytest.mark.skipif(not has_kokoro(), reason="the extra `voices` is not installed")
VOICE = "jf_alpha"
TEXT = "Pass it to Sam, she sits at the top of the coffee pot. Sissy asks?"
RATE = 24_000


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    kokoro._load.cache_clear()
    yield
    kokoro._load.cache_clear()


def speaker(voice: str = VOICE, language: str = "en-us", **settings) -> Speaker:
    return Speaker(engine="kokoro", language=language, voice=voice, **settings)


def spans(phonemes) -> list[tuple[float, float, str]]:
    return [(round(p.start_s, 3), round(p.end_s, 3), p.symbol) for p in phonemes]


def hum(*parts: tuple[float, float]) -> np.ndarray:
    """Seconds and amplitudes, one after another."""
    return np.concatenate([np.full(round(s * RATE), a, np.float32) for s, a in parts])


@pytest.fixture
def on_time(monkeypatch):
    """Kokoro as if it put sounds where they are heard."""
    monkeypatch.setattr(kokoro, "LATE_S", 0.0)
    monkeypatch.setattr(kokoro, "LATE_PER_TEMPO_S", 0.0)


def test_letters_of_a_language() -> None:
    assert in_letters("həlˈoʊ wˈɜːld", "en-us") == "həlˈO wˈɜɹld"
    assert in_letters("plˈœtslɪç", "de") == "plˈœʦlɪç"
    assert in_letters("tˈɔ̃b", "fr") == "tˈɔ\u0303b"
    assert in_letters("tˌo̞nä", "ja") == "tˌona"


def test_marks_join_their_letter_and_kokoros_letters_become_ipa(on_time) -> None:
    found = phoneme_times(list("ˈAm"), np.array([4, 2, 4, 4, 2]), hum((0.1, 0.0), (0.25, 0.5), (0.05, 0.0)))
    assert spans(found) == [
        (0.0, 0.1, PAUSE_SYMBOL),
        (0.1, 0.25, "eɪ"),
        (0.25, 0.35, "m"),
        (0.35, 0.4, PAUSE_SYMBOL),
    ]
    found = phoneme_times(list("iːn"), np.array([4, 2, 4, 4, 2]), hum((0.1, 0.0), (0.25, 0.5), (0.05, 0.0)))
    assert spans(found)[1:3] == [(0.1, 0.25, "iː"), (0.25, 0.35, "n")]


def test_a_break_that_nobody_hears_is_shared_and_a_silent_one_is_a_pause(on_time) -> None:
    durations = np.array([4, 4, 4, 4, 4])
    heard = phoneme_times(list("a m"), durations, hum((0.1, 0.0), (0.3, 0.5), (0.1, 0.0)))
    assert spans(heard)[1:3] == [(0.1, 0.25, "a"), (0.25, 0.4, "m")]
    silent = phoneme_times(
        list("a m"), durations, hum((0.1, 0.0), (0.1, 0.5), (0.1, 0.0), (0.1, 0.5), (0.1, 0.0))
    )
    assert spans(silent)[1:4] == [(0.1, 0.2, "a"), (0.2, 0.3, PAUSE_SYMBOL), (0.3, 0.4, "m")]


def test_a_plosive_begins_where_the_sound_falls_silent(on_time) -> None:
    sound = hum((0.1, 0.0), (0.16, 0.5), (0.04, 0.0), (0.1, 0.5), (0.1, 0.0))
    found = phoneme_times(list("apa"), np.array([4, 8, 2, 2, 4]), sound)
    assert spans(found)[1:4] == [(0.1, 0.26, "a"), (0.26, 0.35, "p"), (0.35, 0.4, "a")]


def test_the_last_sound_ends_where_it_is_heard_no_more(on_time) -> None:
    found = phoneme_times(list("an"), np.array([4, 4, 12, 4]), hum((0.1, 0.0), (0.2, 0.5), (0.3, 0.0)))
    assert spans(found)[2:] == [(0.2, 0.3, "n"), (0.3, 0.6, PAUSE_SYMBOL)]


def test_sounds_come_earlier_than_kokoro_says_and_more_so_in_slow_speech() -> None:
    durations, sound = np.array([8, 8, 8, 8]), hum((0.1, 0.0), (0.7, 0.5))
    plain, slow = (phoneme_times(list("an"), durations, sound, speed) for speed in (1.0, 0.7))
    assert plain[1].start_s == pytest.approx(0.2 - 0.052)
    assert slow[1].start_s == pytest.approx(0.2 - 0.024 - 0.028 / 0.7)


@needs_kokoro
def test_phoneme_times_agree_with_the_sound() -> None:
    utterance = speak(speaker(), TEXT)
    frames = utterance.waveform[: len(utterance.waveform) // 80 * 80].reshape(-1, 80)
    bright = np.log((np.diff(frames, axis=1) ** 2).mean(1) + 1e-9) - np.log((frames**2).mean(1) + 1e-9)

    def agreement(shift: int) -> float:
        labels = np.zeros(len(bright))
        for phoneme in utterance.phonemes:
            if phoneme.symbol in ("s", "ʃ"):
                first, last = (max(0, int(t * 200) + shift) for t in (phoneme.start_s, phoneme.end_s))
                labels[first:last] = 1
        return float(np.corrcoef(labels, bright)[0, 1])

    best = max(range(-20, 21), key=agreement)
    assert abs(best) <= 4, f"the phonemes are {5 * best} ms off"
    assert agreement(0) > 0.25
    assert utterance.phonemes[-1].end_s <= utterance.duration_s + 1e-6


@needs_kokoro
def test_tempo_and_voice() -> None:
    slow, fast = (speak(speaker(rate_wpm=wpm), TEXT).duration_s for wpm in (120.0, 220.0))
    assert 1.4 < slow / fast < 2.2
    high, low = (
        speak(speaker(voice), "We are moving all the apples.").waveform for voice in (VOICE, "jm_kumo")
    )
    assert len(high) != len(low)


@needs_kokoro
def test_a_mixture_lies_between_its_voices_and_may_sound_like_one_and_speak_like_the_other() -> None:
    first, second = voice_style(VOICE, 20), voice_style("jm_kumo", 20)
    np.testing.assert_allclose(voice_style(f"{VOICE}:0.5+jm_kumo:0.5", 20), (first + second) / 2, rtol=1e-5)
    crossed = voice_style(f"{VOICE}|jm_kumo", 20)
    np.testing.assert_array_equal(crossed[:128], first[:128])
    np.testing.assert_array_equal(crossed[128:], second[128:])


@needs_kokoro
def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no voice 'nobody' here; there are jf_alpha"):
        speak(speaker("nobody"), TEXT)
    with pytest.raises(ValueError, match="espeak-ng has no voice 'xx-nowhere'"):
        speak(speaker(language="xx-nowhere"), TEXT)
    with pytest.raises(ValueError, match="510 letters at once"):
        speak(speaker(), "apples and pears " * 60)
    with pytest.raises(ValueError, match="no letters for"):
        speak(speaker(), "?")


@needs_kokoro
def test_a_folder_of_files_takes_the_place_of_the_wheels(tmp_path, monkeypatch) -> None:
    more = tmp_path / "more"
    more.mkdir()
    np.ones((510, 256), np.float32).tofile(more / "af_ones.bin")
    make_kokoro_folder(tmp_path / "kokoro", more)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kokoro"))
    kokoro._load.cache_clear()
    assert {"af_ones", VOICE} <= set(kokoro_voices())
    assert voice_style("af_ones", 3).tolist() == [1.0] * 256
    assert speak(speaker(), "Hello.").duration_s > 0.3


def test_a_folder_without_the_files_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"holds 0 .onnx, 0 vocab.json or config.json and 0 voices"):
        kokoro_voices()


def test_without_kokoro_a_message_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(kokoro.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"openloopy\[voices\]"):
        kokoro_voices()


def test_splits_share_no_voice() -> None:
    val, test = set(KOKORO_HELD_OUT["val"]), set(KOKORO_HELD_OUT["test"])
    assert not val & test


@needs_kokoro
def test_drawn_voices_are_those_of_the_split() -> None:
    rng = np.random.default_rng(0)
    held_out = set(KOKORO_HELD_OUT["val"]) | set(KOKORO_HELD_OUT["test"])
    for _ in range(40):
        drawn = draw_speaker(rng, "train", kokoro_share=1.0)
        assert drawn.engine == "kokoro" and not any(name in drawn.voice for name in held_out)
        assert "jf_nezumi" in draw_speaker(rng, "test", kokoro_share=1.0).voice
    assert draw_speaker(rng, "train").engine != "kokoro"
    with pytest.raises(RuntimeError, match="of Kokoro's val voices none is here"):
        draw_speaker(rng, "val", kokoro_share=1.0)
    with pytest.raises(ValueError, match="only Kokoro has test voices"):
        draw_speaker(rng, "test")
