"""Drawn faces: the paint lies where the mesh says, people differ, and the mask is the person."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.drawn_person import draw_proportions
from openloopy.rig.mesh import EYES, LIP_INNER_LOWER, LIP_INNER_UPPER
from openloopy.rig.portrait_rig import check_portrait

SIZE_PX = 256
SEEDS = range(8)


@pytest.fixture(scope="module")
def people():
    return [draw_face(np.random.default_rng(seed), SIZE_PX) for seed in SEEDS]


def colour_at(rgb: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Mean colour of the 3x3 pixels around a point."""
    x, y = (int(value) for value in point[:2])
    return rgb[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(0)


def test_same_seed_same_face():
    first, again, other = (draw_face(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.mesh, again.mesh)
    assert np.abs(first.rgb.astype(int) - other.rgb).mean() > 10


def test_types_and_ranges(people):
    for drawn in people:
        assert drawn.rgb.shape == (SIZE_PX, SIZE_PX, 3) and drawn.rgb.dtype == np.uint8
        assert drawn.mesh.shape == (478, 3) and drawn.mesh.dtype == np.float32
        assert drawn.mask.shape == (SIZE_PX, SIZE_PX) and drawn.mask.dtype == np.float32
        assert drawn.mesh[:, :2].min() > 0 and drawn.mesh[:, :2].max() < SIZE_PX


def test_size_only_scales():
    small, large = (draw_face(np.random.default_rng(6), size) for size in (128, 256))
    np.testing.assert_allclose(small.mesh * 2, large.mesh, rtol=1e-4)


def test_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 64 px, got 32"):
        draw_face(np.random.default_rng(0), 32)


def test_features_lie_on_the_mesh(people):
    """Pupils are dark, whites brighter than the iris, lips redder than the chin, lips' slit darker than lips."""
    for drawn in people:
        pupil = np.mean([colour_at(drawn.rgb, drawn.mesh[eye.iris]) for eye in EYES])
        white = np.mean(
            [colour_at(drawn.rgb, drawn.mesh[[eye.upper[6], eye.lower[6]]].mean(0)) for eye in EYES]
        )
        assert pupil < 110 and white > pupil + 15
        lip, chin = (colour_at(drawn.rgb, drawn.mesh[[a, b]].mean(0)) for a, b in ((14, 17), (18, 200)))
        assert lip[0] / lip[1] > chin[0] / chin[1]
        slit = colour_at(drawn.rgb, drawn.mesh[[13, 14]].mean(0))
        assert slit.mean() < lip.mean()


def test_mask_is_the_person(people):
    for drawn in people:
        x, y = np.floor(drawn.mesh[:468, :2]).astype(int).T
        assert drawn.mask[y, x].mean() > 0.98
        assert drawn.mask[:8].max() < 0.01  # nobody touches the top
        assert drawn.mask[-3:, SIZE_PX // 3 : -SIZE_PX // 3].min() > 0.99  # shoulders reach the bottom


@pytest.mark.parametrize("seed", SEEDS)
def test_proportions_are_those_of_a_face(seed):
    v = draw_proportions(np.random.default_rng(seed))
    gap = v[LIP_INNER_LOWER, 1] - v[LIP_INNER_UPPER, 1]
    assert 0 <= gap.min() and gap.max() < 0.15  # closed lips, cm
    for eye in EYES:
        opening = v[eye.lower[1:-1], 1] - v[eye.upper[1:-1], 1]
        assert opening.min() > 0.05 and 0.6 < opening.max() < 1.6
        assert np.all(v[eye.upper_fold[2:-2], 1] < v[eye.upper[2:-2], 1])
        assert np.all(v[eye.brow[:5], 1] < v[eye.brow[5:], 1])
        radii = np.linalg.norm(v[eye.iris_ring, :2] - v[eye.iris, :2], axis=1)
        np.testing.assert_allclose(radii, radii[0])


def test_people_differ():
    people = np.stack([draw_proportions(np.random.default_rng(seed)) for seed in range(20)])
    assert people[:, :468, :2].std(axis=0).mean() > 0.1  # cm


def test_every_drawn_face_can_be_a_puppet(people):
    for drawn in people:
        assert check_portrait(Face.from_mesh(drawn.mesh), drawn.rgb) is None


def test_the_detector_takes_them_for_faces(people):
    landmarker = NetworkLandmarker()
    for drawn in people:
        (face,) = landmarker.detect(drawn.rgb)
        unit = np.linalg.norm(drawn.mesh[33, :2] - drawn.mesh[263, :2])
        assert np.linalg.norm(face.mesh[:468, :2] - drawn.mesh[:468, :2], axis=1).mean() < 0.04 * unit
