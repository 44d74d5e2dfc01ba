"""A still portrait moved by face states, with exact landmarks: the puppet behind the synthetic corpus.

No network is involved: the portrait's mesh is displaced in centimetres (rig.expression), the displacement
spreads to a dense warp (rig.field), and the mouth's inside and the lids are painted (rig.mouth, rig.eyes).
"""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.face.crop import portrait_crop
from openloopy.face.landmarks import Face
from openloopy.face.mesh import MESH_POINTS
from openloopy.rig.expression import FaceShape
from openloopy.rig.eyes import Eye
from openloopy.rig.field import GRID, WarpField, free_point_operator, place_head
from openloopy.rig.mesh import (
    EYES,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    fit_head,
)
from openloopy.rig.mouth import MouthInterior
from openloopy.rig.paint import (
    Scene,
    cut_out,
    open_slit,
    over,
    paint_background,
    refine_mask,
    smooth_curve,
    spread_alpha,
)
from openloopy.rig.shade import Lamp, Shading
from openloopy.rig.state import NAMES, State

MAX_TURN_DEGREES = 12.0
MIN_FACE_HEIGHT_PX = 110.0
MIN_EYE_OPENING = 0.14
"""Height of the eye's opening over its width; below it the eye is shut or nearly so."""
MAX_CROP_OUTSIDE = 0.12
"""How much of the crop's side may lie outside the picture."""
_NUM_LIP_EDGE_POINTS = 41
_PIXEL_CENTRE = np.array([0.5, 0.5, 0.0])
"""Meshes come and go with the first pixel covering 0..1; inside, pixel centres are whole numbers."""


class PuppetRig:
    """One portrait, ready to be moved: a frame is a function of its state alone."""

    def __init__(
        self,
        rgb: np.ndarray,
        mesh: np.ndarray,
        mask: np.ndarray,
        *,
        out_px: int = 256,
        rng: np.random.Generator,
        lamp: Lamp | None = None,
        background: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            rgb: the portrait, cropped, `S S 3` uint8; best 1.5 times out_px.
            mesh: its face mesh in px of `rgb`, `478 3`, z to the viewer.
            mask: where the person is, `S S` in 0..1.
            out_px: side of the frames.
            rng: draws what the portrait does not show (teeth) and the grain of painted skin.
            lamp: a light added to the portrait's own.
            background: what to show behind the person, `out_px out_px 3`; None: the portrait's own.
        """
        _check_inputs(rgb, mesh, mask, background, out_px)
        self.source, self.out_px = rgb, out_px
        self.head = fit_head(mesh - _PIXEL_CENTRE)
        self.field = WarpField(self.head, len(rgb))
        self.shape = FaceShape(self.head.points_cm, free_point_operator(self.head))
        self.mouth = MouthInterior(rgb, self.head, self.shape, rng)
        self.eyes = [Eye(rgb, self.head, indices, rng) for indices in EYES]
        mask = refine_mask(mask, rgb, self.head.mesh_px)
        if background is None:
            person, alpha = rgb, spread_alpha(mask)
            self._background = paint_background(rgb, mask, out_px)
        else:
            person, alpha = cut_out(rgb, mask)
            self._background = background.astype(np.float32)
        self._rgba = np.dstack([person, np.round(alpha * 255).astype(np.uint8)])
        self.shading = Shading(self.head, self.field, mask, lamp or Lamp())

    def frame(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Show the portrait in a state, relative to its own pose.

        Returns:
            The picture, `out_px out_px 3` uint8, and the mesh in it, `478 2` float32 px.
        """
        missing = set(NAMES) - state.keys()
        if missing:
            raise ValueError(f"the state lacks {sorted(missing)}; start from rig.state.NEUTRAL")
        state = {name: float(state[name]) for name in NAMES}
        expression = self.shape.express(state)
        placement = place_head(self.head, state)
        skin_px = self.head.vectors_to_px(expression.skin)
        maps = self.field.inverse_maps(skin_px, placement)
        scene = Scene(self.source, maps, placement, state, expression, size_px=self.out_px)
        return self._paint(scene)

    def _paint(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        skin_landmarks = self._landmarks(scene.expression.skin, scene)
        landmarks = self._landmarks(scene.expression.landmarks, scene)
        canvas, alpha = self._pull_person(landmarks, scene)
        for eye in self.eyes:
            eye.paint(canvas, landmarks, skin_landmarks, scene)
        self._paint_mouth(canvas, landmarks, scene)
        canvas *= self._shade(scene)[..., None]
        frame = over(self._background, canvas, alpha)
        return np.clip(np.round(frame), 0, 255).astype(np.uint8), (landmarks + _PIXEL_CENTRE[:2]).astype(
            np.float32
        )

    def _shade(self, scene: Scene) -> np.ndarray:
        """Brightness factor of each pixel, `size size`: the portrait's shading moves with its skin."""
        log = self.shading.log_shade(scene.state, scene.expression, scene.placement.rotation)
        at = (scene.maps.lower + 0.5) * np.float32(GRID / len(self.source)) - 0.5
        moved = cv2.remap(np.exp(log), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return cv2.resize(moved, (scene.size_px, scene.size_px), interpolation=cv2.INTER_LINEAR)

    def _landmarks(self, moves_cm: np.ndarray, scene: Scene) -> np.ndarray:
        """`478 2` output px of the mesh moved by `478 3` cm and placed."""
        moved = self.head.mesh_px + self.head.vectors_to_px(moves_cm)
        return scene.to_output(scene.placement(moved, self.field.landmark_weight))

    def _pull_person(self, landmarks: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """The warped portrait `size size 3` float32 and its alpha `size size`, without slits."""
        line = (landmarks[LIP_INNER_UPPER] + landmarks[LIP_INNER_LOWER]) / 2
        line = (line[np.argsort(line[:, 0])] + 0.5) / scene.scale - 0.5
        mouth_line = np.interp(self.field.grid[0, :, 0], line[:, 0], line[:, 1])
        warped = cv2.remap(
            self._rgba,
            scene.whole_map(mouth_line),
            None,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return warped[..., :3].astype(np.float32), warped[..., 3].astype(np.float32) / 255

    def _paint_mouth(self, canvas: np.ndarray, landmarks: np.ndarray, scene: Scene) -> None:
        upper = smooth_curve(landmarks[LIP_INNER_UPPER], _NUM_LIP_EDGE_POINTS)
        lower = smooth_curve(landmarks[LIP_INNER_LOWER], _NUM_LIP_EDGE_POINTS)
        crossed = lower[:, 1] < upper[:, 1]
        upper[crossed, 1] = lower[crossed, 1] = (upper[crossed, 1] + lower[crossed, 1]) / 2
        slit = open_slit(upper, lower, 10 * self.out_px / 256, 0.7, self.out_px)
        if slit.box.is_empty:
            return
        above, below = (
            scene.pull(grid_map, self.source, slit.box) for grid_map in (scene.maps.upper, scene.maps.lower)
        )
        here = canvas[slit.box.slices]
        skin = over(here, over(above, below, slit.below[..., 0]), slit.box.feather(4)[..., 0])
        canvas[slit.box.slices] = over(skin, self.mouth.paint(slit, scene), slit.opening[..., 0])


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
    opening = min(_eye_opening(head.points_cm, eye.upper, eye.lower) for eye in EYES)
    if opening < MIN_EYE_OPENING:
        return f"an eye is shut: it is open by {opening:.2f} of its width, less than {MIN_EYE_OPENING}"
    outside = _share_outside(face, rgb)
    if outside > MAX_CROP_OUTSIDE:
        return (
            f"the crop reaches outside the picture by {outside:.0%} of its side, over {MAX_CROP_OUTSIDE:.0%}"
        )
    return None


def _eye_opening(points_cm: np.ndarray, upper: list[int], lower: list[int]) -> float:
    """Greatest lid gap over the eye's width."""
    gap = points_cm[lower, 1] - points_cm[upper, 1]
    return float(gap.max() / np.linalg.norm(points_cm[upper[0], :2] - points_cm[upper[-1], :2]))


def _share_outside(face: Face, rgb: np.ndarray) -> float:
    """How far the portrait crop reaches beyond the picture's worst side, as a share of the crop's side."""
    height, width = rgb.shape[:2]
    crop = portrait_crop(face, (width, height))
    beyond = (-crop.x0, -crop.y0, crop.x0 + crop.size - width, crop.y0 + crop.size - height)
    return max(0.0, *beyond) / crop.size


def _check_inputs(
    rgb: np.ndarray, mesh: np.ndarray, mask: np.ndarray, background: np.ndarray | None, out_px: int
) -> None:
    if rgb.ndim != 3 or rgb.shape[0] != rgb.shape[1] or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected a square uint8 picture `S S 3`, got {rgb.dtype} {rgb.shape}; crop first")
    if mesh.shape != (MESH_POINTS, 3):
        raise ValueError(f"expected a mesh of shape ({MESH_POINTS}, 3), got {mesh.shape}")
    if mask.shape != rgb.shape[:2]:
        raise ValueError(f"expected a mask of shape {rgb.shape[:2]} like the picture, got {mask.shape}")
    if background is not None and background.shape != (out_px, out_px, 3):
        raise ValueError(
            f"expected a background of shape ({out_px}, {out_px}, 3) like the frames, got {background.shape}"
        )
