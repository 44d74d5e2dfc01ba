"""Toons: landmarks go where the picture goes, and what a picture shows stays what it is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from openloopy.face.mesh import MESH_TO_68
from openloopy.puppet.drawn import draw_face
from openloopy.training.face_toon import bend, bend_points, draw_manner, draw_shape, source_of

MARKED = (33, 263, 4, 61, 291, 152, 10, 468)
MARK = (255, 0, 255)


@pytest.mark.parametrize("seed", range(6))
def test_landmarks_follow_the_bent_picture(seed):
    drawn = draw_face(np.random.default_rng(seed), 320)
    maps = draw_shape(drawn.mesh, np.random.default_rng(seed))
    moved = bend_points(drawn.mesh[:, :2], maps)
    np.testing.assert_allclose(source_of(moved, maps), drawn.mesh[:, :2], atol=0.05)
    for point in MARKED:
        rgb = drawn.rgb.copy()
        cv2.circle(rgb, tuple(int(v) for v in np.round(drawn.mesh[point, :2] - 0.5)), 3, MARK, -1)
        is_mark = np.abs(bend(rgb, maps).astype(int) - MARK).sum(-1) < 150
        y, x = np.nonzero(is_mark)
        assert np.hypot(x.mean() + 0.5 - moved[point, 0], y.mean() + 0.5 - moved[point, 1]) < 2.5


def test_eyes_grow_and_far_from_the_face_nothing_moves():
    drawn, growths = draw_face(np.random.default_rng(0), 320), []
    for seed in range(30):
        maps = draw_shape(drawn.mesh, np.random.default_rng(seed))
        moved = bend_points(drawn.mesh[:, :2], maps)
        wide = [np.linalg.norm(mesh[33, :2] - mesh[133, :2]) for mesh in (drawn.mesh, moved)]
        growths.append(wide[1] / wide[0])
        far = np.array([[-400.0, -400.0], [900.0, 900.0]])
        np.testing.assert_array_equal(bend_points(far, maps), far)
    assert np.median(growths) > 1.15 and max(growths) > 1.6 and min(growths) > 0.8


def test_no_face_is_folded():
    """Contours keep their sense: the outline of an eye stays an outline."""
    drawn = draw_face(np.random.default_rng(2), 320)
    for seed in range(30):
        moved = bend_points(drawn.mesh[:, :2], draw_shape(drawn.mesh, np.random.default_rng(seed)))
        for part in (slice(36, 42), slice(42, 48), slice(48, 60)):
            areas = [
                cv2.contourArea(points[MESH_TO_68[part], :2].astype(np.float32), oriented=True)
                for points in (drawn.mesh, moved)
            ]
            assert areas[0] * areas[1] > 0


def test_every_manner_is_a_picture_and_the_same_for_the_same_seed():
    drawn, changes = draw_face(np.random.default_rng(1), 200), []
    for seed in range(24):
        made = [draw_manner(drawn.rgb, np.random.default_rng(seed)) for _ in range(2)]
        assert np.array_equal(*made) and made[0].dtype == np.uint8 and made[0].shape == drawn.rgb.shape
        changes.append(np.abs(made[0].astype(int) - drawn.rgb).mean())
    assert np.median(changes) > 5
