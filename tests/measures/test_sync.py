"""Lip-gap correlation on tracks whose shift and noise are known, and closures on tracks that close or not."""

import numpy as np
import pytest

from openloopy.measures.sync import closures, false_closures, lip_gap_correlation, pearson


def _gap(num_frames: int = 200, seed: int = 0) -> np.ndarray:
    """A smooth random lip gap."""
    noise = np.random.default_rng(seed).standard_normal(num_frames + 4)
    return np.convolve(noise, np.ones(5) / 5, "valid")


@pytest.mark.parametrize("lag", [-4, 0, 3])
def test_shift_is_found_with_its_sign(lag):
    gap = _gap(220)
    true, generated = gap[10:210], gap[10 - lag : 210 - lag]
    result = lip_gap_correlation(generated, true, max_lag=6)
    assert result.best_lag == lag
    assert result.best_r == pytest.approx(1.0)
    assert (result.r == pytest.approx(1.0)) is (lag == 0)


def test_scale_and_offset_do_not_matter_but_sign_does():
    gap = _gap()
    assert lip_gap_correlation(3 * gap + 7, gap).r == pytest.approx(1.0)
    assert lip_gap_correlation(-gap, gap).r == pytest.approx(-1.0)


def test_known_signal_to_noise_gives_the_analytic_correlation():
    rng = np.random.default_rng(1)
    true = rng.standard_normal(20_000)
    generated = true + rng.standard_normal(20_000)
    assert pearson(generated, true) == pytest.approx(1 / np.sqrt(2), abs=0.02)


def test_a_mouth_that_never_moves_correlates_zero():
    result = lip_gap_correlation(np.full(100, 0.1), _gap(100))
    assert result == (0.0, 0, 0.0)


def test_frames_without_a_face_are_left_out():
    gap = _gap()
    generated = gap.copy()
    generated[50:70] = np.nan
    assert lip_gap_correlation(generated, gap).r == pytest.approx(1.0)


def test_a_shift_that_leaves_too_few_frames_is_not_the_best():
    """It correlates 0, which is more than any other shift of lips that do the opposite."""
    gap = np.sin(np.arange(40) / 50)
    generated = np.full(40, np.nan)
    generated[:12] = -gap[:12]
    found = lip_gap_correlation(generated, gap, max_lag=10)
    assert found.best_lag <= 2 and found.best_r < -0.9
    assert lip_gap_correlation(np.full(40, np.nan), gap, max_lag=10) == (0.0, 0, 0.0)


def test_refuses_tracks_that_do_not_belong_together():
    with pytest.raises(ValueError, match="same length"):
        lip_gap_correlation(_gap(100), _gap(101))
    with pytest.raises(ValueError, match="too few"):
        lip_gap_correlation(_gap(15), _gap(15), max_lag=10)


def _speech_gap() -> np.ndarray:
    """Open lips that meet in frames 10-11 and 30-31, `50`."""
    gap = np.full(50, 0.1)
    gap[[10, 11, 30, 31]] = 0.004
    return gap


def test_closures_count_where_the_true_lips_meet():
    true = _speech_gap()
    spoken = np.array([[10.2, 11.8], [20.0, 22.0], [30.0, 32.0]])  # the truth skips the second
    assert closures(true, true, spoken) == (2, 2)
    assert closures(np.full(50, 0.1), true, spoken) == (0, 2)
    assert closures(np.roll(true, 1), true, spoken) == (2, 2)
    assert closures(np.roll(true, 5), true, spoken) == (0, 2)


def test_a_lost_face_has_no_closed_lips():
    lost = np.full(50, np.nan)
    assert closures(lost, _speech_gap(), np.array([[10, 12]])) == (0, 1)
    assert false_closures(lost, _speech_gap(), np.array([[20, 22]])) == (0, 1)
    assert false_closures(_speech_gap(), lost, np.array([[20, 22]])) == (0, 0)


def test_a_mouth_that_is_always_closed_is_caught_at_the_vowels():
    true, shut = _speech_gap(), np.zeros(50)
    vowels = np.array([[14, 18], [9, 12], [40, 44.5]])  # the second overlaps a closure
    assert closures(shut, true, np.array([[10, 12]])) == (1, 1)
    assert false_closures(shut, true, vowels) == (2, 2)
    assert false_closures(true, true, vowels) == (0, 2)


def test_intervals_beyond_the_clip_and_none_at_all():
    true = _speech_gap()
    assert closures(true, true, np.array([[48.0, 51.0], [60.0, 62.0]])) == (0, 0)
    assert closures(true, true, np.zeros((0, 2))) == (0, 0)
