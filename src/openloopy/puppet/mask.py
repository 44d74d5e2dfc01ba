"""Which pixels belong to the person: mediapipe's selfie segmentation, or the hull of a face mesh."""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.face.teacher import MediapipeSegmenter

_SUBPIXEL_BITS = 4

PersonSegmenter = MediapipeSegmenter


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
