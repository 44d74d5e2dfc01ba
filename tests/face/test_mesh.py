"""The mean mesh, its mirror image, and head poses."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.mesh import (
    CHIN,
    FOREHEAD,
    MESH_TO_68,
    Pose,
    canonical_mesh,
    fit_similarity,
    mirror_68,
    pose_of,
    pose_of_rotation,
    rotation_of,
)

NOSE_TIP, EYE_LEFT, EYE_RIGHT = 4, 33, 263


def test_canonical_mesh_stands_upright_faces_the_viewer_and_is_symmetric():
    mesh = canonical_mesh()
    assert mesh.vertices[FOREHEAD, 1] < mesh.vertices[NOSE_TIP, 1] < mesh.vertices[CHIN, 1]
    assert mesh.vertices[NOSE_TIP, 2] > mesh.vertices[:468, 2].mean() + 2
    np.testing.assert_allclose(mesh.vertices[mesh.mirror] * [-1, 1, 1], mesh.vertices, atol=1e-5)
    with pytest.raises(ValueError):
        mesh.vertices[0] = 0


def test_irises_keep_the_order_of_their_rings_in_the_mirror():
    mesh = canonical_mesh()
    ring = {0: (0, 0), 1: (1, 0), 2: (0, -1), 3: (-1, 0), 4: (0, 1)}  # centre, right, top, left, bottom
    for eye, other in ((468, 473), (473, 468)):
        for k, (x, y) in ring.items():
            np.testing.assert_allclose(
                mesh.vertices[eye + k, :2] - mesh.vertices[eye, :2], [0.585 * x, 0.585 * y], atol=1e-5
            )
            assert mesh.mirror[eye + k] == other + {1: 3, 3: 1}.get(k, k)


def test_mirror_68_pairs_left_with_right():
    mirror = mirror_68()
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    pairs = {
        0: 16,
        8: 8,
        17: 26,
        30: 30,
        31: 35,
        36: 45,
        37: 44,
        40: 47,
        48: 54,
        60: 64,
        61: 63,
        62: 62,
        67: 65,
    }
    assert {left: int(mirror[left]) for left in pairs} == pairs


def test_68_points_lie_where_ibug_has_them():
    x, y = canonical_mesh().vertices[MESH_TO_68, :2].T
    assert (
        np.all(np.diff(x[4:13]) > 0) and y[8] == y[:17].max()
    )  # the jaw runs left to right, lowest at the chin
    assert np.all(np.diff(x[17:27]) > 0) and np.all(np.diff(y[27:31]) > 0)
    for top, low in ((37, 41), (38, 40), (43, 47), (44, 46), (51, 57), (61, 67), (62, 66), (63, 65)):
        assert y[top] < y[low] and abs(x[top] - x[low]) < 0.35
    assert x[36] < x[39] < x[42] < x[45] and x[48] < x[60] < x[64] < x[54]


@pytest.mark.parametrize("seed", range(3))
def test_fit_similarity_recovers_a_known_one(seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(30, 3))
    rotation = rotation_of(Pose(*rng.uniform(-60, 60, 3)))
    target = 3.7 * source @ rotation.T + [5, -2, 9]
    scale, found, offset = fit_similarity(source, target)
    assert scale == pytest.approx(3.7)
    np.testing.assert_allclose(found, rotation, atol=1e-9)
    np.testing.assert_allclose(offset, [5, -2, 9], atol=1e-9)


def test_signs_of_the_angles():
    vertices = canonical_mesh().vertices
    assert (vertices @ rotation_of(Pose(20, 0, 0)).T)[NOSE_TIP, 0] > 1  # to the picture's right
    assert (vertices @ rotation_of(Pose(0, 20, 0)).T)[NOSE_TIP, 1] > vertices[NOSE_TIP, 1] + 1  # down
    rolled = vertices @ rotation_of(Pose(0, 0, 20)).T
    assert rolled[EYE_RIGHT, 1] > rolled[EYE_LEFT, 1] + 1  # clockwise


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, -10, 5), (-40, 20, -30), (3, 35, 80)])
def test_pose_of_a_turned_mesh(angles):
    turned = 21.0 * canonical_mesh().vertices @ rotation_of(Pose(*angles)).T + [100, 120, 7]
    pose = pose_of(turned)
    np.testing.assert_allclose([pose.yaw, pose.pitch, pose.roll], angles, atol=1e-6)
    again = pose_of_rotation(rotation_of(pose))
    assert again.yaw == pytest.approx(pose.yaw)


def test_pose_does_not_see_the_mouth_and_the_lids():
    vertices = canonical_mesh().vertices.copy()
    vertices[vertices[:, 1] > 3.5, 1] += 1.5  # a wide open jaw
    vertices[[159, 145, 386, 374], 1] += 0.4
    pose = pose_of(vertices)
    assert max(abs(pose.yaw), abs(pose.pitch), abs(pose.roll)) < 1e-6
