"""Glo, Exp, blinks and head speed on tracks made by formula."""

import numpy as np
import pytest

from openloopy.face.landmarks import Face
from openloopy.face.movement import lip_gap
from openloopy.measures.motion import (
    BlinkConfig,
    blinks,
    blinks_per_minute,
    border_step_ratio,
    exp,
    face_found,
    glo,
    head_speed,
    per_frame,
    points_of,
)

EYE_DISTANCE_PX = 100.0
FPS = 25.0


def _still_face(num_frames: int = 100) -> np.ndarray:
    """A face that does not move, `f 68 2` px, with the outer eye corners `EYE_DISTANCE_PX` apart."""
    points = np.random.default_rng(0).uniform(50, 200, (68, 2)).astype(np.float32)
    points[36], points[45] = (80, 100), (80 + EYE_DISTANCE_PX, 100)
    return np.repeat(points[None], num_frames, 0)


def test_a_step_between_clips_shows_and_an_even_motion_does_not():
    def walk(steps: np.ndarray) -> np.ndarray:
        points = np.zeros((len(steps) + 1, 68, 2))
        points[1:, :, 0] = np.cumsum(steps)[:, None]
        return points

    even = np.ones(47)
    jumping = even.copy()
    jumping[11::12] = 3.0
    assert border_step_ratio(walk(even), 12) == pytest.approx(1)
    assert border_step_ratio(walk(jumping), 12) == pytest.approx(3)
    lost = walk(jumping)
    lost[5] = np.nan
    assert border_step_ratio(lost, 12) == pytest.approx(3)
    with pytest.raises(ValueError, match="a border between two, got 12 frames"):
        border_step_ratio(walk(even)[:12], 12)


def test_a_still_face_has_no_motion():
    face = _still_face()
    assert [glo(face), exp(face), head_speed(face, FPS)] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_swaying_head_has_the_variance_of_a_sine_and_no_expression():
    face = _still_face(100)
    amplitude_px = 5.0
    face[..., 0] += amplitude_px * np.sin(2 * np.pi * np.arange(100) / 50)[:, None]
    expected = 1e4 * (amplitude_px**2 / 2) / EYE_DISTANCE_PX**2
    assert glo(face) == pytest.approx(expected, rel=1e-3)
    assert exp(face) == pytest.approx(0, abs=1e-6)


def test_brows_are_expression_and_the_mouth_is_not():
    brows, mouth = _still_face(), _still_face()
    wave = 3 * np.sin(2 * np.pi * np.arange(100) / 25)[:, None]
    brows[:, 17:27, 1] += wave
    mouth[:, 48:68, 1] += wave
    assert exp(brows) > 0.1
    assert exp(mouth) == pytest.approx(0, abs=1e-6)
    assert glo(brows) == pytest.approx(0, abs=1e-6)


def test_motion_does_not_depend_on_the_size_of_the_picture():
    face = _still_face()
    face += np.random.default_rng(1).standard_normal((100, 1, 2)).astype(np.float32)
    assert glo(2 * face) == pytest.approx(glo(face), rel=1e-3)
    assert head_speed(2 * face, FPS) == pytest.approx(head_speed(face, FPS), rel=1e-3)


def test_head_speed_of_a_steady_drift():
    face = _still_face(50)
    face[..., 0] += 2.0 * np.arange(50)[:, None]
    assert head_speed(face, FPS) == pytest.approx(2.0 * FPS / EYE_DISTANCE_PX)


def test_frames_without_a_face_are_left_out():
    face = _still_face()
    face[10:20] = np.nan
    assert glo(face) == pytest.approx(0, abs=1e-6)
    face[1:] = np.nan
    with pytest.raises(ValueError, match="1 of 100"):
        glo(face)
    alternating = _still_face()
    alternating[::2] = np.nan
    with pytest.raises(ValueError, match="two frames in a row of 100"):
        head_speed(alternating, FPS)


def _eye(num_frames: int, blink_starts: list[int], closed: float = 0.02) -> np.ndarray:
    opening = np.full(num_frames, 0.10)
    for start in blink_starts:
        opening[start : start + 5] = [0.07, closed, closed, 0.05, 0.08]
    return opening


def test_blinks_are_counted_per_minute():
    opening = _eye(750, [100, 300, 500, 520])
    assert len(blinks(opening, FPS)) == 4
    assert blinks_per_minute(opening, FPS) == pytest.approx(8.0)


def test_jitter_at_one_threshold_is_one_blink():
    opening = _eye(200, [])
    opening[50:60] = [0.05, 0.06, 0.05, 0.06, 0.05, 0.06, 0.05, 0.06, 0.05, 0.06]
    assert blinks(opening, FPS) == [(50, 60)]


def test_half_closing_missing_frames_and_sleep_are_no_blinks():
    opening = _eye(400, [], closed=0.06)
    opening[100:104] = 0.065
    opening[150:155] = np.nan
    opening[200:260] = 0.01
    assert blinks(opening, FPS) == []


def test_errors():
    with pytest.raises(ValueError, match="no face"):
        blinks(np.full(10, np.nan), FPS)
    with pytest.raises(ValueError, match="close_below"):
        BlinkConfig(close_below=0.8, open_above=0.7)


def test_a_lost_frame_stays_lost_and_leaves_the_others_alone():
    mesh = np.random.default_rng(0).uniform(0, 100, (478, 3))
    face = Face.from_mesh(mesh)
    points = points_of([face, None, face, face])
    assert face_found(points) == 0.75
    track = per_frame(lip_gap, points)
    assert np.isnan(track).tolist() == [False, True, False, False]
    assert track[0] == pytest.approx(lip_gap(face.points68[None])[0])
    assert np.isnan(per_frame(lip_gap, points_of([None, None]))).all()
