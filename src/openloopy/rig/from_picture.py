"""From a square picture to its rig: finds the face and the person where they are not given."""

from __future__ import annotations

import numpy as np

from openloopy.face.crop import select_face
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.person_mask import PersonSegmenter
from openloopy.rig.field import NOTHING_OUTSIDE, Outside
from openloopy.rig.portrait_rig import PortraitRig

TEETH_SEED = 1
"""Of what the portrait does not show: the same portrait always gets the same teeth."""


def rig_of(
    rgb: np.ndarray,
    mesh: np.ndarray | None = None,
    *,
    still_sides: tuple[str, ...] = (),
    outside: Outside = NOTHING_OUTSIDE,
) -> PortraitRig:
    """The rig of a portrait `S S 3` uint8.

    Args:
        rgb: the crop about the face.
        mesh: its face mesh, `478 3` px; None: it is looked for.
        still_sides, outside: see `PortraitRig`.

    Raises:
        NoFaceError: no face was given or found.
    """
    if mesh is None:
        mesh = select_face(NetworkLandmarker().detect(rgb), rgb.shape[1::-1]).mesh
    return PortraitRig(
        rgb,
        mesh,
        PersonSegmenter().mask(rgb),
        rng=np.random.default_rng(TEETH_SEED),
        still_sides=still_sides,
        outside=outside,
    )
