"""The inside of the mouth: a dark cavity, teeth and tongue, painted in a plane that turns with the head.

The plane is measured in cm: u to the right, v down from the line at which the lips meet. The portrait's own
upper teeth are used where they show; else teeth are drawn in the picture's light.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.rig.expression import FaceShape
from openloopy.rig.mesh import LIP_INNER_LOWER, LIP_INNER_UPPER, HeadFrame
from openloopy.rig.paint import Scene, Slit, over, push_pull
from openloopy.rig.state import State

TEXTURE_PX_PER_CM = 40
TEETH_HALF_ROW_CM = 2.6
LUMA = np.array([0.299, 0.587, 0.114])
# RGB in the light of a picture whose skin has luma 185.
_CAVITY = np.array([42.0, 16.0, 22.0])
_TONGUE = np.array([168.0, 82.0, 88.0])
_ENAMEL = np.array([220.0, 210.0, 192.0])
_LOWER_GUM = np.array([96.0, 48.0, 51.0])
_NEUTRAL_SKIN = np.array([1.13, 1.0, 0.86])
_COLOURED_SKIN = 0.2
"""Skin with at least this share of colour (range over maximum) is a coloured picture's; 0: black and white."""
_SKIN_SAMPLES = [50, 280, 205, 425, 101, 330]
_UPPER_WIDTHS_CM = (0.86, 0.66, 0.72, 0.52)
_UPPER_HEIGHTS_CM = (1.0, 0.93, 0.97, 0.88)
_LOWER_WIDTHS_CM = (0.54, 0.58, 0.64, 0.56)
_LOWER_HEIGHTS_CM = (0.88, 0.88, 0.9, 0.8)
_TONGUE_HALF_WIDTH_CM = 1.9
_LEAST_GAP_FOR_TEETH_CM = 0.28


@dataclass(frozen=True)
class ToothRow:
    """A row of drawn teeth, `h w` each; the midline is in the middle."""

    shade: np.ndarray
    alpha: np.ndarray

    @classmethod
    def draw(cls, widths_cm: tuple[float, ...], heights_cm: tuple[float, ...]) -> ToothRow:
        """Teeth that hang from y = 0, mirrored about the midline."""
        y = (np.arange(int(max(heights_cm) * TEXTURE_PX_PER_CM)) + 0.5)[:, None] / TEXTURE_PX_PER_CM
        width = int(2 * TEETH_HALF_ROW_CM * TEXTURE_PX_PER_CM)
        from_midline = np.abs((np.arange(width) + 0.5) / TEXTURE_PX_PER_CM - TEETH_HALF_ROW_CM)
        shade = np.zeros((len(y), width), np.float32)
        alpha = np.zeros_like(shade)
        inner_edge = 0.0
        for i, (tooth_width, height) in enumerate(zip(widths_cm, heights_cm, strict=True)):
            u = np.abs(from_midline - inner_edge - tooth_width / 2) / (tooth_width / 2)
            inside = u < 1
            edge = height - (0.10 if i < 3 else 0.07) * np.clip(u, 0, 1) ** 4
            cover = np.clip((edge - y) * TEXTURE_PX_PER_CM / 2.5 + 0.5, 0, 1) * inside
            alpha = np.maximum(alpha, cover)
            rounded = (1 - 0.16 * u**6) * (1 - 0.10 * np.clip(u, 0, 1) ** 2) * (1 - 0.09 * i)
            shade = np.where(inside, rounded, shade)
            inner_edge += tooth_width
        shade = shade * (np.clip(y / (0.35 * max(heights_cm)), 0, 1) * 0.12 + 0.88)
        return cls(shade.astype(np.float32), alpha.astype(np.float32))

    def flipped(self) -> ToothRow:
        """The same row standing up: y = 0 is its edge."""
        return ToothRow(self.shade[::-1].copy(), self.alpha[::-1].copy())

    def at(self, view: MouthPlane, top: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Shade and alpha in a view, with the texture's y = 0 at v = top."""
        y = ((view.v - top) * TEXTURE_PX_PER_CM - 0.5).astype(np.float32)
        x = ((view.u + TEETH_HALF_ROW_CM) * TEXTURE_PX_PER_CM - 0.5).astype(np.float32)
        sigma = max(1, view.cm_per_px * TEXTURE_PX_PER_CM * 0.5)
        shade, alpha = (
            cv2.remap(cv2.GaussianBlur(a, (0, 0), sigma), x, y, cv2.INTER_LINEAR)
            for a in (self.shade, self.alpha)
        )
        return shade, alpha


@dataclass(frozen=True)
class OwnTeeth:
    """The portrait's own upper teeth, in its pixels; they reach up behind the lip."""

    colour: np.ndarray
    alpha: np.ndarray
    enamel: np.ndarray
    """Their mean colour, for the teeth beside them that the portrait does not show."""
    edge_px: np.ndarray
    """The middle of their edge, `2`."""


@dataclass(frozen=True)
class MouthPlane:
    """Where the pixels of a box lie in the mouth, cm; `h w` each."""

    u: np.ndarray
    v: np.ndarray
    cm_per_px: float


class MouthInterior:
    """Paints what shows between the lips of one person."""

    def __init__(self, rgb: np.ndarray, head: HeadFrame, shape: FaceShape, rng: np.random.Generator) -> None:
        """rng draws how low the teeth stand and how white they are."""
        self.head = head
        self.origin_cm = np.array([shape.mouth_centre[0], shape.lip_line, head.points_cm[13, 2] - 1.0])
        skin = _median_colour(rgb, head.mesh_px[_SKIN_SAMPLES])
        tint = np.clip((skin / (skin.mean() + 1e-3) / _NEUTRAL_SKIN) ** 0.5, 0.8, 1.2)
        light = float(np.clip(skin @ LUMA / 185, 0.38, 1.05))
        chroma = float(np.clip((skin.max() - skin.min()) / (skin.max() + 1e-3) / _COLOURED_SKIN, 0, 1))
        self.cavity, self.tongue, self.gum = (
            _in_picture(colour, light, chroma) for colour in (_CAVITY, _TONGUE, _LOWER_GUM)
        )
        self.lower_edge_cm = float(rng.uniform(-0.16, 0.08))
        self.upper_edge_cm = float(rng.uniform(0.26, 0.46))
        self.enamel = _in_picture(_ENAMEL * tint, light, chroma) * float(rng.uniform(0.82, 1.05))
        self.upper_row = ToothRow.draw(_UPPER_WIDTHS_CM, _UPPER_HEIGHTS_CM)
        self.lower_row = ToothRow.draw(_LOWER_WIDTHS_CM, _LOWER_HEIGHTS_CM).flipped()
        own_gap = head.points_cm[LIP_INNER_LOWER, 1] - head.points_cm[LIP_INNER_UPPER, 1]
        shows_teeth = np.median(own_gap[3:8]) > _LEAST_GAP_FOR_TEETH_CM
        self.own_teeth = _find_own_teeth(rgb, head) if shows_teeth else None
        if self.own_teeth is not None:
            self.enamel = self.own_teeth.enamel
            edge = (self.own_teeth.edge_px - head.origin_px[:2]) @ head.rotation[:2, 1] / head.scale_px
            self.upper_edge_cm = float(np.clip(edge - shape.lip_line, 0.2, 0.6))

    def paint(self, slit: Slit, scene: Scene) -> np.ndarray:
        """The interior in the box of a slit, `h w 3`."""
        view, jaw_cm = self._plane(slit, scene), scene.expression.jaw_cm
        tip, lower_edge = scene.state["tongue_tip"], self.lower_edge_cm + 0.97 * jaw_cm
        picture = np.ones((*view.u.shape, 3), np.float32) * self.cavity.astype(np.float32)
        picture = self._paint_tongue(picture, view, scene.state, jaw_cm)
        picture = self._paint_lower_teeth(picture, view, lower_edge)
        picture = self._paint_upper_teeth(picture, view)
        if tip > 0.75 and jaw_cm > 0.08:
            picture = self._paint_tongue_tip(picture, view, tip)
        return picture * _lip_shadow(slit, view)[..., None]

    def _plane(self, slit: Slit, scene: Scene) -> MouthPlane:
        corners = self.head.to_px(self.origin_cm + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]))
        shown = scene.to_output(scene.placement(corners, np.ones(3)))
        to_cm = cv2.getAffineTransform(shown.astype(np.float32), np.float32([[0, 0], [1, 0], [0, 1]]))
        u, v = (row[0] * slit.box.xs + row[1] * slit.box.ys + row[2] for row in to_cm)
        return MouthPlane(u.astype(np.float32), v.astype(np.float32), float(abs(to_cm[0, 0])))

    def _paint_tongue(self, picture: np.ndarray, view: MouthPlane, state: State, jaw_cm: float) -> np.ndarray:
        # Higher than in anatomy: at its true rest height the tongue would never show.
        top = self.lower_edge_cm + 0.97 * jaw_cm - 0.40 - 0.22 * min(jaw_cm, 1.6)
        top -= 0.45 * max(state["tongue"] - 0.1, 0) * min(jaw_cm / 0.6, 1)
        top -= 0.30 * state["tongue_tip"] * min(jaw_cm / 0.4, 1)
        top = max(top, 0.30 + 0.15 * (1 - min(jaw_cm, 1)))
        across = view.u / _TONGUE_HALF_WIDTH_CM
        below = view.v - (top + 0.22 - 0.22 * np.sqrt(np.clip(1 - across**2, 0, 1)))
        alpha = np.clip(below / (view.cm_per_px * 1.5) + 0.5, 0, 1)
        alpha *= np.clip((_TONGUE_HALF_WIDTH_CM - np.abs(view.u)) / 0.25, 0, 1)
        groove = 0.05 * np.exp(-((view.u / 0.12) ** 2))
        shade = np.clip(0.46 + 0.40 * np.clip(below / 0.55, 0, 1) - 0.30 * across**2 - groove, 0.12, 1)
        return over(picture, shade[..., None] * self.tongue, alpha)

    def _paint_lower_teeth(self, picture: np.ndarray, view: MouthPlane, edge: float) -> np.ndarray:
        shade, alpha = self.lower_row.at(view, edge)
        shade = 0.86 * shade * (1 - 0.55 * np.clip(np.abs(view.u) / 2.1, 0, 1) ** 1.6)
        picture = over(picture, self.enamel * shade[..., None], alpha)
        gum = np.clip((view.v - (edge + 0.9)) / 0.1, 0, 1) * np.clip((2 - np.abs(view.u)) / 0.3, 0, 1)
        return over(picture, self.gum, gum)

    def _paint_upper_teeth(self, picture: np.ndarray, view: MouthPlane) -> np.ndarray:
        # the edge rises to the sides, as a smile line does
        shade, alpha = self.upper_row.at(view, self.upper_edge_cm - 1.0 - 0.05 * (view.u / 1.5) ** 2)
        shade = shade * (1 - 0.48 * np.clip(np.abs(view.u) / 2.1, 0, 1) ** 1.8)
        picture = over(picture, self.enamel * shade[..., None], alpha)
        return picture if self.own_teeth is None else self._paint_own_teeth(picture, view, self.own_teeth)

    def _paint_own_teeth(self, picture: np.ndarray, view: MouthPlane, teeth: OwnTeeth) -> np.ndarray:
        flat = np.stack([view.u, view.v, np.zeros_like(view.u)], -1)
        source = self.head.to_px(self.origin_cm + flat)[..., :2].astype(np.float32)
        colour = cv2.remap(teeth.colour, source, None, cv2.INTER_LINEAR)
        alpha = cv2.remap(teeth.alpha, source, None, cv2.INTER_LINEAR)
        shade = 1 - 0.25 * np.clip(np.abs(view.u) / 2.3, 0, 1) ** 2
        return over(picture, colour * shade[..., None], alpha)

    def _paint_tongue_tip(self, picture: np.ndarray, view: MouthPlane, tip: float) -> np.ndarray:
        """The tip at or between the teeth, for l and th."""
        alpha = np.clip((tip - 0.75) / 0.2, 0, 1) * np.exp(-((view.u / 0.75) ** 2))
        alpha = alpha * np.clip((view.v - 0.10) / 0.12, 0, 1) * np.clip((0.5 - view.v) / 0.3, 0, 1)
        return over(picture, 0.8 * self.tongue, 0.7 * alpha)


def _lip_shadow(slit: Slit, view: MouthPlane) -> np.ndarray:
    """Ambient occlusion by the lips, `h w`: darker under the upper lip and in a narrow opening."""
    upper_y, lower_y = (
        np.interp(slit.box.xs, edge[order, 0], edge[order, 1])
        for edge, order in ((e, np.argsort(e[:, 0])) for e in (slit.upper, slit.lower))
    )
    gap = np.clip(lower_y - upper_y, 0, None) * view.cm_per_px
    from_upper = np.clip(slit.box.ys - upper_y, 0, None) * view.cm_per_px
    from_lower = np.clip(lower_y - slit.box.ys, 0, None) * view.cm_per_px
    shadow = (1 - 0.42 * np.exp(-from_upper / 0.12)) * (1 - 0.22 * np.exp(-from_lower / 0.10))
    return (shadow * np.clip(0.58 + gap, 0, 1)).astype(np.float32)


def _in_picture(colour: np.ndarray, light: float, chroma: float) -> np.ndarray:
    """A colour in the picture's light, greyed where the picture is."""
    grey = colour @ LUMA
    return light * (grey + chroma * (colour - grey))


def _median_colour(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Median RGB at points `n 3` px."""
    x, y = np.clip(points[:, :2].astype(int), 0, len(rgb) - 1).T
    return np.median(rgb[y, x].astype(np.float32), 0)


def _find_own_teeth(rgb: np.ndarray, head: HeadFrame) -> OwnTeeth | None:
    """The upper teeth that show between the portrait's lips; None where there are not enough."""
    bright = _bright_between_lips(rgb, head.mesh_px[:, :2])
    if bright is None:
        return None
    colour = push_pull(rgb.astype(np.float32), (bright > 0.6).astype(np.float32))
    columns = np.flatnonzero((bright > 0.5).any(0))
    if not len(columns):
        return None
    rows = np.arange(len(rgb), dtype=np.float32)[:, None]
    lowest = np.array([np.flatnonzero(bright[:, x] > 0.5).max() for x in columns], np.float32)
    lowest = cv2.GaussianBlur(lowest[None], (0, 0), 1.5)
    alpha = np.zeros(bright.shape, np.float32)
    gum_row = lowest - 1.1 * head.scale_px
    alpha[:, columns] = np.clip(lowest + 0.5 - rows, 0, 1) * np.clip((rows - gum_row) / 3, 0, 1)
    first, last = columns[0] + 0.15 * np.ptp(columns), columns[-1] - 0.15 * np.ptp(columns)
    across = np.arange(len(rgb))
    fade = np.clip(np.minimum(across - columns[0], columns[-1] - across) / (0.25 * head.scale_px), 0, 1)
    inner = (columns >= first) & (columns <= last)
    edge_px = np.array([columns.mean(), np.median(lowest[0, inner])])
    enamel = np.percentile(rgb[bright > 0.6].astype(np.float32), 65, axis=0)
    return OwnTeeth(colour, cv2.GaussianBlur(alpha * fade, (0, 0), 0.7).astype(np.float32), enamel, edge_px)


def _bright_between_lips(rgb: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
    """How tooth-like (bright, not red) each pixel between the lips is, `H W` in 0..1; None: no teeth."""
    area = np.zeros(rgb.shape[:2], np.uint8)
    outline = np.concatenate([mesh[LIP_INNER_UPPER], mesh[LIP_INNER_LOWER][::-1]])
    cv2.fillPoly(area, [np.round(outline).astype(np.int32)], 255)
    inside = cv2.erode(area, np.ones((3, 3), np.uint8)) > 0
    if inside.sum() <= 60:
        return None
    lightness, redness = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[..., :2].astype(np.float32), -1, 0)
    dark, light = np.percentile(lightness[inside], [5, 85])
    if light - dark <= 25 or light <= 100:
        return None
    score = np.clip((lightness - (dark + 0.45 * (light - dark))) / 12, 0, 1)
    score = score * np.clip((22 - (redness - 128)) / 8, 0, 1) * inside
    score = cv2.GaussianBlur(score.astype(np.float32), (0, 0), 0.8)
    return score if score[inside].mean() > 0.25 else None
