"""Flat cartoon faces with eyes of any size, hardly a nose and a small mouth, drawn by code with their meshes.

The contours of the parts are drawn as curves; the mesh's points on these contours are where the curves are, and all
others follow from the mean mesh by a thin-plate spline.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.face.mesh import MESH_POINTS, canonical_mesh
from openloopy.puppet.drawn import MIN_SIZE_PX, DrawnFace
from openloopy.rig.field import tps_operator
from openloopy.rig.mesh import (
    EYES,
    FACE_OVAL,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LIP_OUTER_LOWER,
    LIP_OUTER_UPPER,
    NUM_SKIN_POINTS,
    EyeIndices,
)

SHARPNESS = 2
"""Pixels drawn along each side for every pixel of the picture."""
NOSE_BRIDGE, NOSE_TIP, NOSE_BASE = 168, 4, 2
_HALF_TURN = np.linspace(0, np.pi, 100)


@dataclass(frozen=True, kw_only=True)
class CartoonShape:
    """A face in face heights from the middle between the top of the forehead and the chin; x right, y down."""

    half_width: float
    jaw_power: float
    """Above 2 a broad chin, below a pointed one."""
    cheek_y: float
    eye_x: float
    eye_y: float
    eye_size: tuple[float, float]
    """Half of width and height of the open eye."""
    eye_tilt: float
    openness: float
    """Of the eyes, 0 to 1."""
    gaze: tuple[float, float]
    iris: tuple[float, float]
    brow_lift: float
    brow_tilt: float
    nose_y: float
    mouth_y: float
    mouth_half_width: float
    mouth_gap: float
    mouth_smile: float
    lip: float
    turn: float
    """Shift of the inner features to a side, -1 to 1."""

    @staticmethod
    def draw(rng: np.random.Generator) -> CartoonShape:
        eye_width, half_width = rng.uniform(0.075, 0.15), rng.uniform(0.38, 0.52)
        eye_height = eye_width * rng.uniform(0.55, 1.45)
        eye_y = rng.uniform(0.0, 0.16)
        mouth_y = rng.uniform(0.3, 0.39)
        return CartoonShape(
            half_width=half_width,
            jaw_power=rng.uniform(1.2, 2.6),
            cheek_y=rng.uniform(-0.05, 0.2),
            eye_x=float(np.clip(rng.uniform(0.16, 0.25), 1.2 * eye_width, half_width - 1.2 * eye_width)),
            eye_y=eye_y,
            eye_size=(eye_width, eye_height),
            eye_tilt=rng.normal(0, 0.12),
            openness=rng.uniform(0.0, 0.4) if rng.random() < 0.1 else rng.uniform(0.7, 1.0),
            gaze=(rng.normal(0, 0.15), rng.normal(0, 0.08)),
            iris=(rng.uniform(0.4, 0.8), rng.uniform(0.65, 1.05)),
            brow_lift=rng.uniform(0.03, 0.1),
            brow_tilt=rng.normal(0, 0.25),
            nose_y=rng.uniform(0.35, 0.65) * (mouth_y - eye_y) + eye_y,
            mouth_y=mouth_y,
            mouth_half_width=rng.uniform(0.035, 0.15),
            mouth_gap=rng.uniform(0.01, 0.09) if rng.random() < 0.5 else 0.0,
            mouth_smile=rng.normal(0.1, 0.2),
            lip=rng.uniform(0.003, 0.03),
            turn=rng.uniform(-1, 1) if rng.random() < 0.6 else 0.0,
        )


def draw_cartoon(rng: np.random.Generator, size_px: int = 384) -> DrawnFace:
    """A new cartoon: the same generator state gives the same picture. Its mesh has no depth (NaN)."""
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"a drawn face needs at least {MIN_SIZE_PX} px, got {size_px}")
    shape = CartoonShape.draw(rng)
    place = _Place.draw(rng, size_px * SHARPNESS)
    pen = _Pen(rng, place, size_px * SHARPNESS)
    _paint(pen, shape, rng)
    rgb = cv2.resize(pen.rgb, (size_px, size_px), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(pen.person, (size_px, size_px), interpolation=cv2.INTER_AREA)
    mesh = np.full((MESH_POINTS, 3), np.nan, np.float32)
    mesh[:, :2] = place(mesh_of(shape)) / SHARPNESS
    return DrawnFace(rgb, mesh, mask.astype(np.float32) / 255)


def mesh_of(shape: CartoonShape) -> np.ndarray:
    """The mesh of a face, `478 2` face heights."""
    known: dict[int, np.ndarray] = {}
    known.update(zip(FACE_OVAL, outline(shape, _oval_angles()), strict=True))
    for eye in EYES:
        known.update(_eye_points(shape, eye))
    known.update(_mouth_points(shape))
    shift = _turn_shift(shape, 0.0)
    known[NOSE_TIP] = np.array([shift[0], shape.nose_y])
    known[NOSE_BASE] = np.array([shift[0], shape.nose_y + 0.03])
    known[NOSE_BRIDGE] = np.array([0.7 * shift[0], shape.eye_y])
    mesh = _with_known(_mean_within(shape), known)
    free = np.setdiff1d(np.arange(NUM_SKIN_POINTS), list(known))
    mesh[free] = _kept_within(mesh[free], shape)
    return mesh


def _with_known(mesh: np.ndarray, known: dict[int, np.ndarray]) -> np.ndarray:
    """A mesh `478 2` whose known points are where they are; the others follow by a thin-plate spline."""
    controls = [index for index in known if index < NUM_SKIN_POINTS]
    moved = np.stack([known[index] - mesh[index] for index in controls])
    moves = tps_operator(mesh[controls], np.zeros((0, 2)), mesh[:NUM_SKIN_POINTS], 1e-4) @ moved
    mesh = mesh.copy()
    mesh[:NUM_SKIN_POINTS] += moves
    mesh[list(known)] = np.stack(list(known.values()))
    return mesh


def _kept_within(points: np.ndarray, shape: CartoonShape) -> np.ndarray:
    """Points `n 2`; those beside the face are put on its outline."""
    edge = outline(shape, _HALF_TURN)
    height = np.clip(points[:, 1], -0.5, 0.5)
    width = np.interp(height, edge[:, 1], edge[:, 0])
    return np.stack([np.clip(points[:, 0], -width, width), height], -1)


def _mean_within(shape: CartoonShape) -> np.ndarray:
    """The mean mesh, `478 2`, as wide at each height as the face is there."""
    mean = canonical_mesh().vertices[:, :2]
    oval = mean[FACE_OVAL]
    top, bottom = oval[:, 1].min(), oval[:, 1].max()
    height = np.clip((mean[:, 1] - top) / (bottom - top) - 0.5, -0.5, 0.5)
    widths = []
    for edge in (np.c_[oval[:, 0], (oval[:, 1] - top) / (bottom - top) - 0.5], outline(shape, _HALF_TURN)):
        right = edge[edge[:, 0] > 0]
        order = right[np.argsort(right[:, 1])]
        widths.append(np.interp(height, order[:, 1], order[:, 0]))
    across = np.clip(mean[:, 0] / np.maximum(widths[0], 0.1), -1, 1)
    return np.stack([across * widths[1], height], -1)


def _oval_angles() -> np.ndarray:
    """Of the outline's mesh points, so that each lies as high as on the mean face; radians."""
    oval = canonical_mesh().vertices[FACE_OVAL, :2]
    top, bottom = oval[:, 1].min(), oval[:, 1].max()
    angle = np.arccos(np.clip(1 - 2 * (oval[:, 1] - top) / (bottom - top), -1, 1))
    return np.where(oval[:, 0] < 0, 2 * np.pi - angle, angle)


def outline(shape: CartoonShape, angle: np.ndarray) -> np.ndarray:
    """Places on the face's outline, `n 2`; angle: clockwise from the top of the forehead, radians `n`."""
    x, y = np.sin(angle), -np.cos(angle)
    above = shape.cheek_y + y * (0.5 + shape.cheek_y)
    below = shape.cheek_y + y * (0.5 - shape.cheek_y)
    # A superellipse below the cheeks: at power 1 a straight line to the chin.
    down = np.clip(y, 0, 1)
    narrow = (1 - down**shape.jaw_power) ** (1 / max(shape.jaw_power, 1.0))
    wide = np.where(y > 0, np.sign(x) * narrow, x)
    return np.stack([shape.half_width * wide, np.where(y > 0, below, above)], -1)


def _turn_shift(shape: CartoonShape, x: float) -> np.ndarray:
    """Where the turn of the head moves a feature at x: all to one side, those on the far side nearer together."""
    return np.array(
        [0.13 * shape.turn - 0.25 * shape.turn * shape.turn * x * (np.sign(x) == np.sign(shape.turn)), 0]
    )


def _eye_centre(shape: CartoonShape, side: int) -> np.ndarray:
    x = side * shape.eye_x
    return np.array([x, shape.eye_y]) + _turn_shift(shape, x)


def _eye_width(shape: CartoonShape, side: int) -> float:
    return shape.eye_size[0] * (1 - 0.25 * abs(shape.turn) * (np.sign(shape.turn) == side))


def eye_lids(shape: CartoonShape, side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid from the outer corner to the inner one, `count 2` each."""
    t = np.linspace(-1, 1, count)
    arch = np.sqrt(np.clip(1 - t**2, 0, 1)) ** 0.8
    upper, lower = -0.55 * arch * shape.openness, 0.45 * arch
    lids = []
    for height in (upper + 0.45 * arch * (1 - shape.openness), lower):
        x = -side * t * _eye_width(shape, side)
        y = 2 * height * shape.eye_size[1] + side * x * shape.eye_tilt
        lids.append(_eye_centre(shape, side) + np.stack([x, y], -1))
    return lids[0], lids[1]


def iris_of(shape: CartoonShape, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half axes of an iris, `2` each."""
    half = np.array(shape.eye_size) * shape.iris * [_eye_width(shape, side) / shape.eye_size[0], 1]
    return _eye_centre(shape, side) + np.array(shape.gaze) * shape.eye_size, half


def _eye_points(shape: CartoonShape, eye: EyeIndices) -> dict[int, np.ndarray]:
    upper, lower = eye_lids(shape, eye.side, len(eye.upper))
    points = dict(zip([*eye.upper, *eye.lower], [*upper, *lower], strict=True))
    points.update(zip(eye.brow, brow_of(shape, eye.side), strict=True))
    centre, half = iris_of(shape, eye.side)
    points[eye.iris] = centre
    ring = canonical_mesh().vertices[eye.iris_ring, :2] - canonical_mesh().vertices[eye.iris, :2]
    ring = ring / np.linalg.norm(ring, axis=1, keepdims=True)
    points.update(zip(eye.iris_ring, centre + ring * half, strict=True))
    return points


def brow_of(shape: CartoonShape, side: int) -> np.ndarray:
    """A brow's upper edge and then its lower one, each from outside in, `10 2`."""
    t = np.linspace(-1, 1, 5)
    x = -side * t * 1.15 * _eye_width(shape, side)
    arch = 0.03 * (1 - t**2)
    top = -1.1 * shape.eye_size[1] - shape.brow_lift - arch + 0.12 * shape.brow_tilt * t * shape.eye_size[0]
    edges = [np.stack([x, top + thick], -1) for thick in (0.0, 0.022)]
    return _eye_centre(shape, side) + np.concatenate(edges)


def lips_of(shape: CartoonShape, count: int) -> tuple[np.ndarray, ...]:
    """Outer upper, outer lower, inner upper and inner lower edge from left to right, `count 2` each."""
    t = np.linspace(-1, 1, count)
    arch = np.sqrt(np.clip(1 - t**2, 0, 1))
    bend = -shape.mouth_smile * 0.12 * t**2
    middle = np.array([_turn_shift(shape, 0.0)[0], shape.mouth_y])
    edges = []
    for way, lip in ((-1, 1.0), (1, 1.0), (-1, 0.0), (1, 0.0)):
        gap = (0.3 if way < 0 else 0.7) * shape.mouth_gap
        y = bend + way * arch * (gap + lip * shape.lip)
        width = shape.mouth_half_width + 0.5 * lip * shape.lip
        edges.append(middle + np.stack([t * width, y], -1))
    return tuple(edges)


def _mouth_points(shape: CartoonShape) -> dict[int, np.ndarray]:
    names = (LIP_OUTER_UPPER, LIP_OUTER_LOWER, LIP_INNER_UPPER, LIP_INNER_LOWER)
    edges = lips_of(shape, len(LIP_OUTER_UPPER))
    return {
        i: point
        for indices, edge in zip(names, edges, strict=True)
        for i, point in zip(indices, edge, strict=True)
    }


@dataclass(frozen=True, eq=False)
class _Place:
    """Face heights to pixels."""

    linear: np.ndarray
    offset: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator, side_px: int) -> _Place:
        height = side_px * rng.uniform(0.3, 0.62)
        angle = np.deg2rad(np.clip(rng.normal(0, 8), -20, 20))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = side_px * np.array([rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58)])
        return _Place(height * turn, middle)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points @ self.linear.T + self.offset

    @property
    def unit(self) -> float:
        return float(np.linalg.norm(self.linear[:, 0]))


class _Pen:
    """Fills and strokes in face heights, and remembers where the person is."""

    def __init__(self, rng: np.random.Generator, place: _Place, side_px: int) -> None:
        ground = rng.uniform(0, 255, 3) if rng.random() < 0.7 else np.full(3, 255.0)
        self.rgb = np.broadcast_to(ground, (side_px, side_px, 3)).astype(np.uint8).copy()
        self.person = np.zeros((side_px, side_px), np.uint8)
        self.place = place
        self.ink = tuple(rng.uniform(0, 70, 3).tolist())
        self.line = rng.uniform(0.004, 0.014) if rng.random() < 0.8 else 0.0

    def fill(self, points: np.ndarray, colour: np.ndarray, *, outlined: bool = True) -> None:
        at = np.round(self.place(points)).astype(np.int32)
        cv2.fillPoly(self.rgb, [at], _colour(colour), cv2.LINE_AA)
        cv2.fillPoly(self.person, [at], 255)
        if outlined and self.line:
            self.stroke(np.concatenate([points, points[:1]]), self.line)

    def stroke(self, points: np.ndarray, width: float, colour: np.ndarray | None = None) -> None:
        at = np.round(self.place(points)).astype(np.int32)
        thick = max(1, round(width * self.place.unit))
        cv2.polylines(
            self.rgb, [at], False, self.ink if colour is None else _colour(colour), thick, cv2.LINE_AA
        )

    def shade(self, points: np.ndarray, colour: np.ndarray, within: np.ndarray, share: float) -> None:
        """Mixes a colour into an area, only where another one is too."""
        masks = []
        for area in (points, within):
            mask = np.zeros(self.person.shape, np.uint8)
            cv2.fillPoly(mask, [np.round(self.place(area)).astype(np.int32)], 255, cv2.LINE_AA)
            masks.append(mask.astype(np.float32) / 255)
        alpha = (share * masks[0] * masks[1])[..., None]
        self.rgb[:] = np.round(self.rgb * (1 - alpha) + np.asarray(colour) * alpha).astype(np.uint8)


def _paint(pen: _Pen, shape: CartoonShape, rng: np.random.Generator) -> None:
    skin = np.array([255, 225, 200]) * rng.uniform(0.35, 1.0) ** np.array([0.6, 1.0, 1.25])
    if rng.random() < 0.12:
        skin = rng.uniform(60, 240, 3)
    hair, face = rng.uniform(10, 255, 3), outline(shape, np.linspace(0, 2 * np.pi, 72, endpoint=False))
    shadow = skin * np.array([0.82, 0.72, 0.72])
    _paint_back_hair(pen, face, hair, rng)
    _paint_body(pen, skin, shadow, rng)
    pen.fill(face, skin)
    if rng.random() < 0.5:
        _blush(pen, shape, skin, face, rng)
    _paint_nose(pen, shape, shadow, face, rng)
    _paint_mouth(pen, shape, skin, rng)
    iris = rng.uniform(20, 230, 3)
    for eye in EYES:
        _paint_eye(pen, shape, eye.side, iris, skin, rng)
        brow = brow_of(shape, eye.side)
        pen.stroke((brow[:5] + brow[5:]) / 2, rng.uniform(0.008, 0.03), hair * 0.6)
    if rng.random() < 0.9:
        _paint_fringe(pen, shape, face, hair, rng)


def _paint_back_hair(pen: _Pen, face: np.ndarray, hair: np.ndarray, rng: np.random.Generator) -> None:
    if rng.random() < 0.1:
        return
    around = face * (1 + rng.uniform(0.12, 0.4)) - [0, 0.08]
    length = rng.uniform(0, 1.2)
    lower = around[:, 1] > 0
    around[lower, 1] += length * around[lower, 1]
    around[lower, 0] = np.sign(around[lower, 0]) * np.maximum(np.abs(around[lower, 0]), 0.4 * min(length, 1))
    around += rng.normal(0, 0.01, around.shape)
    pen.fill(around, hair * 0.85)


def _paint_body(pen: _Pen, skin: np.ndarray, shadow: np.ndarray, rng: np.random.Generator) -> None:
    neck, wide = rng.uniform(0.1, 0.2), rng.uniform(0.5, 0.9)
    pen.fill(np.array([[-neck, 0.3], [neck, 0.3], [neck * 1.2, 0.85], [-neck * 1.2, 0.85]]), shadow)
    body = [
        [-wide, 2],
        [-wide, 0.95],
        [-1.3 * neck, 0.72],
        [0, 0.85],
        [1.3 * neck, 0.72],
        [wide, 0.95],
        [wide, 2],
    ]
    pen.fill(np.array(body), rng.uniform(0, 255, 3))


def _blush(
    pen: _Pen, shape: CartoonShape, skin: np.ndarray, face: np.ndarray, rng: np.random.Generator
) -> None:
    share = rng.uniform(0.1, 0.5)
    for side in (-1, 1):
        middle = _eye_centre(shape, side) + [0.05 * side, shape.eye_size[1] + 0.06]
        pen.shade(_ellipse(middle, (0.09, 0.045)), skin * np.array([1.0, 0.6, 0.6]), face, share)


def _paint_nose(
    pen: _Pen, shape: CartoonShape, shadow: np.ndarray, face: np.ndarray, rng: np.random.Generator
) -> None:
    tip = np.array([_turn_shift(shape, 0.0)[0], shape.nose_y])
    kind = rng.integers(4)
    if kind == 0:
        pen.shade(tip + np.array([[0.0, -0.08], [0.035, 0.02], [-0.02, 0.025]]), shadow, face, 0.9)
    elif kind == 1:
        pen.stroke(tip + np.array([[-0.02, 0.0], [0.0, 0.02], [0.02, 0.0]]), 0.008, shadow * 0.7)
    elif kind == 2:
        pen.stroke(tip + np.array([[0.015, -0.05], [0.025, 0.0], [-0.005, 0.015]]), 0.007)


def _paint_mouth(pen: _Pen, shape: CartoonShape, skin: np.ndarray, rng: np.random.Generator) -> None:
    outer_upper, outer_lower, inner_upper, inner_lower = lips_of(shape, 21)
    if shape.lip > 0.012 and rng.random() < 0.8:
        lips = skin * np.array([0.9, 0.55, 0.55]) if rng.random() < 0.8 else rng.uniform(0, 255, 3)
        pen.fill(np.concatenate([outer_upper, outer_lower[::-1]]), lips, outlined=rng.random() < 0.4)
    if shape.mouth_gap > 0:
        inside = np.concatenate([inner_upper, inner_lower[::-1]])
        pen.fill(inside, np.array([120, 30, 35]) * rng.uniform(0.4, 1.3))
        if rng.random() < 0.5:
            tongue = _ellipse(
                inside.mean(0) + [0, 0.5 * shape.mouth_gap], (0.6 * shape.mouth_half_width, 0.03)
            )
            pen.shade(tongue, np.array([230, 120, 120]), inside, 1.0)
        if rng.random() < 0.5:
            teeth = np.concatenate([inner_upper, inner_upper[::-1] + [0, 0.25 * shape.mouth_gap]])
            pen.shade(teeth, np.array([255, 255, 250]), inside, 1.0)
    pen.stroke(inner_upper, rng.uniform(0.005, 0.014))


def _paint_eye(
    pen: _Pen, shape: CartoonShape, side: int, iris: np.ndarray, skin: np.ndarray, rng: np.random.Generator
) -> None:
    upper, lower = eye_lids(shape, side, 25)
    opening = np.concatenate([upper, lower[::-1]])
    pen.fill(opening, np.full(3, rng.uniform(235, 255)), outlined=False)
    centre, half = iris_of(shape, side)
    pen.shade(_ellipse(centre, half), iris, opening, 1.0)
    pen.shade(
        _ellipse(centre + [0, 0.3 * half[1]], 0.75 * half), np.minimum(iris * 1.5 + 30, 255), opening, 0.5
    )
    pen.shade(_ellipse(centre, half * rng.uniform(0.3, 0.6)), iris * 0.15, opening, 1.0)
    shade = np.concatenate([upper, upper[::-1] + [0, 0.35 * shape.eye_size[1]]])
    pen.shade(shade, iris * 0.3, opening, rng.uniform(0, 0.5))
    for _ in range(int(rng.integers(1, 3))):
        light = centre + half * rng.uniform(-0.5, 0.5, 2) - [0, 0.25 * half[1]]
        pen.shade(_ellipse(light, half * rng.uniform(0.12, 0.35)), np.full(3, 255), opening, 1.0)
    pen.stroke(upper, rng.uniform(0.01, 0.035))
    if rng.random() < 0.6:
        pen.stroke(lower[5:-5], 0.006, skin * 0.5)


def _paint_fringe(
    pen: _Pen, shape: CartoonShape, face: np.ndarray, hair: np.ndarray, rng: np.random.Generator
) -> None:
    """Locks from the crown over the forehead, and down the cheeks."""
    wide, top = 1.12 * shape.half_width, -0.5 - rng.uniform(0.05, 0.2)
    count, tips = int(rng.integers(2, 8)), []
    reach = shape.eye_y - rng.uniform(0.0, 1.6) * shape.eye_size[1] - 0.02
    for x in np.linspace(-wide, wide, count + 1)[:-1]:
        step = 2 * wide / count
        tips += [[x + 0.02, reach - 0.2 * rng.random()], [x + step * rng.uniform(0.2, 0.8), reach]]
    angle = np.linspace(0, np.pi, 15)
    crown = np.stack([wide * np.cos(angle), 0.1 - (0.1 - top) * np.sin(angle)], -1)
    pen.fill(np.concatenate([crown, np.array(tips)]), hair)
    if rng.random() < 0.6:
        long = rng.uniform(0.1, 0.9)
        for side in (-1, 1):
            edge = side * shape.half_width
            lock = [[1.15 * edge, -0.25], [edge * 0.85, -0.2], [edge * 0.92, long], [1.1 * edge, long * 0.8]]
            pen.fill(np.array(lock), hair)


def _ellipse(centre: np.ndarray, half: np.ndarray | tuple[float, float]) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.asarray(centre) + np.stack([np.cos(angle), np.sin(angle)], -1) * np.asarray(half)


def _colour(colour: np.ndarray) -> tuple[int, int, int]:
    return tuple(int(value) for value in np.clip(colour, 0, 255))
