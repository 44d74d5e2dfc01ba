"""Whether something lies over a mouth: a mask, a microphone, a scarf, a hand. It would open with the mouth."""

from __future__ import annotations

import numpy as np
import torch

from openloopy.face.mesh import CHIN, FOREHEAD
from openloopy.face.networks import (
    COVER_SIDE,
    MOUTH_ANCHORS,
    PART_PX,
    FaceNetworks,
    shipped_networks,
    to_input,
)
from openloopy.face.square import FaceSquare

OUTER_EYES = (33, 263)
LEAST_SURE = 0.95
"""Of a mouth that passes for covered: more than any of 796 bare portraits has, less than nine of ten masked ones."""


def mouth_square(mesh: np.ndarray) -> FaceSquare:
    """What the network sees of a face, from its mesh `478 2..3` px: mouth, chin and half of the cheeks."""
    across = mesh[OUTER_EYES[1], :2] - mesh[OUTER_EYES[0], :2]
    height = float(np.linalg.norm(mesh[CHIN, :2] - mesh[FOREHEAD, :2]))
    roll = float(np.arctan2(across[1], across[0]))
    return FaceSquare(mesh[list(MOUTH_ANCHORS), :2].mean(0), COVER_SIDE * height, roll)


def mouth_is_covered(rgb: np.ndarray, mesh: np.ndarray) -> bool:
    """Whether something surely lies over the mouth of a face in a picture `H W 3` uint8; mesh: `478 2..3` px of it."""
    return covered_share(rgb, mesh) >= LEAST_SURE


@torch.inference_mode()
def covered_share(rgb: np.ndarray, mesh: np.ndarray, networks: FaceNetworks | None = None) -> float:
    """How sure it is, 0 to 1, that the mouth of a face in a picture `H W 3` uint8 is covered, from two mirror images.

    Args:
        mesh: `478 2..3` px of the picture.
        networks: others than those that come with the package.
    """
    cover = (networks or shipped_networks()).cover
    if cover is None:
        return 0.0
    square = mouth_square(mesh)
    cuts = np.stack([square.varied(1.0, mirrored).cut(rgb, PART_PX) for mirrored in (False, True)])
    return float(torch.sigmoid(cover(to_input(cuts)).mean()))
