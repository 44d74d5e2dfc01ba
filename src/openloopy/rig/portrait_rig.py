"""A still portrait moved by face states, with exact landmarks.

No network is involved: the portrait's mesh is displaced in centimetres from what it shows to what is asked for
(rig.own, rig.expression), the displacement spreads to a dense warp (rig.field), and what the portrait does not
show is painted (rig.mouth, rig.eyes).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from openloopy.face.crop import portrait_crop
from openloopy.face.mesh import MESH_POINTS, MESH_TO_68
from openloopy.rig.beard import hair_over, hairiness
from openloopy.rig.expression import Expression, rounding_of
from openloopy.rig.eyes import Eye
from openloopy.rig.field import GRID, NOTHING_OUTSIDE, Outside, Placement, Side, WarpField
from openloopy.rig.mesh import (
    EYES,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LOWER_LIP,
    UPPER_LIP,
    fit_head,
    smoothstep,
)
from openloopy.rig.mouth import MouthInterior
from openloopy.rig.own import PortraitFace, checked, eye_opening
from openloopy.rig.own_mouth import MouthMoves, OwnMouth, without_rims
from openloopy.rig.paint import (
    Box,
    Scene,
    cut_out,
    open_slit,
    over,
    paint_background,
    refine_mask,
    smooth_curve,
    spread_alpha,
    threefold,
    to_bytes,
)
from openloopy.rig.shade import Lamp, Shading
from openloopy.rig.state import MOUTH, NEUTRAL, State, mean_of

if TYPE_CHECKING:
    from openloopy.face.landmarks import Face  # which needs torch; drawing does not

MAX_TURN_DEGREES = 12.0
MIN_FACE_HEIGHT_PX = 110.0
MIN_EYE_OPENING = 0.14
"""Height of the eye's opening over its width; below it the eye is shut or nearly so."""
MAX_CROP_OUTSIDE = 0.12
"""How much of the crop's side may lie outside the picture."""
ALL_SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
_NUM_LIP_EDGE_POINTS = 41
_PIXEL_CENTRE = np.array([0.5, 0.5, 0.0])
"""Meshes come and go with the first pixel covering 0..1; inside, pixel centres are whole numbers."""
_MAX_SHRINKING = 1.6
"""The warp may shrink the portrait by this factor before its detail would alias."""
_PAINTED_FROM_CM = 0.03
"""Lips, lids and irises that moved by less are not painted in full: they still show the portrait."""
_UNMOVED_PX = 1.5
"""Where the picture moves by less, it covers the background whole: both show the same pixels."""
_STILL_REACH = 0.45
"""Where the border of the picture stays still, what lies between it and the head has to give way."""
_PURSED_SHADE = 0.55
"""Lips that are pushed forward take this much of the light from the teeth behind them."""
_ROLLING_CM = (0.05, 0.5)
"""Parted lips that close by the first begin to roll in their rims; by the second they have."""
_LEAST_ROLLED = 0.05
_EDGE_BLUR, _LEAST_BLUR_PX = 0.6, 0.7
"""The edges of the opening are nearly as soft as the portrait's own."""
_HAIR_SHADE, _HAIR_FROM_CM = 0.4, 0.12
"""A moustache takes that much of it, once the mouth is wider open than in the portrait by the second."""
_LEAST_LOG_SHADE = 2e-3
_UNFOLDED = 0.1
"""Share by which a fold of the portrait goes when the state has less of it."""
_MOUTH_NAMES = (*(value.name for value in MOUTH), "smile_left", "smile_right")
_LIPS = sorted({int(i) for i in (*UPPER_LIP.flat, *LOWER_LIP.flat)})


@dataclass(frozen=True)
class _Sized:
    """What frames of one size need."""

    rgba: np.ndarray
    """The portrait with its alpha, shrunk where the frame is much smaller; `s s 4` uint8."""
    alpha: np.ndarray
    """Its alpha alone, `s s` uint8."""
    source_scale: float
    """Its pixels per pixel of the portrait."""
    still_map: np.ndarray
    """Where in `rgba` each pixel of an unmoved frame lies, `size size 2` float32."""
    background: np.ndarray
    """`size size 3` uint8."""


class PortraitRig:
    """One portrait, ready to be moved: a frame is a function of its state alone."""

    def __init__(
        self,
        rgb: np.ndarray,
        mesh: np.ndarray,
        mask: np.ndarray,
        *,
        rng: np.random.Generator,
        lamp: Lamp | None = None,
        background: np.ndarray | None = None,
        own: State | None = None,
        still_sides: Collection[Side] = (),
        outside: Outside = NOTHING_OUTSIDE,
    ) -> None:
        """
        Args:
            rgb: the portrait, cropped, `S S 3` uint8; best 1.5 times the frames' side.
            mesh: its face mesh in px of `rgb`, `478 3`, z to the viewer.
            mask: where the person is, `S S` in 0..1.
            rng: draws what the portrait does not show (teeth) and the grain of painted skin.
            lamp: a light added to the portrait's own.
            background: what to show behind the person, square, uint8; None: the portrait's own.
            own: the state that the portrait shows; None: measured from its mesh.
            still_sides: sides at which the picture must not move, since more of it follows there.
            outside: how much of the square lies beyond the picture that it was cut from: shares of its side at the
                left, top, right and bottom.
        """
        # here, since it needs torch: processes that only draw do without
        from openloopy.face.covered import mouth_is_covered

        _check_inputs(rgb, mesh, mask, background)
        self.source = rgb
        self.face = PortraitFace(mesh - _PIXEL_CENTRE, own, _STILL_REACH if still_sides else 1.0)
        self.head, self.shape = self.face.head, self.face.shape
        self.mask = refine_mask(mask, rgb, self.head.mesh_px)
        self.field = WarpField(self.head, len(rgb), still_sides, self.mask, outside)
        self.mouth = MouthInterior(rgb, self.head, self.shape, rng)
        self.mouth_covered = mouth_is_covered(rgb, mesh)
        teeth = self.mouth.own_teeth
        self.own_mouth = OwnMouth(rgb, self.head, None if teeth is None else teeth.edge_px)
        self.hairiness = hairiness(rgb, self.head, mean_of(self.face.own, "smile"))
        self.eyes = [Eye(rgb, self.head, indices, rng) for indices in EYES]
        self._has_own_background = background is None
        if background is None:
            person, alpha, background = (
                rgb,
                spread_alpha(self.mask),
                paint_background(rgb, self.mask, len(rgb)),
            )
        else:
            person, alpha = cut_out(rgb, self.mask)
        self._background = np.clip(np.round(background), 0, 255).astype(np.uint8)
        self._rgba = np.dstack([person, np.round(alpha * 255).astype(np.uint8)])
        self._of_size: dict[int, _Sized] = {}
        self.shading = Shading(self.head, self.field, self.mask, lamp or Lamp())
        self._own_folds = self._folds(self.face.own, self.face.own_expression)

    @property
    def own(self) -> dict[str, float]:
        """The state that the portrait shows: in it a frame is the portrait."""
        return dict(self.face.own)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the portrait, in plain sentences."""
        if not self.mouth_covered:
            return self.face.notes
        return (*self.face.notes, "something covers the mouth in the portrait: it stays as it is")

    @property
    def neutral_points68(self) -> np.ndarray:
        """The person's neutral face from the front, `68 2` cm."""
        return self.shape.points[MESH_TO_68, :2]

    def render(self, state: State, size_px: int) -> np.ndarray:
        """The portrait in a state, `size_px size_px 3` uint8."""
        return self.frame(state, size_px)[0]

    def landmarks(self, state: State, size_px: int) -> np.ndarray:
        """The mesh of the portrait in a state, `478 2` float32 px of a frame of this size."""
        state = self._shown(state)
        moves_cm, placement = self.face.express(state).landmarks, self.face.place(state)
        return _outward(self._placed(moves_cm, placement, size_px))

    def frame(self, state: State, size_px: int) -> tuple[np.ndarray, np.ndarray]:
        """`render` and `landmarks` of one state."""
        if size_px < 1:
            raise ValueError(f"expected a size of at least 1 px, got {size_px}")
        scene = self._scene(self._shown(state), size_px)
        landmarks = self._placed(scene.expression.landmarks, scene.placement, size_px)
        return self._paint(landmarks, scene), _outward(landmarks)

    def _shown(self, state: State) -> dict[str, float]:
        """What the portrait shows of a state: a covered mouth stays as it is."""
        state = checked(state)
        return state | {name: self.face.own[name] for name in _MOUTH_NAMES} if self.mouth_covered else state

    def _scene(self, state: State, size_px: int) -> Scene:
        expression, placement = self.face.express(state), self.face.place(state)
        maps = self.field.inverse_maps(self.head.vectors_to_px(expression.skin), placement)
        return Scene(self.source, maps, placement, state, expression, size_px=size_px)

    def _placed(self, moves_cm: np.ndarray, placement: Placement, size_px: int) -> np.ndarray:
        """`478 2` output px of the mesh moved by `478 3` cm and placed; pixel centres at whole numbers."""
        placed = self.field.place_landmarks(self.head.vectors_to_px(moves_cm), placement)
        return (placed + 0.5) * (size_px / len(self.source)) - 0.5

    def _paint(self, landmarks: np.ndarray, scene: Scene) -> np.ndarray:
        sized = self._sized(scene.size_px)
        moves = self._grid_moves(landmarks, scene)
        canvas, alpha = _pull(sized, moves)
        self._paint_eyes(canvas, landmarks, scene)
        self._paint_mouth(canvas, landmarks, scene)
        self._shade(canvas, scene)
        if self._has_own_background:
            alpha = _cover_unmoved(alpha, moves * scene.scale)
        return _composite(sized.background, canvas, alpha)

    def _sized(self, size_px: int) -> _Sized:
        if size_px not in self._of_size:
            rgba, size = self._rgba, len(self._rgba)
            if size > _MAX_SHRINKING * size_px:
                small = (round(_MAX_SHRINKING * size_px),) * 2
                rgba = cv2.resize(rgba, small, interpolation=cv2.INTER_AREA)
            line = ((np.arange(size_px) + 0.5) * (len(rgba) / size_px) - 0.5).astype(np.float32)
            shrinks = size_px < len(self._background)
            background = cv2.resize(
                self._background,
                (size_px, size_px),
                interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
            )
            still_map = np.stack(np.meshgrid(line, line), -1)
            self._of_size[size_px] = _Sized(
                rgba, cv2.extractChannel(rgba, 3), len(rgba) / size, still_map, background
            )
        return self._of_size[size_px]

    def _grid_moves(self, landmarks: np.ndarray, scene: Scene) -> np.ndarray:
        """From each grid point to the portrait's px it shows, `GRID GRID 2`: the upper map above the mouth."""
        line = (landmarks[LIP_INNER_UPPER] + landmarks[LIP_INNER_LOWER]) / 2
        line = (line[np.argsort(line[:, 0])] + 0.5) / scene.scale - 0.5
        mouth_y = np.interp(self.field.grid[0, :, 0], line[:, 0], line[:, 1])
        unit, maps = len(self.source) / 256, scene.maps
        share = smoothstep(self.field.grid[..., 1] - mouth_y[None], -2 * unit, 6 * unit)
        mixed = maps.upper + (maps.lower - maps.upper) * share[..., None].astype(np.float32)
        return mixed - self.field.grid

    def _lamp_shade(self, rotation: np.ndarray) -> np.ndarray | float:
        """Log brightness by the lamp alone, `GRID GRID`."""
        if not self.shading.lamp.strength:
            return 0.0
        return self.shading.log_shade(NEUTRAL, self.shape.express(NEUTRAL), rotation)

    def _folds(self, state: State, expression: Expression) -> np.ndarray:
        """Log brightness of a state's folds, `GRID GRID`."""
        return self.shading.log_shade(state, expression, np.eye(3)) - self._lamp_shade(np.eye(3))

    def _log_shade(self, scene: Scene) -> np.ndarray:
        """Log brightness beyond the portrait's own, `GRID GRID`: by lamp and folds."""
        own, jaw_cm = self.face.own, self.face.own_expression.jaw_cm
        state = {name: _fold(value, own[name]) for name, value in scene.state.items()}
        expression = replace(scene.expression, jaw_cm=_fold(scene.expression.jaw_cm, jaw_cm))
        folds = self._folds(state, expression) - self._own_folds
        log = folds + self._lamp_shade(scene.placement.rotation)
        return log if self.field.stillness is None else log * self.field.stillness[..., 0]

    def _shade(self, canvas: np.ndarray, scene: Scene) -> None:
        """Lighten and darken the canvas: the portrait's shading moves with its skin."""
        at = (scene.maps.lower + 0.5) * np.float32(GRID / len(self.source)) - 0.5
        log = cv2.remap(self._log_shade(scene), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        shaded = cv2.boundingRect((np.abs(log) > _LEAST_LOG_SHADE).astype(np.uint8))
        if not shaded[2]:
            return
        scale = scene.size_px / GRID
        x0, y0 = (max(int((first - 1) * scale), 0) for first in shaded[:2])
        x1 = min(int((shaded[0] + shaded[2] + 1) * scale) + 1, scene.size_px)
        y1 = min(int((shaded[1] + shaded[3] + 1) * scale) + 1, scene.size_px)
        box = Box(x0, y0, x1, y1)
        factors = threefold(scene.enlarged(np.exp(log), box))
        canvas[box.slices] = cv2.multiply(canvas[box.slices], factors, dtype=cv2.CV_8U)

    def _paint_eyes(self, canvas: np.ndarray, landmarks: np.ndarray, scene: Scene) -> None:
        skin_landmarks = self._placed(scene.expression.skin, scene.placement, scene.size_px)
        for eye, is_shut in zip(self.eyes, self.face.shut, strict=True):
            share = 0.0 if is_shut else _eye_share(scene.expression, eye)
            if share > 0:
                box, painted = eye.paint(canvas, landmarks, skin_landmarks, scene)
                _lay(canvas, box, painted, share)

    def _paint_mouth(self, canvas: np.ndarray, landmarks: np.ndarray, scene: Scene) -> None:
        moved_cm = float(np.abs(scene.expression.landmarks[_LIPS]).max())
        share = smoothstep(moved_cm, 0, _PAINTED_FROM_CM)
        upper = smooth_curve(landmarks[LIP_INNER_UPPER], _NUM_LIP_EDGE_POINTS)
        lower = smooth_curve(landmarks[LIP_INNER_LOWER], _NUM_LIP_EDGE_POINTS)
        crossed = lower[:, 1] < upper[:, 1]
        upper[crossed, 1] = lower[crossed, 1] = (upper[crossed, 1] + lower[crossed, 1]) / 2
        slit = open_slit(upper, lower, 10 * scene.size_px / 256, 0.7, scene.size_px)
        if share == 0 or slit.box.is_empty:
            return
        above, below = (
            scene.pull(grid_map, self.source, slit.box) for grid_map in (scene.maps.upper, scene.maps.lower)
        )
        px_per_cm, widening = self.head.scale_px * scene.scale, _widening_cm(scene.expression)
        wider_cm = float(widening[4:7].mean())
        rolled = smoothstep(-widening, *_ROLLING_CM)
        if rolled.max() > _LEAST_ROLLED:
            above, below = without_rims((above, below), slit, px_per_cm, rolled)
        skin = over(canvas[slit.box.slices], over(above, below, slit.below), slit.box.feather(4))
        if slit.opening.any():
            jaw_cm = scene.expression.jaw_cm - self.face.own_expression.jaw_cm
            moves = MouthMoves(wider_cm, jaw_cm)
            inside = self.own_mouth.keep(self.mouth.paint(slit, scene), slit, scene, moves)
            pursed = max(rounding_of(scene.state) - rounding_of(self.face.own), 0)
            hair = self.hairiness * float(smoothstep(moves.wider, 0, _HAIR_FROM_CM))
            light = (1 - _PURSED_SHADE * pursed) * (1 - _HAIR_SHADE * hair)
            inside *= np.float32(light) ** self.mouth.shadow_power
            opening, blur_px = slit.opening, _EDGE_BLUR * self.mouth.tones.blur_cm * px_per_cm
            if blur_px > _LEAST_BLUR_PX:
                opening = cv2.GaussianBlur(opening, (0, 0), blur_px)
            if hair:
                opening = opening * (1 - hair_over(slit, px_per_cm, hair))
            skin = over(skin, inside, opening)
        _lay(canvas, slit.box, skin, share)


def _lay(canvas: np.ndarray, box: Box, painted: np.ndarray, share: float) -> None:
    """Show what is painted in a box of the canvas, by a share."""
    before = canvas[box.slices]
    if before.size:
        shown = (
            painted
            if share == 1
            else cv2.addWeighted(before.astype(np.float32), 1 - share, painted.astype(np.float32), share, 0)
        )
        canvas[box.slices] = to_bytes(shown)


def _fold(value: float, own: float) -> float:
    """What a value counts for the folds: those that the portrait has stay, mostly; how dark they are is not known."""
    if value >= own or own <= 0:
        return value
    return own + (value - own) * float(_UNFOLDED + (1 - _UNFOLDED) * smoothstep(-value, 0, 0.5))


def _outward(landmarks: np.ndarray) -> np.ndarray:
    """As they are handed out: the first pixel covers 0..1."""
    return (landmarks + _PIXEL_CENTRE[:2]).astype(np.float32)


def _widening_cm(expression: Expression) -> np.ndarray:
    """By how much further than in the portrait the mouth is open, `11` from corner to corner."""
    moves = expression.landmarks[:, 1]
    return moves[LIP_INNER_LOWER] - moves[LIP_INNER_UPPER]


def _eye_share(expression: Expression, eye: Eye) -> float:
    """How much of a painted eye is needed: 0 while it shows what the portrait shows."""
    indices = eye.indices
    lids = [*indices.upper, *indices.lower]
    moved_cm = max(float(np.abs(expression.landmarks[lids]).max()), float(np.abs(expression.gaze_cm).max()))
    return float(smoothstep(moved_cm, 0, _PAINTED_FROM_CM))


def _pull(sized: _Sized, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The warped portrait `size size 3` and its alpha `size size`, uint8, without slits."""
    size = len(sized.still_map)
    pulled_from = cv2.resize(moves, (size, size), interpolation=cv2.INTER_LINEAR)
    cv2.scaleAdd(pulled_from, sized.source_scale, sized.still_map, dst=pulled_from)
    # beyond the border hair and cloth are mirrored, since streaks catch the eye ...
    warped = cv2.remap(sized.rgba, pulled_from, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    alpha = cv2.extractChannel(warped, 3)
    if _leaves_the_picture(pulled_from, len(sized.rgba)):
        # ... but not the person's outline: who ends below the border has no second head above it
        alpha = cv2.remap(sized.alpha, pulled_from, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), alpha


def _leaves_the_picture(places: np.ndarray, size: int) -> bool:
    """Whether any of the places `h w 2` lies outside a square picture; a smooth map leaves it at its border first."""
    border = np.concatenate([places[0], places[-1], places[:, 0], places[:, -1]])
    return bool(border.min() < 0 or border.max() > size - 1)


def _cover_unmoved(alpha: np.ndarray, moves_px: np.ndarray) -> np.ndarray:
    """Alpha `size size` uint8, raised to the full where the grid's moves `GRID GRID 2` are next to nothing."""
    moved = np.hypot(moves_px[..., 0], moves_px[..., 1]) / _UNMOVED_PX
    if moved.min() >= 1:
        return alpha
    moved = cv2.resize(to_bytes(255 * np.minimum(moved, 1)), alpha.shape, interpolation=cv2.INTER_LINEAR)
    return cv2.bitwise_not(cv2.multiply(cv2.bitwise_not(alpha), moved, scale=1 / 255))


def _composite(background: np.ndarray, canvas: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The canvas over the background, `size size 3` uint8; in bytes throughout, right to one level."""
    share = cv2.merge([alpha] * 3)
    before = cv2.multiply(canvas, share, scale=1 / 255)
    return cv2.add(before, cv2.multiply(background, cv2.bitwise_not(share), scale=1 / 255))


def check_portrait(face: Face, rgb: np.ndarray) -> str | None:
    """Why a portrait cannot be a puppet; None when it can.

    face: the mesh found in `rgb`, a whole picture `H W 3`, before it is cropped.
    """
    pose = face.pose
    if max(abs(pose.yaw), abs(pose.pitch)) > MAX_TURN_DEGREES:
        return (
            f"the face is turned by {pose.yaw:.0f} (yaw) and {pose.pitch:.0f} (pitch) degrees, "
            f"more than {MAX_TURN_DEGREES:.0f}"
        )
    if face.height_px < MIN_FACE_HEIGHT_PX:
        return f"the face is {face.height_px:.0f} px high, less than {MIN_FACE_HEIGHT_PX:.0f}"
    head = fit_head(face.mesh)
    opening = min(eye_opening(head.points_cm, eye) for eye in EYES)
    if opening < MIN_EYE_OPENING:
        return f"an eye is shut: it is open by {opening:.2f} of its width, less than {MIN_EYE_OPENING}"
    outside = _share_outside(face, rgb)
    if outside > MAX_CROP_OUTSIDE:
        return (
            f"the crop reaches outside the picture by {outside:.0%} of its side, over {MAX_CROP_OUTSIDE:.0%}"
        )
    return None


def _share_outside(face: Face, rgb: np.ndarray) -> float:
    """How far the portrait crop reaches beyond the picture's worst side, as a share of the crop's side."""
    image_size = rgb.shape[1], rgb.shape[0]
    return max(portrait_crop(face, image_size).outside(image_size))


def _check_inputs(rgb: np.ndarray, mesh: np.ndarray, mask: np.ndarray, background: np.ndarray | None) -> None:
    if rgb.ndim != 3 or rgb.shape[0] != rgb.shape[1] or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected a square uint8 picture `S S 3`, got {rgb.dtype} {rgb.shape}; crop first")
    if mesh.shape != (MESH_POINTS, 3):
        raise ValueError(f"expected a mesh of shape ({MESH_POINTS}, 3), got {mesh.shape}")
    if mask.shape != rgb.shape[:2]:
        raise ValueError(f"expected a mask of shape {rgb.shape[:2]} like the picture, got {mask.shape}")
    if not np.isfinite(mesh).all():
        raise ValueError("expected a mesh of finite numbers; the face finder gave others")
    if background is not None and (
        background.ndim != 3 or background.shape[0] != background.shape[1] or background.shape[2] != 3
    ):
        raise ValueError(f"expected a square background `s s 3`, got {background.shape}")
