"""E-FID and its landmark cousin: known Gaussians, known damage, what must not count."""

import numpy as np
import pytest

from openloopy.face.mesh import MESH_TO_68, Pose, canonical_mesh, rotation_of
from openloopy.measures.distribution import FeatureStats, frechet_distance
from openloopy.measures.expression import (
    DESCRIPTOR_WIDTH,
    EXPRESSION_POINTS,
    e_fid,
    expression_descriptors,
    landmark_expression_distance,
)
from openloopy.measures.lip_sync import RIGID_POINTS

BROWS, LIPS = np.arange(17, 27), np.arange(48, 68)


def _talk(seed: int = 0, frames: int = 120, lips: float = 1.0, brows: float = 1.0) -> np.ndarray:
    """A face that talks and raises its brows, level and still, `f 68 2` px; amplitudes in the usual ones."""
    rng = np.random.default_rng(seed)
    points = np.repeat(10 * canonical_mesh().vertices[None, MESH_TO_68, :2] + 200, frames, axis=0)
    times = np.arange(frames) / 25
    for group, amplitude, hz in ((LIPS, 4 * lips, 3.1), (BROWS, 2 * brows, 0.7)):
        shape = np.random.default_rng(len(group)).normal(0, 1, (len(group), 2))
        wave = np.sin(2 * np.pi * hz * times + rng.uniform(0, 6))
        points[:, group] += amplitude * wave[:, None, None] * shape
    points[:, EXPRESSION_POINTS] += rng.normal(0, 0.3, (frames, len(EXPRESSION_POINTS), 2))
    return points


def _moved(points: np.ndarray, tilt_degrees: float, scale: float, shift_px: float) -> np.ndarray:
    a = np.deg2rad(tilt_degrees)
    return scale * points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + shift_px


def _coefficients(seed: int, mean: float = 0.0, scale: float = 1.0, frames: int = 400) -> np.ndarray:
    return mean + scale * np.random.default_rng(seed).standard_normal((frames, 64))


def test_a_set_is_at_no_distance_from_itself():
    assert e_fid([_coefficients(0)], [_coefficients(0)]) == pytest.approx(0, abs=1e-9)
    assert landmark_expression_distance([_talk()], [_talk()]) == pytest.approx(0, abs=1e-6)


def test_e_fid_of_a_shift_is_its_square_and_of_a_scale_what_gaussians_say():
    real = _coefficients(0, frames=4000)
    assert e_fid([real + 0.5], [real]) == pytest.approx(64 * 0.25, rel=1e-6)
    variance = np.trace(np.cov(real.T))
    assert e_fid([3 * (real - real.mean(0))], [real - real.mean(0)]) == pytest.approx(4 * variance, rel=1e-6)


def test_e_fid_pools_all_frames_of_a_set_and_leaves_lost_ones_out():
    a, b, real = _coefficients(0, frames=50), _coefficients(1, frames=90), _coefficients(2)
    lost = a.copy()
    lost[[3, 40]] = np.nan
    stats, other = FeatureStats(64), FeatureStats(64)
    stats.update(np.concatenate([np.delete(a, [3, 40], axis=0), b]))
    other.update(real)
    assert e_fid(iter([lost, b]), iter([real])) == pytest.approx(frechet_distance(stats, other), rel=1e-9)


def test_too_few_frames_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="the generated videos hold 64 frames with a face"):
        e_fid([_coefficients(0, frames=64)], [_coefficients(1)])
    with pytest.raises(ValueError, match="the real videos hold 0 frames"):
        e_fid([_coefficients(0)], [])
    with pytest.raises(ValueError, match="expected features n 64"):
        e_fid([_coefficients(0)[:, :63]], [_coefficients(1)])
    with pytest.raises(ValueError, match="the generated videos hold 86 frames"):
        landmark_expression_distance([_talk(frames=86)], [_talk()])
    with pytest.raises(ValueError, match=r"\(frames, 68, 2\)"):
        landmark_expression_distance([_talk()[0]], [_talk()])
    with pytest.raises(ValueError, match="no face was found"):
        expression_descriptors(np.full((5, 68, 2), np.nan))
    alone = np.full((5, 68, 2), np.nan)
    alone[2] = _talk()[2]
    with pytest.raises(ValueError, match="in 1 of 5 frames, which is its own mean"):
        expression_descriptors(alone)


def test_descriptors_are_about_the_mean_in_hundredths_of_the_eye_distance():
    points = np.repeat(_talk()[:1], 2, axis=0)
    eye = np.linalg.norm(points[0, 45] - points[0, 36])
    points[1, 57, 1] += 0.1 * eye
    found = expression_descriptors(points)
    column = 2 * list(EXPRESSION_POINTS).index(57) + 1
    assert found.shape == (2, DESCRIPTOR_WIDTH) and DESCRIPTOR_WIDTH == 86
    np.testing.assert_allclose(found[:, column], [-5, 5], atol=1e-6)
    np.testing.assert_allclose(np.delete(found, column, axis=1), 0, atol=1e-6)
    assert not set(EXPRESSION_POINTS) & set(RIGID_POINTS)


def test_where_how_large_and_how_tilted_the_head_is_does_not_count():
    real = [_talk(seed) for seed in range(3)]
    moved = [_moved(points, 25, 1.7, -90) for points in real]
    assert landmark_expression_distance(moved, real) == pytest.approx(0, abs=1e-6)
    swaying = np.stack([_moved(p, 10 * np.sin(i / 9), 1 + i / 400, i) for i, p in enumerate(real[0])])
    np.testing.assert_allclose(expression_descriptors(swaying), expression_descriptors(real[0]), atol=0.2)


def test_a_resting_face_of_ones_own_does_not_count():
    real = [_talk(seed) for seed in range(3)]
    other = [points.copy() for points in real]
    for points in other:
        points[:, LIPS] += np.random.default_rng(7).normal(0, 3, (20, 2))
    assert landmark_expression_distance(other, real) == pytest.approx(0, abs=1e-3)


def test_known_damage_is_ordered():
    real = [_talk(seed) for seed in range(4)]
    others = [_talk(seed) for seed in range(4, 8)]
    distance = {
        "same kind": landmark_expression_distance(others, real),
        "half the speech": landmark_expression_distance([_talk(s, lips=0.5) for s in range(4, 8)], real),
        "frozen": landmark_expression_distance([np.repeat(p[:1], 120, axis=0) for p in others], real),
        "no brows": landmark_expression_distance([_talk(s, brows=0) for s in range(4, 8)], real),
        "doubled": landmark_expression_distance([_talk(s, lips=2, brows=2) for s in range(4, 8)], real),
    }
    assert distance["same kind"] < 0.1 * distance["no brows"]
    assert distance["no brows"] < distance["half the speech"] < distance["frozen"]
    assert distance["doubled"] > 0.9 * distance["frozen"]


def test_the_order_of_frames_does_not_count():
    real = [_talk()]
    shuffled = [np.random.default_rng(0).permutation(real[0])]
    assert landmark_expression_distance(shuffled, real) == pytest.approx(0, abs=1e-3)


def test_turning_counts_for_less_than_speech():
    """The limit that the docstring names: the picture plane sees a turn of 10 degrees, as less than frozen lips."""
    yaws = 10 * np.sin(np.arange(120) / 8)
    mesh = canonical_mesh().vertices[MESH_TO_68]
    still = _talk()
    turn = np.stack([(mesh @ rotation_of(Pose(yaw, 0, 0)).T)[:, :2] - mesh[:, :2] for yaw in yaws])
    turned = landmark_expression_distance([still + 10 * turn], [still])
    assert 0 < turned < landmark_expression_distance([_talk(lips=0.0)], [still])
