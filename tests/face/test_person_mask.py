"""Who is the person in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.mesh import canonical_mesh
from openloopy.face.person_mask import PersonSegmenter, face_hull_mask, person_mask
from openloopy.puppet.drawn import draw_face


def test_segmentation_agrees_with_what_was_drawn():
    drawn = draw_face(np.random.default_rng(8), 256)
    mask = person_mask(drawn.rgb)
    assert mask.shape == (256, 256) and mask.dtype == np.float32
    assert 0 <= mask.min() and mask.max() <= 1
    found, truth = mask > 0.5, drawn.mask > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_segmentation_keeps_the_shape_of_wide_pictures():
    wide = np.zeros((200, 700, 3), np.uint8)
    assert PersonSegmenter().mask(wide).shape == (200, 700)


def test_hull_mask_covers_the_mesh_and_little_else():
    mesh = canonical_mesh().vertices * 8 + [120, 90, 0]
    mask = face_hull_mask(mesh, (240, 200))
    assert mask.shape == (200, 240)
    inside = np.floor(mesh[[1, 4, 50, 280, 13]]).astype(int)
    assert np.all(mask[inside[:, 1], inside[:, 0]] > 0.999)
    assert mask[:10].max() == 0 and mask[:, :40].max() == 0
    x, y = mesh[:, 0], mesh[:, 1]
    box = np.ptp(x) * np.ptp(y)
    assert 0.7 * box < mask.sum() < 0.95 * box  # an oval fills about 0.8 of its box


def test_hull_edge_is_placed_to_a_fraction_of_a_pixel():
    corners = np.zeros((478, 3))
    corners[:4] = [(10.5, 10.5, 0), (30.5, 10.5, 0), (30.5, 30.5, 0), (10.5, 30.5, 0)]
    corners[4:] = corners[0]
    left, moved = (face_hull_mask(corners + [shift, 0, 0], (48, 48)) for shift in (0.0, 0.5))
    across = np.arange(48) + 0.5
    centres = [(mask.sum(0) * across).sum() / mask.sum() for mask in (left, moved)]
    assert centres[0] == pytest.approx(20.5, abs=0.15)
    assert centres[1] - centres[0] == pytest.approx(0.5, abs=0.15)
