"""The arithmetic of benchmarks/hearing.py; the script itself needs footage and speech."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openloopy.puppet.recorded import Word, read_align
from openloopy.puppet.speech_folder import Spoken
from openloopy.puppet.utterance import Phoneme

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("provenance", "identity", "hearing_readout", "hearing_clips", "hearing")


@pytest.fixture
def hearing(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hearing

    yield hearing
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "grid_s1_bbam4n.align"
    path.write_text("0 12500 sil\n12500 18750 bin\n18750 25000 at\n25000 31250 m\n31250 75000 sil\n")
    return read_align(path)


def clip_of(hearing, person, words, gap=None):
    gap = np.full(75, np.nan, np.float32) if gap is None else gap
    return hearing.FilmedClip(
        name=person, person=person, waveform=np.zeros(48_000, np.float32), gap=gap, words=words
    )


def heard_of(hearing, clip, close, silence):
    curves = np.zeros((75, 3))
    curves[:, hearing.CLOSE] = close
    return hearing.Heard(clip=clip, curves=curves, lips=np.zeros(75), silence=silence)


def test_closures_and_openings_of_an_alignment(hearing, words):
    assert words[1] == Word(0.5, 0.75, "bin")
    assert hearing.closure_times_s(words) == [0.5, 1.25]
    assert hearing.opening_times_s(words) == [0.875]


def test_people(hearing):
    from hearing_clips import person_of

    names = ("grid_s1_bbal9a", "grid_f_lbbc2a", "grid_m_lbax4n")
    assert [person_of(name) for name in names] == ["grid_s1", "grid_f_lbbc2a", "grid_m_lbax4n"]


def test_a_manifest_says_which_clips_test_and_held_out_people_never_teach(hearing, tmp_path):
    from hearing_clips import _paths

    (tmp_path / "MANIFEST.csv").write_text(
        "file,use,speaker\na.mpg,train,ann\nb.mpg,train,bob\nc.mp4,test,cas\nd.mpg,test (sound out of step),dan\n"
    )
    named = {use: [p.name for p, _ in _paths(tmp_path, use, ["bob"])] for use in ("train", "test")}
    assert named == {"train": ["a.mpg"], "test": ["b.mpg", "c.mp4"]}


def test_perfect_hearing_has_auc_one_and_lost_frames_are_left_out(hearing, words):
    track = np.zeros(75)
    track[12] = track[31] = 1
    clip = clip_of(hearing, "ann", words)
    assert hearing.closure_auc([clip], [track]) == 1
    track[10:15] = np.nan
    assert hearing.closure_auc([clip], [track]) == 1
    assert hearing.closure_auc([clip], [-track]) == 0


def test_silence_is_away_from_words(hearing, words):
    is_silent = np.zeros(75)
    is_silent[:10] = is_silent[35:] = 1
    right = heard_of(hearing, clip_of(hearing, "ann", words), is_silent, is_silent)
    assert hearing.silence_auc([right]) == {"close": 1, "viseme": 1}
    assert hearing.silence_auc([replace(right, silence=1 - is_silent)])["viseme"] == 0


def test_people_count_alike_however_many_clips_they_have(hearing):
    wave = np.sin(np.arange(75) / 3)
    clips = [clip_of(hearing, "ann", [], wave)] * 5 + [clip_of(hearing, "bob", [], wave)]
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
    readout = hearing.fit_lips([(states[0], small, "ann"), (states[1], great, "bob")])
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
