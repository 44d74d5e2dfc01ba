"""Pictures without a face."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.puppet import face_free
from openloopy.puppet.face_free import face_free_background


def test_they_have_the_size_asked_for_and_follow_the_numbers_drawn():
    for size_px in (64, 128):
        ours, again, other = (
            face_free_background(np.random.default_rng(seed), size_px) for seed in (1, 1, 2)
        )
        assert ours.shape == (size_px, size_px, 3) and ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, again)
        assert (ours != other).any()


@pytest.mark.parametrize("kind", list(face_free._DRAWN_SHARES))
def test_each_kind_shows_something_else_each_time(kind, monkeypatch):
    monkeypatch.setattr(face_free, "_DRAWN_SHARES", {kind: 1.0})
    rng = np.random.default_rng(3)
    pictures = [face_free_background(rng, 96).astype(float) for _ in range(6)]
    contrasts = [np.abs(np.diff(picture, axis=1)).max() for picture in pictures]
    least = {"plain": 0.0, "waves": 2.0, "text": 20.0, "discs": 20.0, "blots": 5.0}[kind]
    assert np.median(contrasts) > least
    assert min(np.abs(a - b).mean() for a, b in zip(pictures, pictures[1:], strict=False)) > 2


def test_no_face_is_found_in_them():
    landmarker = NetworkLandmarker()
    rng = np.random.default_rng(4)
    found = [landmarker.detect(face_free_background(rng, 256)) for _ in range(24)]
    assert sum(bool(faces) for faces in found) <= 1
