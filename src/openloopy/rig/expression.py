"""From a face state to moved mesh points, in centimetres of the head's own frame.

All rules are ours and tuned by eye and against landmarks of real speech; sizes are those of an average
adult face. The lips come first from jaw, width and the two lips, then the contact logic along the mouth
slit takes over: `close` removes the gap, `tuck` brings the lower lip under the upper teeth (f, v),
`press` rolls both lips in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openloopy.face.mesh import MESH_POINTS
from openloopy.rig.mesh import (
    CONTROL_POINTS,
    EYES,
    FREE_POINTS,
    LIP_DEPTH,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LOWER_LIP,
    NUM_SKIN_POINTS,
    UPPER_LIP,
    EyeIndices,
    smoothstep,
)
from openloopy.rig.state import State, mean_of

JAW_TRAVEL_CM = 1.55
"""Drop of the lower lip at jaw = 1."""
UPPER_LIP_RAISE_CM = 0.56
TUCK_GAP_CM, TUCK_LIFT_CM = 0.34, 0.20
"""At f and v: what shows of the upper teeth, and how far both lips rise for it."""
POUT_CM = 0.12
"""By how much pursed lips hang lower over the teeth."""
PURSED_ACROSS = (0.35, 0.85)
"""Between these shares of the way to its corner, the opening of pursed lips ends."""
JAW_SLIDE = 0.25
"""Share of the jaw's drop that is a slide straight down; the rest turns about the hinge."""
JAW_HINGE_CM = np.array([0.0, -0.3, -5.5])
EYEBALL_RADIUS_CM = 1.2
MAX_GAZE_DEGREES = (16.0, 12.0)

_SHUT = 0.97
"""Lids that are closed by more than this have nothing left to close."""
_LEAST_OPENING_CM = 1e-3
_CHIN_BOSS = [199, 200]
_NOSE_WINGS = [98, 327, 64, 294, 48, 278, 129, 358, 102, 331]
_CHEEK_APPLES = [50, 280, 205, 425, 187, 411, 36, 266, 101, 330, 147, 376]
_JOWLS = [205, 425, 187, 411, 147, 376, 213, 433, 192, 416]
_BROW_SKIN = [108, 337, 69, 299, 104, 333, 68, 298, 151]
_GLABELLA = [9, 8]


@dataclass(frozen=True)
class Expression:
    """Moved points of one frame, cm in the head's frame."""

    skin: np.ndarray
    """`478 3`: how the picture's skin is pulled."""
    landmarks: np.ndarray
    """`478 3`: how the landmarks move. The upper lids differ: they are painted, hardly pulled."""
    jaw_cm: float
    """The jaw's drop below closed lips."""
    lid_closures: tuple[float, float]
    """0 (as in the mesh that moves) to 1 (shut), for each of `EYES`."""
    gaze_cm: np.ndarray
    """`2`: how far the irises move on the eyeballs."""

    def since(self, own: Expression) -> Expression:
        """What is left to do for a face that shows the expression `own` already."""
        closures = [
            1 - (1 - now) / (1 - before) if before < _SHUT else 0.0
            for now, before in zip(self.lid_closures, own.lid_closures, strict=True)
        ]
        return Expression(
            self.skin - own.skin,
            self.landmarks - own.landmarks,
            self.jaw_cm,
            (max(closures[0], 0.0), max(closures[1], 0.0)),
            self.gaze_cm - own.gaze_cm,
        )


def gaze_cm(state: State) -> np.ndarray:
    """How far the iris moves on the eyeball, `2` cm."""
    angles = [
        np.clip(state[name], -top, top)
        for name, top in zip(("gaze_x", "gaze_y"), MAX_GAZE_DEGREES, strict=True)
    ]
    return EYEBALL_RADIUS_CM * np.sin(np.deg2rad(angles))


class FaceShape:
    """One person's neutral mesh and what the expression rules need to know of it."""

    def __init__(self, points_cm: np.ndarray, free_operator: np.ndarray, own: State | None = None) -> None:
        """
        Args:
            points_cm: `478 3`, the face at rest.
            free_operator: displacements of CONTROL_POINTS to those of FREE_POINTS.
            own: a state in which the lips part as the portrait shows it, if they do.
        """
        self.points = points_cm
        self.free_operator = free_operator
        self.mouth_centre = (points_cm[61] + points_cm[291]) / 2
        half_width = (points_cm[291, 0] - points_cm[61, 0]) / 2
        across = (points_cm[:, 0] - self.mouth_centre[0]) / half_width
        self.upper_across, self.lower_across = (np.clip(across[r], -1, 1) for r in (UPPER_LIP, LOWER_LIP))
        self.rest_gap = points_cm[LIP_INNER_LOWER, 1] - points_cm[LIP_INNER_UPPER, 1]
        """`11` cm: what the rules do not explain of the lips' distance; below 0 where they explain too much."""
        open_cm = max(points_cm[14, 1] - points_cm[13, 1], 0)
        self.lip_line = float(points_cm[13, 1] + 0.36 * open_cm)
        """Height (cm, y) at which the lips meet when closed."""
        self.jaw_weight = self._jaw_weight()
        self._own_opening = 0.0 if own is None else float(self._opening_by_rules(own).mean())

    def _jaw_weight(self) -> np.ndarray:
        """`478`: how much a point turns with the jaw. The lips are moved by their own rules."""
        mouth_y = self.mouth_centre[1]
        weight = smoothstep(self.points[:, 1], mouth_y - 0.3, mouth_y + 1.4)
        weight[UPPER_LIP] = 0
        for eye in EYES:
            weight[eye.upper + eye.lower] = 0
        return weight

    def express(self, state: State) -> Expression:
        """Move the face. The head's pose is ignored here."""
        moved = np.zeros((MESH_POINTS, 3))
        jaw = _jaw_drop(state)
        jaw_angle = (1 - JAW_SLIDE) * jaw / (self.points[14, 2] - JAW_HINGE_CM[2])
        lever = self.points - JAW_HINGE_CM
        moved[:, 1] += self.jaw_weight * (JAW_SLIDE * jaw + jaw_angle * lever[:, 2])
        moved[:, 2] -= self.jaw_weight * jaw_angle * lever[:, 1]
        self._move_lips(moved, state, jaw, jaw_angle)
        _move_cheeks(moved, self.points, state, jaw)
        _move_brows(moved, self.points, state)
        lids = [_lid_motion(self.points, eye, state) for eye in EYES]
        for eye, lid in zip(EYES, lids, strict=True):
            _move_lids(moved, eye, lid, state)
        moved[FREE_POINTS] = self.free_operator @ moved[CONTROL_POINTS]
        moved[NUM_SKIN_POINTS:] = 0
        closures = (lids[0].closure, lids[1].closure)
        return Expression(moved, _landmark_motion(moved, lids, state), jaw, closures, gaze_cm(state))

    def _move_lips(self, moved: np.ndarray, state: State, jaw: float, jaw_angle: float) -> None:
        upper, lower = self._free_lips(state, jaw)
        sag = 1 - np.abs(self.lower_across) ** _sag_power(rounding_of(state))
        lower[..., 2] -= jaw_angle * (self.points[LOWER_LIP, 1] - JAW_HINGE_CM[1]) * sag
        self._make_contact(upper, lower, state)
        moved[UPPER_LIP] = upper
        moved[LOWER_LIP[:, 1:-1]] = lower[:, 1:-1]  # the corners belong to the upper lip

    def _free_lips(self, state: State, jaw: float) -> tuple[np.ndarray, np.ndarray]:
        """Moves of both lips before they touch, `rings points 3` each."""
        upper = _upper_lip_drop(self.upper_across, state, jaw)
        lower = _lower_lip_drop(self.lower_across, state, jaw)
        for lip, ring, across, up in (
            (upper, UPPER_LIP, self.upper_across, 1),
            (lower, LOWER_LIP, self.lower_across, -1),
        ):
            x = self.points[ring, 0] - self.mouth_centre[0]
            lip += _lip_shape(x, across, up, state)
        return upper, lower

    def _opening_by_rules(self, state: State) -> np.ndarray:
        """`11` cm: by how much jaw and lips part the lips, before tuck."""
        upper, lower = self._free_lips(state, _jaw_drop(state))
        return _after_contact(lower[0, :, 1] - upper[0, :, 1], self.upper_across[0], state)

    def _make_contact(self, upper: np.ndarray, lower: np.ndarray, state: State) -> None:
        """Bring the inner edges (ring 0) to the gap that the sounds want; the outer rings follow less."""
        across, rounding = self.upper_across[0], rounding_of(state)
        tuck, press = state["tuck"], state["press"]
        parted = lower[0, :, 1] - upper[0, :, 1]
        excess = self.rest_gap + parted - self._wanted_gap(parted, state)
        drop_upper = 0.36 * excess * (1 - 0.6 * tuck)
        raise_lower = excess - drop_upper
        lift = (POUT_CM * rounding - TUCK_LIFT_CM * tuck) * (1 - across**2)
        for lip, lip_across, change, up, fade in (
            (upper, self.upper_across, lift + drop_upper, 1, 0.15),
            (lower, self.lower_across, lift - raise_lower, -1, 0.22),
        ):
            profile = np.interp(lip_across, across, change)
            roll_in = 0.10 * press if up > 0 else 0.13 * press + 0.32 * tuck
            # the red of pursed lips swells where they meet
            lip[..., 1] += profile * (1 - (fade + 0.35 * rounding) * LIP_DEPTH)
            lip[..., 1] += up * roll_in * LIP_DEPTH * (1 - lip_across**2)
            lip[..., 2] -= 0.1 * press
        lower[..., 1] -= 0.03 * press
        lower[..., 2] -= 0.32 * tuck

    def _wanted_gap(self, parted: np.ndarray, state: State) -> np.ndarray:
        """`11` cm: the gap after contact, where jaw and lips part the lips by `parted`.

        What the rules do not explain of the portrait's own gap goes as the lips close.
        """
        opening = _after_contact(parted, self.upper_across[0], state)
        kept = (
            min(float(opening.mean()) / self._own_opening, 1) if self._own_opening > _LEAST_OPENING_CM else 0
        )
        teeth_gap = TUCK_GAP_CM * (1 - self.upper_across[0] ** 2)
        rest_gap = self.rest_gap * _pursed_share(self.upper_across[0], state)
        wanted = np.maximum(opening + kept * rest_gap, 0)
        return wanted * (1 - state["tuck"]) + state["tuck"] * teeth_gap


def _jaw_drop(state: State) -> float:
    """cm; contact holds the jaw up."""
    return state["jaw"] * JAW_TRAVEL_CM * (1 - 0.45 * state["close"]) * (1 - 0.35 * state["tuck"])


def rounding_of(state: State) -> float:
    """0 to 1 (pursed)."""
    return min(max(-state["wide"], 0), 1)


def _after_contact(parted: np.ndarray, across: np.ndarray, state: State) -> np.ndarray:
    """What closing and rounding leave of an opening `11` cm at places `11` in -1..1.

    Pursed lips meet from the corners inwards: what stays open is small and round.
    """
    return np.maximum(parted, 0) * (1 - state["close"]) * _pursed_share(across, state)


def _pursed_share(across: np.ndarray, state: State) -> np.ndarray:
    """What rounding leaves of a gap at places in -1..1."""
    rounding = rounding_of(state) * (1 - 0.4 * min(state["jaw"], 1))
    meeting = smoothstep(np.abs(across), *PURSED_ACROSS)
    return (1 - 0.22 * rounding) * (1 - rounding * meeting)


def _of_eye(state: State, name: str, eye: EyeIndices) -> float:
    """The value of the eye's side of the face."""
    return state[f"{name}_left" if eye.side < 0 else f"{name}_right"]


def _sided(state: State, name: str, across: np.ndarray) -> np.ndarray:
    """A value that both sides have, at places left (below 0) and right of the middle; it blends within 1 of it."""
    right = smoothstep(across, -1, 1)
    return state[f"{name}_left"] * (1 - right) + state[f"{name}_right"] * right


def _sag_power(rounding: float) -> float:
    """A rounded mouth opens as an ellipse, a spread one as a box."""
    return 2.4 - 0.6 * rounding


def _corner_drop(jaw: float) -> float:
    return 0.38 * jaw


def _upper_lip_drop(across: np.ndarray, state: State, jaw: float) -> np.ndarray:
    """across: `rings points` in -1..1. Returns `rings points 3` cm."""
    a = np.abs(across)
    sag = 1 - a ** _sag_power(rounding_of(state))
    lip = np.zeros((*a.shape, 3))
    lip[..., 1] = _corner_drop(jaw) * a**3 - 0.03 * jaw * sag
    lip[..., 1] -= UPPER_LIP_RAISE_CM * state["upper_lip"] * (1 - a**2.5) * (1 - 0.25 * LIP_DEPTH)
    return lip


def _lower_lip_drop(across: np.ndarray, state: State, jaw: float) -> np.ndarray:
    """Like `_upper_lip_drop`, for the lip that hangs on the jaw."""
    a = np.abs(across)
    sag = 1 - a ** _sag_power(rounding_of(state))
    lip = np.zeros((*a.shape, 3))
    lip[..., 1] = _corner_drop(jaw) + (jaw - _corner_drop(jaw)) * sag
    lip[..., 1] += 0.30 * state["lower_lip"] * (1 - a**2.2) * (1 - 0.15 * LIP_DEPTH)
    return lip


def _lip_shape(x: np.ndarray, across: np.ndarray, up: int, state: State) -> np.ndarray:
    """Rounding, spreading and smile of a lip. x: cm from the mouth's centre; up: +1 upper lip, -1 lower."""
    a, smile = np.abs(across), _sided(state, "smile", across)
    rounding, spread = max(-state["wide"], 0), max(state["wide"], 0)
    lip = np.zeros((*a.shape, 3))
    lip[..., 0] = x * (0.085 * spread - 0.24 * min(rounding, 1.1) - 0.06 * state["jaw"])
    lip[..., 0] += np.sign(x) * a**2 * 0.32 * smile
    lip[..., 1] -= up * rounding * (0.12 * LIP_DEPTH * (1 - a**2) + 0.05 * (1 - a))
    lip[..., 1] += spread * (up * 0.05 * LIP_DEPTH * (1 - a) - 0.08 * a**2)
    lip[..., 1] += smile * (0.04 * (1 - a) - 0.30 * a**2)
    lip[..., 2] = 0.55 * rounding * (1 - 0.5 * a) - 0.12 * spread * a - 0.12 * smile * a**2
    return lip


def _move_cheeks(moved: np.ndarray, points: np.ndarray, state: State, jaw: float) -> None:
    wide = state["wide"]
    rounding, spread = max(-wide, 0), max(wide, 0)
    moved[_CHIN_BOSS, 1] -= 0.10 * state["press"] + 0.16 * state["tuck"]
    smiling = np.maximum(_sided(state, "smile", points[_NOSE_WINGS, 0]), 0)
    moved[_NOSE_WINGS, 1] -= 0.05 * state["upper_lip"] + 0.06 * smiling
    smile = _sided(state, "smile", points[_CHEEK_APPLES, 0])
    moved[_CHEEK_APPLES, 1] -= 0.22 * smile + 0.02 * spread
    moved[_CHEEK_APPLES, 0] += np.sign(points[_CHEEK_APPLES, 0]) * (
        0.07 * smile + 0.05 * spread - 0.10 * rounding
    )
    moved[_CHEEK_APPLES, 2] += 0.08 * smile
    moved[_JOWLS, 1] += 0.11 * jaw


def _move_brows(moved: np.ndarray, points: np.ndarray, state: State) -> None:
    frown = state["frown"]
    for eye in EYES:
        raised = _of_eye(state, "brow", eye)
        inner = 1 - smoothstep(np.abs(points[eye.brow, 0]), 1.2, 4.5)
        moved[eye.brow, 1] += 0.12 * frown * inner - 0.42 * raised * (0.8 + 0.2 * inner)
        moved[eye.brow, 0] -= eye.side * 0.14 * frown * inner
    moved[_BROW_SKIN, 1] -= 0.22 * _sided(state, "brow", points[_BROW_SKIN, 0])
    moved[_GLABELLA, 1] += 0.05 * frown - 0.15 * mean_of(state, "brow")


@dataclass(frozen=True)
class _LidMotion:
    """Vertical moves of one eye's lid points, `9` cm each; the corners stay."""

    upper: np.ndarray
    lower: np.ndarray
    closure: float


def _lid_motion(points: np.ndarray, eye: EyeIndices, state: State) -> _LidMotion:
    upper_y, lower_y = points[eye.upper, 1], points[eye.lower, 1]
    gap = np.maximum(lower_y - upper_y, 0)
    middle = 1 - np.linspace(-1, 1, len(gap)) ** 4
    blink, squint = _of_eye(state, "blink", eye), max(state["squint"], 0)
    look_down = 0.16 * np.clip(state["gaze_y"] / 10, -1.2, 1.6)
    openness = np.clip(1 - 0.35 * squint + 0.10 * max(_of_eye(state, "brow", eye), 0), 0.3, 1.12)
    new_gap = np.maximum(gap * openness - 0.75 * look_down * middle, 0) * (1 - blink)
    lift = (0.10 * blink + 0.06 * squint + 0.06 * max(_of_eye(state, "smile", eye), 0)) * np.minimum(
        gap / 0.5, 1
    )
    lower = (0.25 * look_down - lift) * middle
    upper = lower_y + lower - new_gap - upper_y
    upper[[0, -1]] = lower[[0, -1]] = 0
    half = len(gap) // 2
    closure = float(np.clip(1 - new_gap[half] / max(gap[half], 1e-3), 0, 1))
    return _LidMotion(upper, lower, closure)


def _move_lids(moved: np.ndarray, eye: EyeIndices, lid: _LidMotion, state: State) -> None:
    # Stretching the upper lid's skin over the eye looks wrong: it is painted (rig.eyes) and pulled a little.
    moved[eye.lower, 1] = lid.lower
    moved[eye.upper, 1] = 0.16 * lid.upper
    moved[eye.upper_fold, 1] = 0.14 * lid.upper - 0.10 * _of_eye(state, "brow", eye)
    moved[eye.lower_fold, 1] = 0.35 * lid.lower


def _landmark_motion(skin: np.ndarray, lids: list[_LidMotion], state: State) -> np.ndarray:
    landmarks = skin.copy()
    for eye, lid in zip(EYES, lids, strict=True):
        landmarks[eye.upper, 1] = lid.upper
        landmarks[[eye.iris, *eye.iris_ring], :2] += gaze_cm(state)
    return landmarks
