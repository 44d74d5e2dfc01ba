"""Drawn faces: cartoon portraits of nobody, with an exact 478-point mesh by construction.

The mean mesh gets person-specific proportions and a small pose; skin, hair, eyes, lips and clothes are painted
along its points. Tests and the tiny recipe use them: no photograph, no detector, no licence.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.puppet import drawn_paint as parts
from openloopy.puppet.drawn_canvas import Canvas, octave_noise
from openloopy.puppet.drawn_person import draw_head, draw_look
from openloopy.rig.mesh import EYES, HeadFrame

SUPERSAMPLING = 2
MIN_SIZE_PX = 64


@dataclass(frozen=True, eq=False)
class DrawnFace:
    """A drawn portrait and what is known of it exactly."""

    rgb: np.ndarray
    """`H W 3` uint8."""
    mesh: np.ndarray
    """`478 3` px, float32."""
    mask: np.ndarray
    """`H W` float32 in 0..1: the person, hair and clothes included."""


def draw_face(rng: np.random.Generator, size_px: int = 384) -> DrawnFace:
    """A new person: the same generator state gives the same picture."""
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"a drawn face needs at least {MIN_SIZE_PX} px, got {size_px}")
    look = draw_look(rng)
    head = draw_head(rng, size_px * SUPERSAMPLING)
    canvas = Canvas(_background(rng, size_px * SUPERSAMPLING))
    parts.paint_back_hair(canvas, head, look, rng)
    parts.paint_body(canvas, head, look)
    parts.paint_skin(canvas, head, look, rng)
    parts.paint_beard(canvas, head, look, rng)
    parts.paint_nose(canvas, head, look)
    parts.paint_lips(canvas, head, look)
    for eye in EYES:
        parts.paint_eye(canvas, head, look, eye)
    parts.paint_front_hair(canvas, head, look, rng)
    return _finish(canvas, head, rng, size_px)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A soft wall or an out-of-focus room, `size size 3`."""
    base = rng.uniform(0.15, 0.9) * (0.75 + 0.25 * rng.dirichlet([2.0, 2.0, 2.0]) * 3)
    other = np.clip(base * rng.uniform(0.6, 1.3) + rng.normal(0, 0.04, 3), 0, 1)
    angle = rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = np.clip(0.5 + np.cos(angle) * t[None] + np.sin(angle) * t[:, None], 0, 1)
    wall = base + ramp[..., None] * (other - base)
    clutter = octave_noise(rng, size, int(rng.integers(2, 5)), octaves=2) * rng.uniform(0, 0.09)
    return np.clip(wall + clutter[..., None] * rng.uniform(0.5, 1, 3), 0, 1).astype(np.float32)


def _finish(canvas: Canvas, head: HeadFrame, rng: np.random.Generator, size_px: int) -> DrawnFace:
    """Film grain, and the picture at its own size."""
    small = (size_px, size_px)
    rgb = cv2.resize(canvas.rgb, small, interpolation=cv2.INTER_AREA)
    rgb = rgb + rng.normal(0, 0.008, rgb.shape)
    return DrawnFace(
        rgb=np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8),
        mesh=(head.mesh_px / SUPERSAMPLING).astype(np.float32),
        mask=np.clip(cv2.resize(canvas.mask, small, interpolation=cv2.INTER_AREA), 0, 1),
    )
