"""The warp: mesh displacements to a dense field, the head's turn, and the inverse maps that pull pixels.

Displacements spread by thin-plate splines (Bookstein 1989) whose matrix is made once per portrait; a coarse
depth and a skinning weight that fades below the chin give the turn of the head; the forward field is
inverted by Newton's method on the grid, so that a frame does not depend on others.

There are two fields, since the skin tears at the mouth and eye slits: `upper` does not know the lower lip
and lids, `lower` not the upper ones. They agree away from the slits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from openloopy.face.mesh import Pose, rotation_of
from openloopy.rig.mesh import (
    CONTROL_POINTS,
    FACE_OVAL,
    FREE_POINTS,
    LOWER_SLIT_POINTS,
    UPPER_SLIT_POINTS,
    HeadFrame,
    smoothstep,
)
from openloopy.rig.state import NEUTRAL, State

Side = Literal["left", "right", "top", "bottom"]
Outside = tuple[float, float, float, float]
"""At the left, top, right and bottom, as shares of the side."""
NOTHING_OUTSIDE: Outside = (0.0, 0.0, 0.0, 0.0)
GRID = 96
"""Points of the field along each side of the picture."""
NECK_PIVOT_CM = np.array([0.0, 4.5, -8.0])
VIEWER_DISTANCE_CM = 60.0
FADE_CM = 6.5
"""Over this length below the chin the head's motion dies away."""
_DEEPEST_CM, _EAR_DEPTH_CM = -10.5, -8.0
_DEPTH_RINGS = ((1.18, -2.2), (1.45, -5.5), (2.0, -8.0), (2.8, -8.5))
"""Rings around the face oval: size relative to it, depth in cm behind it."""
_ANCHOR_RINGS = (1.3, 1.7, 2.4)
"""Rings around the face oval that the expression leaves where they are."""
_REACH, _REACH_DOWN = 0.72, 0.95
"""How far from the face's centre the expression may move the skin, in face sizes; the throat moves with the jaw."""

_QUERIES_AT_ONCE = 512
_SPREAD_AT_ONCE = 512
MAX_SLOPE = (2.0, 2.6)
"""Of the depth, across and down: when the head turns by 20 degrees or nods by 15, places keep a third of their size."""
_HIDING_SLOPE = 3.0
_SLOPE_ROUNDS = 24
_FOLDED, _UNFOLD_ROUNDS = 0.08, 12
"""A place that keeps a smaller share of its size counts as folded; smoothed this often at most."""
STILL_SHARE = 0.12
"""Over this share of the picture's side movement fades to nothing, at sides that stay still."""
NEWTON_STEPS, MOST_NEWTON_STEPS = 4, 16
"""Two steps are the rule. Where a field shrinks the picture to a tenth, as beside a still border, they are damped."""
_AT_PLACE, _SAME_PLACE = 0.03, 0.002
"""Places this near one another count as one, in the grid's units: OpenCV interpolates at 32 places between points."""
_LINEAR = (cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
CUT_SHARE = 0.2
"""Over this share of the picture's side what the border cuts is stretched, as it is drawn inwards."""
CUT_MARGIN = 10
"""Points of the grid by which the stretched part is wider than the cut: hair that is cut keeps its width."""
LEAST_DETERMINANT = 0.3
"""Where the field shrinks the picture more than this, or folds it, a full step would jump away."""


def tps_operator(control: np.ndarray, anchors: np.ndarray, query: np.ndarray, ridge: float) -> np.ndarray:
    """Thin-plate spline as a matrix: values at `control` (0 at `anchors`) to values at `query`.

    control, anchors, query: `n 2`, `m 2`, `q 2` px. Returns `q n` float32.
    """
    knots = np.concatenate([control, anchors])
    centre = knots.mean(0)
    size = np.abs(knots - centre).max()
    knots, query = (knots - centre) / size, (query - centre) / size
    kernel = _tps_kernel(knots, knots) + ridge * np.eye(len(knots))
    affine = np.c_[np.ones(len(knots)), knots]
    system = np.block([[kernel, affine], [affine.T, np.zeros((3, 3))]])
    weights = np.linalg.inv(system)[:, : len(control)]
    operator = np.empty((len(query), len(control)), np.float32)
    for first in range(0, len(query), _QUERIES_AT_ONCE):
        part = query[first : first + _QUERIES_AT_ONCE]
        operator[first : first + len(part)] = (
            np.c_[_tps_kernel(part, knots), np.ones(len(part)), part] @ weights
        )
    return operator


def _tps_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = np.subtract.outer(a[:, 0], b[:, 0]) ** 2 + np.subtract.outer(a[:, 1], b[:, 1]) ** 2
    return 0.5 * square * np.log(np.maximum(square, 1e-12))


def free_point_operator(head: HeadFrame) -> np.ndarray:
    """Displacements of CONTROL_POINTS to those of FREE_POINTS, by the same spline as the skin."""
    mesh = head.mesh_px[:, :2]
    return tps_operator(mesh[CONTROL_POINTS], _anchors(head), mesh[FREE_POINTS], 1e-5)


@dataclass(frozen=True)
class Placement:
    """Head pose of one frame: turns points in picture px and fades into the body's small sway."""

    rotation: np.ndarray
    pivot: np.ndarray
    shift_px: np.ndarray
    body_shift_px: np.ndarray
    zoom: float
    viewer_px: float

    def __call__(self, points: np.ndarray, head_weight: np.ndarray) -> np.ndarray:
        """points: `... 3` px; head_weight: `...`, 1 on the head, 0 on the body. Returns `... 2` px."""
        return np.stack(self.place(points[..., 0], points[..., 1], points[..., 2], head_weight), -1)

    def place(
        self, x: np.ndarray, y: np.ndarray, z: np.ndarray, head_weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for x, y and z apart: where each goes, x and y apart."""
        (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = self.rotation.tolist()
        pivot_x, pivot_y, pivot_z = self.pivot.tolist()
        shift, body = self.shift_px.tolist(), self.body_shift_px.tolist()
        from_x, from_y, from_z = x - pivot_x, y - pivot_y, z - pivot_z
        nearer = zx * from_x + zy * from_y + (zz - 1) * from_z
        # weak perspective: what comes nearer grows
        grow = self.viewer_px * self.zoom / (self.viewer_px - nearer)
        head_x = (xx * from_x + xy * from_y + xz * from_z) * grow + (pivot_x + shift[0])
        head_y = (yx * from_x + yy * from_y + yz * from_z) * grow + (pivot_y + shift[1])
        body_x, body_y = x + body[0], y + body[1]
        return body_x + head_weight * (head_x - body_x), body_y + head_weight * (head_y - body_y)


def place_head(head: HeadFrame, state: State, own: State = NEUTRAL) -> Placement:
    """The placement of a head that shows the pose of `own` already; at that pose it is the identity."""
    kind, scale = np.float32, head.scale_px
    moved = {name: state[name] - own[name] for name in ("shift_x", "shift_y", "breath")}
    shift = np.array([moved["shift_x"], moved["shift_y"]]) * scale
    body = np.array([0.35 * moved["shift_x"], 0.8 * moved["breath"]]) * scale
    turned, before = (rotation_of(Pose(pose["yaw"], pose["pitch"], pose["roll"])) for pose in (state, own))
    return Placement(
        rotation=(turned @ before.T).astype(kind),
        pivot=head.to_px(NECK_PIVOT_CM).astype(kind),
        shift_px=shift.astype(kind),
        body_shift_px=body.astype(kind),
        zoom=float((1 + state["nearness"]) / (1 + own["nearness"])),
        viewer_px=float(VIEWER_DISTANCE_CM * scale),
    )


@dataclass(frozen=True)
class InverseMaps:
    """For each grid point of the output, the source px it shows, `GRID GRID 2` each."""

    upper: np.ndarray
    lower: np.ndarray


class WarpField:
    """Everything about the warp that depends on the portrait alone."""

    def __init__(
        self,
        head: HeadFrame,
        size_px: int,
        still_sides: Collection[Side] = (),
        person: np.ndarray | None = None,
        outside: Outside = NOTHING_OUTSIDE,
    ) -> None:
        """
        Args:
            head: the head and its mesh in the picture.
            size_px: side of the square picture that `head.mesh_px` lies in.
            still_sides: sides of the picture towards which all movement fades to nothing.
            person: where the person is, `S S` in 0..1: what the border cuts is not drawn in from there; None: nothing
                is held.
            outside: how much of the square lies beyond the picture that it was cut from.
        """
        self.head, self.size_px = head, size_px
        line = (np.arange(GRID) + 0.5) * size_px / GRID - 0.5
        self.grid = np.stack(np.meshgrid(line, line), -1).astype(np.float32)
        self.depth, self.head_weight = _depth(head, self.grid), _head_weight(head, self.grid)
        self._across, self._down = (np.ascontiguousarray(self.grid[..., i]) for i in (0, 1))
        index = np.arange(GRID, dtype=np.float32)
        self._index = np.stack(np.meshgrid(index, index), -1)
        self.landmark_weight = self._at_landmarks(self.head_weight)
        self.landmark_depth = self._at_landmarks(self.depth)
        self.stillness = _stillness(self.grid, size_px, still_sides) if still_sides else None
        """Share of the movement that is left, `GRID GRID 1`; None: all of it everywhere."""
        self._both_stillness = None if self.stillness is None else np.repeat(self.stillness, 2, -1)
        self._per_px = np.float32(GRID / size_px)
        """Of the grid's units."""
        self._hold = None if person is None else _hold_at_cuts(self.grid, size_px, person, outside)
        self._landmark_hold = (
            None if self._hold is None else [self._at_landmarks(share) for share in self._hold]
        )
        self._rows, self._columns = _face_box(head, size_px)
        window = _fade_to_border(self._rows.stop - self._rows.start, self._columns.stop - self._columns.start)
        self.upper_points = [i for i in CONTROL_POINTS if i not in LOWER_SLIT_POINTS]
        self.lower_points = [i for i in CONTROL_POINTS if i not in UPPER_SLIT_POINTS]
        self._upper_operator = self._spread_operator(self.upper_points, window)
        self._lower_operator = self._spread_operator(self.lower_points, window)

    def inverse_maps(self, skin_px: np.ndarray, placement: Placement) -> InverseMaps:
        """skin_px: `478 3` displacements of the mesh before the head turns, px."""
        upper_field, lower_field = self.displacements(skin_px, placement)
        everywhere = slice(0, GRID), slice(0, GRID)
        upper = self._invert(upper_field, everywhere)
        # elsewhere the fields agree
        apart = cv2.remap(cv2.absdiff(lower_field, upper_field), upper, None, *_LINEAR)
        differs = np.maximum(apart[..., 0], apart[..., 1]) > _SAME_PLACE / self._per_px
        differs = cv2.boundingRect(differs.astype(np.uint8))
        lower = upper.copy()
        if differs[2]:
            box = _grown(differs)
            lower[box] = self._invert(lower_field, box)
        return InverseMaps(self._to_px(upper), self._to_px(lower))

    def displacements(self, skin_px: np.ndarray, placement: Placement) -> list[np.ndarray]:
        """By how much the portrait's pixels move: the upper field and the lower, `GRID GRID 2` px each."""
        placed = np.stack(placement.place(self._across, self._down, self.depth, self.head_weight), -1)
        placed -= self.grid
        box = self._rows, self._columns
        fields = []
        for operator, indices in (
            (self._upper_operator, self.upper_points),
            (self._lower_operator, self.lower_points),
        ):
            moves = _spread(np.ascontiguousarray(skin_px[indices].T, np.float32), operator)
            points = (
                start[box] + move.reshape(start[box].shape)
                for start, move in zip((self._across, self._down, self.depth), moves, strict=True)
            )
            displacement = placed.copy()
            moved, start = placement.place(*points, self.head_weight[box]), self.grid[box]
            for i in (0, 1):
                displacement[box][..., i] = moved[i] - start[..., i]
            if self._hold is not None:
                displacement = _held(displacement, self._hold)
            if self.stillness is not None:
                displacement *= self._both_stillness
            fields.append(self._unfold(displacement))
        return fields

    def _unfold(self, displacement: np.ndarray) -> np.ndarray:
        """The field, smoothed where it would lay the picture over itself (a chin that sinks into a collar)."""
        for _ in range(_UNFOLD_ROUNDS):
            folded = _determinant(*self._jacobian(displacement)) < _FOLDED
            if not folded.any():
                break
            folded = cv2.dilate(folded.astype(np.float32), np.ones((5, 5)))
            share = cv2.GaussianBlur(folded, (0, 0), 1.5)[..., None]
            if self.stillness is not None:
                share = share * np.minimum(5 * self.stillness, 1)
            displacement += share * (cv2.GaussianBlur(displacement, (0, 0), 1.5) - displacement)
        return displacement

    def slopes(self, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The Jacobian of x + displacement(x), row by row, `GRID GRID 4`, and its determinant: below 0 in a fold."""
        jacobian = self._jacobian(displacement)
        return np.stack(jacobian, -1), _determinant(*jacobian)

    def _jacobian(self, displacement: np.ndarray) -> tuple[np.ndarray, ...]:
        """Its four entries, row by row, `GRID GRID` each."""
        by_x, by_y = (_differences(displacement, axis) for axis in (1, 0))
        by_x *= self._per_px
        by_y *= self._per_px
        return 1 + by_x[..., 0], by_y[..., 0], by_x[..., 1], 1 + by_y[..., 1]

    def place_landmarks(self, moves_px: np.ndarray, placement: Placement) -> np.ndarray:
        """Where the mesh goes, `478 2` px, as the skin goes there; moves_px: `478 3`, before the head turns."""
        points = self.head.mesh_px + moves_px
        points[:, 2] = self.landmark_depth + moves_px[:, 2]
        placed = placement(points, self.landmark_weight)
        start = self.head.mesh_px[:, :2]
        if self._hold is not None:
            placed = start + _held(placed - start, self._landmark_hold)
        if self.stillness is not None:
            placed = start + (placed - start) * self._at_landmarks(self.stillness)[:, None]
        return placed

    def _invert(self, displacement: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
        """x with x + displacement(x) = grid, in a box of the grid and in its units, `h w 2`."""
        displacement = displacement * self._per_px
        inverse_slopes = self._inverse_slopes(displacement)
        target = self._index[box]
        source = target - displacement[box]
        for step in range(MOST_NEWTON_STEPS):
            off = cv2.remap(displacement, source, None, *_LINEAR)
            off += source
            off -= target
            farthest = max(float(off.max()), -float(off.min()))
            if farthest < _AT_PLACE or (step >= NEWTON_STEPS and farthest < GRID / 128):
                break
            if farthest > GRID / 24:
                # steps are cut short: they must not leave the picture where the field is nearly singular
                np.clip(off, -GRID / 24, GRID / 24, out=off)
            slopes = cv2.remap(inverse_slopes, source, None, *_LINEAR)
            across, down = off[..., 0], off[..., 1]
            step_back = np.empty_like(source)
            np.add(slopes[..., 0] * across, slopes[..., 1] * down, out=step_back[..., 0])
            np.add(slopes[..., 2] * across, slopes[..., 3] * down, out=step_back[..., 1])
            source -= step_back
        return source

    def _inverse_slopes(self, displacement: np.ndarray) -> np.ndarray:
        """The inverse of the Jacobian of x + displacement(x) at every grid point, row by row, `GRID GRID 4`."""
        by_x, by_y = (_differences(displacement, axis) for axis in (1, 0))
        xx, xy, yx, yy = 1 + by_x[..., 0], by_y[..., 0], by_x[..., 1], 1 + by_y[..., 1]
        scale = 1 / np.maximum(_determinant(xx, xy, yx, yy), LEAST_DETERMINANT)
        return np.stack([yy * scale, -xy * scale, -yx * scale, xx * scale], -1)

    def _to_px(self, places: np.ndarray) -> np.ndarray:
        """From the grid's units to the portrait's px."""
        return (places + np.float32(0.5)) / self._per_px - np.float32(0.5)

    def _spread_operator(self, indices: list[int], window: np.ndarray) -> list[np.ndarray]:
        """Moves of mesh points to those of the box's grid points, cut into blocks of these, `points n` each."""
        query = self.grid[self._rows, self._columns].reshape(-1, 2)
        operator = tps_operator(self.head.mesh_px[indices, :2], _anchors(self.head), query, 1e-5)
        operator *= window.reshape(-1, 1)
        return [
            np.ascontiguousarray(operator[first : first + _SPREAD_AT_ONCE].T)
            for first in range(0, len(operator), _SPREAD_AT_ONCE)
        ]

    def _at_landmarks(self, values: np.ndarray) -> np.ndarray:
        """Values on the grid `GRID GRID ...` to values at the mesh `478 ...`."""
        at = ((self.head.mesh_px[None, :, :2] + 0.5) * GRID / self.size_px - 0.5).astype(np.float32)
        return cv2.remap(values, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def _spread(moves: np.ndarray, operator: list[np.ndarray]) -> np.ndarray:
    """Moves `3 points` times the blocks of an operator, `3 n`.

    einsum: `@` would start BLAS threads, which corpus workers trip over. All three coordinates of a block follow one
    another: it stays in the core's cache.
    """
    spread, first = np.empty((3, sum(block.shape[1] for block in operator)), np.float32), 0
    for block in operator:
        for out, along in zip(spread, moves, strict=True):
            np.einsum("c,cn->n", along, block, out=out[first : first + block.shape[1]])
        first += block.shape[1]
    return spread


def _differences(values: np.ndarray, axis: int) -> np.ndarray:
    """Along rows (1) or columns (0) of the grid, `GRID GRID c` per step: central, at the borders one-sided."""
    along = np.swapaxes(values, 0, axis)
    slopes = np.empty_like(along)
    np.subtract(along[2:], along[:-2], out=slopes[1:-1])
    slopes[1:-1] *= np.float32(0.5)
    np.subtract(along[1], along[0], out=slopes[0])
    np.subtract(along[-1], along[-2], out=slopes[-1])
    return np.swapaxes(slopes, 0, axis)


def _determinant(xx: np.ndarray, xy: np.ndarray, yx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    return xx * yy - xy * yx


def _grown(rectangle: tuple[int, int, int, int]) -> tuple[slice, slice]:
    """Rows and columns of a rectangle (x, y, width, height) of the grid and one point around it."""
    x, y, width, height = rectangle
    return slice(max(y - 1, 0), min(y + height + 1, GRID)), slice(max(x - 1, 0), min(x + width + 1, GRID))


def _oval(head: HeadFrame) -> tuple[np.ndarray, np.ndarray]:
    """The face oval `36 3` and its centre `2`, px."""
    oval = head.mesh_px[FACE_OVAL]
    return oval, oval[:, :2].mean(0)


def _anchors(head: HeadFrame) -> np.ndarray:
    """Points that the expression does not move, `n 2` px. The throat right below the chin is left free."""
    oval, centre = _oval(head)
    rings = [centre + (oval[:, :2] - centre) * size for size in _ANCHOR_RINGS]
    rings[0] = rings[0][head.points_cm[FACE_OVAL, 1] < 1.0]
    return np.concatenate(rings)


def _depth(head: HeadFrame, grid: np.ndarray) -> np.ndarray:
    """Depth towards the viewer, `GRID GRID` px: the mesh on the face, falling away around it.

    One surface, of limited slope: a turned head hides parts of itself, and where the depth fell off steeply the
    picture would fold over when the head turns further.
    """
    scale, (oval, centre) = head.scale_px, _oval(head)
    knots = [_unhidden(head.mesh_px[CONTROL_POINTS])]
    depth = oval[:, 2]
    for size, behind_cm in _DEPTH_RINGS:
        nearby = np.maximum(oval[:, 2] + behind_cm * scale, _EAR_DEPTH_CM * scale)
        far = np.minimum(oval[:, 2] * 0.3 + behind_cm * scale, -5 * scale)
        # never nearer than the ring before: a hollow beside the face would wave when the head turns
        depth = np.minimum(nearby if size < 1.4 else far, depth)
        knots.append(np.c_[centre + (oval[:, :2] - centre) * size, np.maximum(depth, _DEEPEST_CM * scale)])
    knots = np.concatenate(knots)
    operator = tps_operator(knots[:, :2], np.zeros((0, 2)), grid.reshape(-1, 2), 2e-3)
    depth = (operator @ knots[:, 2].astype(np.float32)).reshape(grid.shape[:2])
    depth = limit_slope(np.clip(depth, -12 * scale, 5 * scale), grid[0, 1, 0] - grid[0, 0, 0])
    return cv2.GaussianBlur(depth, (0, 0), GRID / 128).astype(np.float32)


def _unhidden(points: np.ndarray) -> np.ndarray:
    """Those of the points `n 3` that no other point stands before, as far as points can say it."""
    beside = np.linalg.norm(points[:, None, :2] - points[None, :, :2], axis=-1)
    before = points[None, :, 2] - points[:, None, 2]
    return points[~(before > _HIDING_SLOPE * beside + 1e-6).any(1)]


def limit_slope(depth: np.ndarray, spacing: float) -> np.ndarray:
    """The middle between the least surface of limited slope above a depth `h w` and the greatest below it."""
    above, below = depth, depth
    for _ in range(_SLOPE_ROUNDS):
        above, below = _neighbour_bound(above, spacing), -_neighbour_bound(-below, spacing)
    return (above + below) / 2


def _neighbour_bound(depth: np.ndarray, spacing: float) -> np.ndarray:
    """Each depth raised to what its eight neighbours allow at least."""
    height, width = depth.shape
    padded, bound = np.pad(depth, 1, mode="edge"), depth
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            step = np.hypot(across * MAX_SLOPE[0], down * MAX_SLOPE[1]) * spacing
            there = padded[1 + down : 1 + down + height, 1 + across : 1 + across + width]
            bound = np.maximum(bound, there - step)
    return bound


def _stillness(grid: np.ndarray, size_px: int, sides: Collection[Side]) -> np.ndarray:
    """Share of the movement that is left, `GRID GRID 1`: 0 at the given sides, 1 further inside."""
    x, y = np.moveaxis((grid + 0.5) / size_px, -1, 0)
    inward = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    unknown = set(sides) - set(inward)
    if unknown:
        raise ValueError(f"expected sides out of {', '.join(inward)}, got {sorted(unknown)}")
    share = np.ones_like(x)
    for side in sides:
        share = share * smoothstep(inward[side], 1.5 / GRID, STILL_SHARE)
    return share[..., None].astype(np.float32)


def _hold_at_cuts(grid: np.ndarray, size_px: int, person: np.ndarray, outside: Outside) -> np.ndarray:
    """Shares that are left of movement right and down, and of movement left and up, `2 GRID GRID 2`.

    Where the border cuts a person, hair and cloth may leave the picture and slide along the border; towards the middle
    they are stretched, since what would follow is not known.
    """
    x, y = np.moveaxis((grid + 0.5) / size_px, -1, 0)
    shares = []
    for side, inward in enumerate((x, y, 1 - x, 1 - y)):
        turned = np.rot90(person, side - 1)  # that side up
        first = min(round(outside[side] * len(person)), len(person) - 1)
        cut = turned[first : first + max(1, len(person) // 64)].max(0)[None].astype(np.float32)
        cut = cv2.resize(cut, (GRID, 1), interpolation=cv2.INTER_AREA)
        cut = cv2.dilate(cut, np.ones((1, 2 * CUT_MARGIN + 1)), borderType=cv2.BORDER_REPLICATE)
        cut = cv2.GaussianBlur(cut, (0, 0), CUT_MARGIN / 2, borderType=cv2.BORDER_REPLICATE)
        along = np.rot90(np.repeat(cut, GRID, 0), 1 - side)
        shares.append(1 - along * (1 - smoothstep(inward - outside[side], 1.0 / GRID, CUT_SHARE)))
    return np.stack([np.stack(shares[:2], -1), np.stack(shares[2:], -1)]).astype(np.float32)


def _held(moves: np.ndarray, hold: Sequence[np.ndarray]) -> np.ndarray:
    """Moves `... 2` px with the shares of `_hold_at_cuts`."""
    return moves * np.where(moves > 0, *hold)


def _head_weight(head: HeadFrame, grid: np.ndarray) -> np.ndarray:
    """1 on the head, fading to 0 on shoulders and chest, `GRID GRID`."""
    flat = np.concatenate([grid, np.zeros((*grid.shape[:2], 1), np.float32)], -1)
    across, down = np.moveaxis((flat - head.origin_px) @ head.rotation[:, :2] / head.scale_px, -1, 0)
    chin, mouth = head.points_cm[152, 1], head.points_cm[13, 1]
    beside = smoothstep(np.abs(across), 5.5, 10.0)
    start = chin + 0.6 - beside * (chin - mouth + 1.5)
    # far from the neck a tilt moves things by much: there the motion dies away over twice the length
    pivot = ((head.to_px(NECK_PIVOT_CM)[:2] - head.origin_px[:2]) @ head.rotation[:2, 0]) / head.scale_px
    far = smoothstep(np.abs(across - pivot), 7.0, 14.0)
    weight = 1 - smoothstep((down - start + 4.0 * far) / (FADE_CM * (1 + far)), 0, 1)
    return cv2.GaussianBlur(weight.astype(np.float32), (0, 0), GRID / 64)


def _face_box(head: HeadFrame, size_px: int) -> tuple[slice, slice]:
    """Rows and columns of the grid that the expression may move."""
    oval, centre = _oval(head)
    size = oval[:, :2].max(0) - oval[:, :2].min(0)
    first, last = centre - _REACH * size, centre + np.array([_REACH, _REACH_DOWN]) * size
    x0, y0 = np.maximum(np.floor(first * GRID / size_px).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(last * GRID / size_px).astype(int), GRID)
    return slice(y0, y1), slice(x0, x1)


def _fade_to_border(height: int, width: int) -> np.ndarray:
    """1 inside a box, 0 at its border, over five grid points; `height width`."""
    ramps = [np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / 5, 0, 1) for n in (height, width)]
    return np.minimum(ramps[0][:, None], ramps[1][None]).astype(np.float32)
