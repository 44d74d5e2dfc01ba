"""What happens to pictures before a face network sees them: light, colour, blur, noise, compression, covering."""

from __future__ import annotations

import cv2
import numpy as np


def change_light(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other exposure, contrast and colour; at times grey, at times lit from one side. `H W 3` uint8."""
    picture = rgb.astype(np.float32) / 255
    if rng.random() < 0.15:
        picture = np.repeat(picture @ np.float32([0.299, 0.587, 0.114])[:, None], 3, -1)
    picture = picture ** np.float32(np.exp(rng.normal(0, 0.3)))
    gain = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.06, 3))
    picture = (picture - 0.5) * np.float32(gain) + np.float32(0.5 + rng.normal(0, 0.07))
    if rng.random() < 0.2:
        height, width = rgb.shape[:2]
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
        x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)
        ramp = np.cos(angle) * x[None] + np.sin(angle) * y[:, None]
        picture = picture * (1 + depth * ramp).astype(np.float32)[..., None]
    return np.clip(picture * 255, 0, 255).astype(np.uint8)


def spoil(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, low resolution, noise and JPEG, each part of the time. `H W 3` uint8."""
    side = rgb.shape[0]
    draw = rng.random()
    if draw < 0.15:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.6) * side / 128)
    elif draw < 0.3:
        small = max(8, int(side * rng.uniform(0.25, 0.8)))
        rgb = cv2.resize(rgb, (small, small), interpolation=cv2.INTER_AREA)
        rgb = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.25:
        noise = rng.standard_normal(rgb.shape, np.float32) * rng.uniform(2, 14)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(15, 85))
        _, content = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        rgb = np.ascontiguousarray(cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1])
    return rgb


def cover_part(rgb: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Something lies before the face: an ellipse or a bar of one colour or of another picture; or the edge cuts it."""
    height, width = rgb.shape[:2]
    shape = np.zeros((height, width), np.uint8)
    draw = rng.random()
    if draw < 0.25:  # the picture ends here
        share = rng.uniform(0.05, 0.3)
        cut = int(share * height)
        side = rng.integers(4)
        shape = np.rot90(shape, side).copy()
        shape[:cut] = 255
        shape = np.ascontiguousarray(np.rot90(shape, -side))
    else:
        centre = tuple(int(v) for v in rng.uniform(0.1, 0.9, 2) * width)
        axes = tuple(int(v) for v in rng.uniform(0.05, 0.25, 2) * width)
        angle = float(rng.uniform(0, 180))
        if draw < 0.6:
            cv2.ellipse(shape, centre, axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
        else:
            box = cv2.boxPoints((centre, (2.5 * axes[0], 0.8 * axes[1] + 2), angle))
            cv2.fillConvexPoly(shape, np.round(box).astype(np.int32), 255, cv2.LINE_AA)
    if rng.random() < 0.5:
        filling = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), rgb.shape)
    else:
        filling = cv2.resize(np.asarray(other), (width, height), interpolation=cv2.INTER_AREA)[::-1]
    alpha = shape[..., None].astype(np.float32) / 255
    return np.round(rgb * (1 - alpha) + filling * alpha).astype(np.uint8)
