"""Face states of a shard's clip: as they were written down, or fitted to its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openloopy.data.clips import decode_frames
from openloopy.data.shards import STATES, Sample
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.mesh import MESH_POINTS, MESH_TO_68
from openloopy.rig.fit import fit
from openloopy.rig.state import NAMES

MIN_PRESENT = 0.9
"""Share of frames in which a face must be found."""


@dataclass(frozen=True, eq=False)
class ClipStates:
    """What is known of a clip's face.

    Attributes:
        values: states `f n`.
        seen: `n` bool: which values are known; the others are at rest.
        points68: landmarks of this person's face, looking ahead on average, `k 68 2` in any unit.
    """

    values: np.ndarray
    seen: np.ndarray
    points68: np.ndarray


def states_of(sample: Sample) -> ClipStates:
    """The states of a sample.

    Raises:
        ValueError: neither states nor pictures, or too few frames with a face.
    """
    if STATES in sample.arrays:
        every = np.ones(len(NAMES), bool)
        return ClipStates(sample.arrays[STATES], every, sample.arrays["points68"])
    if sample.mp4 is None:
        raise ValueError(
            f"clip {sample.record.clip_id} holds neither face states of this version ({STATES}) nor pictures; "
            "make the corpus again with `openloopy puppet --states`"
        )
    return fitted_states(decode_frames(sample.mp4), sample.record.clip_id)


def fitted_states(frames: np.ndarray, name: str = "the clip") -> ClipStates:
    """States fitted to the largest face of pictures `f H W 3` uint8; name: for errors."""
    landmarker = NetworkLandmarker()
    meshes = np.full((len(frames), MESH_POINTS, 3), np.nan, np.float32)
    for i, frame in enumerate(frames):
        faces = landmarker.detect(frame)
        if faces:
            meshes[i] = faces[0].mesh
    found = np.isfinite(meshes).all((1, 2)).mean()
    if found < MIN_PRESENT:
        raise ValueError(f"{name} shows a face in {found:.0%} of its frames, fewer than {MIN_PRESENT:.0%}")
    fitted = fit(meshes, frames=frames)
    return ClipStates(fitted.states.values, fitted.seen, fitted.shape.points_cm[None, MESH_TO_68, :2])
