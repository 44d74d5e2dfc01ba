"""Painting tools of the rig: boxes, the slit between lips or lids, filling of holes, background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, floor, gcd

import cv2
import numpy as np

from openloopy.rig.expression import Expression
from openloopy.rig.field import GRID, InverseMaps, Placement
from openloopy.rig.mesh import smoothstep
from openloopy.rig.state import State

_SUPERSAMPLING = 4
_FIXED_POINT_BITS = 4
_EDGE_BLUR = 0.0012
"""Standard deviation of the blur at the edge of a slit, over the picture's side."""


@dataclass(frozen=True)
class Box:
    """A rectangle of output pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def around(cls, points: np.ndarray, margin_px: float, size_px: int) -> Box:
        """The box around points `n 2`, cut at the picture's border."""
        x0, y0 = (min(max(floor(at - margin_px), 0), size_px) for at in points.min(0).tolist())
        x1, y1 = (min(max(ceil(at + margin_px + 1), 0), size_px) for at in points.max(0).tolist())
        return cls(x0, y0, x1, y1)

    @property
    def is_empty(self) -> bool:
        return self.x1 <= self.x0 or self.y1 <= self.y0

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def xs(self) -> np.ndarray:
        return np.arange(self.x0, self.x1, dtype=np.float32)

    @property
    def ys(self) -> np.ndarray:
        """A column: broadcasts against `xs`."""
        return np.arange(self.y0, self.y1, dtype=np.float32)[:, None]

    def feather(self, width_px: float) -> np.ndarray:
        """1 inside, falling to 0 at the border; `h w` float32."""
        rise = np.arange(1, ceil(width_px) + 1, dtype=np.float32) / np.float32(width_px)
        across, down = (
            np.minimum(1, np.concatenate([rise, np.ones(n, np.float32)])[:n])
            for n in (self.x1 - self.x0, self.y1 - self.y0)
        )
        across, down = (np.minimum(ramp, ramp[::-1]) for ramp in (across, down))
        return np.minimum(across, down[:, None])


@dataclass(frozen=True)
class Slit:
    """The opening between an upper and a lower edge in output px, each `n 2`, and what lies around it."""

    upper: np.ndarray
    lower: np.ndarray
    box: Box
    below: np.ndarray
    """`h w`: 0 above the middle line of the slit, 1 below it."""
    opening: np.ndarray
    """`h w`: 1 between the edges."""


def open_slit(upper: np.ndarray, lower: np.ndarray, margin_px: float, softness: float, size_px: int) -> Slit:
    """softness: by how much, per px, the line between above and below blurs beyond the corners."""
    outline = np.concatenate([upper, lower[::-1]])
    box = Box.around(outline, margin_px, size_px)
    middle = (upper + lower) / 2
    middle = middle[np.argsort(middle[:, 0])]
    (x_first, y_first), (x_last, y_last) = middle[[0, -1]].tolist()
    slope = (y_last - y_first) / (x_last - x_first + 1e-6)
    before, after = np.maximum(x_first - box.xs, 0), np.maximum(box.xs - x_last, 0)
    line = np.interp(box.xs, middle[:, 0], middle[:, 1]) + slope * (after - before)
    sharpness = 0.5 / (0.6 + softness * (before + after))
    below = (box.ys - line.astype(np.float32)) * sharpness + np.float32(0.5)
    below = np.minimum(np.maximum(below, 0), 1)
    opening = fill_polygon(outline, box)
    # lips and lids of a large picture are not sharper than a portrait's pixels
    if not box.is_empty and size_px * _EDGE_BLUR > 0.4:
        opening = cv2.GaussianBlur(opening, (0, 0), size_px * _EDGE_BLUR)
    return Slit(upper, lower, box, below, opening)


def fill_polygon(points: np.ndarray, box: Box) -> np.ndarray:
    """Anti-aliased area inside a polygon `n 2` px; `h w` in 0..1."""
    n, unit = _SUPERSAMPLING, 1 << _FIXED_POINT_BITS
    height, width = box.y1 - box.y0, box.x1 - box.x0
    if box.is_empty:
        return np.zeros((height, width), np.float32)
    fine = np.zeros((height * n, width * n), np.uint8)
    corners = np.round((((points - [box.x0, box.y0]) + 0.5) * n - 0.5) * unit).astype(np.int32)
    cv2.fillPoly(fine, [corners], 255, shift=_FIXED_POINT_BITS)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def smooth_curve(points: np.ndarray, num_points: int) -> np.ndarray:
    """A Catmull-Rom curve through points `n 2`, sampled at `num_points` places."""
    return _catmull_rom_operator(len(points), num_points) @ points


@cache
def _catmull_rom_operator(num_knots: int, num_points: int) -> np.ndarray:
    """`num_points num_knots`; end tangents are one-sided."""
    at = np.linspace(0, num_knots - 1, num_points)
    first = np.minimum(at.astype(int), num_knots - 2)
    t, rows = at - first, np.arange(num_points)
    tangents = np.gradient(np.eye(num_knots), axis=0)
    operator = np.zeros((num_points, num_knots))
    operator[rows, first] = 2 * t**3 - 3 * t**2 + 1
    operator[rows, first + 1] = 3 * t**2 - 2 * t**3
    operator += (t**3 - 2 * t**2 + t)[:, None] * tangents[first]
    operator += (t**3 - t**2)[:, None] * tangents[first + 1]
    operator.setflags(write=False)
    return operator


def over(base: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay a colour (`3` or `h w 3`) with alpha `h w` over a picture `h w 3`; float32."""
    laid = np.subtract(colour, base, dtype=np.float32)
    # products of whole rows are several times faster than those of three values and one
    laid *= threefold(alpha).reshape(laid.shape)
    laid += base
    return laid


def affine(matrix: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Where a matrix `2 3` sends the pixels of a box: x and y, `h w` float32 each."""
    (xx, xy, x0), (yx, yy, y0) = matrix.tolist()
    xs, ys = box.xs, box.ys
    return (xx * xs + x0) + xy * ys, (yx * xs + y0) + yy * ys


def threefold(values: np.ndarray) -> np.ndarray:
    """`h w` as `h w 3` float32, all channels alike."""
    values = np.ascontiguousarray(values, np.float32)
    return cv2.merge([values] * 3) if values.size else np.empty((*values.shape, 3), np.float32)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded to 0..255, uint8; `h w` or `h w c` float32."""
    return cv2.convertScaleAbs(np.maximum(values, 0))


@dataclass(frozen=True)
class Scene:
    """One frame while it is painted: its warp, the head's placement and the state."""

    source: np.ndarray
    """The portrait, `S S 3` uint8."""
    maps: InverseMaps
    placement: Placement
    state: State
    expression: Expression
    size_px: int
    """Side of the output."""

    @property
    def scale(self) -> float:
        """Output px per px of the portrait."""
        return self.size_px / len(self.source)

    def to_output(self, points: np.ndarray) -> np.ndarray:
        """Portrait px `... 2` (already placed) to output px."""
        return (points + 0.5) * self.scale - 0.5

    def enlarged(self, values: np.ndarray, box: Box) -> np.ndarray:
        """Values on the grid, `GRID GRID ...`, at the pixels of a box: the same in whichever box."""
        # whole steps, after which pixels lie about the grid as before, and one more around
        steps = gcd(self.size_px, GRID)
        px, cells = self.size_px // steps, GRID // steps
        first_x, first_y = max(box.x0 // px - 1, 0), max(box.y0 // px - 1, 0)
        last_x, last_y = (min(-(-end // px) + 1, steps) for end in (box.x1, box.y1))
        part = values[first_y * cells : last_y * cells, first_x * cells : last_x * cells]
        size = ((last_x - first_x) * px, (last_y - first_y) * px)
        x0, y0 = box.x0 - first_x * px, box.y0 - first_y * px
        enlarged = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
        return enlarged[y0 : y0 + box.y1 - box.y0, x0 : x0 + box.x1 - box.x0]

    def pull(
        self, grid_map: np.ndarray, texture: np.ndarray, box: Box, origin: tuple[int, int] = (0, 0)
    ) -> np.ndarray:
        """A texture that lies on the portrait as it shows in a box of the output, through one of the maps.

        origin: (x, y) of the texture's first pixel in the portrait; beyond the texture its border goes on.
        """
        places, border = self.enlarged(grid_map, box), cv2.BORDER_CONSTANT
        if origin != (0, 0):
            places, border = cv2.subtract(places, (*origin, 0, 0)), cv2.BORDER_REPLICATE
        return cv2.remap(texture, places, None, cv2.INTER_LINEAR, borderMode=border)


def push_pull(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill where known (`h w` in 0..1) is 0 from around, by a pyramid (Gortler et al. 1996); `h w 3`."""
    weight = known[..., None]
    height, width = known.shape
    if min(height, width) <= 2:
        mean = (picture * weight).sum((0, 1)) / (known.sum() + 1e-6)
        return picture * weight + (1 - weight) * mean
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse = cv2.resize(cv2.GaussianBlur(picture * weight, (0, 0), 1.0), half, interpolation=cv2.INTER_AREA)
    coarse_known = cv2.resize(cv2.GaussianBlur(known, (0, 0), 1.0), half, interpolation=cv2.INTER_AREA)
    coarse = push_pull(coarse / (coarse_known[..., None] + 1e-6), np.clip(coarse_known * 4, 0, 1))
    filled = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture * weight + cv2.GaussianBlur(filled, (0, 0), 1.0) * (1 - weight)


def disc(radius_px: int) -> np.ndarray:
    """A round structuring element."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))


def refine_mask(mask: np.ndarray, rgb: np.ndarray, mesh_px: np.ndarray) -> np.ndarray:
    """A person mask `H W` in 0..1, snapped to edges; keeps only the part that holds the face."""
    size = len(mask)
    guided = _guided_filter(
        rgb.astype(np.float32).mean(-1) / 255, mask.astype(np.float32), max(4, size // 48)
    )
    mask = smoothstep(guided, 0.15, 0.75).astype(np.float32)
    hull = np.zeros_like(mask)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.round(mesh_px[:, :2]).astype(np.int32)), 1)
    mask = np.maximum(mask, cv2.GaussianBlur(hull, (0, 0), 2))
    _, labels = cv2.connectedComponents((mask > 0.4).astype(np.uint8))
    nose_x, nose_y = np.clip(mesh_px[1, :2].astype(int), 0, size - 1)
    person = cv2.dilate((labels == labels[nose_y, nose_x]).astype(np.uint8), np.ones((9, 9)))
    return mask * cv2.GaussianBlur(person.astype(np.float32), (0, 0), 2)


def _guided_filter(guide: np.ndarray, picture: np.ndarray, radius_px: int, eps: float = 1e-3) -> np.ndarray:
    """Edge-preserving smoothing (He et al. 2010) with a grey guide."""

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * radius_px + 1, 2 * radius_px + 1))

    guide_mean, picture_mean = mean(guide), mean(picture)
    slope = (mean(guide * picture) - guide_mean * picture_mean) / (mean(guide**2) - guide_mean**2 + eps)
    return mean(slope) * guide + mean(picture_mean - slope * guide_mean)


def spread_alpha(mask: np.ndarray) -> np.ndarray:
    """The alpha that is warped with the person: a little wider than the mask, soft at its edge."""
    radius = max(3, int(len(mask) * 0.012))
    return cv2.GaussianBlur(cv2.dilate(mask, disc(radius)), (0, 0), radius * 0.6)


def cut_out(rgb: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The person for another background: colours `H W 3` uint8 and alpha `H W`.

    At the edge, where the old background shines through, colours are replaced by those further inside.
    """
    radius = max(2, int(len(mask) * 0.006))
    sure = cv2.erode((mask > 0.85).astype(np.uint8), disc(radius)).astype(np.float32)
    small, small_sure = (cv2.pyrDown(a) for a in (rgb.astype(np.float32) * sure[..., None], sure))
    inner = push_pull(small / (small_sure[..., None] + 1e-3), np.clip(small_sure, 0, 1))
    inner = cv2.resize(inner, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    colour = over(inner, rgb.astype(np.float32), cv2.GaussianBlur(sure, (0, 0), radius))
    alpha = smoothstep(cv2.GaussianBlur(mask, (0, 0), 0.5 * radius), 0.25, 0.95)
    return np.clip(np.round(colour), 0, 255).astype(np.uint8), alpha.astype(np.float32)


def paint_background(rgb: np.ndarray, mask: np.ndarray, size_px: int) -> np.ndarray:
    """The picture without the person, `size size 3` float32; what was hidden is filled smoothly."""
    radius = max(3, int(len(mask) * 0.012))
    hidden = cv2.dilate((mask > 0.05).astype(np.uint8), disc(2 * radius))
    small = cv2.resize(rgb, (128, 128), interpolation=cv2.INTER_AREA).astype(np.float32)
    small_hidden = cv2.resize(hidden, (128, 128), interpolation=cv2.INTER_NEAREST)
    filled = cv2.GaussianBlur(push_pull(small, (small_hidden == 0).astype(np.float32)), (0, 0), 1.5)
    filled = np.clip(cv2.resize(filled, mask.shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 255)
    share = cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), radius)
    background = over(rgb.astype(np.float32), filled, share)
    return cv2.resize(background, (size_px, size_px), interpolation=cv2.INTER_AREA)
