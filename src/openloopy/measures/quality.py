"""Picture quality without a network: sharpness, PSNR inside boxes, flicker.

Sources: variance of the Laplacian as a focus measure (Pech-Pacheco et al. 2000); the warping error (Lai et
al. 2018, "Learning Blind Video Temporal Consistency"), here with the DIS optical flow of OpenCV (Kroeger et
al. 2016) instead of a network's. Each number has a meaning only beside that of the true video.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import cv2
import numpy as np

FACE_PX = 192
"""Face boxes are brought to this side before sharpness is measured, so that framing does not matter."""
FLOW_BLUR_PX = 1.5
"""Blur before the flow is estimated: it shall follow the head, not explain shimmering texture away."""
MIN_FLOW_PX = 12
"""Sides of pictures from which OpenCV finds a flow."""
FLOW_CONSISTENCY_PX = 1.0
"""A pixel whose forward and backward flow disagree by more than this is hidden in one frame: left out."""


def sharpness(rgb: np.ndarray, box: np.ndarray) -> float:
    """Variance of the Laplacian over the variance of the luma, in a face box brought to `FACE_PX`.

    Args:
        rgb: a frame, `H W 3` uint8.
        box: `x0 y0 x1 y1` px.

    Returns:
        A number without unit: independent of contrast and brightness; higher is sharper (or noisier).
    """
    face = cv2.resize(_luma(cut_box(rgb, box)), (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR)
    inside = cv2.Laplacian(face, cv2.CV_32F)[1:-1, 1:-1]
    return float(inside.var() / max(face.var(), 1e-6))


def psnr(generated: np.ndarray, true: np.ndarray, box: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two frames `H W 3` uint8, inside a box or whole; 99 where equal."""
    return psnr_of_error(squared_error(generated, true, box))


def squared_error(generated: np.ndarray, true: np.ndarray, box: np.ndarray | None = None) -> float:
    """Mean squared error of two frames `H W 3` uint8 on the 0..255 scale, inside a box or whole."""
    if generated.shape != true.shape:
        raise ValueError(
            f"cannot compare frames of {generated.shape} and {true.shape}; resize one of them first"
        )
    if box is not None:
        generated, true = cut_box(generated, box), cut_box(true, box)
    return float(((generated.astype(np.float32) - true.astype(np.float32)) ** 2).mean())


def psnr_of_error(mean_squared_error: float) -> float:
    """dB for a mean squared error on the 0..255 scale; 99 for no error at all."""
    return 99.0 if mean_squared_error <= 0 else float(min(99.0, 10 * np.log10(255**2 / mean_squared_error)))


def flicker(frames: Iterable[np.ndarray]) -> float:
    """What changes although nothing moved there: the warping error.

    Args:
        frames: consecutive frames, `H W 3` uint8.

    Returns:
        Mean absolute luma difference (0..255) between each frame and the one before, moved along the optical
        flow; pixels hidden in one of the two are left out. Where moving does not help, it is the plain
        difference.

    Raises:
        ValueError: fewer than two frames, or frames smaller than `MIN_FLOW_PX`.
    """
    return _mean_change(_warping_error(a, b) for a, b in pairwise(_luma(frame) for frame in frames))


def frame_difference(frames: Iterable[np.ndarray]) -> float:
    """Mean absolute luma difference (0..255) of consecutive frames `H W 3` uint8: motion and flicker.

    Raises:
        ValueError: fewer than two frames.
    """
    return _mean_change(np.abs(b - a).mean() for a, b in pairwise(_luma(frame) for frame in frames))


def cut_box(rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of a frame `H W 3` inside `x0 y0 x1 y1` px, clipped to the frame."""
    height, width = rgb.shape[:2]
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise ValueError(f"box {np.round(box, 1).tolist()} leaves nothing of a {width}x{height} frame")
    return rgb[y0:y1, x0:x1]


def _luma(rgb: np.ndarray) -> np.ndarray:
    """`H W 3` uint8 -> `H W` float32, 0..255 (Rec. 601)."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _mean_change(changes: Iterable[float]) -> float:
    """Their mean; a single frame does not change, which is not the same as a change of 0."""
    found = list(changes)
    if not found:
        raise ValueError("a change from frame to frame needs at least 2 frames; give a longer video")
    return float(np.mean(found))


def _warping_error(before: np.ndarray, after: np.ndarray) -> float:
    forward, backward = _flow(after, before), _flow(before, after)
    grid = np.stack(np.meshgrid(np.arange(after.shape[1]), np.arange(after.shape[0])), -1).astype(np.float32)
    sources = grid + forward
    moved = cv2.remap(before, sources, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    returned = cv2.remap(backward, sources, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    visible = np.linalg.norm(forward + returned, axis=-1) < FLOW_CONSISTENCY_PX
    plain = np.abs(after - before).mean()
    return float(min(plain, np.abs(after - moved)[visible].mean())) if visible.any() else float(plain)


def _flow(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Optical flow `H W 2` px: where each pixel of `start` lies in `end`."""
    if min(start.shape) < MIN_FLOW_PX:
        height, width = start.shape
        raise ValueError(
            f"frames of {width}x{height} px are too small for optical flow; give {MIN_FLOW_PX} px or more"
        )
    smooth = [cv2.GaussianBlur(x, (0, 0), FLOW_BLUR_PX).clip(0, 255).astype(np.uint8) for x in (start, end)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(smooth[0], smooth[1], None)
