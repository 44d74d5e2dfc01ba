"""The people of drawn faces: proportions on the mean mesh, a small pose, and colours that go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from openloopy.face.mesh import CHIN, FOREHEAD, Pose, canonical_mesh, rotation_of
from openloopy.rig.mesh import (
    EYES,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LIP_OUTER_LOWER,
    LIP_OUTER_UPPER,
    HeadFrame,
    smoothstep,
)

FACE_HEIGHTS = (2.0, 2.3)
"""The picture's side in face heights, drawn from this range."""
IRIS_RADIUS_CM = 0.62
LIP_POINTS = sorted({*LIP_OUTER_UPPER, *LIP_OUTER_LOWER, *LIP_INNER_UPPER, *LIP_INNER_LOWER})

HairStyle = Literal["bald", "short", "parted", "fringe", "long", "bun"]
HAIR_STYLES: tuple[HairStyle, ...] = ("bald", "short", "short", "parted", "fringe", "long", "long", "bun")
# fmt: off
SKINS = np.array([
    (246, 216, 196), (238, 198, 170), (226, 178, 146), (204, 150, 114), (170, 114, 82), (130, 84, 60), (98, 62, 46),
])
HAIRS = np.array([
    (28, 24, 24), (52, 36, 28), (92, 60, 40), (130, 66, 36), (196, 156, 100), (150, 146, 142), (222, 218, 212),
])
IRISES = np.array([
    (74, 46, 28), (52, 34, 24), (110, 84, 42), (80, 110, 70), (84, 126, 164), (116, 130, 138),
])
# fmt: on


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


def draw_head(rng: np.random.Generator, size: int) -> HeadFrame:
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
