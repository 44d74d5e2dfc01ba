"""Photographs and paintings made into drawings whose landmarks stay known: large eyes, small noses, other chins, flat
colours, lines.

Source: ours. Drawn faces that may be trained on are rare, and nobody knows their landmarks to the pixel; a face that
is bent by a smooth map takes its landmarks with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.face.mesh import CHIN, FOREHEAD, MESH_TO_68

NOSE_TIP, IRISES = 4, (slice(468, 473), slice(473, 478))
"""Mesh points."""
INVERSION_STEPS, INVERSION_RATE = 60, 0.4
EYES_68 = (slice(36, 42), slice(42, 48))
MOUTH_68 = slice(48, 68)


@dataclass(frozen=True, eq=False)
class Swelling:
    """A smooth map of the plane: what lies about `centre` grows or shrinks and moves; beyond `reach` nothing does.

    Attributes:
        centre: `2` px.
        reach: px.
        axes: `2 2`, rows are the directions of the growths.
        growths: along the axes; 2 doubles what lies at the centre.
        shift: `2` px, of what lies at the centre.
    """

    centre: np.ndarray
    reach: float
    axes: np.ndarray
    growths: tuple[float, float]
    shift: np.ndarray

    def source(self, points: np.ndarray) -> np.ndarray:
        """Where what is at `... 2` was before."""
        away = points - self.centre
        near = np.clip(1 - (away**2).sum(-1, keepdims=True) / self.reach**2, 0, None) ** 2
        along = away @ self.axes.T * (1 / np.array(self.growths) - 1)
        return points + near * (along @ self.axes - self.shift)


def draw_shape(mesh: np.ndarray, rng: np.random.Generator) -> list[Swelling]:
    """How a face, `478 3` px, is exaggerated: the maps in the order in which they are applied."""
    points, tall = mesh[MESH_TO_68, :2], mesh[CHIN, :2] - mesh[FOREHEAD, :2]
    eyes = [points[part].mean(0) for part in EYES_68]
    between = eyes[1] - eyes[0]
    apart, height = float(np.linalg.norm(between)), float(np.linalg.norm(tall))
    x_axis = between / max(apart, 1e-6)
    axes = np.stack([x_axis, [-x_axis[1], x_axis[0]]])
    down = axes[1] * height
    strength = rng.beta(2, 1)

    def swell(centre, reach, x, y, shift=(0.0, 0.0)) -> Swelling:
        return Swelling(
            np.asarray(centre, float), float(reach), axes, (float(x), float(y)), np.asarray(shift)
        )

    def growth(low: float, high: float) -> float:
        """From 1 to a number between these, by the strength."""
        return float(np.exp(strength * rng.uniform(np.log(low), np.log(high))))

    middle, mouth = (eyes[0] + eyes[1]) / 2, points[MOUTH_68].mean(0)
    large, tall_eyes = growth(1.2, 3.2), growth(0.9, 1.5)
    reach = apart * rng.uniform(0.5, 0.68)
    maps = [
        swell(mesh[NOSE_TIP, :2], 0.3 * height, growth(0.4, 1.1), growth(0.4, 1.2)),
        swell(mouth, 0.32 * height, growth(0.5, 1.3), growth(0.5, 1.4)),
        swell(mesh[CHIN, :2], 0.6 * height, growth(0.7, 1.3), growth(0.75, 1.15)),
        swell(mesh[FOREHEAD, :2], 0.55 * height, growth(0.9, 1.3), growth(0.9, 1.6)),
        swell(middle, 0.75 * height, 1, 1, strength * rng.uniform(-0.02, 0.16) * down),
        *(swell(mesh[iris, :2].mean(0), 0.4 * apart, *(2 * [growth(1.0, 1.6)])) for iris in IRISES),
        *(swell(eye, reach, large, large * tall_eyes) for eye in eyes),
    ]
    return _following(maps)


def bend(rgb: np.ndarray, maps: Sequence[Swelling]) -> np.ndarray:
    """The picture `H W ...` after the maps."""
    height, width = rgb.shape[:2]
    points = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    source = (source_of(points, maps) - 0.5).astype(np.float32)
    return cv2.remap(rgb, source[..., 0], source[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def bend_points(points: np.ndarray, maps: Sequence[Swelling]) -> np.ndarray:
    """Where points `n 2` px go."""
    moved = points.astype(float).copy()
    for _ in range(INVERSION_STEPS):
        moved += INVERSION_RATE * (points - source_of(moved, maps))
    return moved


def source_of(points: np.ndarray, maps: Sequence[Swelling]) -> np.ndarray:
    """Where what is at `... 2` was before all maps."""
    for swelling in reversed(maps):
        points = swelling.source(points)
    return points


def draw_manner(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture `H W 3` uint8 as somebody might have drawn or rendered it."""
    picture = _smooth(rgb, rng)
    if rng.random() < 0.12:
        return _sketch(picture, rng)
    if rng.random() < 0.35:
        picture = _flatten(picture, int(rng.integers(4, 12)))
    if rng.random() < 0.45:
        picture = _outline(picture, rng)
    return _recolour(picture, rng)


def _following(maps: list[Swelling]) -> list[Swelling]:
    """Centres were measured on the face as it was: each goes where the maps before it take it."""
    placed: list[Swelling] = []
    for swelling in maps:
        centre = bend_points(swelling.centre[None], placed)[0]
        placed.append(Swelling(centre, swelling.reach, swelling.axes, swelling.growths, swelling.shift))
    return placed


def _smooth(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Without pores and hairs; edges stay."""
    kind = rng.integers(4)
    if kind == 0:
        return rgb
    if kind == 1:
        return cv2.edgePreservingFilter(
            rgb, flags=1, sigma_s=rng.uniform(10, 50), sigma_r=rng.uniform(0.2, 0.5)
        )
    if kind == 2:
        return cv2.medianBlur(rgb, int(rng.choice([5, 7, 9])))
    for _ in range(int(rng.integers(1, 4))):
        rgb = cv2.bilateralFilter(rgb, 9, rng.uniform(30, 80), 7)
    return rgb


def _lines(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How dark lines are, `H W 1` in 0..1: extended difference of Gaussians (Winnemöller et al. 2012, eq. 5)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    sigma, sharp = rng.uniform(0.8, 1.8), rng.uniform(8, 25)
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), s) for s in (sigma, 1.6 * sigma))
    edge = (1 + sharp) * fine - sharp * coarse
    level = rng.uniform(0.35, 0.6) * float(np.median(grey)) + 0.1
    return np.clip(-np.tanh(rng.uniform(5, 20) * (edge - level)), 0, 1)[..., None]


def _outline(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = rng.uniform(0, 60, 3)
    dark = _lines(rgb, rng) * rng.uniform(0.5, 1)
    return np.round(rgb * (1 - dark) + ink * dark).astype(np.uint8)


def _sketch(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines on paper, with some shading."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    paper, shading = rng.uniform(180, 255, 3), rng.uniform(0, 0.7)
    ground = paper * (1 - shading + shading * grey / 255)
    return np.round(ground * (1 - _lines(rgb, rng))).clip(0, 255).astype(np.uint8)


def _flatten(rgb: np.ndarray, levels: int) -> np.ndarray:
    """So many steps of lightness, with soft borders."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    steps = lab[..., 0] / 255 * levels
    near = np.round(steps)
    lab[..., 0] = (near + np.tanh(4 * (steps - near)) / 2 / np.tanh(2)) * 255 / levels
    return cv2.cvtColor(lab.clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def _recolour(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other saturation; at times skin of any hue."""
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(np.float32)
    turn = rng.uniform(0, 180) if rng.random() < 0.2 else rng.normal(0, 5)
    hsv[..., 0] = (hsv[..., 0] + turn) % 180
    hsv[..., 1] = (hsv[..., 1] * np.exp(rng.normal(0.2, 0.35))).clip(0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
