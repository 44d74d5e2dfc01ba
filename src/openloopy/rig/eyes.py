"""The eyes: an eyeball that looks around behind the lids, and lids that are painted when they close.

Stretching the skin of an open eye over it smears; so a closing lid is painted with skin made by filling the
eye from around it, and a lash line at its edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.rig.mesh import EyeIndices, HeadFrame, smoothstep
from openloopy.rig.paint import (
    Box,
    Scene,
    Slit,
    fill_polygon,
    open_slit,
    over,
    push_pull,
    smooth_curve,
)

NUM_EDGE_POINTS = 25
_LEAST_CLOSURE = 0.02
"""Below this no lid is painted."""
_SKIN_GRAIN = 3.0
"""Standard deviation of the noise in painted lids, of 255."""


@dataclass(frozen=True)
class LidEdge:
    """The upper lid's edge along the columns of a box: height, place and distance of each pixel."""

    y: np.ndarray
    across: np.ndarray
    """`w`: -1 at the left corner, 1 at the right one."""
    below_cm: np.ndarray
    """`h w`: how far a pixel lies under the edge."""
    px_per_cm: float

    @classmethod
    def of(cls, upper: np.ndarray, box: Box, px_per_cm: float) -> LidEdge:
        ordered = upper[np.argsort(upper[:, 0])]
        y = np.interp(box.xs, ordered[:, 0], ordered[:, 1])
        across = np.interp(box.xs, ordered[:, 0], np.linspace(-1, 1, len(ordered)))
        return cls(y, across, (box.ys - y) / px_per_cm, px_per_cm)


class Eye:
    """One eye of one portrait."""

    def __init__(
        self, rgb: np.ndarray, head: HeadFrame, indices: EyeIndices, rng: np.random.Generator
    ) -> None:
        """rng draws the grain of the painted lid."""
        self.head, self.indices = head, indices
        mesh = head.mesh_px[:, :2]
        self.centre = mesh[indices.iris]
        self.iris_px = float(np.linalg.norm(mesh[indices.iris_ring] - self.centre, axis=1).mean())
        outline = np.concatenate([mesh[indices.upper], mesh[indices.lower][-2:0:-1]])
        box = Box.around(outline, 8, len(rgb))
        picture = rgb[box.slices]
        self.eyeball_at = np.array([box.x0, box.y0])
        self.eyeball = _eyeball_texture(picture, outline - self.eyeball_at)
        self.lash = _darkest_colour(picture)
        self.lid = _lid_texture(rgb, head, indices, rng)

    def paint(
        self, canvas: np.ndarray, landmarks: np.ndarray, skin_landmarks: np.ndarray, scene: Scene
    ) -> None:
        """Paint the eye into the canvas `size size 3`.

        landmarks, skin_landmarks: `478 2` output px, lids where they are; where skin is pulled to.
        """
        upper, lower = (
            smooth_curve(landmarks[i], NUM_EDGE_POINTS) for i in (self.indices.upper, self.indices.lower)
        )
        slit = open_slit(upper, lower, 6 * scene.size_px / 256, 0.8, scene.size_px)
        if slit.box.is_empty:
            return
        closure = scene.expression.lid_closures[0 if self.indices.side < 0 else 1]
        edge = LidEdge.of(upper, slit.box, self.head.scale_px * scene.scale)
        here = canvas[slit.box.slices]
        below = (slit.below * slit.box.feather(3))[..., 0]
        skin = over(here, scene.pull(scene.maps.lower, scene.source, slit.box), below)
        shadow = 0.30 * np.exp(-np.clip(edge.below_cm, 0, None) / 0.12) * min(1, 2 * self._blink(scene))
        eyeball = self._eyeball_in(slit.box, scene) * (1 - shadow)[..., None]
        if closure > _LEAST_CLOSURE:
            open_edge = smooth_curve(skin_landmarks[self.indices.upper], NUM_EDGE_POINTS)
            skin = self._paint_lid(skin, slit, open_edge, edge, scene)
        picture = over(skin, eyeball, slit.opening[..., 0])
        if closure > _LEAST_CLOSURE:
            picture = over(picture, self.lash, self._lash_alpha(edge, closure))
        canvas[slit.box.slices] = picture

    def _blink(self, scene: Scene) -> float:
        return scene.state["blink_left" if self.indices.side < 0 else "blink_right"]

    def _eyeball_in(self, box: Box, scene: Scene) -> np.ndarray:
        """The eyeball turned by gaze, `h w 3`."""
        left, right = self.indices.upper[0], self.indices.upper[-1]
        corners = self.head.mesh_px[[left, right, left]].copy()
        corners[2] += self.head.vectors_to_px(np.array([0.0, 2.0, 0.0]))
        shown = scene.to_output(scene.placement(corners, np.ones(3)))
        to_source = cv2.getAffineTransform(shown.astype(np.float32), corners[:, :2].astype(np.float32))
        x, y = (row[0] * box.xs + row[1] * box.ys + row[2] for row in to_source)
        gaze = self.head.vectors_to_px(np.append(scene.expression.gaze_cm, 0.0))[:2]
        from_iris = np.hypot(x - self.centre[0] - gaze[0], y - self.centre[1] - gaze[1]) / self.iris_px
        share = 1 - smoothstep(from_iris, 1.15, 2.6)
        x = (x - gaze[0] * share - self.eyeball_at[0]).astype(np.float32)
        y = (y - gaze[1] * share - self.eyeball_at[1]).astype(np.float32)
        return cv2.remap(self.eyeball, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _paint_lid(
        self, skin: np.ndarray, slit: Slit, open_edge: np.ndarray, edge: LidEdge, scene: Scene
    ) -> np.ndarray:
        """Skin from above the open lid's edge down to the present one, `h w 3`."""
        closure = scene.expression.lid_closures[0 if self.indices.side < 0 else 1]
        across = np.linspace(-1, 1, NUM_EDGE_POINTS)
        top, bottom = open_edge.copy(), slit.upper.copy()
        top[:, 1] -= edge.px_per_cm * (0.16 + 0.26 * (1 - across**4)) * smoothstep(closure, 0, 0.35)
        bottom[:, 1] += 0.3
        area = fill_polygon(np.concatenate([top, bottom[::-1]]), slit.box)
        soft = cv2.GaussianBlur(area, (0, 0), edge.px_per_cm * 0.11)
        area = np.where(edge.below_cm < -0.12, soft, area) * smoothstep(closure, _LEAST_CLOSURE, 0.25)
        bulge = np.exp(-(((edge.below_cm + 0.42) / 0.3) ** 2)) * (1 - edge.across**2) * closure
        crease = np.exp(-np.clip(-edge.below_cm, 0, None) / 0.12)
        shade = 1 + 0.05 * bulge - 0.10 * crease
        return over(skin, scene.pull(scene.maps.upper, self.lid, slit.box) * shade[..., None], area)

    def _lash_alpha(self, edge: LidEdge, closure: float) -> np.ndarray:
        """`h w`: a line along the lid's edge, thinner towards the nose."""
        inner = np.clip(-self.indices.side * edge.across, 0, 1)
        thickness = (0.055 + 0.035 * closure) * (1 - 0.6 * np.abs(edge.across) ** 3) * (1 - 0.55 * inner**2)
        line = np.clip((thickness - np.abs(edge.below_cm - 0.03)) * edge.px_per_cm / 0.9 + 0.5, 0, 1)
        return 0.72 * line * (np.abs(edge.across) < 0.985) * smoothstep(closure, 0.05, 0.4)


def _eyeball_texture(picture: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """The eye without its lids: the outside of the outline `n 2` is filled from inside; `h w 3`."""
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 255)
    outside = 255 - cv2.erode(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    return cv2.inpaint(picture, outside, 3, cv2.INPAINT_TELEA).astype(np.float32)


def _darkest_colour(picture: np.ndarray) -> np.ndarray:
    pixels = picture.reshape(-1, 3).astype(np.float32)
    luma = pixels.mean(1)
    return pixels[luma <= np.percentile(luma, 8)].mean(0)


def _lid_texture(
    rgb: np.ndarray, head: HeadFrame, indices: EyeIndices, rng: np.random.Generator
) -> np.ndarray:
    """The portrait `H W 3` float32 with this eye replaced by skin."""
    outline = _lashes_outline(head, indices)
    hole = np.zeros(rgb.shape[:2], np.uint8)
    cv2.fillPoly(hole, [np.round(outline).astype(np.int32)], 255)
    hole = cv2.dilate(hole, np.ones((3, 3), np.uint8))
    area = Box.around(outline, 15, len(rgb)).slices
    picture, hole = rgb[area], hole[area]
    smooth = push_pull(picture.astype(np.float32), (hole == 0).astype(np.float32))
    sharp = cv2.inpaint(picture, hole, 4, cv2.INPAINT_TELEA).astype(np.float32)
    skin = 0.5 * smooth + 0.5 * cv2.GaussianBlur(sharp, (0, 0), 1.5)
    grain = rng.standard_normal(hole.shape).astype(np.float32)
    skin += cv2.GaussianBlur(grain, (0, 0), 0.8)[..., None] * _SKIN_GRAIN
    lid = rgb.astype(np.float32)
    lid[area] = over(lid[area], skin, cv2.GaussianBlur((hole > 0).astype(np.float32), (0, 0), 1.2))
    return lid


def _lashes_outline(head: HeadFrame, indices: EyeIndices) -> np.ndarray:
    """A polygon `n 2` px around the eye with its lashes and lid crease."""
    upper, lower = head.mesh_px[indices.upper, :2].copy(), head.mesh_px[indices.lower, :2].copy()
    up = head.vectors_to_px(np.array([0.0, -1.0, 0.0]))[:2]
    upper[1:-1] += 0.42 * up
    upper[0] += 0.24 * up
    upper[-1] += 0.15 * up
    lower[1:-1] -= 0.16 * up
    centre = upper[:, 0].mean()
    upper[:, 0] = centre + 1.05 * (upper[:, 0] - centre)
    return np.concatenate([upper, lower[::-1]])
