"""The arithmetic of benchmarks/hearing.py; the script itself needs footage and speech."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openloopy.puppet.speech_folder import Spoken
from openloopy.puppet.utterance import Phoneme, Speaker, Utterance
from openloopy.puppet.visemes import CLOSED, SILENCE

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("provenance", "identity", "hearing_readout", "hearing")


@pytest.fixture
def hearing(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hearing

    yield hearing
    for name in MODULES:
        sys.modules.pop(name, None)


SAID = Utterance(
    waveform=np.zeros(3 * 16_000, np.float32),
    phonemes=tuple(
        Phoneme(start_s=start_s, end_s=end_s, symbol=symbol, alphabet="arpabet")
        for start_s, end_s, symbol in ((0.6, 0.8, "b"), (0.8, 1.2, "aa"), (1.2, 1.4, "m"), (1.4, 1.8, "ah"))
    ),
    text="bomb",
    speaker=Speaker(engine="recorded", language="en", voice="ann"),
)


@pytest.fixture
def hears(hearing, monkeypatch):
    """An encoder that hears given curves and chances of visemes, whatever the sound."""

    def hears(close, jaw=0.0, silent=0.0, shut=0.0):
        curves = np.zeros((75, 3))
        curves[:, hearing.CLOSE], curves[:, hearing.JAW] = close, jaw
        monkeypatch.setattr(hearing, "stacked_states", lambda encoder, sound: curves)
        chances = {SILENCE: np.zeros(75) + silent, CLOSED: np.zeros(75) + shut}
        monkeypatch.setattr(hearing, "viseme_chance", lambda reading, states, viseme: chances[viseme])
        return hearing.Reading(curves=lambda states: states, visemes=None, lips=None)

    return hears


def clip_of(hearing, person, gap):
    return hearing.Filmed(person=person, waveform=np.zeros(48_000, np.float32), gap=gap)


def test_closures_are_told_from_open_vowels(hearing, hears):
    close = np.zeros(75)
    close[17] = close[32] = 1
    result = hearing.closure_auc(None, hears(close, 1 - close, shut=close), [SAID])
    assert result == {"heard_close": 1, "heard_jaw": 1, "heard_viseme": 1, "closures": 2}
    at_the_edge = np.zeros(75)
    at_the_edge[19] = at_the_edge[30] = 1
    at_the_edge[25] = 0.1  # in the middle of the vowel
    assert hearing.closure_auc(None, hears(close, shut=at_the_edge), [SAID])["heard_viseme"] == 0
    assert hearing.closure_auc(None, hears(-close), [SAID])["heard_close"] < 0.6


def test_silence_is_away_from_speech(hearing, hears):
    is_silent, is_said = hearing.silence_and_speech(SAID, 75)
    assert np.flatnonzero(is_said).tolist() == list(range(15, 45))
    assert np.flatnonzero(is_silent).tolist() == [*range(13), *range(47, 75)]
    right = (~is_said).astype(float)
    assert hearing.silence_auc(None, hears(right, silent=right), [SAID]) == {
        "close": 1,
        "viseme": 1,
        "voices": 1,
    }
    assert hearing.silence_auc(None, hears(right, silent=-right), [SAID])["viseme"] == 0
    mute = replace(SAID, phonemes=(), speaker=replace(SAID.speaker, voice="bob"))
    assert hearing.silence_auc(None, hears(right, silent=right), [SAID, mute])["voices"] == 1


def test_film_is_read_with_sound_as_long_as_its_frames(hearing, tmp_path):
    from tests.recipes.test_speech_bank import add_film

    add_film(tmp_path, {"ann": np.linspace(0, 1, 500)})
    (clip,) = hearing.read_film([tmp_path], "train")
    assert clip.person == "ann" and len(clip.gap) == 375 and len(clip.waveform) == 375 * 640
    assert clip.waveform.mean() == pytest.approx(0.1, abs=1e-3)
    assert hearing.read_film([tmp_path], "val") == []


def test_people_count_alike_however_many_clips_they_have(hearing):
    wave = np.sin(np.arange(75) / 3)
    clips = [clip_of(hearing, "ann", wave)] * 5 + [clip_of(hearing, "bob", wave)]
    tracks = [wave] * 5 + [np.roll(wave, 2)]
    result = hearing.follow(list(zip(clips, tracks, strict=True)))
    assert result["by_person"]["ann"][0] == pytest.approx(1)
    assert result["by_person"]["bob"][1] == pytest.approx(1, abs=0.01)
    assert abs(result["by_person"]["bob"][2]) == 2
    assert result["in_step"] == pytest.approx((1 + result["by_person"]["bob"][0]) / 2)


def test_lips_are_learnt_in_units_of_each_persons_spread(hearing):
    rng = np.random.default_rng(0)
    states = [rng.standard_normal((500, 4)).astype(np.float32) for _ in range(2)]
    small, great = 0.01 * states[0][:, 0] + 0.5, 3 * states[1][:, 0]
    small[7] = np.nan
    readout = hearing.fit_lips(
        [(states[0], clip_of(hearing, "ann", small)), (states[1], clip_of(hearing, "bob", great))]
    )
    assert np.corrcoef(readout(states[0])[:, 0], states[0][:, 0])[0, 1] > 0.99
    assert readout(states[0])[:, 0].std() == pytest.approx(1, rel=0.1)


def test_ridge_finds_a_linear_map(hearing):
    rng = np.random.default_rng(0)
    states = rng.standard_normal((4000, 20)).astype(np.float32)
    curves = states @ rng.standard_normal((20, 3)).astype(np.float32) + 2
    heard = hearing.fit_ridge(states[:3000], curves[:3000])(states[3000:])
    assert np.corrcoef(heard[:, 0], curves[3000:, 0])[0, 1] > 0.99


def test_logistic_regression_finds_classes(hearing):
    rng = np.random.default_rng(0)
    states = rng.standard_normal((3000, 5)).astype(np.float32)
    labels = (states @ rng.standard_normal((5, 3))).argmax(1)
    read = hearing.fit_classes(states[:2000], labels[:2000], 3)(states[2000:]).argmax(1)
    assert (read == labels[2000:]).mean() > 0.9


def test_test_sets_hold_no_training_speech_and_no_words_that_a_machine_wrote_down(hearing):
    said = (Phoneme(start_s=0, end_s=1, symbol="a", alphabet="ipa"),)
    row = dict(path=Path("a"), speaker="x", duration_s=1.0, phonemes=said)
    human = Spoken(**row, split="val", language="en", engine="recorded", text="hello")
    voice = Spoken(**row, split="test", language="es", engine="kokoro", text="hola")
    sounds = [human, replace(human, split="train"), replace(human, text=""), replace(human, phonemes=None)]
    sounds += [voice, replace(voice, language="it"), replace(voice, split="val")]
    sets = hearing.test_sets(sounds)
    assert sets == {
        "human_english": [human],
        "kokoro": [voice],
        "unheard_language": [replace(voice, language="it")],
    }


def test_noise_lies_20_db_below(hearing):
    sound = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    noise = hearing.with_noise(sound) - sound
    assert noise.std() / sound.std() == pytest.approx(0.1, rel=0.05)
