"""Face similarity on made-up faces: blind to framing, light and mirroring, not to who it is."""

import cv2
import numpy as np
import pytest

from openloopy.measures.identity import (
    CELL_SIZES_PX,
    RAW_WIDTH,
    aligned_face,
    face_descriptor,
    face_similarity,
    fit_background,
    package_background,
    raw_descriptor,
    texture_similarity,
)

SIZE_PX = 200


def _points() -> np.ndarray:
    """68 landmarks with eyes, nose and mouth in place; the others do not matter here."""
    points = np.full((68, 2), 100.0)
    angles = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    ring = 8 * np.stack([np.cos(angles), 0.5 * np.sin(angles)], -1)
    points[36:42], points[42:48] = ring + [75, 90], ring + [125, 90]
    points[30], points[48], points[54] = (100, 120), (82, 148), (118, 148)
    return points


def _picture(seed: int) -> np.ndarray:
    """A random smooth texture in place of a face, `H W 3` uint8."""
    noise = np.random.default_rng(seed).standard_normal((SIZE_PX, SIZE_PX)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.repeat(np.clip(128 + 40 * smooth / smooth.std(), 5, 250)[..., None], 3, -1).astype(np.uint8)


def _similarity(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    return face_similarity(face_descriptor(*a), face_descriptor(*b))


def test_one_picture_twice_scores_one_and_the_vector_has_unit_length():
    vector = face_descriptor(_picture(0), _points())
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert face_similarity(vector, vector) == pytest.approx(1, abs=1e-5)


def test_different_pictures_score_far_lower():
    scores = [_similarity((_picture(0), _points()), (_picture(seed), _points())) for seed in range(1, 9)]
    assert max(scores) < 0.7  # textures share that they are no faces; faces of two people score about 0


def test_turned_and_enlarged_faces_are_the_same():
    matrix = cv2.getRotationMatrix2D((100, 100), 12, 1.3)
    moved = cv2.warpAffine(_picture(0), matrix, (SIZE_PX, SIZE_PX), borderMode=cv2.BORDER_REFLECT)
    points = _points() @ matrix[:, :2].T + matrix[:, 2]
    assert _similarity((_picture(0), _points()), (moved, points)) > 0.9


def test_alignment_puts_the_anchors_where_the_template_says():
    picture = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    for x, y in ((75, 90), (125, 90)):
        cv2.circle(picture, (x, y), 3, (255, 255, 255), -1)
    face = aligned_face(picture, _points())
    left, right = face[:, :56], face[:, 56:]
    for half, x0, expected in ((left, 0, 39), (right, 56, 73)):
        y, x = np.unravel_index(cv2.GaussianBlur(half, (0, 0), 2).argmax(), half.shape)
        assert abs(x + x0 - expected) <= 2 and abs(y - 46) <= 2


def test_light_changes_little():
    darker = (_picture(0) * 0.6 + 10).astype(np.uint8)
    assert _similarity((_picture(0), _points()), (darker, _points())) > 0.9


def test_a_mirrored_face_is_the_same_person():
    face = aligned_face(_picture(0), _points())
    mirrored = np.ascontiguousarray(face[:, ::-1])
    assert np.allclose(raw_descriptor(face), raw_descriptor(mirrored), atol=1e-5)


def test_background_whitens_the_people_it_was_made_from():
    raw = np.random.default_rng(0).standard_normal((200, 30)) @ np.diag(np.arange(1, 31)) + 5
    background = fit_background(raw, num_components=10)
    projected = (raw - background.mean) @ background.components
    assert np.allclose(projected.mean(0), 0, atol=1e-9)
    assert np.allclose(projected.T @ projected / 200, np.eye(10), atol=1e-9)


def test_too_few_faces_are_refused():
    with pytest.raises(ValueError, match="more faces"):
        fit_background(np.zeros((100, RAW_WIDTH)), num_components=128)


def test_package_background_fits_the_descriptor():
    background = package_background()
    assert background.mean.shape == (RAW_WIDTH,)
    assert background.components.shape[0] == RAW_WIDTH
    assert RAW_WIDTH == 8 * sum((112 // cell) ** 2 for cell in CELL_SIZES_PX) == 1960


def _texture_score(a: np.ndarray, b: np.ndarray) -> float:
    return texture_similarity(a, _points(), b, _points())


def test_texture_similarity_tells_textures_apart():
    same = _texture_score(_picture(0), _picture(0))
    others = [_texture_score(_picture(0), _picture(seed)) for seed in range(1, 9)]
    assert same == pytest.approx(1, abs=1e-5)
    assert max(others) < 0.3


def test_texture_similarity_ignores_framing_and_tint_but_not_blur():
    picture = _picture(0)
    matrix = cv2.getRotationMatrix2D((100, 100), 12, 1.3)
    moved = cv2.warpAffine(picture, matrix, (SIZE_PX, SIZE_PX), borderMode=cv2.BORDER_REFLECT)
    points = _points() @ matrix[:, :2].T + matrix[:, 2]
    assert texture_similarity(picture, _points(), moved, points) > 0.9
    pale = cv2.addWeighted(picture, 0.8, np.full_like(picture, 128), 0.2, 0)
    tinted = (pale * np.array([1.0, 0.9, 0.8])).astype(np.uint8)
    assert _texture_score(pale, tinted) > 0.9
    assert _texture_score(picture, cv2.GaussianBlur(picture, (0, 0), 6)) < 0.8


def test_texture_similarity_leaves_mouth_and_eyes_out():
    picture = _picture(0)
    speaking = picture.copy()
    cv2.ellipse(speaking, (100, 148), (18, 10), 0, 0, 360, (20, 0, 0), -1)
    cheek = picture.copy()
    cv2.ellipse(cheek, (70, 125), (18, 10), 0, 0, 360, (20, 0, 0), -1)
    assert _texture_score(picture, speaking) > _texture_score(picture, cheek) + 0.05
    assert _texture_score(picture, speaking) > 0.95
