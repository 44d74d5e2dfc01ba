"""Frechet distance: closed forms, two other ways to compute it, singular covariances, batches."""

import numpy as np
import pytest
import torch

from openloopy.measures.distribution import FeatureStats, frechet_distance


def _features(num_samples: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated, with a mean."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_samples, width)) @ rng.standard_normal(
        (width, width)
    ) + rng.standard_normal(width)


def _stats(features: np.ndarray) -> FeatureStats:
    stats = FeatureStats(features.shape[1])
    stats.update(features)
    return stats


def _exact(mean: np.ndarray, covariance: np.ndarray) -> FeatureStats:
    """Statistics as if of 11 samples with this mean and covariance."""
    stats = FeatureStats(len(mean))
    stats.num_samples, stats.mean, stats.scatter = (
        11,
        np.asarray(mean, float),
        10 * np.asarray(covariance, float),
    )
    return stats


def test_mean_and_covariance_are_those_of_numpy():
    features = _features(50, 6)
    stats = _stats(features)
    assert (stats.num_samples, stats.width) == (50, 6)
    np.testing.assert_allclose(stats.mean, features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(stats.covariance, np.cov(features, rowvar=False), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_batches_and_merging_give_what_all_at_once_gives(offset):
    features = _features(97, 5) + offset
    whole, streamed, rest = _stats(features), FeatureStats(5), FeatureStats(5)
    for batch in np.split(features[:60], [0, 1, 20, 33]):
        streamed.update(batch)
    rest.update(features[60:])
    rest.merge(FeatureStats(5))
    streamed.merge(rest)
    assert streamed.num_samples == 97
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        streamed.covariance, whole.covariance, rtol=1e-9 if offset else 1e-12, atol=1e-8
    )
    empty = FeatureStats(5)
    empty.merge(streamed)
    np.testing.assert_allclose(empty.covariance, streamed.covariance)


def test_merging_leaves_the_other_one_alone():
    a, b = _stats(_features(9, 3)), _stats(_features(9, 3, seed=1))
    before = b.scatter.copy()
    empty = FeatureStats(3)
    empty.merge(b)
    empty.merge(a)
    np.testing.assert_array_equal(b.scatter, before)


def test_half_precision_tensors_are_summed_in_double():
    stats = FeatureStats(1)
    for _ in range(5):
        stats.update(torch.full((1000, 1), 60000.0, dtype=torch.float16))
    assert stats.mean[0] == torch.tensor(60000.0, dtype=torch.float16).double()
    assert stats.covariance[0, 0] == 0


def test_equal_sets_are_at_distance_zero():
    for num_samples, width in ((200, 8), (5, 40)):
        stats = _stats(100 * _features(num_samples, width))
        assert frechet_distance(stats, stats) < 1e-11 * np.trace(stats.covariance)


def test_a_shift_counts_by_its_square():
    features, shift = _features(60, 7), np.arange(7.0)
    assert frechet_distance(_stats(features), _stats(features + shift)) == pytest.approx(91, rel=1e-10)


def test_diagonal_covariances_have_a_closed_form():
    rng = np.random.default_rng(3)
    for _ in range(5):
        mean_a, mean_b = rng.standard_normal((2, 9))
        deviation_a, deviation_b = rng.uniform(0, 3, (2, 9))
        expected = ((mean_a - mean_b) ** 2 + (deviation_a - deviation_b) ** 2).sum()
        a, b = _exact(mean_a, np.diag(deviation_a**2)), _exact(mean_b, np.diag(deviation_b**2))
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)


def test_scaling_a_set_has_a_closed_form():
    features = _features(60, 6)
    centred = features - features.mean(0)
    expected = 4 * np.trace(np.cov(centred, rowvar=False))  # (3 - 1)^2 tr C
    assert frechet_distance(_stats(centred), _stats(3 * centred)) == pytest.approx(expected, rel=1e-10)


def _by_square_root(a: FeatureStats, b: FeatureStats) -> float:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy comes with the extras puppet and data")
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    shift = a.mean - b.mean
    return shift @ shift + np.trace(a.covariance + b.covariance - 2 * root)


def test_regular_covariances_agree_with_the_matrix_square_root():
    a, b = _stats(_features(300, 20)), _stats(_features(250, 20, seed=1))
    assert frechet_distance(a, b) == pytest.approx(_by_square_root(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@pytest.mark.parametrize("num_samples", [400, 12])
def test_torchmetrics_gives_the_same(num_samples):
    module = pytest.importorskip(
        "torchmetrics.image.fid", reason="torchmetrics is not installed; pip install torchmetrics==1.9.0"
    )
    a, b = _stats(_features(num_samples, 30)), _stats(_features(num_samples, 30, seed=1))
    tensors = [torch.from_numpy(array) for stats in (a, b) for array in (stats.mean, stats.covariance)]
    # Where n < d theirs takes roots of eigenvalues that are rounding, each up to 1e-8 of the largest.
    expected = float(module._compute_fid(*tensors))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9 if num_samples > 30 else 1e-5)


def test_fewer_samples_than_numbers_per_feature_lie_in_planes_of_known_distance():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((50, 50)))[0]
    small_a, small_b = _features(4, 3), _features(4, 3, seed=1)
    padded_a, padded_b = (np.pad(small, ((0, 0), (0, 47))) @ rotation for small in (small_a, small_b))
    expected = _by_square_root(_stats(small_a), _stats(small_b))
    assert frechet_distance(_stats(padded_a), _stats(padded_b)) == pytest.approx(expected, rel=1e-9)


def test_planes_at_right_angles_and_points_have_closed_forms():
    a, b = np.zeros((20, 6)), np.zeros((20, 6))
    a[:, :3], b[:, 3:] = _features(20, 3), _features(20, 3, seed=1)
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert frechet_distance(_stats(a), _stats(b)) == pytest.approx(expected, rel=1e-12)
    point = _stats(np.full((3, 6), 2.0))
    expected = ((a.mean(0) - 2) ** 2).sum() + a.var(0, ddof=1).sum()
    assert frechet_distance(_stats(a), point) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(point, point) == 0


def test_badly_scaled_covariances_stay_accurate():
    scales = np.logspace(-6, 3, 10)
    a, b = _exact(np.zeros(10), np.diag(scales**2)), _exact(np.zeros(10), np.diag((2 * scales) ** 2))
    assert frechet_distance(a, b) == pytest.approx((scales**2).sum(), rel=1e-9)


def test_what_cannot_be_compared_is_refused():
    stats = _stats(_features(9, 4))
    with pytest.raises(ValueError, match="widths 4 and 3"):
        frechet_distance(stats, _stats(_features(9, 3)))
    for num_samples in (0, 1):
        with pytest.raises(ValueError, match=f"at least 2 samples, got {num_samples}"):
            frechet_distance(stats, _stats(_features(9, 4)[:num_samples]))
    with pytest.raises(ValueError, match="width 4, got 3"):
        stats.merge(FeatureStats(3))
    with pytest.raises(ValueError, match="width 0"):
        FeatureStats(0)


def test_wrong_features_are_refused_and_add_nothing():
    stats = FeatureStats(3)
    for wrong in (np.zeros(3), np.zeros((2, 4)), np.zeros((1, 2, 3))):
        with pytest.raises(ValueError, match="expected features n 3"):
            stats.update(wrong)
    with pytest.raises(ValueError, match="not finite"):
        stats.update([[0.0, np.nan, 0.0]])
    assert stats.num_samples == 0


def test_saved_statistics_come_back(tmp_path):
    stats = _stats(_features(20, 5))
    stats.save(tmp_path / "real.npz")
    loaded = FeatureStats.load(tmp_path / "real.npz")
    assert loaded.num_samples == 20
    np.testing.assert_array_equal(loaded.mean, stats.mean)
    np.testing.assert_array_equal(loaded.scatter, stats.scatter)
    loaded.update(np.zeros((1, 5)))
    assert [path.name for path in tmp_path.iterdir()] == ["real.npz"]


def test_other_files_are_no_statistics(tmp_path):
    with pytest.raises(ValueError, match="ends in .npz"):
        FeatureStats(2).save(tmp_path / "real.pt")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", mu=np.zeros(2))
    np.savez(tmp_path / "shapes.npz", num_samples=1, mean=np.zeros(2), scatter=np.zeros(3))
    np.savez(tmp_path / "objects.npz", num_samples=1, mean=np.array([None]), scatter=np.zeros(3))
    _stats(_features(20, 5)).save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:200])
    for name in ("text", "other", "shapes", "objects", "cut"):
        with pytest.raises(ValueError, match="make it again"):
            FeatureStats.load(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match="does not exist"):
        FeatureStats.load(tmp_path / "none.npz")
