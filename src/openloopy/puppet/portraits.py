"""The people of a puppet corpus: still portraits with their face meshes, refused ones with reasons.

A folder of portraits may hold a manifest (`manifest.csv`, in any case) with the columns file, kind, split, person,
licence; then exactly its files count. Without one every picture is its own person, and the split is drawn from a
hash of the person. Splits are by person, always.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np

from openloopy.data.records import Split
from openloopy.data.shards import Dropped
from openloopy.face.crop import select_face
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.mesh import MESH_POINTS
from openloopy.media.image import read_image
from openloopy.media.picture_file import PICTURE_ENDINGS
from openloopy.media.text_file import read_table
from openloopy.rig.portrait_rig import check_portrait

MANIFEST_NAME = "manifest.csv"
UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """One picture of one person."""

    file: str
    """Name inside the portraits folder; for drawn faces the person's id."""
    person_id: str
    split: Split
    licence: str = UNKNOWN_LICENCE
    kind: str = "photo"


@dataclass(frozen=True, kw_only=True)
class MeshedPortrait:
    """A portrait that passed the gate, with its face."""

    portrait: Portrait
    mesh: np.ndarray
    """`478 3` px of the picture."""


def split_of(person_id: str, val_share: float) -> Split:
    """A person's split, from a hash of the id: the same on every machine and whoever else is there."""
    digest = hashlib.sha256(person_id.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"


def list_portraits(folder: Path, val_share: float) -> list[Portrait]:
    """The portraits of a folder in a fixed order: the manifest's, or all pictures by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with portraits (jpg, png, ...)")
    manifests = [path for path in folder.iterdir() if path.name.lower() == MANIFEST_NAME]
    if manifests:
        portraits = _read_manifest(manifests[0], val_share)
    else:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
        portraits = [Portrait(file=n, person_id=n, split=split_of(n, val_share)) for n in names]
    if not portraits:
        raise ValueError(
            f"{folder} holds no portraits; expected pictures ending in {', '.join(sorted(PICTURE_ENDINGS))}"
        )
    return portraits


def mesh_portrait(folder: Path, portrait: Portrait) -> MeshedPortrait | Dropped:
    """Finds the face and applies the gate. Whatever is wrong with the picture becomes a reason."""
    landmarker = _landmarker()  # outside: a missing library is not the picture's fault
    try:
        rgb = read_image(Path(folder) / portrait.file)
        face = select_face(landmarker.detect(rgb), (rgb.shape[1], rgb.shape[0]))
        reason = check_portrait(face, rgb)
    except Exception as error:
        reason = describe_error(error)
    if reason is not None:
        return Dropped(source=portrait.file, reason=reason.replace(f"{folder}/", ""))
    return MeshedPortrait(portrait=portrait, mesh=face.mesh.astype(np.float32))


def describe_error(error: Exception) -> str:
    """A reason in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def save_meshes(path: Path, meshed: list[MeshedPortrait]) -> None:
    """Writes portraits and meshes to one .npz."""
    rows = [[p.file, p.person_id, p.split, p.licence, p.kind] for p in (m.portrait for m in meshed)]
    meshes = np.stack([m.mesh for m in meshed]) if meshed else np.zeros((0, MESH_POINTS, 3), np.float32)
    np.savez(path, portraits=np.array(rows, dtype=str).reshape(-1, 5), meshes=meshes)


def load_meshes(path: Path) -> list[MeshedPortrait]:
    """The inverse of `save_meshes`."""
    with np.load(path) as stored:
        rows, meshes = stored["portraits"].tolist(), stored["meshes"]
    names = ("file", "person_id", "split", "licence", "kind")
    return [
        MeshedPortrait(portrait=Portrait(**dict(zip(names, row, strict=True))), mesh=mesh)
        for row, mesh in zip(rows, meshes, strict=True)
    ]


@lru_cache(maxsize=1)
def _landmarker() -> NetworkLandmarker:
    return NetworkLandmarker()


def _read_manifest(path: Path, val_share: float) -> list[Portrait]:
    rows = read_table(path, "a list of portraits", ("file",))
    portraits = [_from_row(path, row, val_share) for row in rows]
    splits: dict[str, Split] = {}
    for portrait in portraits:
        if splits.setdefault(portrait.person_id, portrait.split) != portrait.split:
            raise ValueError(
                f"{path}: person {portrait.person_id!r} is in train and in val; a person belongs to one split only"
            )
    return portraits


def _from_row(path: Path, row: dict[str, str], val_share: float) -> Portrait:
    person_id = row.get("person") or row["file"]
    split = row.get("split") or split_of(person_id, val_share)
    if split not in get_args(Split):
        raise ValueError(f"{path}: split of {row['file']} is {split!r}, expected one of {get_args(Split)}")
    return Portrait(
        file=row["file"],
        person_id=person_id,
        split=split,
        licence=row.get("licence") or UNKNOWN_LICENCE,
        kind=row.get("kind") or "photo",
    )
