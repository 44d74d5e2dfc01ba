"""Faces and sound of filmed clips for the benchmarks of lip synchrony, followed once and kept in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openloopy.data.cut import in_shots
from openloopy.data.describe import cut_sound
from openloopy.data.footage import SteadyReader
from openloopy.data.tracks import PeopleTracker, Track
from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.measures.lip_sync import SAMPLES_PER_FRAME
from openloopy.media.audio import SAMPLE_RATE_HZ, open_sound
from openloopy.media.files import atomic_write

NEVER_CUT = 10**9


@dataclass(frozen=True, eq=False)
class Followed:
    """The longest stretch of one file in which somebody is followed."""

    name: str
    meshes: np.ndarray
    """`f 478 3` px."""
    sound: np.ndarray
    """`f*640` float32 at 16 kHz."""

    @property
    def faces(self) -> list[Face]:
        return [Face.from_mesh(mesh) for mesh in self.meshes]


def follow(path: Path, cache: Path) -> Followed:
    """Reads CACHE/NAME.npz, or makes it as `openloopy prepare` would follow the file."""
    stored = cache / f"{path.stem}.npz"
    if not stored.exists():
        cache.mkdir(parents=True, exist_ok=True)
        meshes, sound = _follow(path)
        with atomic_write(stored) as partial_path, open(partial_path, "wb") as file:
            np.savez_compressed(file, meshes=meshes, sound=sound)
    with np.load(stored) as arrays:
        return Followed(path.stem, arrays["meshes"], arrays["sound"].astype(np.float32) / 32767)


def _follow(path: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = SteadyReader(path)
    found = PeopleTracker(NetworkLandmarker(), NEVER_CUT).run(in_shots(reader))
    track = max((item for item in found if isinstance(item, Track)), key=lambda item: len(item.faces))
    opened = open_sound(path)
    lead = round((opened.start_s - reader.info.first_time_s) * SAMPLE_RATE_HZ)
    first, length = track.start * SAMPLES_PER_FRAME - lead, len(track.faces) * SAMPLES_PER_FRAME
    sound, _ = cut_sound(opened.waveform, first, length)
    meshes = np.stack([face.mesh for face in track.faces])
    return meshes, (np.clip(sound, -1, 1) * 32767).round().astype(np.int16)
