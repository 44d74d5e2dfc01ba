"""Drawn faces: cartoon portraits of nobody, with an exact 478-point mesh by construction.

The mean mesh gets person-specific proportions and a small pose; skin, hair, eyes, lips and clothes are painted
along its points. Tests and the tiny recipe use them: no photograph, no detector, no licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from openloopy.face.mesh import CHIN, FOREHEAD, Pose, canonical_mesh, rotation_of
from openloopy.puppet.drawn_canvas import (
    Canvas,
    octave_noise,
    relief,
    smooth_curve,
    smooth_outline,
    soften,
    streaks,
)
from openloopy.puppet.rig_mesh import (
    EYES,
    FACE_OVAL,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LIP_OUTER_LOWER,
    LIP_OUTER_UPPER,
    EyeIndices,
    HeadFrame,
    smoothstep,
)

SUPERSAMPLING = 2
MIN_SIZE_PX = 64
FACE_HEIGHTS = (2.0, 2.3)
"""The picture's side in face heights, drawn from this range."""
IRIS_RADIUS_CM = 0.62
SKULL_CENTRE_CM, SKULL_RADII_CM = (0.0, -3.2, -6.5), (7.5, 9.1, 8.0)
"""An ellipsoid; the face mesh covers its front below the hairline."""
LIP_POINTS = sorted({*LIP_OUTER_UPPER, *LIP_OUTER_LOWER, *LIP_INNER_UPPER, *LIP_INNER_LOWER})

HairStyle = Literal["bald", "short", "parted", "fringe", "long", "bun"]
HAIR_STYLES: tuple[HairStyle, ...] = ("bald", "short", "short", "parted", "fringe", "long", "long", "bun")

SKINS = np.array(
    [
        (246, 216, 196),
        (238, 198, 170),
        (226, 178, 146),
        (204, 150, 114),
        (170, 114, 82),
        (130, 84, 60),
        (98, 62, 46),
    ]
)
HAIRS = np.array(
    [
        (28, 24, 24),
        (52, 36, 28),
        (92, 60, 40),
        (130, 66, 36),
        (196, 156, 100),
        (150, 146, 142),
        (222, 218, 212),
    ]
)
IRISES = np.array([(74, 46, 28), (52, 34, 24), (110, 84, 42), (80, 110, 70), (84, 126, 164), (116, 130, 138)])


@dataclass(frozen=True, eq=False)
class DrawnFace:
    """A drawn portrait and what is known of it exactly."""

    rgb: np.ndarray
    """`H W 3` uint8."""
    mesh: np.ndarray
    """`478 3` px, float32."""
    mask: np.ndarray
    """`H W` float32 in 0..1: the person, hair and clothes included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What a person looks like; colours `3` in 0..1."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    clothes: np.ndarray
    neck_cm: float
    """Half its width."""
    hair_style: HairStyle
    hair_volume_cm: float
    hair_length_cm: float
    """How far long hair hangs below the middle of the face."""
    hairline_cm: float
    """How far down the forehead the hair begins."""
    brow_weight: float
    """0 thin to 1 bushy."""
    make_up: float
    """0 none to 1 strong."""
    beard: float
    """Opacity; 0 for most."""
    age: float
    """0 smooth to 1 lined."""
    light: np.ndarray
    """Direction of the light, unit."""


def draw_face(rng: np.random.Generator, size_px: int = 384) -> DrawnFace:
    """A new person: the same generator state gives the same picture."""
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"a drawn face needs at least {MIN_SIZE_PX} px, got {size_px}")
    look = draw_look(rng)
    head = _draw_head(rng, size_px * SUPERSAMPLING)
    canvas = Canvas(_background(rng, size_px * SUPERSAMPLING))
    _paint_back_hair(canvas, head, look, rng)
    _paint_body(canvas, head, look)
    _paint_skin(canvas, head, look, rng)
    _paint_beard(canvas, head, look, rng)
    _paint_nose(canvas, head, look)
    _paint_lips(canvas, head, look)
    for eye in EYES:
        _paint_eye(canvas, head, look, eye)
    _paint_front_hair(canvas, head, look, rng)
    return _finish(canvas, head, rng, size_px)


def draw_look(rng: np.random.Generator) -> Look:
    """Random colours and features that go together."""
    skin = np.clip(rng.choice(SKINS) / 255 * rng.normal(1, 0.03, 3), 0.1, 0.98)
    hair = np.clip(rng.choice(HAIRS) / 255 * rng.normal(1, 0.08, 3), 0.04, 0.95)
    make_up = max(rng.uniform(-0.8, 1.0), 0.0)
    style = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]
    can_have_beard = style in ("bald", "short", "parted") and make_up == 0
    lips = skin * np.array([0.86, 0.62, 0.60]) + np.array([0.06, 0.0, 0.01])
    paint = 0.75 * lips + [rng.uniform(0.0, 0.2), -0.08, rng.uniform(-0.06, 0.04)]
    angle, front = rng.uniform(-0.9, 0.9), rng.uniform(0.75, 1.3)
    light = np.array([np.sin(angle), -0.45, front])
    return Look(
        skin=skin,
        hair=hair,
        iris=np.clip(rng.choice(IRISES) / 255 * rng.normal(1, 0.1, 3), 0.05, 0.9),
        lips=np.clip(lips + make_up * (paint - lips), 0.05, 0.95),
        clothes=rng.uniform(0.06, 0.8) * (0.4 + 0.6 * rng.dirichlet([2.0, 2.0, 2.0]) * 2.5),
        neck_cm=rng.uniform(4.1, 5.1),
        hair_style=style,
        hair_volume_cm=rng.uniform(0.5, 1.6),
        hair_length_cm=rng.uniform(8.5, 19.0),
        hairline_cm=rng.uniform(-0.3, 0.7),
        brow_weight=rng.uniform(0.1, 1.0),
        make_up=make_up,
        beard=rng.uniform(0.2, 0.9) if can_have_beard and rng.random() < 0.45 else 0.0,
        age=rng.uniform(0, 1) ** 2,
        light=light / np.linalg.norm(light),
    )


def draw_proportions(rng: np.random.Generator) -> np.ndarray:
    """The mean mesh with a random person's proportions, lips closed, `478 3` cm."""
    v = canonical_mesh().vertices * [rng.uniform(0.93, 1.06), rng.uniform(0.96, 1.06), 1.0]
    v[:, 0] *= 1 + rng.uniform(-0.12, 0.08) * smoothstep(v[:, 1], 1.0, 8.0)
    v[:, 0] *= 1 + rng.uniform(-0.04, 0.05) * np.exp(-(((v[:, 1] + 0.5) / 3) ** 2))
    v += _near(v, (0, 8.5, 0), 3.0) * [0, rng.uniform(-0.5, 0.6), rng.uniform(-0.4, 0.5)]
    v = _grow(
        v, (0, 0.3, 2.0), 1.6, (rng.uniform(0.86, 1.2), rng.uniform(0.92, 1.1), rng.uniform(0.85, 1.15))
    )
    v = _grow(v, (0, 4.0, 1.0), 1.9, (rng.uniform(0.88, 1.14), rng.uniform(0.8, 1.3), 1.0))
    eye_size, eye_shift = rng.uniform(0.92, 1.16), rng.uniform([-0.15, -0.2, 0], [0.2, 0.2, 0])
    slant, brow_shift = rng.uniform(-0.15, 0.15), rng.uniform(-0.3, 0.25)
    for eye in EYES:
        side = np.array([eye.side, 1, 1])
        centre = v[[eye.upper[0], eye.upper[-1]]].mean(0)
        v = _grow(v, tuple(centre), 1.2, (eye_size, eye_size * rng.uniform(0.98, 1.02), 1.0))
        v += _near(v, tuple(centre), 1.6) * eye_shift * side
        v += _near(v, tuple(v[eye.upper[0]]), 0.9) * [0, -slant, 0]
        v[eye.brow, 1] += brow_shift + rng.normal(0, 0.03)
    smile = rng.uniform(-0.06, 0.2)
    v[LIP_POINTS, 1] -= smile * (v[LIP_POINTS, 0] / 2.4) ** 2
    middle = (v[LIP_INNER_UPPER, 1] + v[LIP_INNER_LOWER, 1]) / 2
    gap = np.abs(v[LIP_INNER_LOWER, 1] - v[LIP_INNER_UPPER, 1]) * rng.uniform(0.05, 0.35)
    v[LIP_INNER_UPPER, 1], v[LIP_INNER_LOWER, 1] = middle - gap / 2, middle + gap / 2
    return _set_irises(v, gaze_cm=rng.normal(0, [0.12, 0.04]))


def _near(v: np.ndarray, centre: tuple[float, ...], radius_cm: float) -> np.ndarray:
    """Gaussian weights about a point of the face, in the picture plane, `478 1`."""
    squared = ((v[:, :2] - np.asarray(centre)[:2]) ** 2).sum(1, keepdims=True)
    return np.exp(-0.5 * squared / radius_cm**2)


def _grow(
    v: np.ndarray, centre: tuple[float, ...], radius_cm: float, factors: tuple[float, ...]
) -> np.ndarray:
    """Scales the surroundings of a point."""
    return v + _near(v, centre, radius_cm) * (v - np.asarray(centre)) * (np.asarray(factors) - 1)


def _set_irises(v: np.ndarray, gaze_cm: np.ndarray) -> np.ndarray:
    """Irises of a common size a little above the middle of the eye, both moved by the gaze."""
    for eye in EYES:
        corners = v[[eye.upper[0], eye.upper[-1]]].mean(0)
        lids = v[[*eye.upper[3:6], *eye.lower[3:6]]].mean(0)
        centre = np.array([corners[0] + gaze_cm[0], lids[1] - 0.04 + gaze_cm[1], lids[2]])
        ring = IRIS_RADIUS_CM * np.array([[1, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]])
        v[eye.iris], v[eye.iris_ring] = centre, centre + ring
    return v


def _draw_head(rng: np.random.Generator, size: int) -> HeadFrame:
    """A person's mesh with a small pose, placed in a picture of `size` px."""
    vertices = draw_proportions(rng)
    pose = Pose(*np.clip(rng.normal(0, [5.0, 3.0, 2.5]), -9, 9))
    rotation = rotation_of(pose)
    turned = vertices @ rotation.T
    height_cm = np.linalg.norm(turned[FOREHEAD, :2] - turned[CHIN, :2])
    scale = size / rng.uniform(*FACE_HEIGHTS) / height_cm
    centre = turned[[FOREHEAD, CHIN]].mean(0) * scale
    origin = np.array([rng.uniform(0.48, 0.52) * size, rng.uniform(0.48, 0.52) * size, 0]) - centre
    origin[2] = 0.0
    return HeadFrame(turned * scale + origin, float(scale), rotation, origin)


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


def _body(head: HeadFrame, points_cm: list[tuple[float, float]]) -> np.ndarray:
    """Points given from the middle of the face, which do not turn with the head -> `n 2` px."""
    return np.array(points_cm) * head.scale_px + head.origin_px[:2]


def _mirrored(points_cm: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A right half outline from top to bottom -> both halves, closed."""
    return points_cm + [(-x, y) for x, y in reversed(points_cm)]


def _paint_body(canvas: Canvas, head: HeadFrame, look: Look) -> None:
    cm = head.scale_px
    wide = look.neck_cm
    half_neck = [(wide + 0.3, 2.0), (wide, 8.0), (wide + 0.2, 11.5), (wide + 3.3, 14.0), (13.0, 26.0)]
    neck = smooth_outline(_body(head, _mirrored(half_neck)))
    canvas.paint(canvas.fill(neck), look.skin * [0.86, 0.80, 0.78])
    chin_shadow = canvas.blob(head.mesh_px[CHIN, :2] + [0, 1.2 * cm], (5.0 * cm, 1.9 * cm))
    canvas.shade(chin_shadow * canvas.fill(neck), np.array([0.62, 0.54, 0.52]))
    half = [(3.6, 14.8), (5.6, 12.8), (9.5, 14.2), (14.0, 15.8), (18.0, 19.0), (20.0, 30.0)]
    top = [(0.0, 16.6), *half]
    clothes = canvas.fill(smooth_outline(_body(head, [*top, *[(-x, y) for x, y in reversed(half)]])))
    canvas.paint(clothes, look.clothes)
    x, _ = canvas.grid(head.origin_px)
    canvas.shade(clothes, (1 - 0.25 * np.abs(x / (18 * cm)) + 0.12 * look.light[0] * x / (9 * cm))[..., None])
    collar = smooth_curve(_body(head, [(-5.7, 12.7), (-3.6, 14.9), (0.0, 16.7), (3.6, 14.9), (5.7, 12.7)]))
    canvas.shade(canvas.ribbon(collar, 0.5 * cm, 0.1 * cm), 0.7)


def _skull(head: HeadFrame, grow_cm: float = 0.0) -> np.ndarray:
    """The outline of the head above the ears, `n 2` px."""
    angle = np.linspace(np.pi * 0.96, np.pi * 2.04, 40)
    x = SKULL_CENTRE_CM[0] + (SKULL_RADII_CM[0] + grow_cm) * np.cos(angle)
    y = SKULL_CENTRE_CM[1] + (SKULL_RADII_CM[1] + grow_cm) * np.sin(angle)
    return head.to_px(np.stack([x, y, np.full_like(x, SKULL_CENTRE_CM[2])], -1))[:, :2]


def _paint_skin(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
    """Ears, skull and face, shaded by the relief of the mesh."""
    cm, mesh = head.scale_px, head.mesh_px
    for side in (-1, 1):
        ear = head.to_px(np.array([side * 7.35, -1.2, -7.2]))[:2]
        shape = canvas.fill(_ellipse(ear, 1.0 * cm, 2.2 * cm, 9.0 * side))
        canvas.paint(shape, look.skin * [0.93, 0.86, 0.84])
        canvas.shade(
            shape * canvas.blob(ear, (0.55 * cm, 1.2 * cm), 8.0 * side), np.array([0.78, 0.66, 0.64])
        )
    face = canvas.fill(smooth_outline(mesh[FACE_OVAL, :2]))
    skin = np.maximum(face, canvas.fill(_skull(head)))
    canvas.paint(skin, look.skin)
    canvas.shade(skin, _lit(canvas, head, look))
    blush = np.array([1.0, 0.86, 0.84])
    for cheek in (50, 280):
        canvas.shade(0.5 * canvas.blob(mesh[cheek, :2], (1.7 * cm, 1.3 * cm)), blush)
    for fold in ([129, 203, 206, 216], [358, 423, 426, 436]):
        line = smooth_curve(mesh[fold, :2])
        widths = 0.35 * cm * np.sin(np.linspace(0.5, np.pi, len(line)))
        canvas.shade(
            (0.25 + 0.6 * look.age) * canvas.ribbon(line, widths, 0.13 * cm), np.array([0.82, 0.72, 0.7])
        )
    canvas.shade(
        0.35 * canvas.blob(mesh[18, :2] + [0, 0.1 * cm], (1.0 * cm, 0.28 * cm)), np.array([0.75, 0.65, 0.63])
    )
    canvas.shade(skin, (1 + 0.012 * octave_noise(rng, canvas.size, 64, octaves=3))[..., None])


def _ellipse(centre: np.ndarray, radius_x: float, radius_y: float, tilt_deg: float = 0.0) -> np.ndarray:
    angle, tilt = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.deg2rad(tilt_deg)
    x, y = radius_x * np.cos(angle), radius_y * np.sin(angle)
    return np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], -1) + centre


def _lit(canvas: Canvas, head: HeadFrame, look: Look) -> np.ndarray:
    """Diffuse light on the head with warm shadows, `H W 3` factors about 1."""
    points = np.concatenate([head.mesh_px[:468], head.to_px(_skull_surface())])
    normals = relief(points, canvas.size)
    diffuse = np.clip((normals @ look.light).astype(np.float32), 0, 1)
    facing = np.clip(normals[..., 2].astype(np.float32), 0, 1)
    amount = np.clip(0.72 * diffuse + 0.28 * facing, 0, 1)[..., None]
    dark, bright = np.array([0.55, 0.46, 0.43], np.float32), np.array([1.10, 1.09, 1.08], np.float32)
    return dark + amount * (bright - dark)


def _skull_surface() -> np.ndarray:
    """Points on the skull above the mesh's last row, `n 3` cm."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-6, 6, 9), np.linspace(-12.2, -10.2, 4)))
    inside = 1 - (x / SKULL_RADII_CM[0]) ** 2 - ((y - SKULL_CENTRE_CM[1]) / SKULL_RADII_CM[1]) ** 2
    z = SKULL_CENTRE_CM[2] + SKULL_RADII_CM[2] * np.sqrt(np.maximum(inside, 0))
    return np.stack([x, y, z], -1)[inside > 0]


def _paint_beard(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
    if look.beard == 0:
        return
    cm, mesh = head.scale_px, head.mesh_px
    jaw = FACE_OVAL[10:27]  # from one cheek along the chin to the other
    cheek = [147, 187, 207, 216, 92, 165, 164, 391, 322, 436, 427, 411, 376]
    outline = np.concatenate([mesh[jaw, :2], mesh[cheek, :2]])
    lips = canvas.fill(mesh[LIP_OUTER_UPPER + LIP_OUTER_LOWER[::-1], :2], 0.15 * cm)
    shape = canvas.fill(outline, 0.35 * cm) * (1 - lips)
    grain = np.clip(0.8 + 0.25 * octave_noise(rng, canvas.size, 96, octaves=2), 0, 1)
    canvas.paint(shape * look.beard * grain, look.hair * 0.9 + 0.06 * look.skin)


def _paint_nose(canvas: Canvas, head: HeadFrame, look: Look) -> None:
    cm, mesh = head.scale_px, head.mesh_px[:, :2]
    shadow = np.array([0.72, 0.58, 0.55])
    canvas.shade(0.45 * canvas.blob(mesh[[2, 94]].mean(0), (1.2 * cm, 0.3 * cm)), shadow)
    for nostril, wing, side in (
        ((60, 75, 166, 20), (129, 64, 98, 97), -1),
        ((290, 305, 392, 250), (358, 294, 327, 326), 1),
    ):
        hole = canvas.fill(
            _ellipse(mesh[list(nostril)].mean(0), 0.42 * cm, 0.17 * cm, 22.0 * side), 0.07 * cm
        )
        canvas.shade(0.85 * hole, np.array([0.36, 0.24, 0.22]))
        line = smooth_curve(mesh[list(wing)])
        canvas.shade(0.55 * canvas.ribbon(line, 0.26 * cm, 0.09 * cm), shadow)
    for point, radii, strength in ((195, (0.28, 1.1), 0.14), (4, (0.45, 0.35), 0.2)):
        shine = canvas.blob(mesh[point] + [look.light[0] * 0.2 * cm, 0], (radii[0] * cm, radii[1] * cm))
        canvas.paint(strength * shine, np.minimum(look.skin * 1.25 + 0.1, 1.0))


def _paint_lips(canvas: Canvas, head: HeadFrame, look: Look) -> None:
    cm, mesh = head.scale_px, head.mesh_px[:, :2]
    rows = (LIP_OUTER_UPPER, LIP_INNER_UPPER, LIP_INNER_LOWER, LIP_OUTER_LOWER)
    outer_top, inner_top, inner_low, outer_low = (smooth_curve(mesh[row]) for row in rows)
    upper = canvas.fill(np.concatenate([outer_top, inner_low[::-1]]), 0.05 * cm)
    lower = canvas.fill(np.concatenate([inner_top, outer_low[::-1]]), 0.05 * cm)
    canvas.paint(lower * 0.92, look.lips)
    canvas.paint(upper * 0.92, look.lips * [0.84, 0.78, 0.78])
    middle = mesh[[14, 17]].mean(0)
    canvas.paint(
        0.2 * lower * canvas.blob(middle, (0.9 * cm, 0.25 * cm)), np.minimum(look.lips * 1.3 + 0.15, 1)
    )
    canvas.shade(0.5 * lower * soften(upper, 0.12 * cm), np.array([0.7, 0.62, 0.62]))
    slit = np.concatenate([inner_top, inner_low[::-1]])
    line = (inner_top + inner_low) / 2
    widths = 0.13 * cm * np.sin(np.linspace(0.35, np.pi - 0.35, len(line)))
    seam = np.maximum(canvas.fill(slit, 0.03 * cm), canvas.ribbon(line, widths, 0.04 * cm))
    canvas.paint(0.85 * seam, look.lips * [0.34, 0.22, 0.24])
    for corner in (61, 291):
        canvas.shade(0.4 * canvas.blob(mesh[corner], (0.3 * cm, 0.2 * cm)), np.array([0.66, 0.55, 0.54]))


def _paint_eye(canvas: Canvas, head: HeadFrame, look: Look, eye: EyeIndices) -> None:
    cm, mesh = head.scale_px, head.mesh_px[:, :2]
    upper, lower, fold = (smooth_curve(mesh[row]) for row in (eye.upper, eye.lower, eye.upper_fold))
    lid = canvas.fill(np.concatenate([upper, fold[::-1]]), 0.18 * cm)
    canvas.shade((0.25 + 0.5 * look.make_up) * lid, np.array([0.74, 0.62, 0.62]))
    white = canvas.fill(np.concatenate([upper, lower[::-1]]))
    canvas.paint(white, np.array([0.89, 0.87, 0.85]) * (0.85 + 0.15 * look.skin.mean()))
    canvas.shade(
        0.5 * white * canvas.blob(mesh[eye.upper[-1]], (0.4 * cm, 0.35 * cm)), np.array([1.0, 0.72, 0.7])
    )
    canvas.shade(
        0.35 * white * canvas.blob(mesh[eye.upper[0]], (0.6 * cm, 0.5 * cm)), np.array([0.8, 0.7, 0.68])
    )
    _paint_iris(canvas, head, look, eye, white)
    below = np.float32([[1, 0, 0], [0, 1, 0.2 * cm]])
    shadow = white - cv2.warpAffine(white, below, (canvas.size, canvas.size)) * white
    canvas.shade(0.55 * soften(shadow, 0.07 * cm) * white, np.array([0.45, 0.4, 0.4]))
    profile = np.sin(np.linspace(0.6, np.pi - 0.25, len(upper)))[::-1]
    lash = look.hair * 0.35
    canvas.paint(0.9 * canvas.ribbon(upper, (0.12 + 0.12 * look.make_up) * cm * profile, 0.03 * cm), lash)
    canvas.paint(0.4 * canvas.ribbon(lower, 0.07 * cm * profile, 0.03 * cm), look.skin * [0.42, 0.3, 0.28])
    crease = smooth_curve(0.45 * mesh[eye.upper] + 0.55 * mesh[eye.upper_fold])
    canvas.shade(0.6 * canvas.ribbon(crease, 0.16 * cm * profile, 0.06 * cm), np.array([0.62, 0.5, 0.48]))
    bag = smooth_curve(mesh[eye.lower_fold]) + [0, 0.15 * cm]
    canvas.shade(
        (0.1 + 0.5 * look.age) * canvas.ribbon(bag, 0.2 * cm * profile, 0.1 * cm), np.array([0.8, 0.7, 0.68])
    )
    _paint_brow(canvas, head, look, eye)


def _paint_iris(canvas: Canvas, head: HeadFrame, look: Look, eye: EyeIndices, white: np.ndarray) -> None:
    cm, centre = head.scale_px, head.mesh_px[eye.iris, :2]
    x, y = canvas.grid(centre)
    radius = np.hypot(x, y) / (IRIS_RADIUS_CM * cm)
    edge = 0.6 / (IRIS_RADIUS_CM * cm)  # px of softness
    disc = np.clip((1 - radius) / edge / 2 + 0.5, 0, 1) * white
    glow = 0.75 + 0.45 * np.clip(y / (IRIS_RADIUS_CM * cm), -0.6, 1)
    rim = 1 - 0.6 * smoothstep(radius, 0.72, 1.0)
    canvas.paint(disc, look.iris * (glow * rim)[..., None])
    pupil = np.clip((0.42 - radius) / edge / 2 + 0.5, 0, 1) * white
    canvas.paint(pupil, np.array([0.03, 0.03, 0.03]))
    glint = centre + np.array([0.2 * np.sign(look.light[0]), -0.22]) * cm
    canvas.paint(0.9 * white * canvas.blob(glint, (0.08 * cm, 0.08 * cm)), np.ones(3))


def _paint_brow(canvas: Canvas, head: HeadFrame, look: Look, eye: EyeIndices) -> None:
    cm, mesh = head.scale_px, head.mesh_px[:, :2]
    top, low = smooth_curve(mesh[eye.brow[:5]]), smooth_curve(mesh[eye.brow[5:]])
    middle = (top + low) / 2
    thickness = 0.35 + 0.4 * look.brow_weight
    shape = np.concatenate([middle + thickness * (top - middle), (middle + thickness * (low - middle))[::-1]])
    opacity = 0.55 + 0.35 * look.brow_weight
    canvas.paint(opacity * canvas.fill(shape, 0.1 * cm), look.hair * 0.6 + 0.12 * look.skin)


def _combed(canvas: Canvas, look: Look, origin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hair colour with strands from a parting, `H W 3`."""
    strands = streaks(rng, canvas, origin)
    x, y = canvas.grid(origin)
    across = np.clip(0.5 + 0.5 * (look.light[0] * x - y * 0.4) / (0.5 * canvas.size), 0, 1)
    factor = 0.72 + 0.4 * across + 0.2 * strands
    shine = 0.05 * np.clip(strands, 0, 1) * across
    return np.clip(look.hair * factor[..., None] + shine[..., None], 0, 1).astype(np.float32)


def _crown(head: HeadFrame, x_cm: float = 0.0) -> np.ndarray:
    return head.to_px(np.array([x_cm, -13.5, -5.0]))[:2]


def _paint_back_hair(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
    """What hangs or sits behind neck and ears."""
    cm, grow = head.scale_px, look.hair_volume_cm
    if look.hair_style == "long":
        low = look.hair_length_cm
        half = [
            (5.0, -11.5 - grow),
            (8.2 + grow, -5.0),
            (8.9 + grow, 2.0),
            (8.6 + grow, low),
            (4.0, low + 0.5),
        ]
        back = canvas.fill(smooth_outline(_body(head, _mirrored(half))), 0.1 * cm)
    elif look.hair_style == "bun":
        bun = head.to_px(np.array([0.0, -14.2 - grow, -9.0]))[:2]
        back = canvas.fill(_ellipse(bun, 3.6 * cm, 3.0 * cm), 0.08 * cm)
    else:
        return
    canvas.paint(back, _combed(canvas, look, _crown(head), rng) * 0.8)


def _paint_front_hair(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
    """The hair on the skull, down to a hairline that depends on the style."""
    if look.hair_style == "bald":
        return
    cm, low = head.scale_px, look.hairline_cm
    part = rng.uniform(-3.0, 3.0)
    middle, dip = {"fringe": (-6.9, 0.2), "parted": (-9.6, 1.6), "long": (-9.2, 1.4)}.get(
        look.hair_style, (-8.8, 0.4)
    )
    x = np.linspace(-6.7, 6.7, 15)
    y = middle + low + dip * np.minimum(np.abs(x - part) / 5.0, 1.3) ** 1.5 * (np.abs(x) < 6.2)
    y = np.where(np.abs(x) > 6.2, -4.6, y)
    z = 0.8 - 4.4 * (x / 6.7) ** 2
    sideburn = -0.5 if look.hair_style in ("short", "parted") else -2.5
    right = [(7.35, sideburn, -6.4)]
    left = [(-7.35, sideburn, -6.4)]
    y = y + rng.normal(0, 0.08, len(x))
    hairline = head.to_px(np.array([*left, *np.stack([x, y, z], -1).tolist(), *right]))[:, :2]
    outer = _skull(head, look.hair_volume_cm)
    cap = canvas.fill(np.concatenate([outer, smooth_curve(hairline)[::-1]]), 0.08 * cm)
    if look.hair_style == "long":
        cap = np.maximum(cap, _side_locks(canvas, head, look))
    canvas.shade(soften(cap, 0.5 * cm) * canvas.mask, 0.86)
    canvas.paint(cap, _combed(canvas, look, _crown(head, part), rng))


def _side_locks(canvas: Canvas, head: HeadFrame, look: Look) -> np.ndarray:
    """Hair that falls over the ears."""
    grow = look.hair_volume_cm
    locks = np.zeros((canvas.size, canvas.size), np.float32)
    low = look.hair_length_cm
    outline = [(6.2, -8.5), (7.8 + grow, -6.0), (8.9 + grow, 1.0), (8.6 + grow, low), (7.8, low + 0.4)]
    outline += [(7.0, low * 0.6), (7.35, 2.0), (7.0, -4.0)]
    for side in (-1, 1):
        upper = head.to_px(np.array([(side * x, y, -6.0) for x, y in outline]))[:, :2]
        hanging = _body(head, [(side * x, y) for x, y in outline])
        weight = smoothstep(np.array(outline)[:, 1:], 0.0, 8.0)  # the ends do not turn with the head
        lock = canvas.fill(smooth_outline(upper + weight * (hanging - upper)), 0.1 * head.scale_px)
        locks = np.maximum(locks, lock)
    return locks


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
