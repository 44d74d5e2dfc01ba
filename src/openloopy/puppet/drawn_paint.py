"""The parts of a drawn face, painted along the points of its mesh: body, skin, nose, lips, eyes, hair.

Lengths are in the head's centimetres; the picture is `HeadFrame.scale_px` pixels per centimetre.
"""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.face.mesh import CHIN
from openloopy.puppet.drawn_canvas import (
    Canvas,
    octave_noise,
    relief,
    smooth_curve,
    smooth_outline,
    soften,
    streaks,
)
from openloopy.puppet.drawn_person import IRIS_RADIUS_CM, Look
from openloopy.rig.mesh import (
    FACE_OVAL,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LIP_OUTER_LOWER,
    LIP_OUTER_UPPER,
    NUM_SKIN_POINTS,
    EyeIndices,
    HeadFrame,
    smoothstep,
)

SKULL_CENTRE_CM, SKULL_RADII_CM = (0.0, -3.2, -6.5), (7.5, 9.1, 8.0)
"""An ellipsoid; the face mesh covers its front below the hairline."""


def _body(head: HeadFrame, points_cm: list[tuple[float, float]]) -> np.ndarray:
    """Points given from the middle of the face, which do not turn with the head -> `n 2` px."""
    return np.array(points_cm) * head.scale_px + head.origin_px[:2]


def _mirrored(points_cm: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A right half outline from top to bottom -> both halves, closed."""
    return points_cm + [(-x, y) for x, y in reversed(points_cm)]


def paint_body(canvas: Canvas, head: HeadFrame, look: Look) -> None:
    cm = head.scale_px
    wide = look.neck_cm
    half_neck = [(wide - 0.8, 5.0), (wide, 8.5), (wide + 0.1, 11.0), (wide + 1.6, 13.6), (9.0, 26.0)]
    neck = smooth_outline(_body(head, _mirrored(half_neck)))
    canvas.paint(canvas.fill(neck), look.skin * [0.86, 0.80, 0.78])
    chin_shadow = canvas.blob(head.mesh_px[CHIN, :2] + [0, 1.2 * cm], (5.0 * cm, 1.9 * cm))
    canvas.shade(chin_shadow * canvas.fill(neck), np.array([0.62, 0.54, 0.52]))
    half = [(3.6, 14.8), (5.6, 12.9), (9.0, 13.9), (14.0, 15.8), (18.0, 19.0), (20.0, 30.0)]
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


def paint_skin(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
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
    points = np.concatenate([head.mesh_px[:NUM_SKIN_POINTS], head.to_px(_skull_surface())])
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


def paint_beard(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
    if look.beard == 0:
        return
    cm, mesh = head.scale_px, head.mesh_px
    jaw = FACE_OVAL[10:27]  # from one cheek along the chin to the other
    cheek = [147, 187, 207, 216, 92, 165, 164, 391, 322, 436, 427, 411, 376]
    outline = np.concatenate([mesh[jaw, :2], mesh[cheek, :2]])
    lips = canvas.fill(mesh[LIP_OUTER_UPPER + LIP_OUTER_LOWER[::-1], :2], 0.15 * cm)
    shape = canvas.fill(outline, 0.35 * cm) * (1 - lips)
    grain = np.clip(0.8 + 0.25 * octave_noise(rng, canvas.size, 220, octaves=2), 0, 1)
    canvas.paint(shape * look.beard * grain, look.hair * 0.9 + 0.06 * look.skin)


def paint_nose(canvas: Canvas, head: HeadFrame, look: Look) -> None:
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


def paint_lips(canvas: Canvas, head: HeadFrame, look: Look) -> None:
    cm, mesh = head.scale_px, head.mesh_px[:, :2]
    rows = (LIP_OUTER_UPPER, LIP_INNER_UPPER, LIP_INNER_LOWER, LIP_OUTER_LOWER)
    outer_top, inner_top, inner_low, outer_low = (smooth_curve(mesh[row]) for row in rows)
    upper = canvas.fill(np.concatenate([outer_top, inner_low[::-1]]), 0.09 * cm)
    lower = canvas.fill(np.concatenate([inner_top, outer_low[::-1]]), 0.09 * cm)
    canvas.paint(0.8 * lower, look.lips)
    canvas.paint(0.8 * upper, look.lips * [0.84, 0.78, 0.78])
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


def paint_eye(canvas: Canvas, head: HeadFrame, look: Look, eye: EyeIndices) -> None:
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


def paint_back_hair(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
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


def paint_front_hair(canvas: Canvas, head: HeadFrame, look: Look, rng: np.random.Generator) -> None:
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
