"""Cartoons: their meshes lie on what is drawn, in every face that may come."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from openloopy.face.mesh import CHIN, FOREHEAD, MESH_POINTS, MESH_TO_68
from openloopy.puppet.cartoon import CartoonShape, draw_cartoon, eye_lids, mesh_of
from openloopy.rig.mesh import EYES, FACE_OVAL, LIP_OUTER_LOWER, LIP_OUTER_UPPER


@pytest.mark.parametrize("seed", range(40))
def test_a_mesh_is_a_face(seed):
    shape = CartoonShape.draw(np.random.default_rng(seed))
    mesh = mesh_of(shape)
    assert mesh.shape == (MESH_POINTS, 2) and np.isfinite(mesh).all()
    np.testing.assert_allclose(mesh[[FOREHEAD, CHIN], 1], [-0.5, 0.5], atol=1e-6)
    oval = mesh[FACE_OVAL].astype(np.float32)
    inside = [cv2.pointPolygonTest(oval, tuple(map(float, point)), True) > -0.03 for point in mesh]
    assert np.mean(inside) > 0.97, "all within the outline"
    for eye in EYES:
        lids = np.concatenate([mesh[eye.upper], mesh[eye.lower][::-1]]).astype(np.float32)
        assert (mesh[eye.upper[4], 1] < mesh[eye.lower[4], 1]) or shape.openness < 0.1
        assert cv2.contourArea(lids) >= 0
        centre = tuple(map(float, mesh[eye.iris]))
        assert cv2.pointPolygonTest(lids, centre, True) > -shape.eye_size[1]
    lips = mesh[[*LIP_OUTER_UPPER, *LIP_OUTER_LOWER]]
    assert lips[:, 1].min() > mesh[4, 1] - 0.06, "the mouth lies under the nose"


def test_eyes_differ_and_some_are_shut():
    shapes = [CartoonShape.draw(np.random.default_rng(seed)) for seed in range(200)]
    openings = [np.ptp(np.concatenate(eye_lids(shape, 1, 9))[:, 1]) for shape in shapes]
    assert max(openings) > 0.25 and min(openings) < 0.1
    assert 0.03 < np.mean([shape.openness < 0.5 for shape in shapes]) < 0.2


@pytest.mark.parametrize("seed", range(8))
def test_the_picture_shows_the_mesh(seed):
    """The picture changes at the lids and hardly above them."""
    drawn = draw_cartoon(np.random.default_rng(seed), 256)
    assert drawn.rgb.shape == (256, 256, 3) and drawn.rgb.dtype == np.uint8
    assert drawn.mesh.shape == (MESH_POINTS, 3) and np.isnan(drawn.mesh[:, 2]).all()
    lids = drawn.mesh[[i for eye in EYES for i in eye.upper[1:-1]], :2]
    height = np.linalg.norm(drawn.mesh[CHIN, :2] - drawn.mesh[FOREHEAD, :2])
    up = (drawn.mesh[FOREHEAD, :2] - drawn.mesh[CHIN, :2]) / height
    contrasts = []
    for away in (0.0, 0.12):
        above, below = (_brightness(drawn.rgb, lids + (away + side * 0.03) * height * up) for side in (1, -1))
        middle = _brightness(drawn.rgb, lids + away * height * up)
        contrasts.append(np.maximum(np.abs(middle - above), np.abs(middle - below)).mean())
    assert contrasts[0] > 25 and contrasts[0] > 1.5 * contrasts[1], "lashes are drawn on the lids"
    x, y = np.floor(lids).astype(int).T
    assert drawn.mask[y, x].min() > 0.5
    eyes = drawn.mesh[MESH_TO_68[36:48], :2]
    assert 0 < eyes.min() and eyes.max() < 256


def _brightness(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y = np.clip(np.floor(points).astype(int), 0, len(rgb) - 1).T
    return rgb[y, x].astype(float).mean(-1)


def test_the_same_seed_draws_the_same_cartoon():
    first, second = (draw_cartoon(np.random.default_rng(4), 128) for _ in range(2))
    assert np.array_equal(first.rgb, second.rgb) and np.array_equal(first.mesh, second.mesh, equal_nan=True)
    with pytest.raises(ValueError, match="at least 64 px, got 32"):
        draw_cartoon(np.random.default_rng(4), 32)
