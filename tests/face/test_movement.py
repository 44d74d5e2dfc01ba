"""Known movements give known descriptors."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face import movement
from openloopy.face.mesh import MESH_TO_68, canonical_mesh

FRAMES = 12


@pytest.fixture
def still() -> np.ndarray:
    """`12 68 2`: a face that does not move, outer eye corners 100 px apart."""
    points = canonical_mesh().vertices[MESH_TO_68, :2]
    points = points * 100 / np.linalg.norm(points[36] - points[45])
    return np.repeat(points[None], FRAMES, 0)


def test_a_still_face_does_not_move(still):
    assert movement.head_motion_variance(still) == pytest.approx(0, abs=1e-20)
    assert movement.expression_variance(still) == pytest.approx(0, abs=1e-20)


def test_translation_is_head_motion_and_no_expression(still):
    steps = np.random.default_rng(0).normal(size=(FRAMES, 1, 2)) * 5
    expected = steps.var(axis=0).sum() / 100**2
    moved = still + steps
    assert movement.head_motion_variance(moved) == pytest.approx(expected)
    assert movement.expression_variance(moved) == pytest.approx(0, abs=1e-12)


def test_one_upper_face_point_is_expression_and_no_head_motion(still):
    moved = still.copy()
    wave = 4 * np.sin(np.arange(FRAMES))
    moved[:, 19, 1] += wave  # a brow
    assert movement.head_motion_variance(moved) == pytest.approx(0, abs=1e-20)
    assert movement.expression_variance(moved) == pytest.approx(wave.var() / 37 / 100**2)


def test_the_mouth_is_neither(still):
    moved = still.copy()
    moved[:, [5, 8, 11, *range(48, 68)], 1] += np.arange(FRAMES)[:, None]
    assert movement.head_motion_variance(moved) == pytest.approx(0, abs=1e-20)
    assert movement.expression_variance(moved) == pytest.approx(0, abs=1e-20)


def test_upper_face_has_37_points_without_mouth_and_lower_jaw():
    chosen = set(movement.UPPER_FACE_37.tolist())
    assert len(chosen) == 37
    assert not chosen & {*range(3, 14), *range(48, 68)}


def test_lip_gap_in_eye_distances(still):
    opened = still.copy()
    opened[:, 60:68] = still[:, 48:49]  # closed to one point
    opened[:, 65:68, 1] += np.linspace(0, 22, FRAMES)[:, None]
    np.testing.assert_allclose(movement.lip_gap(opened), np.linspace(0, 0.22, FRAMES), atol=1e-9)


def test_eye_opening_is_the_mean_of_both_eyes(still):
    shut = still.copy()
    for upper, lower in movement.EYE_LID_PAIRS:
        shut[:, lower] = shut[:, upper]
    shut[:, [46, 47], 1] += 12  # one eye opens by 12 px
    np.testing.assert_allclose(movement.eye_opening(shut), 0.06)


@pytest.mark.parametrize(
    "measure",
    [
        movement.lip_gap,
        movement.eye_opening,
        movement.head_motion_variance,
        movement.expression_variance,
    ],
)
def test_size_does_not_matter_and_batches_are_rows(measure, still):
    moved = still + np.random.default_rng(0).normal(size=still.shape)
    batch = np.stack([moved, still, 3.5 * moved + 40])
    rows = measure(batch)
    np.testing.assert_allclose(rows[0], measure(moved))
    np.testing.assert_allclose(rows[1], measure(still), atol=1e-12)
    np.testing.assert_allclose(rows[2], rows[0])


def test_boxes_hold_their_points_with_a_margin(still):
    points = still[0]
    x0, y0, x1, y1 = movement.mouth_box(points, margin=0.5)
    mouth = points[48:]
    width = np.ptp(mouth[:, 0])
    np.testing.assert_allclose([x0, x1], [mouth[:, 0].min() - width / 2, mouth[:, 0].max() + width / 2])
    np.testing.assert_allclose([y0, y1], [mouth[:, 1].min() - width / 2, mouth[:, 1].max() + width / 2])
    boxes = movement.eye_boxes(still)
    assert boxes.shape == (FRAMES, 2, 4)
    assert boxes[0, 0, 2] < points[27, 0] < boxes[0, 1, 0]  # left and right of the nose


def test_wrong_input_is_refused(still):
    with pytest.raises(ValueError, match=r"\(\.\.\., frames, 68, 2\)"):
        movement.lip_gap(still[0])
    with pytest.raises(ValueError, match="lost frames"):
        movement.head_motion_variance(np.zeros((12, 68, 2)))
