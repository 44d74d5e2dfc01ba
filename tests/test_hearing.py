"""The arithmetic of benchmarks/hearing.py; the script itself needs footage."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def hearing(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hearing

    yield hearing
    for name in ("provenance", "identity", "hearing"):
        sys.modules.pop(name, None)


@pytest.fixture
def words(hearing, tmp_path):
    path = tmp_path / "grid_s1_bbam4n.align"
    path.write_text("0 12500 sil\n12500 18750 bin\n18750 25000 at\n25000 31250 m\n31250 75000 sil\n")
    return hearing.read_alignment(path)


def clip_of(hearing, name, words, heard):
    return hearing.HumanClip(name=name, words=words, gap=np.full(75, np.nan, np.float32), heard=heard)


def test_closures_and_openings_of_an_alignment(hearing, words):
    assert words[1] == hearing.Word(0.5, 0.75, "bin")
    assert hearing.closure_times_s(words) == [0.5, 1.25]
    assert hearing.opening_times_s(words) == [0.875]


def test_speakers(hearing, words):
    names = ("grid_s1_bbal9a", "grid_f_lbbc2a", "grid_m_lbax4n")
    speakers = [clip_of(hearing, name, words, np.zeros((75, 3))).speaker for name in names]
    assert speakers == ["grid_s1", "grid_f_lbbc2a", "grid_m_lbax4n"]


def test_perfect_hearing_has_auc_one_and_lost_frames_are_left_out(hearing, words):
    heard = np.zeros((75, 3))
    heard[12, hearing.CLOSE] = heard[31, hearing.CLOSE] = 1
    clip = clip_of(hearing, "grid_s1_bbam4n", words, heard)
    assert hearing.closure_auc([clip], [heard[:, hearing.CLOSE]]) == 1
    track = heard[:, hearing.CLOSE].copy()
    track[10:15] = np.nan
    assert hearing.closure_auc([clip], [track]) == 1


def test_silence_is_away_from_words(hearing, words):
    heard = np.zeros((75, 3))
    heard[:9, hearing.CLOSE] = heard[35:, hearing.CLOSE] = 1
    scores = hearing.judge_silence([clip_of(hearing, "a_b", words, heard)])
    assert scores["close_in_silence"] == 1 and scores["close_in_words"] == 0


def test_ridge_finds_a_linear_map(hearing):
    rng = np.random.default_rng(0)
    states = rng.standard_normal((4000, 20)).astype(np.float32)
    curves = states @ rng.standard_normal((20, 3)).astype(np.float32) + 2
    heard = hearing.fit_ridge(states[:3000], curves[:3000])(states[3000:])
    assert np.corrcoef(heard[:, 0], curves[3000:, 0])[0, 1] > 0.99
