"""Light and shade that come with movement: folds, the chin's shadow, and a lamp that stays where it is.

A portrait's own shading is frozen into its pixels. Here the picture is multiplied by `exp(sum of weights * masks)`:
the masks lie on the portrait (drawn once, on the warp's grid) and move with its skin, the weights come from the
state of each frame. Tuned by eye.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.rig.expression import Expression
from openloopy.rig.field import WarpField
from openloopy.rig.mesh import FACE_OVAL, HeadFrame, smoothstep
from openloopy.rig.state import State, mean_of

MAX_LOG_SHADE = 0.7
"""The strongest darkening or lightening: a factor of 2 either way."""
_NORMAL_BLUR_CM = 0.45
"""The relief is smoothed by this much: a lamp must not draw the mesh's triangles."""
_HEAD_BULGE = 1.3
"""The relief is exaggerated by this much, since smoothing flattens it."""

_NASOLABIAL = ([129, 203, 206, 216, 212], [358, 423, 426, 436, 432])
_CHEEK_APPLES = (50, 280)
_LIP_CORNERS = (61, 291)
_BELOW_LOWER_LIP = [43, 106, 182, 83, 18, 313, 406, 335, 273]
_CHIN_CREASE = [204, 194, 201, 200, 421, 418, 424]
_LOWER_LIDS = ([25, 110, 24, 23, 22, 26], [255, 339, 254, 253, 252, 256])
_JAW_LINE = [172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397]


@dataclass(frozen=True)
class Lamp:
    """A directional light, fixed in space, on top of the light that the portrait was taken in."""

    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Unit vector towards the lamp: x to the right, y down, z to the viewer."""
    strength: float = 0.0
    """Log of the brightness gained by skin that faces the lamp; 0: no lamp."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Lamp:
        """From above and one side, soft or hard."""
        x, y = rng.uniform(-0.85, 0.85), rng.uniform(-0.75, 0.15)
        direction = np.array([x, y, 0.65])
        x, y, z = direction / np.linalg.norm(direction)
        return cls((float(x), float(y), float(z)), float(rng.uniform(0.1, 0.45)))


class Shading:
    """The masks of one portrait."""

    def __init__(self, head: HeadFrame, field: WarpField, mask: np.ndarray, lamp: Lamp) -> None:
        """mask: where the person is in the portrait, `S S` in 0..1; nothing else is shaded."""
        self.lamp = lamp
        flat = np.concatenate([field.grid, np.zeros((*field.grid.shape[:2], 1), np.float32)], -1)
        self._at = ((flat - head.origin_px) @ head.rotation[:, :2] / head.scale_px).astype(np.float32)
        self._points = head.points_cm
        on_face = 1 - smoothstep(self._below_jaw(), -0.4, 0.1)
        folds = [
            self._smile_folds() * on_face,
            self._below_lip() * on_face,
            self._chin_crease() * on_face,
            self._throat(),
            self._furrows(),
            self._forehead_lines(),
            self._eye_bags(),
        ]
        grid_px = field.size_px / len(field.grid)
        normals = _normals(field.depth, grid_px, _NORMAL_BLUR_CM * head.scale_px / grid_px)
        # the camera exposes for the face: a lamp changes how light is spread on it, not how much there is
        face = self._spot(head.points_cm[FACE_OVAL, :2].mean(0), 4.0)
        normals -= (normals * face[..., None]).sum((0, 1)) / face.sum()
        # the lamp falls off below the head, where the relief is not known
        normals *= (0.25 + 0.75 * field.head_weight)[..., None]
        person = cv2.resize(mask.astype(np.float32), field.grid.shape[1::-1], interpolation=cv2.INTER_AREA)
        self._masks = (np.stack([*folds, *np.moveaxis(normals, -1, 0)]) * person).astype(np.float32)
        self._flat_masks = self._masks.reshape(len(self._masks), -1)

    def log_shade(self, state: State, expression: Expression, rotation: np.ndarray) -> np.ndarray:
        """Log brightness on the portrait's grid, `GRID GRID`.

        rotation: of the head away from the portrait's pose, `3 3`.
        """
        smile, jaw_cm = max(mean_of(state, "smile"), 0.0), expression.jaw_cm
        spread, rounding = max(state["wide"], 0.0), max(-state["wide"], 0.0)
        folds = [
            0.9 * smile + 0.45 * max(state["upper_lip"], 0.0) + 0.35 * spread + 0.12 * min(jaw_cm, 1.5),
            0.12 * state["press"] + 0.16 * state["tuck"] + 0.16 * min(jaw_cm, 1.5) + 0.2 * rounding,
            0.08 * state["press"] + 0.06 * state["tuck"] + 0.03 * state["close"],
            0.2 * min(jaw_cm, 1.8),
            max(state["frown"], 0.0),
            max(mean_of(state, "brow"), 0.0),
            smile + max(state["squint"], 0.0) + 0.4 * mean_of(state, "blink"),
        ]
        lamp = self.lamp.strength * (rotation.T @ np.array(self.lamp.direction))
        weights = np.array([*folds, *lamp], np.float32)
        # einsum: `@` would start BLAS threads (see rig.field)
        log = np.einsum("k,kn->n", weights, self._flat_masks).reshape(self._masks.shape[1:])
        return np.clip(log, -MAX_LOG_SHADE, MAX_LOG_SHADE)

    def _smile_folds(self) -> np.ndarray:
        """Dark along the fold from nose to mouth and at the mouth's corners, light on the cheek above it."""
        mask = np.zeros(self._at.shape[:2], np.float32)
        for fold, apple, corner in zip(_NASOLABIAL, _CHEEK_APPLES, _LIP_CORNERS, strict=True):
            mask -= 0.22 * self._stroke(self._points[fold, :2], 0.20)
            outward = np.sign(self._points[corner, 0]) * 0.28
            mask -= 0.24 * self._spot(self._points[corner, :2] + [outward, 0.0], 0.30)
            mask += 0.12 * self._spot(self._points[apple, :2], 1.0)
        return mask

    def _below_lip(self) -> np.ndarray:
        lip = self._points[_BELOW_LOWER_LIP, :2]
        return -0.5 * self._stroke(lip + [0.0, 0.18], 0.26) * self._fade_aside(1.9)

    def _chin_crease(self) -> np.ndarray:
        chin = self._points[200, :2]
        crease = -0.4 * self._stroke(self._points[_CHIN_CREASE, :2], 0.3) * self._fade_aside(2.4)
        return crease + 0.10 * self._spot(chin + [0.0, 0.7], 0.6)

    def _throat(self) -> np.ndarray:
        """The shadow of the jaw on the neck, which deepens as the jaw drops: narrow, for cloth may follow soon."""
        below = self._below_jaw()
        depth = smoothstep(below, -0.05, 0.4) * (1 - smoothstep(below, 0.4, 1.5))
        return -depth * self._fade_aside(5.5)

    def _below_jaw(self) -> np.ndarray:
        """By how many cm each point of the grid lies below the jaw's outline."""
        line = self._points[_JAW_LINE, :2]
        line = line[np.argsort(line[:, 0])]
        return self._at[..., 1] - np.interp(self._at[..., 0], line[:, 0], line[:, 1])

    def _furrows(self) -> np.ndarray:
        """Two upright lines between the brows, and the shade over the inner eye corners."""
        mask = np.zeros(self._at.shape[:2], np.float32)
        top, bottom = self._points[9, 1] - 0.3, self._points[8, 1] + 0.25
        for side in (-1, 1):
            line = np.array([[0.52 * side, top], [0.42 * side, (top + bottom) / 2], [0.5 * side, bottom]])
            mask -= 0.34 * self._stroke(line + [self._points[8, 0], 0.0], 0.11)
            mask -= 0.10 * self._spot(self._points[107 if side < 0 else 336, :2] + [0.0, 0.4], 0.5)
        return mask

    def _forehead_lines(self) -> np.ndarray:
        mask = np.zeros(self._at.shape[:2], np.float32)
        top, bottom = self._points[10, :2], self._points[9, :2]
        for share in (0.40, 0.57, 0.74):
            y = bottom[1] + share * (top[1] - bottom[1])
            x = np.linspace(-2.6, 2.6, 9)
            mask -= 0.13 * self._stroke(np.stack([x + bottom[0], y + 0.03 * x**2], -1), 0.10)
        return mask

    def _eye_bags(self) -> np.ndarray:
        lids = [self._stroke(self._points[lid, :2] + [0.0, 0.12], 0.14) for lid in _LOWER_LIDS]
        return -0.14 * sum(lids)

    def _stroke(self, line: np.ndarray, width_cm: float) -> np.ndarray:
        """A soft line through points `n 2` cm that thins out at its ends; `GRID GRID` in 0..1."""
        at, nearest = self._at, np.full(self._at.shape[:2], np.inf, np.float32)
        ends = np.zeros_like(nearest)
        for i, (start, end) in enumerate(zip(line[:-1], line[1:], strict=True)):
            step = end - start
            share = np.clip((at - start) @ step / (step @ step + 1e-9), 0, 1)
            distance = ((at - start - share[..., None] * step) ** 2).sum(-1)
            along = (i + share) / (len(line) - 1)
            ends = np.where(distance < nearest, np.clip(5 * np.minimum(along, 1 - along) + 0.15, 0, 1), ends)
            nearest = np.minimum(nearest, distance)
        return np.exp(-nearest / (2 * width_cm**2)) * ends

    def _spot(self, centre: np.ndarray, width_cm: float) -> np.ndarray:
        return np.exp(-((self._at - centre) ** 2).sum(-1) / (2 * width_cm**2))

    def _fade_aside(self, half_width_cm: float) -> np.ndarray:
        """1 in the middle of the face, 0 beyond `half_width_cm` to the sides."""
        middle = self._points[FACE_OVAL, 0].mean()
        return 1 - smoothstep(np.abs(self._at[..., 0] - middle), 0.5 * half_width_cm, half_width_cm)


def _normals(depth_px: np.ndarray, grid_px: float, blur: float) -> np.ndarray:
    """`h w 3`: unit normals of a relief minus the viewer's direction, so that a lamp at the viewer does nothing."""
    smooth = cv2.GaussianBlur(depth_px, (0, 0), blur) * _HEAD_BULGE
    slope_y, slope_x = np.gradient(smooth, grid_px)
    normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[..., 2] -= 1
    return normals
