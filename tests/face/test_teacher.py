"""Mediapipe as the teacher, where it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from openloopy.face.landmarks import Face
from openloopy.face.teacher import MediapipeLandmarker, MediapipeTeacher


@pytest.fixture(scope="module")
def teacher() -> MediapipeTeacher:
    pytest.importorskip("mediapipe", reason="mediapipe, the extra `teacher`, is not installed")
    return MediapipeTeacher()


def test_it_finds_a_face_where_it_was_drawn(teacher, drawn):
    (face,) = teacher.detect(drawn.rgb)
    unit = np.linalg.norm(drawn.mesh[33, :2] - drawn.mesh[263, :2])
    assert np.linalg.norm(face.mesh[:468, :2] - drawn.mesh[:468, :2], axis=1).mean() < 0.04 * unit
    assert [found is None for found in teacher.track([drawn.rgb] * 2)] == [False, False]


def test_its_mask_agrees_with_what_was_drawn(teacher, drawn):
    found, truth = teacher.mask(drawn.rgb) > 0.5, drawn.mask > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_detections_beyond_the_border_are_not_faces(teacher, monkeypatch):
    """The detector may see a face in the repeated border, wholly outside the picture."""
    box = SimpleNamespace(xmin=-0.1, ymin=-0.1, width=0.15, height=0.15)
    found = SimpleNamespace(score=[0.9], location_data=SimpleNamespace(relative_bounding_box=box))
    detector = SimpleNamespace(process=lambda rgb: SimpleNamespace(detections=[found]))
    monkeypatch.setattr(teacher, "_detectors", [detector])
    assert teacher.detect(np.full((200, 300, 3), 120, np.uint8)) == []


def test_wrong_pictures_are_refused(teacher):
    for wrong in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3))):
        with pytest.raises(ValueError, match="RGB picture"):
            teacher.detect(wrong)
    with pytest.raises(ValueError, match="max_faces"):
        MediapipeLandmarker(max_faces=0)
    with pytest.raises(ValueError, match="478"):
        Face.from_mesh(np.zeros((68, 3)))


def test_missing_mediapipe_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps mediapipe==0\.10\.21"):
        MediapipeLandmarker()


def test_native_code_keeps_quiet(capfd, drawn):
    pytest.importorskip("mediapipe")
    landmarker = MediapipeLandmarker()
    landmarker.detect(drawn.rgb)
    landmarker.track([drawn.rgb] * 2)
    assert capfd.readouterr().err == ""
