"""Eyes and mouth seen again, enlarged: their mesh points come from small networks of their own.

As in attention mesh (Grishchenko et al. 2020), though there the parts share the mesh network's features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from openloopy.face.mesh import CHIN, FOREHEAD, canonical_mesh
from openloopy.face.networks import (
    EYE_CORNERS,
    EYE_SIDE,
    MESH_PX,
    MOUTH_ANCHORS,
    MOUTH_SIDE,
    PART_PX,
    FaceParts,
    eye_points,
    mouth_points,
    to_input,
)
from openloopy.face.square import FaceSquare

OUTER_EYES = (33, 263)
"""Mesh points whose line says how a view is tilted."""


@dataclass(frozen=True)
class Part:
    """One eye, or the mouth.

    points: mesh points in the order of the network's output; anchors: mesh points whose mean is the centre;
    side: of the square, in face heights.
    """

    network: str
    points: np.ndarray
    anchors: tuple[int, ...]
    side: float
    is_mirrored: bool = False

    def square(self, mesh: np.ndarray) -> FaceSquare:
        """Where the part lies, from a mesh `478 2..3` px of a picture."""
        across = mesh[OUTER_EYES[1], :2] - mesh[OUTER_EYES[0], :2]
        height = float(np.linalg.norm(mesh[CHIN, :2] - mesh[FOREHEAD, :2]))
        centre = mesh[list(self.anchors), :2].mean(0)
        roll = float(np.arctan2(across[1], across[0]))
        return FaceSquare(centre, self.side * height, roll, self.is_mirrored)


@lru_cache(maxsize=1)
def face_parts() -> tuple[Part, Part, Part]:
    """The left eye of the picture, the right one (which the same network sees in a mirror), the mouth."""
    mirror = canonical_mesh().mirror
    left = Part("eye", eye_points(), EYE_CORNERS, EYE_SIDE)
    right = Part(
        "eye", mirror[eye_points()], tuple(int(i) for i in mirror[list(EYE_CORNERS)]), EYE_SIDE, True
    )
    return left, right, Part("mouth", mouth_points(), MOUTH_ANCHORS, MOUTH_SIDE)


@torch.inference_mode()
def refine_parts(networks: FaceParts, views: np.ndarray, meshes: np.ndarray) -> np.ndarray:
    """Meshes whose eyes and mouths are those that the part networks see.

    Args:
        views: `n 128 128 3` uint8.
        meshes: of the mesh network, `n 478 3` in view sides from the centre.

    Returns:
        As meshes; depth is left as it was.
    """
    refined = meshes.copy()
    in_px = (meshes[..., :2] + 0.5) * MESH_PX
    for name in ("eye", "mouth"):
        parts = [part for part in face_parts() if part.network == name]
        squares = [(i, part, part.square(in_px[i])) for part in parts for i in range(len(views))]
        cuts = np.stack([square.cut(views[i], PART_PX) for i, _, square in squares])
        found = getattr(networks, name)(to_input(cuts)).numpy()
        for (i, part, square), points in zip(squares, found, strict=True):
            refined[i, part.points, :2] = square.points_to_picture(points) / MESH_PX - 0.5
    return refined
