"""Which pixels belong to the person: mediapipe's selfie segmentation, or the hull of a face mesh."""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.face.teacher import Graph, import_mediapipe, quiet_stderr

SEGMENTATION_PX = 512
"""Larger pictures are segmented in a copy of this longest side; the network itself sees 256 px."""
_SUBPIXEL_BITS = 4


class PersonSegmenter:
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


def person_mask(rgb: np.ndarray) -> np.ndarray:
    """The person in a picture, `H W 3` uint8 -> `H W` float32; for many, open a `PersonSegmenter`."""
    return PersonSegmenter().mask(rgb)


def face_hull_mask(mesh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The convex hull of a face mesh, with a soft edge.

    Args:
        mesh: `478 2` or `478 3` px.
        size: (width, height) of the mask, px.

    Returns:
        `H W` float32 in 0..1.
    """
    width, height = size
    hull = cv2.convexHull(mesh[:, :2].astype(np.float32))[:, 0]
    mask = np.zeros((height, width), np.uint8)  # OpenCV anti-aliases 8-bit pictures only
    points = np.round((hull - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillConvexPoly(mask, points, 255, cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 1.0)
