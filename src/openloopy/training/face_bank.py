"""A bank of labelled views and scenes on disk, from which the face networks learn."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from openloopy.face.mesh import MESH_POINTS
from openloopy.training.loop import step_generator

STEP_WEIGHTS = "weights.safetensors"
KINDS = ("portrait", "puppet", "footage", "drawn", "toon", "cartoon")
"""drawn, cartoon: by code (`puppet.drawn`, `puppet.cartoon`); toon: portraits and drawn faces, exaggerated and drawn
over (`training.face_toon`)."""

Background = Callable[[np.random.Generator, int], np.ndarray]
"""A picture `size size 3` uint8 without any face; given by the recipe."""


@dataclass(frozen=True)
class FaceView:
    """A square about one face, `S S 3` uint8, and its mesh in px of it, `478 3` (depth NaN where unknown)."""

    picture: np.ndarray
    mesh: np.ndarray
    split: str
    kind: str
    person: str


@dataclass(frozen=True, kw_only=True)
class FaceBank:
    """Labelled views and scenes on disk, memory-mapped. Coordinates: px, the first pixel covers 0..1."""

    INDEX = "index.json"

    views: np.ndarray
    """`n S S 3` uint8."""
    meshes: np.ndarray
    """`n 478 3` px of the view."""
    view_split: np.ndarray
    view_kind: np.ndarray
    scenes: np.ndarray
    """`m T T 3` uint8; pictures lie at the top left."""
    scene_masks: np.ndarray
    """`m T T` uint8, 255 on the person."""
    scene_sizes: np.ndarray
    """`m 2`: width and height of the picture."""
    scene_split: np.ndarray
    scene_faces: tuple[np.ndarray, ...]
    """Per scene `k 478 3` px."""
    sha256: str

    @staticmethod
    def write_part(file: IO[bytes], views: list[FaceView], scenes: list[dict], reason: str) -> None:
        """One source's labels as .npz; `reason`: why there are none."""
        arrays = {
            "views": np.stack([v.picture for v in views]) if views else np.zeros((0, 1, 1, 3), np.uint8),
            "meshes": np.stack([v.mesh for v in views]) if views else np.zeros((0, MESH_POINTS, 3)),
            "about": np.array([[v.split, v.kind, v.person] for v in views], dtype=str).reshape(-1, 3),
            "scenes": np.stack([s["picture"] for s in scenes])
            if scenes
            else np.zeros((0, 1, 1, 3), np.uint8),
            "scene_masks": np.stack([s["mask"] for s in scenes]) if scenes else np.zeros((0, 1, 1), np.uint8),
            "scene_sizes": np.array([s["size"] for s in scenes], np.int64).reshape(-1, 2),
            "scene_split": np.array([s["split"] for s in scenes], dtype=str),
            "scene_counts": np.array([len(s["meshes"]) for s in scenes], np.int64),
            "scene_meshes": np.concatenate([s["meshes"] for s in scenes])
            if scenes
            else np.zeros((0, MESH_POINTS, 3)),
            "reason": np.array(reason),
        }
        np.savez(file, **arrays)

    @classmethod
    def write(cls, folder: Path, parts: list[Path]) -> None:
        """Joins the parts into arrays that can be memory-mapped."""
        small: dict[str, list] = {}
        counts = {"views": 0, "scenes": 0}
        sides = {}
        for path in parts:
            with np.load(path) as part:
                for name in counts:
                    counts[name] += len(part[name])
                    if len(part[name]):
                        sides[name] = part[name].shape[1]
                for name in ("meshes", "about", "scene_sizes", "scene_split", "scene_counts", "scene_meshes"):
                    small.setdefault(name, []).append(part[name])
                small.setdefault("reasons", []).append(np.array([str(part["reason"])]))
        if not counts["views"] or not counts["scenes"]:
            raise ValueError(f"not one face was found in {len(parts)} sources; look at the pictures")
        open_map = np.lib.format.open_memmap
        shapes = {
            "views": (counts["views"], sides["views"], sides["views"], 3),
            "scenes": (counts["scenes"], sides["scenes"], sides["scenes"], 3),
            "scene_masks": (counts["scenes"], sides["scenes"], sides["scenes"]),
        }
        for name, shape in shapes.items():
            stored = open_map(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
            at = 0
            for path in parts:
                with np.load(path) as part:
                    rows = part[name]
                if len(rows):
                    stored[at : at + len(rows)] = rows
                at += len(rows)
            stored.flush()
        np.savez(folder / "labels.npz", **{name: np.concatenate(rows) for name, rows in small.items()})
        (folder / cls.INDEX).write_text(json.dumps(counts | {"sources": len(parts)}) + "\n")

    @classmethod
    def open(cls, folder: Path) -> FaceBank:
        """Open what `write` made.

        Raises:
            ValueError: the folder holds no bank, or one that is not whole.
        """
        if not (folder / cls.INDEX).exists():
            raise ValueError(f"{folder} holds no finished face bank; make one with `openloopy label`")
        try:
            bank = cls._read(folder)
            bank._check()
        except (
            OSError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            zipfile.BadZipFile,
        ) as error:
            raise ValueError(
                f"{folder} holds no whole face bank ({error}); make it again with `openloopy label`"
            ) from error
        return bank

    @classmethod
    def _read(cls, folder: Path) -> FaceBank:
        with np.load(folder / "labels.npz") as labels:
            about, counts = labels["about"], labels["scene_counts"]
            faces = np.split(labels["scene_meshes"], np.cumsum(counts)[:-1])
            digest = _digest(labels["meshes"])
            arrays = {
                "meshes": labels["meshes"].astype(np.float32),
                "scene_sizes": labels["scene_sizes"],
                "scene_split": labels["scene_split"],
            }
        maps = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("views", "scenes", "scene_masks")
        }
        return cls(
            **arrays,
            **maps,
            view_split=about[:, 0],
            view_kind=about[:, 1],
            scene_faces=tuple(faces),
            sha256=digest,
        )

    def _check(self) -> None:
        """Whether the arrays belong together."""
        views, scenes, side = len(self.views), len(self.scenes), self.scenes.shape[1]
        wanted = {
            "views": (self.views, (views, *self.views.shape[1:2] * 2, 3), "u"),
            "meshes": (self.meshes, (views, MESH_POINTS, 3), "f"),
            "view_split": (self.view_split, (views,), "U"),
            "scenes": (self.scenes, (scenes, side, side, 3), "u"),
            "scene_masks": (self.scene_masks, (scenes, side, side), "u"),
            "scene_sizes": (self.scene_sizes, (scenes, 2), "i"),
            "scene_split": (self.scene_split, (scenes,), "U"),
        }
        for name, (array, shape, kind) in wanted.items():
            if array.shape != shape or array.dtype.kind != kind:
                raise ValueError(f"{name} is {array.shape} {array.dtype}, expected {shape} of kind {kind}")
        if len(self.scene_faces) != scenes or any(f.shape[1:] != (MESH_POINTS, 3) for f in self.scene_faces):
            raise ValueError(f"there are {len(self.scene_faces)} lists of faces for {scenes} scenes")
        if not views or not scenes or self.scene_sizes.min() < 1 or self.scene_sizes.max() > side:
            raise ValueError("there is no view, or a scene of no size")
        if not all(np.isfinite(meshes[..., :2]).all() for meshes in (self.meshes, *self.scene_faces)):
            raise ValueError("a mesh has points that are nowhere")

    def views_of(self, split: str) -> dict[str, np.ndarray]:
        """Indices of the views of a split, by kind."""
        found = {
            kind: np.flatnonzero((self.view_split == split) & (self.view_kind == kind)) for kind in KINDS
        }
        return {kind: indices for kind, indices in found.items() if len(indices)}

    def scenes_of(self, split: str) -> np.ndarray:
        """Indices of the scenes of a split."""
        return np.flatnonzero(self.scene_split == split)


def faceless_part(bank: FaceBank, rng: np.random.Generator, split: str) -> np.ndarray:
    """A part of a scene that holds no face (clothes, hair, hands, walls), `h w 3` uint8."""
    scenes = bank.scenes_of(split)
    for _ in range(20):
        i = int(rng.choice(scenes))
        width, height = bank.scene_sizes[i]
        side = int(rng.uniform(0.12, 0.5) * min(width, height))
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        boxes = [(*m[:, :2].min(0), *m[:, :2].max(0)) for m in bank.scene_faces[i]]
        if all(x > x1 or x + side < x0 or y > y1 or y + side < y0 for x0, y0, x1, y1 in boxes):
            return np.ascontiguousarray(bank.scenes[i][y : y + side, x : x + side])
    return np.full((64, 64, 3), rng.integers(256), np.uint8)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The numbers that one step draws, whatever came before."""
    generator = step_generator(seed, step)
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
