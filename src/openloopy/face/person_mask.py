"""Which pixels belong to the person: our own mask network, or the hull of a face mesh."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from openloopy.face.crop import apply_crop
from openloopy.face.landmarks import check_picture, whole_picture
from openloopy.face.networks import MASK_PX, FaceNetworks, shipped_networks, to_input

_SUBPIXEL_BITS = 4


class PersonSegmenter:
    """The mask network at work on pictures of any size; best where one person fills much of the picture."""

    def __init__(self, networks: FaceNetworks | None = None) -> None:
        """networks: others than those that come with the package."""
        self._network = (networks or shipped_networks()).mask

    def mask(self, rgb: np.ndarray) -> np.ndarray:
        """`H W 3` uint8 -> `H W` float32 in 0..1, 1 where the person is."""
        check_picture(rgb)
        height, width = rgb.shape[:2]
        longest, square = max(height, width), whole_picture(rgb)
        with torch.inference_mode():
            logits = self._network(to_input(apply_crop(rgb, square, MASK_PX)[None]))[0, 0]
        # Enlarged before the sigmoid: the outline stays sharp.
        large = cv2.resize(logits.numpy(), (longest, longest), interpolation=cv2.INTER_CUBIC)
        top, left = (longest - height) // 2, (longest - width) // 2
        return 1 / (1 + np.exp(-large[top : top + height, left : left + width]))


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
