"""Mediapipe, the teacher of our own face networks: detector, 478-point mesh with irises, person mask.

Source: MediaPipe Face Detection, Face Mesh with iris and Selfie Segmentation (Apache-2.0); the last wheel that carries
its models is 0.10.21. Only labelling (`openloopy label`) and comparisons need it: the extra `teacher`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import cv2
import numpy as np

from openloopy.face.crop import Crop, apply_crop
from openloopy.face.landmarks import (
    SEARCH_PX,
    THOROUGH_EVERY,
    TILE_LEVELS,
    Face,
    check_picture,
    drop_doubles,
    shrink,
    tiles,
    whole_picture,
)

DETECTION_PX = 384
"""The detectors look at pictures of this longest side (their own input is 128 or 192 px)."""
MIN_SCORE = 0.4
MESH_ZOOMS = (1.6, 2.0, 2.5)
"""The mesh is the mean over square views of these many detection boxes: steadier than any one of them."""
MESH_PX = 384
MAX_MESH_SPREAD = 0.06
"""Views of a true face agree; meshes that differ by more (standard deviation, in face heights) are of none."""
TRACK_ZOOM = 2.4
"""Tracking looks at a fixed square of this many face heights until the face leaves it."""
NUM_QUIET_PICTURES = 10
"""Mediapipe's native code prints its warnings with the first faces it sees."""
SEGMENTATION_PX = 512
"""Larger pictures are segmented in a copy of this longest side; the network itself sees 256 px."""
INSTALL_HINT = (
    "the teacher is mediapipe 0.10.21, the last release that carries its models (Python 3.9-3.12). "
    "Install it without its outdated pins:\n"
    "    pip install --no-deps mediapipe==0.10.21\n"
    "    pip install absl-py attrs flatbuffers matplotlib protobuf opencv-python-headless"
)


def import_mediapipe() -> Any:
    """The mediapipe package, or an ImportError that says how to install it."""
    try:
        import mediapipe
    except ImportError as error:
        version = ".".join(str(part) for part in sys.version_info[:2])
        raise ImportError(f"{error} (Python {version}). {INSTALL_HINT}") from error
    return mediapipe


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps the messages of mediapipe's native code off the terminal; Python exceptions still pass."""
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


class Graph:
    """A mediapipe solution, silent while it starts."""

    def __init__(self, open_solution: Callable[[], Any]) -> None:
        with quiet_stderr():
            self._solution = open_solution()
            self._solution.process(np.zeros((64, 64, 3), np.uint8))
        self._num_processed = 0

    def process(self, rgb: np.ndarray) -> Any:
        """The solution's result for one picture, `H W 3` uint8."""
        self._num_processed += 1
        if self._num_processed > NUM_QUIET_PICTURES:
            return self._solution.process(rgb)
        with quiet_stderr():
            return self._solution.process(rgb)

    def restart(self) -> None:
        """Forgets the pictures before."""
        with quiet_stderr():
            self._solution.reset()
            self._solution.process(np.zeros((64, 64, 3), np.uint8))


class MediapipeLandmarker:
    """Mediapipe's detectors and face mesh, made to work on pictures and faces of any size.

    Not for sharing between threads; make one per process.
    """

    def __init__(self, max_faces: int = 8) -> None:
        if max_faces < 1:
            raise ValueError(f"max_faces must be at least 1, got {max_faces}")
        self.max_faces = max_faces
        with quiet_stderr():
            solutions = import_mediapipe().solutions
        detection, mesh = solutions.face_detection.FaceDetection, solutions.face_mesh.FaceMesh
        self._detectors = [
            Graph(lambda: detection(model_selection=1, min_detection_confidence=MIN_SCORE)),  # full range
            Graph(lambda: detection(model_selection=0, min_detection_confidence=MIN_SCORE)),  # short range
        ]
        mesh = partial(mesh, refine_landmarks=True, min_detection_confidence=MIN_SCORE)
        self._mesh = Graph(lambda: mesh(static_image_mode=True, max_num_faces=4))
        self._tracking_mesh = Graph(lambda: mesh(static_image_mode=False, max_num_faces=1))

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """The faces of a picture, `H W 3` uint8, largest first, at most `max_faces`."""
        return self._find(rgb, max_searches=2 + len(TILE_LEVELS))

    def _find(self, rgb: np.ndarray, max_searches: int) -> list[Face]:
        check_picture(rgb)
        scale = max(1.0, max(rgb.shape[:2]) / SEARCH_PX)
        searched = rgb if scale == 1 else shrink(rgb, scale)
        for boxes in islice(self._searches(searched), max_searches):
            faces = [self._fit_mesh(rgb, box.scaled(scale)) for box in boxes]
            faces = drop_doubles([face for face in faces if face is not None])
            if faces:
                return sorted(faces, key=lambda face: -face.height_px)[: self.max_faces]
        return []

    def track(self, frames: Iterable[np.ndarray]) -> list[Face | None]:
        """The largest face of each frame of one shot; None where it is lost.

        No smoothing over time, hence no lag; about 5 ms a frame for head clips. `score` is the
        detector's when the track began.
        """
        tracker = _Tracker(self.detect, partial(self._find, max_searches=1), self._tracking_mesh)
        return [tracker.step(rgb) for rgb in frames]

    def _searches(self, rgb: np.ndarray) -> Iterator[list[_Box]]:
        """Detections of ever more thorough searches: the picture, the picture with a border, tiles."""
        height, width = rgb.shape[:2]
        longest = max(height, width)
        yield self._boxes(rgb, [whole_picture(rgb)])
        yield self._boxes(rgb, [Crop(width / 2 - longest, height / 2 - longest, 2 * longest)])
        for level in TILE_LEVELS:
            yield self._boxes(rgb, tiles(width, height, longest / level))

    def _boxes(self, rgb: np.ndarray, views: Iterable[Crop]) -> list[_Box]:
        boxes = []
        for view in views:
            pixels = apply_crop(rgb, view, DETECTION_PX)
            for detector in self._detectors:
                boxes += [_to_box(found, view) for found in detector.process(pixels).detections or ()]
        height, width = rgb.shape[:2]
        return _suppress([box for box in boxes if 0 < box.x < width and 0 < box.y < height])

    def _fit_mesh(self, rgb: np.ndarray, box: _Box) -> Face | None:
        meshes = []
        for zoom in MESH_ZOOMS:
            size = zoom * box.size
            view = Crop(box.x - size / 2, box.y - size / 2, size)
            mesh = _nearest_mesh(self._mesh, apply_crop(rgb, view, MESH_PX), view)
            if mesh is not None:
                meshes.append(mesh)
        return _mean_face(meshes, box.score)


class MediapipeSegmenter:
    """Mediapipe's selfie segmentation, opened once. Not for sharing between threads; make one per process."""

    def __init__(self) -> None:
        with quiet_stderr():
            solutions = import_mediapipe().solutions
        self._graph = Graph(lambda: solutions.selfie_segmentation.SelfieSegmentation(model_selection=0))

    def mask(self, rgb: np.ndarray) -> np.ndarray:
        """`H W 3` uint8 -> `H W` float32 in 0..1, 1 where the person is."""
        height, width = rgb.shape[:2]
        scale = min(SEGMENTATION_PX / max(height, width), 1.0)
        shrunk = (max(round(width * scale), 1), max(round(height * scale), 1))
        pixels = cv2.resize(rgb, shrunk, interpolation=cv2.INTER_AREA)
        mask = self._graph.process(np.ascontiguousarray(pixels)).segmentation_mask
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.clip(mask, 0.0, 1.0).astype(np.float32)


class MediapipeTeacher(MediapipeLandmarker):
    """The landmarker and the person's mask. Not for sharing between threads; make one per process."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = MediapipeSegmenter().mask


@dataclass(frozen=True)
class _Box:
    """A detection: square about the centre x y, in px."""

    x: float
    y: float
    size: float
    score: float

    def scaled(self, scale: float) -> _Box:
        """The same box in a picture `scale` times as large."""
        return _Box(self.x * scale, self.y * scale, self.size * scale, self.score)

    def overlap(self, other: _Box) -> float:
        """Intersection over union, of the squares."""
        reach = (self.size + other.size) / 2
        wide = min(reach - abs(self.x - other.x), self.size, other.size)
        high = min(reach - abs(self.y - other.y), self.size, other.size)
        shared = max(wide, 0) * max(high, 0)
        return shared / (self.size**2 + other.size**2 - shared)


_Search = Callable[[np.ndarray], list[Face]]


class _Tracker:
    """Follows one face: a fixed view around it, and mediapipe's own region tracking within the view."""

    def __init__(self, search: _Search, glance: _Search, mesh: Graph) -> None:
        self._search = search
        self._glance = glance
        self._mesh = mesh
        self._view: Crop | None = None
        self._shape: tuple[int, ...] = ()
        self._score = 0.0
        self._num_lost = 0

    def step(self, rgb: np.ndarray) -> Face | None:
        """The face in the next frame, or None."""
        check_picture(rgb)
        if rgb.shape != self._shape:
            self._view, self._shape = None, rgb.shape
        face = self._look(rgb)
        if face is None and self._begin(rgb):
            face = self._look(rgb)
        if face is None or not _well_inside(face, self._view, rgb):
            self._view = None
        self._num_lost = self._num_lost + 1 if face is None else 0
        return face

    def _begin(self, rgb: np.ndarray) -> bool:
        is_thorough = self._num_lost % THOROUGH_EVERY == 0
        faces = self._search(rgb) if is_thorough else self._glance(rgb)
        if not faces:
            return False
        face, longest = faces[0], max(rgb.shape[:2])
        if longest <= MESH_PX and face.height_px > longest / 4:
            self._view = whole_picture(rgb)
        else:
            size = TRACK_ZOOM * face.height_px
            centre = (face.box[:2] + face.box[2:]) / 2
            self._view = Crop(float(centre[0] - size / 2), float(centre[1] - size / 2), size)
        self._score = face.score
        self._mesh.restart()
        return True

    def _look(self, rgb: np.ndarray) -> Face | None:
        if self._view is None:
            return None
        is_whole = self._view == whole_picture(rgb) and rgb.shape[0] == rgb.shape[1]
        pixels = rgb if is_whole else apply_crop(rgb, self._view, MESH_PX)
        mesh = _nearest_mesh(self._mesh, pixels, self._view)
        return None if mesh is None else Face.from_mesh(mesh, self._score)


def _to_box(detection: Any, view: Crop) -> _Box:
    box = detection.location_data.relative_bounding_box
    return _Box(
        x=view.x0 + (box.xmin + box.width / 2) * view.size,
        y=view.y0 + (box.ymin + box.height / 2) * view.size,
        size=max(box.width, box.height) * view.size,
        score=min(float(detection.score[0]), 1.0),
    )


def _suppress(boxes: list[_Box], max_overlap: float = 0.3) -> list[_Box]:
    """Keeps the surest of the boxes that cover each other."""
    kept: list[_Box] = []
    for box in sorted(boxes, key=lambda box: -box.score):
        if all(box.overlap(other) <= max_overlap for other in kept):
            kept.append(box)
    return kept


def _mean_face(meshes: list[np.ndarray], score: float) -> Face | None:
    """The mean of several views' meshes; None where they disagree, for then there is no face."""
    if len(meshes) < 2:
        return None
    face = Face.from_mesh(np.mean(meshes, axis=0), score)
    spread = np.linalg.norm(np.std(meshes, axis=0)[:, :2], axis=1).mean()
    return face if spread < MAX_MESH_SPREAD * face.height_px else None


def _nearest_mesh(graph: Graph, pixels: np.ndarray, view: Crop) -> np.ndarray | None:
    """The mesh nearest to the middle of the view, in picture coordinates: `478 3` px, or None."""
    found = graph.process(pixels).multi_face_landmarks
    if not found:
        return None
    meshes = [np.array([(p.x, p.y, -p.z) for p in face.landmark]) for face in found]
    distances = [np.abs(mesh[:, :2].mean(0) - 0.5).max() for mesh in meshes]
    return meshes[int(np.argmin(distances))] * view.size + [view.x0, view.y0, 0.0]


def _well_inside(face: Face, view: Crop | None, rgb: np.ndarray) -> bool:
    """Whether a fixed view still holds the face; the whole picture always does."""
    if view is None or view == whole_picture(rgb):
        return True
    margin = 0.08 * view.size
    low = face.box[:2] - [view.x0, view.y0]
    high = [view.x0 + view.size, view.y0 + view.size] - face.box[2:]
    return bool(min(low.min(), high.min()) > margin)
