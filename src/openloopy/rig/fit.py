"""Landmarks over time to face states: the inverse of `FaceShape.express` and `place_head`.

Source: ours. The person's neutral face comes first (`neutral_shape`), then the head's pose by a rigid alignment of what
speech does not move, then all values of all frames at once by Gauss-Newton on the rig's own forward model, with bounds,
a weak prior for each value and one over time that lets go where something really moves fast (lips, lids, eyes).
Where the pictures are given too, patches of skin are followed through them (`rig.skin`): face meshes alone hardly tell
a nod, brows or a smile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from openloopy.face.mesh import (
    MESH_POINTS,
    Pose,
    canonical_mesh,
    fit_similarity,
    pose_of_rotation,
    rotation_of,
)
from openloopy.rig.expression import FaceShape
from openloopy.rig.field import NECK_PIVOT_CM, free_point_operator, place_head
from openloopy.rig.mesh import (
    EYES,
    FACE_OVAL,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LOWER_LIP,
    NUM_SKIN_POINTS,
    UPPER_LIP,
    HeadFrame,
    fit_head,
    smoothstep,
)
from openloopy.rig.skin import SkinTrack, track_skin
from openloopy.rig.state import HIGH, INDEX, LOW, NAMES, NEUTRAL, State, States

MAX_GAP_FRAMES = 12
"""Up to so many frames without a face are bridged; longer gaps are reported as missing."""
ITERATIONS = 3
"""Gauss-Newton steps over the whole clip, and as many again once the pictures were read."""
MESH_TRUST, LID_TRUST = 0.03, 2.0
"""Once the skin is followed: what the mesh still counts away from lips and lids, and on the lids. Chosen on puppets."""
UNSEEN = ("tongue_tip", "tongue", "breath")
"""What a face mesh does not show."""
CLOSED_GAP_CM, OPEN_GAP_CM = 0.06, 0.35
"""Lips that are nearer than the first are taken as held together (`close`), not as a jaw that happens to be up."""
DOUBTED_SPREADS = 2.0
"""Patches that are this far off, in spreads, count half; those that slid or were covered by hair, hardly at all."""
LEAST_EYE_RATIO = 0.14
"""A neutral eye is open by at least this share of its width; one that never is, was shut all along."""
USUAL_EYE_RATIO = 0.27


@dataclass(frozen=True)
class _Belief:
    """What is known of a value before a frame is seen: usual value, spread, spread of its change between frames."""

    mean: float
    sd: float
    step_sd: float


_BELIEFS = {
    "jaw": _Belief(0.15, 0.4, 0.12),
    "wide": _Belief(0.0, 0.5, 0.12),
    "upper_lip": _Belief(0.1, 0.35, 0.10),
    "lower_lip": _Belief(0.1, 0.35, 0.10),
    "close": _Belief(0.0, 0.3, 0.4),
    "tuck": _Belief(0.0, 0.25, 0.15),
    "press": _Belief(0.05, 0.25, 0.15),
    "yaw": _Belief(0.0, 30.0, 1.5),
    "pitch": _Belief(0.0, 30.0, 1.5),
    "roll": _Belief(0.0, 30.0, 1.2),
    "shift_x": _Belief(0.0, 10.0, 0.3),
    "shift_y": _Belief(0.0, 10.0, 0.3),
    "nearness": _Belief(0.0, 1.0, 0.02),
    "gaze_x": _Belief(0.0, 8.0, 2.0),
    "gaze_y": _Belief(0.0, 6.0, 1.5),
    "blink_left": _Belief(0.0, 1.0, 0.35),
    "blink_right": _Belief(0.0, 1.0, 0.35),
    "squint": _Belief(0.0, 0.2, 0.03),
    "brow_left": _Belief(0.0, 0.5, 0.05),
    "brow_right": _Belief(0.0, 0.5, 0.05),
    "frown": _Belief(0.0, 0.2, 0.02),
    "smile_left": _Belief(0.0, 0.3, 0.03),
    "smile_right": _Belief(0.0, 0.3, 0.03),
}
_FREE = tuple(_BELIEFS)
_HEAD_NAMES = ("yaw", "pitch", "roll", "shift_x", "shift_y", "nearness")
_EYE_NAMES = tuple(f"{name}_{side}" for name in ("blink", "brow") for side in ("left", "right")) + (
    "gaze_x",
    "gaze_y",
    "squint",
    "frown",
)
_MOUTH_NAMES = tuple(name for name in _FREE if name not in _HEAD_NAMES + _EYE_NAMES)
_COLUMN = {name: i for i, name in enumerate(_FREE)}
_INDICES = np.array([INDEX[name] for name in _FREE])
_UNBOUNDED = ("shift_x", "shift_y", "nearness")
"""Their zero is the clip's mean, which is known only at the end; they are clipped then."""
_COARSE = {"jaw": 0.2, "wide": 0.4, "close": 0.25, "tuck": 0.34, "upper_lip": 0.4, "blink_left": 0.34} | {
    "blink_right": 0.34,
    "gaze_y": 5.0,
    "brow_left": 1.0,
    "brow_right": 1.0,
    "smile_left": 1.0,
    "smile_right": 1.0,
    "squint": 1.0,
}
"""Derivatives are taken at values rounded to these steps and remembered; the residual itself is exact."""


@dataclass(frozen=True, eq=False)
class PersonShape:
    """One person's face at rest: lips closed, eyes open, turned to the front."""

    points_cm: np.ndarray
    """`478 3` cm in the head's frame (x right, y down, z to the viewer)."""

    def __post_init__(self) -> None:
        if self.points_cm.shape != (MESH_POINTS, 3):
            raise ValueError(
                f"expected a neutral face of shape ({MESH_POINTS}, 3) in cm, got {self.points_cm.shape}; "
                "PersonShape.of_mesh makes one of a mesh in px"
            )

    @classmethod
    def of_mesh(cls, mesh: np.ndarray) -> PersonShape:
        """A mesh `478 3` px taken as neutral, as a puppet's portrait is: only the pose is removed."""
        _check_meshes(mesh[None])
        return cls(fit_head(mesh).points_cm)


@dataclass(frozen=True, eq=False)
class Fitted:
    """The states of a clip and how they were come by."""

    states: States
    seen: np.ndarray
    """`n` bool, in the order of NAMES: which values landmarks can tell; the others are at rest."""
    present: np.ndarray
    """`f` bool: frames with a face, or in a gap that is short enough to be bridged."""
    shape: PersonShape
    head: HeadFrame
    """The neutral face, to the front, at the clip's mean place and size, px."""
    error_cm: np.ndarray
    """`f`: root mean square distance between the mesh and the fitted one in the picture; NaN without a mesh."""


def fit(
    meshes: np.ndarray, shape: PersonShape | None = None, *, frames: Sequence[np.ndarray] | None = None
) -> Fitted:
    """Face states of one person's clip.

    Args:
        meshes: tracked face meshes, `f 478 3` px (z to the viewer); rows of NaN where there is no face.
        shape: the person's neutral face; None: estimated from the clip.
        frames: the pictures that the meshes lie in, `H W 3` uint8 each. Without them pitch, brows, smiles and the
            mouth's width are poor guesses (benchmarks/fit.py).

    Returns:
        States whose yaw, pitch and roll are absolute, and whose shift and nearness are relative to the clip's mean.
    """
    meshes = np.asarray(meshes, np.float64)
    tracked = _check_meshes(meshes)
    if frames is not None:
        _check_frames(frames, meshes)
    if shape is None:
        shape = neutral_shape(meshes)
    head, start = _place(meshes, tracked, shape)
    solver = _Solver(meshes, tracked, head, shape)
    values = solver.solve(start)
    if frames is not None and tracked.sum() > 1:
        solver.read(frames, values)
        values = solver.solve(values)
    error = solver.error_cm(values)
    head, values = _recentre(head, values, tracked)
    states = np.zeros((len(meshes), len(NAMES)), np.float32)
    states[:, _INDICES] = values
    return Fitted(
        states=States(np.clip(states, LOW, HIGH)),
        seen=np.array([name not in UNSEEN for name in NAMES]),
        present=_bridged(tracked),
        shape=shape,
        head=head,
        error_cm=error,
    )


def neutral_shape(meshes: np.ndarray) -> PersonShape:
    """A person's face at rest out of a clip `f 478 3` px (NaN rows are skipped), or of a single frame.

    The mouth comes from the frames with the lips closest together, the eyes from frames where they are open, all else
    is a median. Lips that never meet are brought together by raising the jaw.
    """
    meshes = np.asarray(meshes, np.float64)
    points = _frontal(meshes[_check_meshes(meshes)])
    gap = (points[:, LIP_INNER_LOWER, 1] - points[:, LIP_INNER_UPPER, 1]).mean(1)
    low, high = np.percentile(gap, [5, 90])
    shut = gap <= max(low + 0.15 * (high - low), gap.min())
    neutral = np.median(points, 0)
    below = smoothstep(neutral[:, 1], neutral[2, 1] - 0.3, neutral[2, 1] + 0.3)[:, None]
    neutral += below * (np.median(points[shut], 0) - neutral)
    for eye in EYES:
        opening = (points[:, eye.lower, 1] - points[:, eye.upper, 1]).max(1)
        is_open = opening >= np.percentile(opening, 40)
        neutral[eye.lids] = np.median(points[is_open][:, eye.lids], 0)
        _open_eye(neutral, eye.upper, eye.lower)
    return PersonShape(_shut_mouth(neutral))


def landmarks(head: HeadFrame, shape: FaceShape, states: States) -> np.ndarray:
    """The forward model: meshes `f 478 3` px of a face in these states (depth is that of the turned head)."""
    return np.stack([_project(head, shape, states.frame(i)) for i in range(len(states))])


def face_shape(shape: PersonShape) -> FaceShape:
    """What the expression rules need of a person."""
    return FaceShape(shape.points_cm, free_point_operator(_frontal_head(shape, 1.0, np.zeros(3))))


def _project(head: HeadFrame, shape: FaceShape, state: State) -> np.ndarray:
    return _place_points(head, head.mesh_px + head.vectors_to_px(shape.express(state).landmarks), state)


def _place_points(head: HeadFrame, points_px: np.ndarray, state: State) -> np.ndarray:
    """Points `n 3` px of the head at rest -> where its pose takes them, with depth."""
    placement = place_head(head, state)
    flat = placement(points_px.astype(np.float32), np.ones(len(points_px), np.float32))
    turned = (points_px - placement.pivot) @ placement.rotation[2] + placement.pivot[2]
    return np.c_[flat, turned * placement.zoom]


# ----------------------------------------------------------------------------------------------------------------------
# the neutral face


def _frontal(meshes: np.ndarray) -> np.ndarray:
    """Meshes `f 478 3` px -> cm in one head's frame: all poses removed by what speech does not move."""
    stable = stable_points()
    reference = canonical_mesh().vertices
    for _ in range(3):
        points = np.stack([_similar(mesh[stable], reference[stable])(mesh) for mesh in meshes])
        reference = np.median(points, 0)
    skin = slice(NUM_SKIN_POINTS)
    to_front = _similar(reference[skin], canonical_mesh().vertices[skin])
    return to_front(points)


def _similar(source: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The similarity that lays `source` over `target`, `n 3`, without being misled by a few points that moved."""
    scale, rotation, offset = fit_similarity(source, target)
    for _ in range(2):
        off = np.linalg.norm(scale * source @ rotation.T + offset - target, axis=1)
        weights = 1 / np.maximum(1, off / (1.5 * np.median(off) + 1e-9))
        scale, rotation, offset = _weighted_similarity(source, target, weights)
    return lambda points: scale * points @ rotation.T + offset


def _weighted_similarity(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """`fit_similarity` with a weight `n` for each point."""
    weights = weights / weights.sum()
    mean_s, mean_t = weights @ source, weights @ target
    s, t = source - mean_s, target - mean_t
    u, values, vt = np.linalg.svd((s * weights[:, None]).T @ t)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = ((u * signs) @ vt).T
    scale = float((values * signs).sum() / (weights @ (s**2)).sum())
    return scale, rotation, mean_t - scale * rotation @ mean_s


def _open_eye(points: np.ndarray, upper: list[int], lower: list[int]) -> None:
    """Raise the upper lid of an eye that was never seen open."""
    gap = np.maximum(points[lower, 1] - points[upper, 1], 0)
    width = np.linalg.norm(points[upper[0], :2] - points[upper[-1], :2])
    if gap.max() < LEAST_EYE_RATIO * width:
        wanted = USUAL_EYE_RATIO * width * (1 - np.linspace(-1, 1, len(upper)) ** 2)
        points[upper[1:-1], 1] = (points[lower, 1] - np.maximum(gap, wanted))[1:-1]


def _shut_mouth(points: np.ndarray) -> np.ndarray:
    """A face `478 3` cm whose lips meet: what is left of a gap is taken back by raising the jaw."""
    gap = _lip_gap(points)
    if gap < CLOSED_GAP_CM:
        return points
    parted = face_shape(PersonShape(points))
    closed = face_shape(PersonShape(points + parted.express(NEUTRAL).landmarks))
    jaw, dropped = 0.0, np.zeros_like(points)
    for _ in range(4):
        dropped = closed.express({**NEUTRAL, "jaw": jaw}).landmarks
        jaw = float(np.clip(jaw + (gap - _lip_gap(closed.points + dropped)) / 1.2, 0, 1.2))
    return points - dropped


def _lip_gap(points: np.ndarray) -> float:
    return float((points[LIP_INNER_LOWER, 1] - points[LIP_INNER_UPPER, 1])[4:7].mean())


@lru_cache(maxsize=1)
def stable_points() -> np.ndarray:
    """Mesh points that neither speech, lids nor brows move: forehead's rim, temples, nose, under the eyes."""
    vertices = canonical_mesh().vertices[:NUM_SKIN_POINTS]
    near = np.zeros(NUM_SKIN_POINTS, bool)
    for eye in EYES:
        for i in (*eye.lids, *eye.brow):
            near |= np.linalg.norm(vertices[:, :2] - vertices[i, :2], axis=1) < 0.45
    above = vertices[:, 1] < vertices[2, 1] - 0.2
    return np.flatnonzero(above & ~near)


# ----------------------------------------------------------------------------------------------------------------------
# place


def _frontal_head(shape: PersonShape, scale_px: float, origin_px: np.ndarray) -> HeadFrame:
    return HeadFrame(scale_px * shape.points_cm + origin_px, scale_px, np.eye(3), origin_px)


def _place(meshes: np.ndarray, tracked: np.ndarray, shape: PersonShape) -> tuple[HeadFrame, np.ndarray]:
    """The head at the clip's mean place, and where every frame's fit starts: its pose, with a face at rest."""
    stable = stable_points()
    scales, pivots, poses = [], [], []
    for mesh in meshes[tracked]:
        scale, rotation, offset = fit_similarity(shape.points_cm[stable], mesh[stable])
        pose = pose_of_rotation(rotation)
        scales.append(scale)
        poses.append((pose.yaw, pose.pitch, pose.roll))
        pivots.append(scale * rotation @ NECK_PIVOT_CM + offset)
    scales, pivots, poses = map(np.array, (scales, pivots, poses))
    scale = float(np.exp(np.log(scales).mean()))
    origin = np.r_[pivots[:, :2].mean(0), 0] - scale * np.r_[NECK_PIVOT_CM[:2], 0]
    values = np.zeros((len(meshes), len(_FREE)))
    columns = [_COLUMN[name] for name in _HEAD_NAMES]
    middle = scale * NECK_PIVOT_CM[:2] + origin[:2]
    known = np.c_[poses, (pivots[:, :2] - middle) / scale, scales / scale - 1]
    where = np.flatnonzero(tracked)
    for column, track in zip(columns, known.T, strict=True):
        values[:, column] = np.interp(np.arange(len(meshes)), where, track)
    return _frontal_head(shape, scale, origin), values


def _recentre(head: HeadFrame, values: np.ndarray, tracked: np.ndarray) -> tuple[HeadFrame, np.ndarray]:
    """Shift and nearness relative to the clip's mean."""
    x, y, near = (_COLUMN[name] for name in _UNBOUNDED)
    values = values.copy()
    grown = 1 + values[tracked, near].mean()
    shift = values[tracked][:, [x, y]].mean(0)
    pivot = head.to_px(NECK_PIVOT_CM)[:2] + shift * head.scale_px
    values[:, [x, y]] = (values[:, [x, y]] - shift) / grown
    values[:, near] = (1 + values[:, near]) / grown - 1
    scale = head.scale_px * grown
    origin = np.r_[pivot - scale * NECK_PIVOT_CM[:2], head.origin_px[2]]
    return _frontal_head(PersonShape(head.points_cm), scale, origin), values


def _bridged(tracked: np.ndarray) -> np.ndarray:
    """Frames with a face, and gaps of at most MAX_GAP_FRAMES between such."""
    present, where = tracked.copy(), np.flatnonzero(tracked)
    for first, last in zip(where[:-1], where[1:], strict=True):
        if last - first - 1 <= MAX_GAP_FRAMES:
            present[first:last] = True
    return present


# ----------------------------------------------------------------------------------------------------------------------
# all values of all frames


class _Solver:
    """Gauss-Newton over a whole clip; its normal equations couple each frame with the next only."""

    def __init__(self, meshes: np.ndarray, tracked: np.ndarray, head: HeadFrame, shape: PersonShape) -> None:
        self.meshes, self.tracked, self.head = meshes, tracked, head
        self.skin: SkinTrack | None = None
        self.shape = face_shape(shape)
        self.weights = _point_weights()
        self._slopes: dict[tuple, np.ndarray] = {}
        self.low, self.high = LOW[_INDICES].astype(float), HIGH[_INDICES].astype(float)
        for name in _UNBOUNDED:
            self.low[_COLUMN[name]], self.high[_COLUMN[name]] = -np.inf, np.inf
        beliefs = list(_BELIEFS.values())
        self.sd = np.array([belief.sd for belief in beliefs])
        self.step_sd = np.array([belief.step_sd for belief in beliefs])
        self.mean = np.tile([belief.mean for belief in beliefs], (len(meshes), 1))
        self.mean[:, _COLUMN["close"]] = self._closeness()

    def solve(self, values: np.ndarray) -> np.ndarray:
        """values: where to start, `f` by the free values. Returns the fitted ones."""
        values = np.clip(values, self.low, self.high)
        for i in range(ITERATIONS):
            hessian, pull = self._normal_equations(values)
            values = self._step(values, hessian, pull, is_first=i == 0)
        return values

    def read(self, frames: Sequence[np.ndarray], values: np.ndarray) -> None:
        """Follow the skin through the pictures; from now on it counts, and the mesh counts less."""
        states = [self._state(row) for row in values]
        at_rest = np.stack([self._unposed(state) for state in states])
        skin = track_skin(frames, self.head, states, at_rest, self._calmest(values))
        skin.information[~self.tracked] = 0
        # Where a point is on the whole, the mesh says; how it moves, the skin.
        apart = (self.meshes[:, skin.points, :2] - skin.places_px)[self.tracked]
        skin.places_px[:] += np.median(apart, 0)
        self.skin, self.weights = skin, _point_weights() * _mesh_trust()

    def _calmest(self, values: np.ndarray) -> int:
        """The frame that is most like the usual face with shut lips and open eyes."""
        away = np.abs(values - np.median(values[self.tracked], 0)) / self.step_sd
        for name in ("jaw", "blink_left", "blink_right"):
            away[:, _COLUMN[name]] = 3 * values[:, _COLUMN[name]] / self.sd[_COLUMN[name]]
        return int(np.where(self.tracked, np.minimum(away, 10).sum(1), np.inf).argmin())

    def _unposed(self, state: State) -> np.ndarray:
        """The face with its expression, but not turned, `478 3` px."""
        return self.head.mesh_px + self.head.vectors_to_px(self.shape.express(state).landmarks)

    def error_cm(self, values: np.ndarray) -> np.ndarray:
        error = np.full(len(values), np.nan)
        for i in np.flatnonzero(self.tracked):
            model = _project(self.head, self.shape, self._state(values[i]))
            error[i] = np.sqrt((self._off(i, model) ** 2).sum(1).mean())
        return error

    def _closeness(self) -> np.ndarray:
        """`f`: how far the lips are held together where their gap alone is known: not at all, or 1."""
        gap = np.full(len(self.meshes), np.nan)
        points = self.meshes[self.tracked]
        down = points[:, LIP_INNER_LOWER, :2] - points[:, LIP_INNER_UPPER, :2]
        gap[self.tracked] = np.linalg.norm(down[:, 4:7], axis=2).mean(1) / self.head.scale_px
        return 1 - smoothstep(np.where(np.isnan(gap), OPEN_GAP_CM, gap), CLOSED_GAP_CM, OPEN_GAP_CM)

    def _state(self, values: np.ndarray) -> dict[str, float]:
        return {**NEUTRAL, **dict(zip(_FREE, map(float, values), strict=True))}

    def _off(self, i: int, model: np.ndarray) -> np.ndarray:
        """What a model's mesh `478 3` px lacks in the picture, `478 2` cm.

        Depth is not compared: the networks' does not follow a nod (2 % of it).
        """
        return (self.meshes[i] - model)[:, :2] / self.head.scale_px

    def _normal_equations(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hessians `f n n` and the pull of the landmarks `f n`, in units of each value's spread."""
        n = len(_FREE)
        hessian, pull = np.zeros((len(values), n, n)), np.zeros((len(values), n))
        for i in np.flatnonzero(self.tracked):
            state = self._state(values[i])
            unposed = self._unposed(state)
            model = _place_points(self.head, unposed, state)
            slopes = self._jacobian(state, unposed, model) * self.sd
            weighted = slopes * self.weights[:, None, None]
            hessian[i] = np.tensordot(weighted, slopes, ([0, 1], [0, 1]))
            pull[i] = np.tensordot(weighted, self._off(i, model), ([0, 1], [0, 1]))
            if self.skin is not None:
                slopes = slopes[self.skin.points]
                off = (self.skin.places_px[i] - model[self.skin.points, :2]) / self.head.scale_px
                information = _doubt(self.skin.information[i], off)
                weighted = np.einsum("pij,pjn->pin", information, slopes)
                hessian[i] += np.tensordot(weighted, slopes, ([0, 1], [0, 1]))
                pull[i] += np.tensordot(weighted, off, ([0, 1], [0, 1]))
        return hessian, pull

    def _jacobian(self, state: State, unposed: np.ndarray, model: np.ndarray) -> np.ndarray:
        """`478 2 n` cm in the picture per unit of each value."""
        rotation = rotation_of(Pose(state["yaw"], state["pitch"], state["roll"])) * (1 + state["nearness"])
        slopes = np.empty((MESH_POINTS, 2, len(_FREE)))
        for names in (_MOUTH_NAMES, _EYE_NAMES):
            columns = [_COLUMN[name] for name in names]
            slopes[:, :, columns] = np.tensordot(
                self._slopes_of(names, state), rotation[:2], (2, 1)
            ).swapaxes(1, 2)
        for name in _HEAD_NAMES:
            step = 0.005 if name == "nearness" else 0.05
            moved = _place_points(self.head, unposed, {**state, name: state[name] + step})
            slopes[:, :, _COLUMN[name]] = (moved - model)[:, :2] / (step * self.head.scale_px)
        return slopes

    def _slopes_of(self, names: tuple[str, ...], state: State) -> np.ndarray:
        """`478 n 3` cm in the head's frame per unit of these values, about a rounded state; remembered."""
        about = {name: _rounded(name, state[name]) for name in names if name in _COARSE}
        if "wide" in about and not about["wide"]:  # the rules have a kink at 0
            about["wide"] = 0.1 if state["wide"] > 0 else -0.1
        key = (names, *about.values())
        if key not in self._slopes:
            self._slopes[key] = np.stack([self._slope(name, {**NEUTRAL, **about}) for name in names], 1)
        return self._slopes[key]

    def _slope(self, name: str, state: State) -> np.ndarray:
        """`478 3` cm per unit of one value, between two states within its bounds."""
        step = 0.1 * min(_BELIEFS[name].sd, 1.0)
        low, high = (
            float(np.clip(state[name] + sign * step, LOW[INDEX[name]], HIGH[INDEX[name]])) for sign in (-1, 1)
        )
        moved = [self.shape.express({**state, name: value}).landmarks for value in (low, high)]
        return (moved[1] - moved[0]) / (high - low)

    def _step(
        self, values: np.ndarray, hessian: np.ndarray, pull: np.ndarray, *, is_first: bool
    ) -> np.ndarray:
        """The bounded minimum of the linearised problem, with all priors."""
        steady = self._steadiness(values, is_first)
        x, mean = values / self.sd, self.mean / self.sd
        low, high = self.low / self.sd, self.high / self.sd
        eye = np.eye(len(_FREE))
        right = np.einsum("fij,fj->fi", hessian, x) + pull + mean
        pinned = np.zeros_like(x, bool)
        target = np.zeros_like(x)
        for _ in range(4):
            stiff = np.where(pinned, 1e6, 0.0)
            found = _solve_chain(hessian + eye + stiff[:, None] * eye, right + stiff * target, steady)
            beyond = (found < low - 1e-6) | (found > high + 1e-6)
            if not (beyond & ~pinned).any():
                break
            target = np.where(beyond & ~pinned, np.clip(found, low, high), target)
            pinned |= beyond
        return np.clip(found, low, high) * self.sd

    def _steadiness(self, values: np.ndarray, is_first: bool) -> np.ndarray:
        """How firmly each value holds on to the next frame's, `f-1 n`; a real jump (Huber) loosens it."""
        relative = self.sd / self.step_sd
        change = np.abs(np.diff(values, axis=0)) / self.step_sd
        loosened = 1.0 if is_first else 1 / np.maximum(1, change / 1.5)
        return relative**2 * loosened * np.ones_like(change)


def _doubt(information: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Information `p 2 2` of points, less where they are off `p 2` by more than they should (Cauchy's weights)."""
    spreads = np.sqrt(np.einsum("pi,pij,pj->p", off, information, off))
    return information / (1 + (spreads / DOUBTED_SPREADS) ** 2)[:, None, None]


def _rounded(name: str, value: float) -> float:
    coarse = round(value / _COARSE[name]) * _COARSE[name]
    return float(np.clip(coarse, LOW[INDEX[name]], HIGH[INDEX[name]]))


def _solve_chain(blocks: np.ndarray, right: np.ndarray, links: np.ndarray) -> np.ndarray:
    """x that minimises sum of x B x / 2 - right x + links (x_next - x)^2 / 2: block-tridiagonal elimination.

    blocks: `f n n`; right: `f n`; links: `f-1 n`.
    """
    blocks, right = blocks.copy(), right.copy()
    diagonal = np.arange(blocks.shape[1])
    blocks[:-1, diagonal, diagonal] += links
    blocks[1:, diagonal, diagonal] += links
    for i in range(1, len(blocks)):
        carried = np.linalg.solve(blocks[i - 1], np.c_[np.diag(links[i - 1]), right[i - 1]])
        blocks[i] -= links[i - 1][:, None] * carried[:, :-1]
        right[i] += links[i - 1] * carried[:, -1]
    x = np.empty_like(right)
    x[-1] = np.linalg.solve(blocks[-1], right[-1])
    for i in range(len(blocks) - 2, -1, -1):
        x[i] = np.linalg.solve(blocks[i], right[i] + links[i] * x[i + 1])
    return x


@lru_cache(maxsize=1)
def _point_weights() -> np.ndarray:
    """How much each point says, `478`, 1/cm^2: errors of neighbours are alike, so all count less."""
    sd = np.full(MESH_POINTS, 0.05)
    sd[FACE_OVAL] = 0.15
    return 1 / sd**2 / 8


@lru_cache(maxsize=1)
def _mesh_trust() -> np.ndarray:
    """`478`: what a mesh point counts once the skin is followed. Lips and lids have networks of their own."""
    trust = np.full(MESH_POINTS, MESH_TRUST)
    trust[[*UPPER_LIP.flat, *LOWER_LIP.flat]] = 1.0
    for eye in EYES:
        trust[[*eye.upper, *eye.lower, eye.iris, *eye.iris_ring]] = LID_TRUST
    return trust


def _check_frames(frames: Sequence[np.ndarray], meshes: np.ndarray) -> None:
    if len(frames) != len(meshes):
        raise ValueError(f"expected one frame for each of the {len(meshes)} meshes, got {len(frames)} frames")
    if frames[0].ndim != 3 or frames[0].shape[2] != 3 or frames[0].dtype != np.uint8:
        raise ValueError(f"expected RGB frames `H W 3` uint8, got {frames[0].dtype} {frames[0].shape}")


def _check_meshes(meshes: np.ndarray) -> np.ndarray:
    """`f` bool: frames that have a face."""
    if meshes.ndim != 3 or meshes.shape[1:] != (MESH_POINTS, 3):
        raise ValueError(
            f"expected face meshes of shape (frames, {MESH_POINTS}, 3) in px, got {meshes.shape}; "
            "one frame is mesh[None]"
        )
    tracked = np.isfinite(meshes).all((1, 2))
    if not tracked.any():
        raise ValueError(
            f"none of the {len(meshes)} frames has a face mesh (all hold NaN); track a clip that shows a face"
        )
    return tracked
