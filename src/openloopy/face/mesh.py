"""The geometry of the 478-point face mesh: mean face, mirror image, iBUG points, head pose.

Points are those of MediaPipe Face Mesh with irises; the 68 points follow the iBUG 300-W order. Axes:
x right, y down, z to the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

MESH_POINTS = 478
FOREHEAD, CHIN = 10, 152
"""Mesh points at the top of the forehead and under the chin: the face height is measured between them."""
EAR_LEFT, EAR_RIGHT, NOSE_BRIDGE = 234, 454, 168
"""In the picture's sense of left and right."""

# fmt: off
MESH_TO_68 = np.array([
    127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356,  # 0-16 jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,                                      # 17-26 brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,                                                # 27-35 nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,                          # 36-47 eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,                                # 48-59 outer lips
    78, 82, 13, 312, 308, 317, 14, 87,                                                  # 60-67 inner lips
])
"""The 68 iBUG points as indices into the 478-point mesh."""
# fmt: on


@dataclass(frozen=True)
class Pose:
    """Head rotation in degrees, applied pitch first, then yaw, then roll."""

    yaw: float
    """Positive: the nose points to the right of the picture."""
    pitch: float
    """Positive: the nose points down."""
    roll: float
    """Positive: the head is tilted clockwise."""


@dataclass(frozen=True, eq=False)
class CanonicalMesh:
    """The mean face in centimetres, symmetric, looking at the viewer; x right, y down, z to the viewer."""

    vertices: np.ndarray
    """`478 3` cm, float64."""
    mirror: np.ndarray
    """`478`: the index of each point's mirror image."""


@lru_cache(maxsize=1)
def canonical_mesh() -> CanonicalMesh:
    """Our own mean of many fitted face meshes, symmetrised; read-only."""
    path = resources.files("openloopy") / "assets" / "canonical_mesh.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        vertices, mirror = arrays["vertices"].astype(np.float64), arrays["mirror"].astype(np.int64)
    vertices.setflags(write=False)
    mirror.setflags(write=False)
    return CanonicalMesh(vertices, mirror)


def mirror_68() -> np.ndarray:
    """`68`: the index of each iBUG point's mirror image."""
    mirrored = canonical_mesh().mirror[MESH_TO_68]
    return np.array([np.flatnonzero(MESH_TO_68 == index)[0] for index in mirrored])


def fit_similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Least-squares similarity (Umeyama 1991): target = scale * rotation @ source + translation.

    Args:
        source, target: `n 3`.

    Returns:
        scale, rotation `3 3` (determinant +1), translation `3`.
    """
    mean_s, mean_t = source.mean(0), target.mean(0)
    centred = source - mean_s
    u, s, vt = np.linalg.svd(centred.T @ (target - mean_t))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = ((u * signs) @ vt).T
    scale = float((s * signs).sum() / (centred**2).sum())
    return scale, rotation, mean_t - scale * rotation @ mean_s


def rotation_of(pose: Pose) -> np.ndarray:
    """Pose -> rotation matrix `3 3` that turns the canonical mesh to it."""
    y, p, r = np.deg2rad([pose.yaw, pose.pitch, pose.roll])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    turn_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return turn_z @ turn_y @ turn_x


def pose_of_rotation(rotation: np.ndarray) -> Pose:
    """The inverse of `rotation_of`, for |yaw| < 90."""
    yaw = np.arcsin(np.clip(-rotation[2, 0], -1, 1))
    pitch = np.arctan2(-rotation[2, 1], rotation[2, 2])
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return Pose(*(float(angle) for angle in np.rad2deg([yaw, pitch, roll])))


@lru_cache(maxsize=1)
def _rigid_points() -> np.ndarray:
    """Mesh points that speech and blinking hardly move: above the mouth, and not a lid or an iris."""
    vertices = canonical_mesh().vertices
    nose_base_y = vertices[2, 1]
    near_an_eye = np.zeros(MESH_POINTS, dtype=bool)
    for iris in (468, 473):
        near_an_eye |= np.linalg.norm(vertices[:, :2] - vertices[iris, :2], axis=1) < 2.0
    return np.flatnonzero((vertices[:, 1] < nose_base_y) & ~near_an_eye)


def pose_of(mesh: np.ndarray) -> Pose:
    """Head rotation of a mesh, `478 3`, by a Procrustes fit of the canonical mesh's rigid points."""
    rigid = _rigid_points()
    return pose_of_rotation(fit_similarity(canonical_mesh().vertices[rigid], mesh[rigid])[1])
