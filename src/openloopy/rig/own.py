"""The state that a portrait shows, the same face at rest, and how far it may move away from there.

States are absolute: a portrait that smiles with a turned head has a state of its own, and is moved by the
difference between it and the state that is asked for. What a mesh does not show reliably (brows, squint, looking
up or down) counts as neutral: it stays as the portrait has it. Thresholds come from a thousand portraits.
"""

from __future__ import annotations

import numpy as np

from openloopy.face.mesh import pose_of_rotation
from openloopy.rig.expression import (
    EYEBALL_RADIUS_CM,
    JAW_TRAVEL_CM,
    MAX_GAZE_DEGREES,
    UPPER_LIP_RAISE_CM,
    Expression,
    FaceShape,
)
from openloopy.rig.field import Placement, free_point_operator, place_head
from openloopy.rig.mesh import EYES, LIP_INNER_LOWER, LIP_INNER_UPPER, EyeIndices, HeadFrame, fit_head
from openloopy.rig.state import NAMES, NEUTRAL, State

OPEN_EYE, SHUT_EYE = 0.145, 0.06
"""Height of the eye's opening over its width: in 1100 portraits one person had an eye narrower than the first."""
STAYS_SHUT = 0.8
"""Eyes that are shut by this much in the portrait are never opened."""
CLOSED_MOUTH_CM, SMILING_MOUTH_CM = 5.7, 7.0
"""Width of the mouth, of a face of average size: half of the closed mouths are below 5.3, bared teeth above 6.8."""
PARTED_CM = 0.5
"""Lips further apart than this are worth a note."""
TURNED_DEGREES = 20.0
_FIXPOINT_ROUNDS = 16
_MAX_YAW_STEP, _MAX_PITCH_STEP, _MAX_ROLL_STEP = 25.0, 20.0, 32.0
"""How far from its own pose, at most, a head that looks ahead is shown; degrees."""
_MAX_SHIFT_CM, _MAX_NEARNESS = 4.5, 0.22
_AWAY, _BACK = 0.5, 0.33
"""Degrees of yaw by which a turned head's range shrinks for each degree of its own: further, and to the front."""


class PortraitFace:
    """A portrait's mesh as a face that moves: own state, neutral shape, expression and pose in any other state."""

    def __init__(self, mesh_px: np.ndarray, own: State | None = None, reach: float = 1.0) -> None:
        """
        Args:
            mesh_px: `478 3`, pixel centres at whole numbers.
            own: the state that the mesh shows; None: measured.
            reach: share of the usual limits within which the head nods, tilts and shifts.
        """
        self.head = fit_head(mesh_px)
        self.own = measure_own_state(self.head) if own is None else checked(own)
        self.reach = reach
        self.shut = tuple(self.own[blink_of(eye)] > STAYS_SHUT for eye in EYES)
        self._own_inside = self._inside(self.own)
        self.shape = neutral_shape(self.head.points_cm, free_point_operator(self.head), self._own_inside)
        self.own_expression = self.shape.express(self._own_inside)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the portrait, in plain sentences."""
        notes, own = [], self.own
        if abs(own["yaw"]) > TURNED_DEGREES:
            side = "right" if own["yaw"] > 0 else "left"
            notes.append(f"the head is turned by {abs(own['yaw']):.0f} degrees to the {side}: it moves less")
        if all(self.shut):
            notes.append("the eyes are shut in the portrait and stay shut")
        for eye, is_shut in zip(EYES, self.shut, strict=True):
            side = "left" if eye.side < 0 else "right"
            if is_shut and not all(self.shut):
                notes.append(f"the eye on the {side} is shut in the portrait and stays shut")
            elif not is_shut and own[blink_of(eye)] > 0:
                notes.append(f"the eye on the {side} is half shut in the portrait and opens no further")
        gap_cm = float(np.median(_lip_gap(self.head.points_cm)))
        if gap_cm > PARTED_CM:
            notes.append(f"the lips are parted by {gap_cm:.1f} cm in the portrait and close at rest")
        return tuple(notes)

    def express(self, state: State) -> Expression:
        """How the portrait's mesh moves from what it shows to a state; the head's pose is ignored here."""
        return self.shape.express(self._inside(state)).since(self.own_expression)

    def place(self, state: State) -> Placement:
        """Where the head goes from the portrait's own pose."""
        return place_head(self.head, pose_within_reach(state, self.own, self.reach), self.own)

    def _inside(self, state: State) -> dict[str, float]:
        """The state with the lids that this portrait can show: they open no further than its own."""
        inside = dict(state)
        for eye, is_shut in zip(EYES, self.shut, strict=True):
            name = blink_of(eye)
            inside[name] = 0.0 if is_shut else max(state[name], self.own[name])
        return inside


def checked(state: State) -> dict[str, float]:
    """The values of a state as plain numbers; missing ones are an error."""
    missing = set(NAMES) - state.keys()
    if missing:
        raise ValueError(f"the state lacks {sorted(missing)}; start from rig.state.NEUTRAL")
    values = {name: float(state[name]) for name in NAMES}
    if not np.isfinite(list(values.values())).all():
        raise ValueError(f"expected a state of finite numbers, got {values}")
    return values


def measure_own_state(head: HeadFrame) -> dict[str, float]:
    """The state that a portrait's mesh shows: pose, lids, gaze to the sides, mouth."""
    points, pose = head.points_cm, pose_of_rotation(head.rotation)
    own = dict(NEUTRAL) | {"yaw": pose.yaw, "pitch": pose.pitch, "roll": pose.roll}
    for eye in EYES:
        own[blink_of(eye)] = float(
            np.clip((OPEN_EYE - eye_opening(points, eye)) / (OPEN_EYE - SHUT_EYE), 0, 1)
        )
    own["gaze_x"] = _gaze_degrees(points)
    return own | _mouth_state(points)


def neutral_shape(points_cm: np.ndarray, free_operator: np.ndarray, own: State) -> FaceShape:
    """The face at rest: moved by the expression of the state `own` it is the mesh `478 3` again."""
    shape = FaceShape(points_cm, free_operator, own)
    for _ in range(_FIXPOINT_ROUNDS):
        shape = FaceShape(points_cm - shape.express(own).landmarks, free_operator, own)
    return shape


def pose_within_reach(state: State, own: State, reach: float = 1.0) -> dict[str, float]:
    """The state with its pose compressed softly to what looks right: about the portrait's own pose.

    reach: share of the usual limits, but for yaw, which moves nothing far.
    """
    turned = own["yaw"]
    further = (state["yaw"] - turned) * turned > 0
    max_yaw = _MAX_YAW_STEP - (_AWAY if further else _BACK) * min(abs(turned), 40.0)
    steps = {
        "yaw": max_yaw,
        "pitch": reach * _MAX_PITCH_STEP,
        "roll": reach * _MAX_ROLL_STEP,
        "shift_x": reach * _MAX_SHIFT_CM,
        "shift_y": reach * _MAX_SHIFT_CM,
        "nearness": reach * _MAX_NEARNESS,
    }
    return dict(state) | {
        name: own[name] + soft_limit(state[name] - own[name], limit) for name, limit in steps.items()
    }


def soft_limit(value: float, limit: float) -> float:
    """A smooth, monotone saturation: like the identity near zero, never beyond `limit` either way."""
    return value / (1 + abs(value / limit) ** 3) ** (1 / 3)


def eye_opening(points_cm: np.ndarray, eye: EyeIndices) -> float:
    """Greatest lid gap over the eye's width."""
    gap = points_cm[eye.lower, 1] - points_cm[eye.upper, 1]
    width = np.linalg.norm(points_cm[eye.upper[0], :2] - points_cm[eye.upper[-1], :2])
    return float(gap.max() / width)


def blink_of(eye: EyeIndices) -> str:
    """The name of the eye's blink in a state."""
    return "blink_left" if eye.side < 0 else "blink_right"


def _gaze_degrees(points_cm: np.ndarray) -> float:
    """To the right, in the head: the mean of both eyes, in which the irises' distance cancels."""
    aside = [points_cm[eye.iris, 0] - points_cm[[eye.upper[0], eye.upper[-1]], 0].mean() for eye in EYES]
    angle = float(np.rad2deg(np.arcsin(np.clip(np.mean(aside) / EYEBALL_RADIUS_CM, -0.9, 0.9))))
    return soft_limit(angle, MAX_GAZE_DEGREES[0])


def _mouth_state(points_cm: np.ndarray) -> dict[str, float]:
    """Smile, width and opening. A smile bares the teeth with both lips, speech drops the jaw."""
    width = float(points_cm[291, 0] - points_cm[61, 0])
    smile = float(np.clip((width - CLOSED_MOUTH_CM) / (SMILING_MOUTH_CM - CLOSED_MOUTH_CM), 0, 1))
    gap = max(float(np.mean(_lip_gap(points_cm))), 0.0)
    upper = gap * (0.10 + 0.28 * smile)
    lower = 0.18 * smile * min(gap / 0.6, 1)
    return {
        "smile_left": smile,
        "smile_right": smile,
        "wide": float(np.clip((width - 6.2) / 1.2, 0, 0.8)),
        "upper_lip": min(upper / UPPER_LIP_RAISE_CM, 1.2),
        "lower_lip": min(lower / 0.3, 1.0),
        "jaw": float(np.clip((gap - upper - lower) / JAW_TRAVEL_CM, 0, 1.2)),
    }


def _lip_gap(points_cm: np.ndarray) -> np.ndarray:
    """`3` cm: the lips' distance in the middle of the mouth."""
    middle = slice(4, 7)
    return points_cm[LIP_INNER_LOWER[middle], 1] - points_cm[LIP_INNER_UPPER[middle], 1]
