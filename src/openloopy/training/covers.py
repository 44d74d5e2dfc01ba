"""Masks, microphones, scarves and whatever else lies over mouths, drawn over faces whose landmarks are known."""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.face.mesh import CHIN, FOREHEAD, MESH_TO_68

JAW = (234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454)
"""Mesh points from ear to ear under the chin."""
NOSE = (6, 197, 195, 5, 4, 2)
"""Mesh points from the bridge of the nose to under it: where a mask ends."""
CHEEKS = (50, 280)
MASK_COLOURS = (
    (245, 245, 245),
    (25, 25, 28),
    (120, 175, 215),
    (150, 190, 180),
    (230, 180, 190),
    (40, 50, 90),
)


def cover_mouth(
    picture: np.ndarray, mesh: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A face with something over its mouth.

    Args:
        picture: `S S 3` uint8; mesh: `478 2` px of it.
        other: a picture whose pixels may be those of what covers it.
    """
    shape = np.zeros(picture.shape[:2], np.uint8)
    draw = rng.random()
    if draw < 0.55:
        _fill(shape, _mask_outline(mesh, rng))
    elif draw < 0.8:
        _draw_microphone(shape, mesh, rng)
    else:
        _draw_blob(shape, mesh, rng)
    if rng.random() < (0.8 if draw < 0.8 else 0.3):
        filling = _cloth(picture, mesh, rng)
    else:
        filling = cv2.resize(np.asarray(other), picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    alpha = cv2.GaussianBlur(shape, (0, 0), 0.7)[..., None].astype(np.float32) / 255
    return np.round(picture * (1 - alpha) + filling * alpha).clip(0, 255).astype(np.uint8)


def _mask_outline(mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From a nose over the cheeks to the jaw; a little larger than the face."""
    first = int(rng.integers(0, 4))
    jaw = mesh[list(JAW[first : len(JAW) - first])]
    right, left = mesh[list(CHEEKS)]
    nose = mesh[NOSE[int(rng.integers(len(NOSE)))]]
    middle = mesh[MESH_TO_68[48:], :2].mean(0)
    jaw = middle + (jaw - middle) * rng.uniform(0.92, 1.12)
    lower = rng.uniform(0, 0.4)
    cheeks = [side + lower * (end - side) for side, end in ((left, jaw[-1]), (right, jaw[0]))]
    return np.concatenate([jaw, cheeks[:1], nose[None], cheeks[1:]])


def _draw_microphone(shape: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> None:
    """A head over both lips, a handle that comes from below or from the side."""
    height = float(np.linalg.norm(mesh[FOREHEAD] - mesh[CHIN]))
    lips = mesh[MESH_TO_68[48:]]
    middle = lips.mean(0) + rng.normal(0, 0.02, 2) * height
    wide = np.ptp(lips[:, 0]) * rng.uniform(0.45, 0.75)
    axes = int(wide) + 1, int(wide * rng.uniform(0.8, 1.3)) + 1
    cv2.ellipse(shape, _px(middle), axes, float(rng.uniform(-40, 40)), 0, 360, 255, -1)
    away = np.array([rng.uniform(-1, 1), rng.uniform(0.4, 1)]) * 3 * height
    cv2.line(shape, _px(middle), _px(middle + away), 255, max(2, int(wide * rng.uniform(0.5, 1.1))))


def _draw_blob(shape: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> None:
    """Whatever: a hand, a cup, a scarf that hides all below the nose."""
    lips, nose = mesh[MESH_TO_68[48:]], mesh[NOSE[-1]]
    if rng.random() < 0.5:
        jaw = mesh[list(JAW[2:-2])]
        below = jaw[[0, -1]] + 3 * (mesh[CHIN] - mesh[FOREHEAD])
        _fill(shape, np.concatenate([jaw[:1], below, jaw[-1:], nose[None] + rng.normal(0, 2, (1, 2))]))
        return
    points = lips.mean(0) + (lips - lips.mean(0)) * rng.uniform(1.3, 2.6, (len(lips), 1))
    _fill(shape, cv2.convexHull(points.astype(np.float32))[:, 0])


def _cloth(picture: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One colour, lit as the face is, with folds."""
    colour = (
        MASK_COLOURS[int(rng.integers(len(MASK_COLOURS)))] if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    )
    height, width = picture.shape[:2]
    side = max(height, width)
    light = cv2.GaussianBlur(picture, (0, 0), side / 12).astype(np.float32) @ np.float32(
        [0.299, 0.587, 0.114]
    )
    light = (light / max(float(np.median(light)), 1)) ** rng.uniform(0.3, 1)
    across = mesh[454] - mesh[234]
    down = np.array([-across[1], across[0]]) / max(float(np.linalg.norm(across)), 1)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = np.cos((x * down[0] + y * down[1]) * 2 * np.pi / (side * rng.uniform(0.05, 0.15)))
    shade = light.clip(0.4, 1.6) * (1 + rng.uniform(0, 0.12) * waves)
    noise = rng.normal(0, rng.uniform(0, 8), picture.shape[:2])
    return np.asarray(colour, np.float32) * shade[..., None] + noise[..., None]


def _fill(shape: np.ndarray, outline: np.ndarray) -> None:
    cv2.fillPoly(shape, [np.round(outline).astype(np.int32)], 255)


def _px(point: np.ndarray) -> tuple[int, int]:
    return int(round(point[0])), int(round(point[1]))
