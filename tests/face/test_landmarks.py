"""The trained landmarker: any picture size, small and several faces, tracks without lag."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from openloopy.face.crop import Crop, apply_crop, portrait_crop
from openloopy.face.landmarks import Face, NetworkLandmarker, mirror_face
from openloopy.face.movement import eye_distance, lip_gap
from openloopy.media.image import read_image
from openloopy.puppet.drawn import draw_face


def mesh_error(found: Face, mesh: np.ndarray) -> float:
    """Mean distance of the skin points, in eye distances."""
    unit = np.linalg.norm(mesh[33, :2] - mesh[263, :2])
    return float(np.linalg.norm(found.mesh[:468, :2] - mesh[:468, :2], axis=1).mean() / unit)


def wall(width: int, height: int) -> np.ndarray:
    """A picture of nothing in particular."""
    blocks = np.random.default_rng(0).integers(90, 160, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC)


def hang(room: np.ndarray, picture: np.ndarray, x: int, y: int) -> None:
    room[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


@pytest.mark.parametrize("size_px", [64, 256, 700])
def test_finds_a_face_where_it_was_drawn(landmarker, size_px):
    drawn = draw_face(np.random.default_rng(5), size_px)
    (face,) = landmarker.detect(drawn.rgb)
    assert mesh_error(face, drawn.mesh) < (0.08 if size_px == 64 else 0.04)
    truth = Face.from_mesh(drawn.mesh).pose
    assert abs(face.pose.yaw - truth.yaw) < 5 and abs(face.pose.roll - truth.roll) < 2
    assert 0.4 <= face.score <= 1
    true = Face.from_mesh(drawn.mesh).height_px
    assert face.height_px == pytest.approx(true, rel=0.1)


def test_faces_come_largest_first_and_at_most_as_many_as_asked_for(landmarker):
    room = wall(900, 400)
    for size_px, x in ((200, 20), (320, 280), (250, 630)):
        hang(room, draw_face(np.random.default_rng(size_px), size_px).rgb, x, 30)
    faces = landmarker.detect(room)
    assert [round(face.box[0] // 300) for face in faces] == [1, 2, 0]
    assert len(NetworkLandmarker(max_faces=2).detect(room)) == 2


def test_finds_a_small_face_in_a_large_picture(landmarker):
    drawn = draw_face(np.random.default_rng(2), 170)  # the face is 4 % of the picture's width
    room = wall(2000, 1400)
    hang(room, drawn.rgb, 1500, 900)
    (face,) = landmarker.detect(room)
    assert mesh_error(face, drawn.mesh + [1500, 900, 0]) < 0.04


def test_nothing_is_found_where_there_is_nothing(landmarker):
    assert landmarker.detect(wall(640, 480)) == []
    assert landmarker.detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_mirrored_picture_gives_the_mirrored_face(landmarker, drawn):
    (face,) = landmarker.detect(drawn.rgb)
    (turned,) = landmarker.detect(np.ascontiguousarray(drawn.rgb[:, ::-1]))
    assert mesh_error(mirror_face(turned, drawn.rgb.shape[1]), face.mesh) < 0.03
    assert turned.pose.yaw == pytest.approx(-face.pose.yaw, abs=3)


def test_tracks_a_moving_face_without_lag(landmarker, drawn):
    shifts = np.round(12 * np.sin(np.arange(16) * 0.9)).astype(int)
    frames = [np.roll(drawn.rgb, shift, axis=1) for shift in shifts]
    track = landmarker.track(frames)
    nose = np.array([face.points68[30, 0] for face in track])
    np.testing.assert_allclose(nose - nose.mean(), shifts - shifts.mean(), atol=1.5)


def test_track_follows_a_small_face_through_a_large_frame(landmarker):
    drawn = draw_face(np.random.default_rng(4), 300)
    frames = []
    for x in range(100, 900, 100):
        frames.append(wall(1280, 720))
        hang(frames[-1], drawn.rgb, x, 200)
    track = landmarker.track(frames)
    for x, face in zip(range(100, 900, 100), track, strict=True):
        assert face is not None and mesh_error(face, drawn.mesh + [x, 200, 0]) < 0.05


def test_lost_frames_are_none_and_the_face_is_found_again(landmarker, drawn):
    empty = np.full_like(drawn.rgb, 128)
    track = landmarker.track([drawn.rgb, drawn.rgb, empty, empty, drawn.rgb])
    assert [face is None for face in track] == [False, False, True, True, False]


def test_points68_are_the_mesh_points():
    mesh = np.random.default_rng(0).uniform(0, 100, (478, 3)).astype(np.float32)
    points = Face.from_mesh(mesh).points68
    assert points.shape == (68, 2) and points.dtype == np.float32
    np.testing.assert_array_equal(points[[8, 30, 36, 48, 62]], mesh[[152, 4, 33, 61, 13], :2])


def test_every_sample_portrait_has_one_face(landmarker, samples):
    for path in sorted((samples / "portraits").iterdir()):
        faces = landmarker.detect(read_image(path))
        assert len(faces) == 1, f"{path.name}: {len(faces)} faces"
        assert faces[0].score > 0.6 and abs(faces[0].pose.roll) < 15


def test_real_video_is_tracked_as_single_pictures_are(landmarker, samples):
    path = sorted((samples / "videos").glob("*.mpg"))[0]
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    track = landmarker.track(frames)
    assert None not in track
    points = np.stack([face.points68 for face in track])
    single = np.stack([landmarker.detect(frame)[0].points68 for frame in frames[::3]])
    assert np.linalg.norm(points[::3] - single, axis=-1).mean() < 0.02 * eye_distance(single).mean()
    assert np.corrcoef(lip_gap(points)[::3], lip_gap(single))[0, 1] > 0.97
    crop = portrait_crop(track[0], frames[0].shape[1::-1])
    heads = landmarker.track([apply_crop(frame, crop, 256) for frame in frames])
    gaps = lip_gap(np.stack([face.points68 for face in heads]))
    assert np.corrcoef(gaps, lip_gap(points))[0, 1] > 0.97


def test_crop_reaching_outside_still_shows_the_face(landmarker, drawn):
    beyond = apply_crop(drawn.rgb, Crop(-150, -150, 556), 400)
    (face,) = landmarker.detect(beyond)
    expected = Crop(-150, -150, 556).to_crop(drawn.mesh, 400)
    assert mesh_error(face, expected) < 0.05
