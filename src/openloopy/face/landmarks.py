"""Faces and their landmarks: the `FaceLandmarker` seam, and our own networks behind it.

Coordinates everywhere: pixels of the picture, x right, y down, z to the viewer; continuous, so that the
first pixel covers 0..1 and its centre is at 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import cv2
import numpy as np
import torch

from openloopy.face.crop import Crop, apply_crop
from openloopy.face.mesh import CHIN, FOREHEAD, MESH_POINTS, MESH_TO_68, Pose, canonical_mesh, pose_of
from openloopy.face.networks import (
    FINDER_PX,
    MESH_PX,
    VIEW_FACE_HEIGHTS,
    FaceNetworks,
    find_peaks,
    shipped_networks,
    to_input,
)
from openloopy.face.parts import refine_parts
from openloopy.face.square import FaceSquare

SEARCH_PX = 2048
"""Larger pictures are searched in a copy of this longest side; landmarks come from it too where it is fine enough."""
FINE_VIEW_PX = 3 * MESH_PX
"""Of a view's side: parts of it are enlarged."""
TILE_LEVELS = (2, 4)
"""Where no face is seen in the whole picture, tiles of 1/2 and then 1/4 of its longer side are searched."""
MIN_HEAT = 0.3
"""The finder proposes faces from this on; the mesh network decides."""
MIN_CONFIDENCE, MIN_TRACKED_CONFIDENCE = 0.5, 0.3
MAX_PROPOSALS = 24
REFINEMENTS = 2
"""Passes of the mesh network from the finder's rough place to the final view."""
FINAL_ZOOMS = (0.92, 1.0, 1.1)
"""A single picture's mesh is the mean over views of these zooms and their mirror images."""
TRACK_CHUNK = 8
"""Frames that go through the mesh network at once while tracking."""
THOROUGH_EVERY = 25
"""While the face is lost, one in so many frames is searched in tiles too."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one picture."""

    box: np.ndarray
    """x0 y0 x1 y1 px: the bounds of the mesh."""
    mesh: np.ndarray
    """`478 3` px."""
    score: float
    """The detector's confidence, 0..1."""

    @classmethod
    def from_mesh(cls, mesh: np.ndarray, score: float = 1.0) -> Face:
        """A face from its mesh, `478 3` px."""
        if mesh.shape != (MESH_POINTS, 3):
            raise ValueError(f"expected a mesh of shape (478, 3), got {mesh.shape}")
        mesh = np.asarray(mesh, dtype=np.float32)
        box = np.concatenate([mesh[:, :2].min(0), mesh[:, :2].max(0)])
        return cls(box=box, mesh=mesh, score=float(score))

    def scaled(self, factor: float) -> Face:
        """The face in a picture that is larger by a factor."""
        return Face.from_mesh(self.mesh * np.float32(factor), self.score)

    @property
    def points68(self) -> np.ndarray:
        """The 68 iBUG points, `68 2` float32 px."""
        return np.ascontiguousarray(self.mesh[MESH_TO_68, :2], dtype=np.float32)

    @property
    def pose(self) -> Pose:
        """Head rotation, from the fit of the canonical mesh to this one."""
        return pose_of(self.mesh)

    @property
    def height_px(self) -> float:
        """From the top of the forehead to the chin, in the picture plane."""
        return float(np.linalg.norm(self.mesh[FOREHEAD, :2] - self.mesh[CHIN, :2]))


class FaceLandmarker(Protocol):
    """What the rest of the project needs of a landmarker."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """The faces of a picture, `H W 3` uint8, largest first."""
        ...


def mirror_face(face: Face, image_width_px: int) -> Face:
    """The face as it lies in the picture turned left to right."""
    mesh = face.mesh[canonical_mesh().mirror] * np.float32([-1, 1, 1]) + np.float32([image_width_px, 0, 0])
    return Face.from_mesh(mesh, face.score)


class NetworkLandmarker:
    """The face networks at work on pictures and faces of any size. The default of the whole package.

    `Face.score` is a calibrated confidence: of the faces at 0.9, about nine in ten are right (docs/face.md).
    """

    def __init__(self, max_faces: int = 8, networks: FaceNetworks | None = None) -> None:
        """networks: others than those that come with the package."""
        if max_faces < 1:
            raise ValueError(f"max_faces must be at least 1, got {max_faces}")
        self.max_faces = max_faces
        self._networks = networks or shipped_networks()

    def detect(self, rgb: np.ndarray, known: Sequence[Face] = ()) -> list[Face]:
        """The faces of a picture, `H W 3` uint8, largest first, at most `max_faces`.

        known: faces that are not looked for again; where there are any, only the whole picture is searched.
        """
        return self._find(rgb, max_searches=1 if known else 2 + len(TILE_LEVELS), known=known)

    def track(self, frames: Iterable[np.ndarray]) -> list[Face | None]:
        """The largest face of each frame of one shot; None where it is lost.

        The view stays where it is until the face leaves it, so that a still face gives still landmarks; there is no
        smoothing over time, hence no lag.
        """
        tracker = self.tracker()
        frames = iter(frames)
        track: list[Face | None] = []
        while chunk := list(islice(frames, TRACK_CHUNK)):
            track += tracker.follow(chunk)
        return track

    def tracker(self) -> FaceTracker:
        """`track`, a few frames at a time: call its `follow` with consecutive frames."""
        return FaceTracker(self)

    def follow(self, face: Face) -> FaceFollower:
        """Whoever follows this face through the frames after the one it was found in."""
        return FaceFollower(self, face)

    def fit(self, pictures: list[np.ndarray], squares: list[FaceSquare]) -> list[tuple[np.ndarray, float]]:
        """Mesh `478 3` px of the picture and logit of the confidence, for each picture and its square."""
        views = np.stack([square.cut(rgb) for rgb, square in zip(pictures, squares, strict=True)])
        with torch.inference_mode():
            found, logits = self._networks.mesh(to_input(views))
            meshes = refine_parts(self._networks.parts, views, found.numpy())
        return [
            (square.to_picture(mesh), logit)
            for square, mesh, logit in zip(squares, meshes, logits.tolist(), strict=True)
        ]

    def confidence(self, logit: float) -> float:
        """0..1 from the mesh network's logit."""
        return float(self._networks.confidence(torch.tensor(logit)))

    def _find(self, rgb: np.ndarray, max_searches: int, known: Sequence[Face] = ()) -> list[Face]:
        check_picture(rgb)
        scale = max(1.0, max(rgb.shape[:2]) / SEARCH_PX)
        searched = rgb if scale == 1 else shrink(rgb, scale)
        for proposals in islice(self._searches(searched), max_searches):
            squares = [square.scaled(scale) for square in proposals]
            squares = [square for square in squares if not any(_is_about(square, face) for face in known)]
            fine = [square.scaled(1 / scale) for square in squares if square.side >= FINE_VIEW_PX * scale]
            coarse = [square for square in squares if square.side < FINE_VIEW_PX * scale]
            faces = [face.scaled(scale) for face in self._refine(searched, fine)] + self._refine(rgb, coarse)
            faces = drop_doubles(faces)
            if faces:
                return sorted(faces, key=lambda face: -face.height_px)[: self.max_faces]
        return []

    def _searches(self, rgb: np.ndarray) -> Iterator[list[FaceSquare]]:
        """Proposals of ever more thorough searches: the picture, the picture with a border, tiles."""
        height, width = rgb.shape[:2]
        longest = max(height, width)
        yield self._propose(rgb, [whole_picture(rgb)])
        yield self._propose(rgb, [Crop(width / 2 - longest, height / 2 - longest, 2 * longest)])
        for level in TILE_LEVELS:
            yield self._propose(rgb, tiles(width, height, longest / level))

    def _propose(self, rgb: np.ndarray, views: list[Crop]) -> list[FaceSquare]:
        height, width = rgb.shape[:2]
        pixels = np.stack([apply_crop(rgb, view, FINDER_PX) for view in views])
        with torch.inference_mode():
            found = self._networks.finder(to_input(pixels))
        proposals = []
        for i, view in enumerate(views):
            for centre, size, roll, heat in find_peaks(found, i, MIN_HEAT):
                x, y = place = np.array([view.x0, view.y0]) + centre * view.size
                if 0 < x < width and 0 < y < height:
                    square = FaceSquare(place, VIEW_FACE_HEIGHTS * size * view.size, roll)
                    proposals.append((heat, square))
        proposals.sort(key=lambda pair: -pair[0])
        return [square for _, square in proposals[:MAX_PROPOSALS]]

    def _refine(self, rgb: np.ndarray, squares: list[FaceSquare]) -> list[Face]:
        """The proposals that are faces, each from the mean of several views."""
        for _ in range(REFINEMENTS if squares else 0):
            fitted = self.fit([rgb] * len(squares), squares)
            squares = [FaceSquare.about(mesh) for mesh, _ in fitted]
            squares = [square for square in squares if square.side > 1]
            if not squares:
                return []
        variants = [(zoom, mirrored) for mirrored in (False, True) for zoom in FINAL_ZOOMS]
        faces = []
        for square in squares:
            views = [square.varied(*variant) for variant in variants]
            meshes, logits = zip(*self.fit([rgb] * len(views), views), strict=True)
            score = self.confidence(float(np.mean(logits)))
            if score >= MIN_CONFIDENCE:
                faces.append(Face.from_mesh(np.mean(meshes, axis=0), score))
        return faces


class FaceFollower:
    """Follows one given face through consecutive frames: a fixed view about it, moved when the face leaves it.

    It never searches: what is lost stays lost.
    """

    def __init__(self, landmarker: NetworkLandmarker, face: Face) -> None:
        self._landmarker = landmarker
        self._square = FaceSquare.about(face.mesh)

    def follow(self, frames: list[np.ndarray]) -> list[Face]:
        """The face in the next frames, up to the first in which it is lost."""
        found: list[Face] = []
        while len(found) < len(frames):
            rest = frames[len(found) :]
            seen = self._look(rest)
            if not seen:
                break
            found += seen
        return found

    def _look(self, frames: list[np.ndarray]) -> list[Face]:
        """Faces up to the first frame that needs another view, that one included; none where the face is lost."""
        found: list[Face] = []
        fitted = self._landmarker.fit(frames, [self._square] * len(frames))
        for rgb, (mesh, logit) in zip(frames, fitted, strict=True):
            score = self._landmarker.confidence(logit)
            if score < MIN_TRACKED_CONFIDENCE:
                return found
            if not self._square.still_fits(mesh):
                moved = self._move(rgb, mesh)
                return [*found, moved] if moved else found
            found.append(Face.from_mesh(mesh, score))
        return found

    def _move(self, rgb: np.ndarray, mesh: np.ndarray) -> Face | None:
        """Look again from where the face has gone."""
        self._square = FaceSquare.about(mesh)
        ((mesh, logit),) = self._landmarker.fit([rgb], [self._square])
        score = self._landmarker.confidence(logit)
        if score >= MIN_TRACKED_CONFIDENCE and self._square.still_fits(mesh):
            return Face.from_mesh(mesh, score)
        return None


class FaceTracker:
    """The largest face of each frame: searched where it is not known, then followed."""

    def __init__(self, landmarker: NetworkLandmarker) -> None:
        self._landmarker = landmarker
        self._follower: FaceFollower | None = None
        self._shape: tuple[int, ...] = ()
        self._num_lost = 0

    def follow(self, frames: list[np.ndarray]) -> list[Face | None]:
        """The face in each of the next frames, or None."""
        for rgb in frames:
            check_picture(rgb)
        found: list[Face | None] = []
        while len(found) < len(frames):
            rest = frames[len(found) :]
            if rest[0].shape != self._shape:
                self._follower, self._shape = None, rest[0].shape
            rest = [rgb for rgb in rest if rgb.shape == self._shape]
            seen = self._follower.follow(rest) if self._follower else []
            found += seen
            if len(seen) < len(rest):
                found.append(self._again(rest[len(seen)]))
        return found

    def _again(self, rgb: np.ndarray) -> Face | None:
        """A new search in this frame."""
        is_thorough = self._num_lost % THOROUGH_EVERY == 0
        faces = self._landmarker._find(rgb, max_searches=2 + len(TILE_LEVELS) if is_thorough else 1)
        if not faces:
            self._follower = None
            self._num_lost += 1
            return None
        self._num_lost = 0
        self._follower = FaceFollower(self._landmarker, faces[0])
        # The same single view as in the frames to come, so that the landmarks do not jump.
        seen = self._follower.follow([rgb])
        return seen[0] if seen else faces[0]


def _is_about(square: FaceSquare, face: Face) -> bool:
    """Whether a proposal means this face."""
    centre = (face.box[:2] + face.box[2:]) / 2
    return bool(np.linalg.norm(square.centre - centre) < 0.5 * face.height_px)


def check_picture(rgb: np.ndarray) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB picture of shape (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")


def shrink(rgb: np.ndarray, scale: float) -> np.ndarray:
    size = (max(round(rgb.shape[1] / scale), 1), max(round(rgb.shape[0] / scale), 1))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def whole_picture(rgb: np.ndarray) -> Crop:
    """The square about the whole picture."""
    height, width = rgb.shape[:2]
    size = float(max(height, width))
    return Crop((width - size) / 2, (height - size) / 2, size)


def tiles(width: int, height: int, size: float) -> list[Crop]:
    """Squares of `size` px over the picture, overlapping by half."""
    columns = _starts(width, size)
    return [Crop(x, y, size) for y in _starts(height, size) for x in columns]


def _starts(length: float, size: float) -> list[float]:
    """Starts of the intervals of `size` that cover `length`, at most half a size apart."""
    if length <= size:
        return [(length - size) / 2]
    count = int(np.ceil((length - size) / (size / 2))) + 1
    return [float(start) for start in np.linspace(0, length - size, count)]


def drop_doubles(faces: list[Face]) -> list[Face]:
    """Keeps the surest of the faces whose centres lie within one another's middle."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        centre = face.mesh[:, :2].mean(0)
        near = [np.linalg.norm(centre - other.mesh[:, :2].mean(0)) < 0.4 * other.height_px for other in kept]
        if not any(near):
            kept.append(face)
    return kept
