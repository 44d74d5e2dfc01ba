"""Behaviour under known damage: blink trains, sine sways, frozen, doubled and shuffled frames, closed lips, drift."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from openloopy.face.mesh import MESH_TO_68, Pose, canonical_mesh, rotation_of
from openloopy.measures.behaviour import (
    Sway,
    Word,
    bilabial_spans,
    blink_intervals,
    blink_rate,
    difference,
    drift,
    interval_distance,
    jitter,
    lip_closures,
    motion_differences,
    read_grid_words,
    slow_motion,
    sway,
    sway_distance,
    turning,
    yaw_degrees,
)

FPS = 25
PX_PER_CM = 12.0
LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
INNER_LIPS = ((61, 67), (62, 66), (63, 65))


def _face(yaw: float = 0.0) -> np.ndarray:
    """The mean face, `68 2` px, lips closed."""
    points = (canonical_mesh().vertices[MESH_TO_68] @ rotation_of(Pose(yaw, 0, 0)).T)[:, :2] * PX_PER_CM + 256
    for upper, lower in INNER_LIPS:
        points[[upper, lower]] = (points[upper] + points[lower]) / 2
    return points


EYE_PX = float(np.linalg.norm(_face()[45] - _face()[36]))


def _track(frames: int) -> np.ndarray:
    return np.repeat(_face()[None], frames, axis=0)


def _close(points: np.ndarray, pairs, start: int, end: int) -> None:
    """Closes lids or lips in the frames from start to end."""
    for a, b in pairs:
        points[start:end, [a, b]] = ((points[start:end, a] + points[start:end, b]) / 2)[:, None]


def _blinking(starts, frames: int = 500) -> np.ndarray:
    points = _track(frames)
    for start in starts:
        _close(points, LIDS, start, start + 5)
    return points


def _swaying(hz: float, amplitude_eyes: float = 0.1, frames: int = 250, phase: float = 0.4) -> np.ndarray:
    shift = amplitude_eyes * EYE_PX * np.sin(2 * np.pi * hz * np.arange(frames) / FPS + phase)
    points = _track(frames)
    points[..., 0] += shift[:, None]
    return points


def _lively(seed: int = 0, frames: int = 250) -> np.ndarray:
    """A head that wanders and a face that moves on it."""
    rng = np.random.default_rng(seed)
    times = np.arange(frames)[:, None] / FPS
    head = 8 * np.sin(2 * np.pi * np.array([0.3, 0.5]) * times + rng.uniform(0, 6, 2))
    brows = 3 * np.sin(2 * np.pi * 0.9 * times + rng.uniform(0, 6))
    points = _track(frames) + head[:, None]
    points[:, 17:27, 1] += brows
    return points


def _doubled(points: np.ndarray) -> np.ndarray:
    return points.mean(0) + 2 * (points - points.mean(0))


def test_a_blink_train_gives_its_rate_and_exact_intervals():
    points = _blinking((50, 125, 175, 400))
    np.testing.assert_allclose(blink_intervals(points, FPS), [3.0, 2.0, 9.0], rtol=1e-12)
    assert blink_rate(points, FPS) == pytest.approx(4 * 60 / 20)
    assert blink_rate(_track(500), FPS) == 0
    assert blink_intervals(_track(500), FPS).shape == (0,)


def test_a_blink_may_be_missed_while_the_face_is_lost():
    points = _blinking((50, 125, 175, 400))
    points[200:300] = np.nan
    points[80:84] = np.nan
    np.testing.assert_allclose(blink_intervals(points, FPS), [3.0, 2.0], rtol=1e-12)
    assert blink_rate(points, FPS) == pytest.approx(4 * 60 * FPS / (500 - 104))


def test_eyes_that_nobody_saw_do_not_blink():
    with pytest.raises(ValueError, match="no eye to watch"):
        blink_rate(np.full((50, 68, 2), np.nan), FPS)
    with pytest.raises(ValueError, match=r"\(frames, 68, 2\)"):
        blink_intervals(_face(), FPS)


def test_the_distance_of_intervals_is_in_seconds():
    assert interval_distance(np.array([1.0, 2.0]), np.array([4.0, 5.0])) == pytest.approx(3)
    a, b = np.random.default_rng(0).exponential(4, 30), np.random.default_rng(1).exponential(2, 17)
    assert interval_distance(a, b) == pytest.approx(wasserstein_distance(a, b))
    quantiles = np.linspace(0, 1, 200_001)[:-1] + 0.5 / 200_000
    by_hand = np.abs(
        np.quantile(a, quantiles, method="inverted_cdf") - np.quantile(b, quantiles, method="inverted_cdf")
    )
    assert interval_distance(a, b) == pytest.approx(by_hand.mean(), rel=1e-3)
    with pytest.raises(ValueError, match="0 with 2 intervals"):
        interval_distance(np.array([]), np.array([1.0, 2.0]))


@pytest.mark.parametrize("hz", [0.23, 0.4, 0.87, 1.3])
@pytest.mark.parametrize("phase", [0.4, 2.0])
def test_a_sine_gives_its_frequency_and_amplitude(hz, phase):
    found = sway(_swaying(hz, 0.1, phase=phase), FPS)
    assert found.frequency_hz == pytest.approx(hz, abs=0.006)
    assert found.amplitude == pytest.approx(0.1, rel=0.02)
    assert found.share > 0.99


def test_sway_is_found_over_a_slow_move_with_noise_and_lost_frames():
    rng = np.random.default_rng(0)
    points = _swaying(0.6) + rng.normal(0, 0.5, (250, 68, 2))
    points[..., 0] += 0.3 * np.arange(250)[:, None]
    points[rng.integers(0, 250, 60)] = np.nan
    points[100:115] = np.nan
    found = sway(points, FPS)
    assert found.frequency_hz == pytest.approx(0.6, abs=0.02)
    assert found.amplitude == pytest.approx(0.1, rel=0.05)


def test_a_frozen_head_does_not_sway_and_shuffled_frames_sway_no_longer():
    frozen = sway(_track(100), FPS)
    assert np.isnan(frozen.frequency_hz) and frozen.amplitude == frozen.share == 0
    points = _swaying(0.4)
    shuffled = sway(np.random.default_rng(0).permutation(points), FPS)
    assert shuffled.share < 0.15 and shuffled.amplitude < 0.05


def test_doubled_motion_doubles_the_amplitude_alone():
    points = _lively()
    once, twice = sway(points, FPS), sway(_doubled(points), FPS)
    assert twice.amplitude == pytest.approx(2 * once.amplitude, rel=1e-6)
    assert twice.frequency_hz == once.frequency_hz and twice.share == pytest.approx(once.share)


def test_long_and_short_videos_are_swept_in_steps_that_fit_them():
    long = slow_motion(np.sin(2 * np.pi * 0.731 * np.arange(3000) / FPS), FPS)
    assert long.frequency_hz == pytest.approx(0.731, abs=8e-4)
    short = slow_motion(np.sin(2 * np.pi * 0.2 * np.arange(75) / FPS), FPS)
    assert short.frequency_hz >= 1 / 3 - 1e-9


@pytest.mark.parametrize(
    ("track", "fps", "message"),
    [
        (np.zeros(40), FPS, "less than 2 s"),
        (np.full(100, np.nan), FPS, "0 frames with a face"),
        (np.zeros((100, 2)), FPS, "one number per frame"),
        (np.zeros(100), 3, "too few for motion up to 1.5 Hz"),
    ],
)
def test_sway_needs_enough_frames(track, fps, message):
    with pytest.raises(ValueError, match=message):
        slow_motion(track, fps)


def test_yaw_is_that_of_a_turned_mean_face_at_any_size_and_tilt():
    yaws = np.array([-35.0, -10, 0, 4, 25])
    points = np.stack([_face(yaw) for yaw in yaws])
    np.testing.assert_allclose(yaw_degrees(points), yaws, atol=1e-6)
    a = np.deg2rad(30)
    tilted = 2.5 * points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) - 70
    np.testing.assert_allclose(yaw_degrees(tilted), yaws, atol=1e-6)
    points[2] = np.nan
    assert np.isnan(yaw_degrees(points)[2])


def test_turning_is_in_degrees():
    yaws = 12 * np.sin(2 * np.pi * 0.5 * np.arange(200) / FPS)
    found = turning(np.stack([_face(yaw) for yaw in yaws]), FPS)
    assert found.frequency_hz == pytest.approx(0.5, abs=0.006)
    assert found.amplitude == pytest.approx(12, rel=0.01)


def test_the_distance_of_sways_leaves_out_the_frequency_of_still_heads():
    still = Sway(float("nan"), 0.0, 0.0)
    a, b = [Sway(0.4, 0.1, 0.9), Sway(0.6, 0.3, 0.9)], [Sway(0.9, 0.2, 0.9), still]
    found = sway_distance(a, b)
    assert found.frequency_hz == pytest.approx(0.4) and found.amplitude == pytest.approx(0.1)
    assert np.isnan(sway_distance([still], a).frequency_hz)
    with pytest.raises(ValueError, match="0 with 2 videos"):
        sway_distance([], a)


def test_frozen_videos_lack_all_of_the_motion():
    real = [_lively(seed) for seed in range(3)]
    frozen = [_track(250)] * 3
    found, none = motion_differences(frozen, real), motion_differences(real, real)
    assert none.glo == none.exp == (0, 0)
    assert found.glo.paired == pytest.approx(found.glo.of_means) and found.glo.paired > 0
    doubled = motion_differences([_doubled(points) for points in real], real)
    # Variance: four times as much, three more than it should be.
    assert doubled.glo.paired == pytest.approx(3 * found.glo.paired, rel=1e-6)
    assert doubled.exp.paired == pytest.approx(3 * found.exp.paired, rel=0.1)


def test_too_still_and_too_lively_cancel_out_in_means_alone():
    assert difference([1.0, 5.0], [3.0, 3.0]) == (2.0, 0.0)
    with pytest.raises(ValueError, match=r"\(1,\) and \(2,\)"):
        difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="one value for each"):
        difference([], [])


def test_lips_close_where_they_should():
    open_px = 0.1 * EYE_PX
    real = _track(100)
    for upper, lower in INNER_LIPS:
        real[:, upper, 1] -= open_px / 2
        real[:, lower, 1] += open_px / 2
    lazy, wide = real.copy(), real.copy()
    for start in (20, 60):
        _close(real, INNER_LIPS, start, start + 3)
    _close(lazy, INNER_LIPS, 21, 23)
    intervals = np.array([[0.8, 0.9], [2.4, 2.5], [3.2, 3.3], [3.9, 4.2]])
    assert lip_closures(real, real, intervals, FPS) == (2, 2)
    assert lip_closures(lazy, real, intervals, FPS) == (1, 2)
    assert lip_closures(wide, real, intervals, FPS) == (0, 2)
    assert lip_closures(real, real, np.zeros((0, 2)), FPS) == (0, 0)
    with pytest.raises(ValueError, match="100 and 90 frames"):
        lip_closures(real, real[:90], intervals, FPS)
    with pytest.raises(ValueError, match="ends before it starts"):
        lip_closures(real, real, np.array([[2.0, 1.0]]), FPS)


def test_a_grid_alignment_is_read_in_seconds(tmp_path):
    path = tmp_path / "bbal9a.align"
    path.write_text("0 17500 sil\n17500 23000 bin\n23000 27000 blue\n27000 30500 at\n30500 74500 sil\n")
    words = read_grid_words(path)
    assert words == [Word("bin", 0.7, 0.92), Word("blue", 0.92, 1.08), Word("at", 1.08, 1.22)]
    np.testing.assert_allclose(bilabial_spans(words), [[0.7, 0.92], [0.92, 1.08]])
    assert bilabial_spans([]).shape == (0, 2)


@pytest.mark.parametrize("line", ["0 17500", "0 1.5 bin", "300 200 bin", "from here bin"])
def test_other_files_are_no_alignment(tmp_path, line):
    path = tmp_path / "x.align"
    path.write_text(f"0 100 sil\n{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        read_grid_words(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_grid_words(tmp_path / "y.align")


def test_jitter_is_blind_to_steady_motion_and_sees_shuffled_frames():
    steady = _track(50) + np.arange(50)[:, None, None]
    assert jitter(steady) == pytest.approx(0, abs=1e-9)
    assert jitter(_track(50)) == 0
    points = _lively()
    assert jitter(np.random.default_rng(0).permutation(points)) > 20 * jitter(points)
    assert jitter(_doubled(points)) > 1.9 * jitter(points)
    trembling = _track(60)
    trembling[1::2, :, 0] += 0.01 * EYE_PX
    assert jitter(trembling) == pytest.approx(2.0, rel=1e-6)


def test_jitter_steps_over_lost_frames():
    points = _lively()
    points[100:120] = np.nan
    assert jitter(points) == pytest.approx(jitter(_lively()), rel=0.1)
    with pytest.raises(ValueError, match="three frames in a row"):
        jitter(_track(2))


def test_drift_compares_the_last_second_with_the_first():
    grey = np.full((8, 8, 3), 119, np.uint8)
    warm = (grey * [1.1, 1.0, 0.9]).astype(np.uint8)
    assert drift(iter([grey] * 60), FPS) == pytest.approx(0, abs=1e-6)
    there_and_back = [grey] * 25 + [warm] * 20 + [grey] * 25
    assert drift(there_and_back, FPS) == pytest.approx(0, abs=1e-6)
    slow = [(grey + i // 10).astype(np.uint8) for i in range(250)]
    # Grey 120 to 142 on the average of a second: lightness 50.2 to 59.1.
    assert drift(slow, FPS) == pytest.approx(0.089, abs=0.002)
    assert drift([grey] * 25 + [warm] * 25, FPS) > 0.08
    with pytest.raises(ValueError, match="at least 50"):
        drift([grey] * 49, FPS)
