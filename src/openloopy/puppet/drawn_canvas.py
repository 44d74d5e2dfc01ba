"""Anti-aliased painting with soft shapes, for drawn faces: fills, ribbons, blobs, streaks, relief shading.

Everything is float32: colours in 0..1, shapes as an opacity `H W` in 0..1. Positions are continuous pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

_SUBPIXEL_BITS = 4
RELIEF_STIFFNESS = 3e-3
"""How much the relief smooths its points; 0 passes through them."""


class Canvas:
    """A picture being painted over a background, and how much of each pixel is painted."""

    def __init__(self, background: np.ndarray) -> None:
        self.rgb = background.astype(np.float32)
        """`H W 3`."""
        self.mask = np.zeros(background.shape[:2], np.float32)
        """`H W`: 0 where the background shows, 1 where something was painted."""

    @property
    def size(self) -> int:
        """The side of the (square) picture, px."""
        return self.rgb.shape[0]

    def paint(self, opacity: np.ndarray, colour: np.ndarray) -> None:
        """Lays a colour (`3`, or `H W 3`) over the picture."""
        at = _used(opacity)
        colour = np.broadcast_to(np.asarray(colour, np.float32), self.rgb.shape)[at]
        self.rgb[at] += opacity[at][..., None] * (colour - self.rgb[at])
        np.maximum(self.mask[at], opacity[at], out=self.mask[at])

    def shade(self, opacity: np.ndarray, factor: np.ndarray | float) -> None:
        """Multiplies the picture by a factor (a number, `3`, or `H W 3`) where the opacity is 1."""
        at = _used(opacity)
        factor = np.broadcast_to(np.asarray(factor, np.float32), self.rgb.shape)[at]
        self.rgb[at] *= 1 + opacity[at][..., None] * (factor - 1)

    def fill(self, outline: np.ndarray, soft_px: float = 0.0) -> np.ndarray:
        """The opacity of a closed outline, `n 2` px; its edge is softened by a blur of `soft_px`."""
        opacity = np.zeros((self.size, self.size), np.uint8)
        points = np.round((outline[:, :2] - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(opacity, [points], 255, cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        return soften(opacity.astype(np.float32) / 255, soft_px)

    def ribbon(self, line: np.ndarray, widths_px: np.ndarray | float, soft_px: float = 0.0) -> np.ndarray:
        """The opacity of a line `n 2` of given widths (a number, or one per point)."""
        line = line[:, :2]
        along = np.gradient(line, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-6
        normal = np.stack([-along[:, 1], along[:, 0]], -1)
        half = normal * np.broadcast_to(np.asarray(widths_px) / 2, (len(line),))[:, None]
        return self.fill(np.concatenate([line + half, (line - half)[::-1]]), soft_px)

    def blob(self, centre: np.ndarray, radii: tuple[float, float], angle_deg: float = 0.0) -> np.ndarray:
        """A soft ellipse: opacity falls off as a Gaussian, to 0.6 at the radii."""
        opacity = np.zeros((self.size, self.size), np.float32)
        reach = 3.2 * max(radii)
        left, top = (int(np.clip(start - reach, 0, self.size)) for start in centre)
        at = np.s_[top : int(max(centre[1] + reach, 0)) + 1, left : int(max(centre[0] + reach, 0)) + 1]
        x, y = self.grid(centre)
        x, y = x[:, at[1]], y[at[0]]
        c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        u, v = (c * x + s * y) / radii[0], (-s * x + c * y) / radii[1]
        opacity[at] = np.exp(-0.5 * (u * u + v * v))
        return opacity

    def grid(self, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (`1 W`) and y (`H 1`) of the pixel centres, seen from `origin`."""
        steps = np.arange(self.size, dtype=np.float32) + 0.5
        return steps[None] - np.float32(origin[0]), steps[:, None] - np.float32(origin[1])


def _used(opacity: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns where anything is to be painted."""
    rows, columns = np.flatnonzero(opacity.any(1)), np.flatnonzero(opacity.any(0))
    if len(rows) == 0:
        return np.s_[:0, :0]
    return np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def soften(image: np.ndarray, soft_px: float) -> np.ndarray:
    """A Gaussian blur; none below a tenth of a pixel."""
    return image if soft_px < 0.1 else cv2.GaussianBlur(image, (0, 0), soft_px)


def smooth_curve(points: np.ndarray, per_segment: int = 8) -> np.ndarray:
    """A Catmull-Rom curve through an open row of points, `n d` -> `(n - 1) * per_segment + 1, d`."""
    ends = 2 * points[[0, -1]] - points[[1, -2]]
    p = np.concatenate([ends[:1], points, ends[1:]])
    return np.concatenate([_spline(p, per_segment), points[-1:]])


def smooth_outline(points: np.ndarray, per_segment: int = 8) -> np.ndarray:
    """A closed Catmull-Rom curve through points, `n d` -> `n * per_segment, d`."""
    return _spline(np.concatenate([points[-1:], points, points[:2]]), per_segment)


def _spline(p: np.ndarray, per_segment: int) -> np.ndarray:
    """The uniform Catmull-Rom segments between all but the first and last points."""
    t = (np.arange(per_segment) / per_segment)[:, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, p.shape[1])


def octave_noise(rng: np.random.Generator, size: int, coarsest: int, octaves: int = 4) -> np.ndarray:
    """Smooth noise `size size` of mean 0 and standard deviation about 1; `coarsest` cells across at first."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(coarsest * 2**octave, size)
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        total += 0.5**octave * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return total / max(float(total.std()), 1e-6)


def streaks(rng: np.random.Generator, canvas: Canvas, origin: np.ndarray, count: int = 220) -> np.ndarray:
    """Noise that is constant along rays from `origin`, like combed hair: `H W`, about -1..1."""
    x, y = canvas.grid(origin)
    turn = (np.arctan2(y, x) / (2 * np.pi) + 0.5) * count
    radius = np.hypot(x, y) / canvas.size * 6
    strands = rng.standard_normal((16, count + 1)).astype(np.float32)
    strands[:, -1] = strands[:, 0]
    coarse = cv2.resize(strands[:, ::8].copy(), (count + 1, 16), interpolation=cv2.INTER_CUBIC)
    table = (0.6 * strands + 0.8 * coarse).astype(np.float32)
    drawn = cv2.remap(table, turn.astype(np.float32), radius.astype(np.float32), cv2.INTER_LINEAR)
    return np.clip(drawn / 2, -1.2, 1.2)


def relief(points: np.ndarray, size: int, grid_size: int = 96) -> np.ndarray:
    """Unit surface normals, `size size 3`, of the smooth surface through scattered points, `n 3` px.

    A thin-plate spline (Duchon 1977), evaluated on a coarse grid over the points; outside, the border repeats.
    """
    low, span = points[:, :2].min(0), float(np.ptp(points[:, :2], axis=0).max())
    at, z = ((points[:, :2] - low) / span).astype(np.float32), points[:, 2] / span
    count = len(at)
    plane = np.c_[np.ones(count), at]
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _thin_plate(at, at) + RELIEF_STIFFNESS * np.eye(count)
    system[:count, count:], system[count:, :count] = plane, plane.T
    weights = np.linalg.solve(system, np.r_[z, np.zeros(3)]).astype(np.float32)
    steps = np.linspace(0, 1, grid_size, dtype=np.float32)
    q = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    depth = _thin_plate(q, at) @ weights[:count] + weights[count] + q @ weights[count + 1 :]
    slope_y, slope_x = np.gradient(soften(depth.reshape(grid_size, grid_size), 0.8), steps[1])
    normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    pixels = np.arange(size, dtype=np.float32) + 0.5
    column, row = ((pixels - start) / span * (grid_size - 1) for start in low.astype(np.float32))
    maps = [m.astype(np.float32) for m in np.meshgrid(column, row)]
    return cv2.remap(normals, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _thin_plate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return squared * np.log(np.maximum(squared, 1e-12))
