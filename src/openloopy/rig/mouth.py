"""The inside of the mouth: a dark cavity, tongue, gums and teeth, painted in a plane that turns with the head.

The plane is measured in cm: u to the right, v down from the line at which the lips meet. The upper teeth are fixed to
the head, the lower ones to the jaw. Where the portrait shows the inside of its own mouth, that is what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from openloopy.rig.expression import FaceShape
from openloopy.rig.mesh import EYES, LIP_INNER_LOWER, LIP_INNER_UPPER, HeadFrame, smoothstep
from openloopy.rig.paint import Box, Scene, Slit, over, push_pull
from openloopy.rig.state import State
from openloopy.rig.tones import LUMA, Tones

TEXTURE_PX_PER_CM = 40
TEETH_HALF_ROW_CM = 3.0
# One half of a row as seen from the front: side teeth are seen at a slant.
_UPPER_WIDTHS_CM = (0.84, 0.65, 0.64, 0.42, 0.30, 0.15)
_UPPER_HEIGHTS_CM = (1.0, 0.90, 0.98, 0.84, 0.78, 0.7)
_LOWER_WIDTHS_CM = (0.53, 0.57, 0.60, 0.44, 0.40, 0.46)
_LOWER_HEIGHTS_CM = (0.82, 0.84, 0.92, 0.8, 0.74, 0.7)
_CANINE = 2
_GUM_CM = 0.75
"""How much gum lies beyond the teeth."""
_ARCH_PER_CM = 0.3
"""Depth of a row behind its front, cm, is this times the square of u."""
_LOWER_DEPTH_CM = 0.25
_JAW_TO_LOWER_TEETH = 0.97
_TONGUE_HALF_WIDTH_CM = 1.9
_TONGUE_TEXTURE_CM = (3.8, 1.6)
_TIP_HALF_WIDTH_CM, _TIP_LIGHT = 1.15, 1.25
"""Of the tongue's tip between the teeth, which the light reaches."""
_USUAL_MOUTH_CM = 5.4
_ADULT_IRIS_CM, _CHILD_IRIS_CM = 1.24, 1.42
"""Irises are equally large in children and adults: large in a face scaled to an adult's, they are a child's."""
_LEAST_OWN_GAP_CM = 0.14
_LEAST_OWN_ENAMEL = 0.75
"""What is darker than this share of the expected enamel is not a row of teeth."""
_ARC_ROUNDS, _OVER_ARC_CM = 5, 0.08
"""The edge of a row is an arc, and no tooth reaches further below it."""
_SHARP_CONTRAST = 0.7
"""Of the eyes: in softer pictures no shadow between the lips is deep."""
_LEVELS_PER_OCTAVE = 3
_SIDE_LIGHT = 0.8
"""How much of the difference in light between the sides of the face reaches between the lips."""
_WARM_SHADOW = np.array([-0.28, 0.05, 0.2], np.float32)
"""Light between lips is red from being thrown to and fro: it falls with this more or less than its first power."""


class Texture:
    """Colours and cover on a plane; `h w 4`, colours of 255 multiplied by their alpha, TEXTURE_PX_PER_CM."""

    def __init__(self, colour: np.ndarray, alpha: np.ndarray) -> None:
        """colour: `h w 3`; alpha: `h w`."""
        self.rgba = np.dstack([colour * alpha[..., None], alpha]).astype(np.float32)
        self._levels: dict[int, np.ndarray] = {}

    def blurred(self, sigma_px: float) -> Texture:
        sharp = Texture(np.zeros((1, 1, 3)), np.zeros((1, 1)))
        sharp.rgba = cv2.GaussianBlur(self.rgba, (0, 0), max(sigma_px, 0.3))
        return sharp

    def with_grain(self, grain: np.ndarray) -> Texture:
        """grain: `h w`, added to all colours alike."""
        grained = Texture(np.zeros((1, 1, 3)), np.zeros((1, 1)))
        grained.rgba = self.rgba.copy()
        grained.rgba[..., :3] += (grain * self.rgba[..., 3])[..., None]
        return grained

    def at(self, x: np.ndarray, y: np.ndarray, cm_per_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Colours `h w 3`, times alpha, and alpha `h w` at places in texture cm."""
        x, y = (np.ascontiguousarray(a * TEXTURE_PX_PER_CM - 0.5, np.float32) for a in (x, y))
        seen = cv2.remap(self._level(cm_per_px), x, y, cv2.INTER_LINEAR)
        return seen[..., :3], seen[..., 3]

    def _level(self, cm_per_px: float) -> np.ndarray:
        """Blurred for an output of this scale. Steps, so that frames share it, and each has its own always."""
        step = round(_LEVELS_PER_OCTAVE * float(np.log2(max(cm_per_px * TEXTURE_PX_PER_CM, 0.5))))
        if step not in self._levels:
            sigma = 0.45 * 2 ** (step / _LEVELS_PER_OCTAVE)
            self._levels[step] = cv2.GaussianBlur(self.rgba, (0, 0), sigma)
        return self._levels[step]


@dataclass(frozen=True)
class Teeth:
    """How one person's row of teeth is built."""

    widths_cm: np.ndarray
    heights_cm: np.ndarray
    """`2 n`: left and right half, from the middle outwards."""
    shades: np.ndarray
    """`2 n`: brightness of each tooth."""
    slants: np.ndarray
    """`2 n`: how much lower the outer half of its edge stands, cm per half width."""
    edge_curve: float
    """How much the edge rises towards the sides, cm at 1.5 cm from the middle."""
    gap: float
    """Strength of the lines between teeth, 0 to 1."""

    @classmethod
    def draw(
        cls,
        widths_cm: tuple[float, ...],
        heights_cm: tuple[float, ...],
        rng: np.random.Generator,
        *,
        irregularity: float = 1.0,
        gap: float = 0.7,
    ) -> Teeth:
        """Teeth of usual sizes, changed by chance."""
        shape, usual = (2, len(widths_cm)), np.ones((2, 1))
        by_kind = 1 + 0.035 * irregularity * rng.standard_normal((1, shape[1]))
        widths = usual * widths_cm * by_kind
        heights = usual * heights_cm * (1 + 0.03 * irregularity * rng.standard_normal((1, shape[1])))
        heights = heights + 0.02 * irregularity * rng.standard_normal(shape)
        fall = 1 - 0.055 * np.arange(shape[1])
        shades = usual * fall + 0.018 * irregularity * rng.standard_normal(shape)
        slants = 0.018 * irregularity * rng.standard_normal(shape)
        return cls(widths, heights, shades, slants, float(rng.uniform(0.02, 0.12)), gap)

    def scaled(self, width: float, height: float) -> Teeth:
        return replace(self, widths_cm=self.widths_cm * width, heights_cm=self.heights_cm * height)

    def texture(self, enamel: np.ndarray, gum: np.ndarray) -> Texture:
        """The row hanging from its gum: the necks of the teeth at y = _GUM_CM, the middle at TEETH_HALF_ROW_CM."""
        top, unit = _GUM_CM, TEXTURE_PX_PER_CM
        height = int((top + self.heights_cm.max() + 0.15) * unit)
        y = (np.arange(height) + 0.5)[:, None] / unit - top
        x = (np.arange(int(2 * TEETH_HALF_ROW_CM * unit)) + 0.5)[None] / unit - TEETH_HALF_ROW_CM
        between = (1 - 0.62 * self.gap) * enamel * _warm_shadow(0.45 * self.gap, enamel, gum)
        shape = (height, x.shape[1])
        colour, alpha = np.broadcast_to(gum, (*shape, 3)).astype(np.float32), np.zeros(shape, np.float32)
        gum_line = np.full((1, x.shape[1]), -np.inf)
        for side in (0, 1):
            inner = 0.0
            for i, width in enumerate(self.widths_cm[side]):
                outward = (2 * side - 1) * x - inner
                columns = np.flatnonzero((outward[0] >= 0) & (outward[0] < width))
                u = outward[:, columns] / (width / 2) - 1
                painted = self._tooth(u, y, side, i, enamel, between)
                colour[:, columns], alpha[:, columns], gum_line[:, columns] = painted
                inner += width
        gum_cover = np.clip((gum_line - y) * unit / 2 + 0.5, 0, 1)
        round_gum = 1 - 0.25 * np.clip((y + 0.1) / 0.25, 0, 1) - 0.12 * np.clip(-y / _GUM_CM, 0, 1)
        colour = over(colour, gum * round_gum[..., None], gum_cover)
        return Texture(colour, np.maximum(alpha, gum_cover))

    def _tooth(
        self, u: np.ndarray, y: np.ndarray, side: int, i: int, enamel: np.ndarray, between: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One tooth in its columns: colours `h w 3`, alpha `h w` and where its gum ends, `1 w` cm.

        u: `1 w`, -1 to 1 across the tooth, outwards; y: `h 1` cm from its neck.
        """
        unit, height, a = TEXTURE_PX_PER_CM, self.heights_cm[side, i], np.abs(u)
        half = self.widths_cm[side, i] / 2
        rounding = 0.34 * a**1.5 if i == _CANINE else 0.13 * a**4 + 0.05 * np.clip(u, 0, 1) ** 2
        edge = height * (1 - (0.55 if i == _CANINE else 1.0) * rounding) + self.slants[side, i] * u
        down = np.clip(y / height, 0, 1)
        # widest at two thirds of its length
        reach = 1 - 0.13 * (1 - down / 0.66).clip(0, 1) ** 1.5 - 0.10 * ((down - 0.66) / 0.34).clip(0, 1) ** 2
        from_side = (reach - a) * half * unit / 1.6 + 0.35
        cover_edge = np.clip((edge - y) * unit / 2.2 + 0.5, 0, 1) * (y > -0.1)
        shade = 1 - 0.10 * a**2 - 0.16 * a**6
        shade = shade * (1 - 0.10 * (1 - down) ** 2 - 0.10 * smoothstep(down, 0.75, 1.0))
        shade = shade + 0.05 * np.exp(-(((u + 0.2) / 0.35) ** 2) - ((down - 0.45) / 0.3) ** 2)
        # thin at its edge it is cooler, thick at its neck warmer
        warmth = (0.5 - down) * 0.05
        tooth = (enamel * shade[..., None] * self.shades[side, i]) + _tint(enamel) * (255 * warmth)[..., None]
        gap = np.broadcast_to(between * self.shades[side, i], tooth.shape)
        colour = over(gap, tooth, cover_edge * np.clip(from_side, 0, 1))
        # towards the edge the gaps open
        alpha = cover_edge * np.clip(from_side + 1.2 * (1 - down), 0, 1)
        # the gum arches over each neck and comes down between the teeth
        return colour, alpha, 0.30 * height * a**2.5 - 0.02


@dataclass(frozen=True)
class OwnTeeth:
    """The portrait's own upper teeth, in the pixels of its mouth's box; they reach up behind the lip."""

    origin: np.ndarray
    """x, y of the box's first pixel in the portrait."""
    colour: np.ndarray
    alpha: np.ndarray
    enamel: np.ndarray
    """Their colour, for the teeth beside them that the portrait does not show."""
    edge_px: np.ndarray
    """The middle of their edge in the portrait, `2`."""


@dataclass(frozen=True)
class MouthPlane:
    """Where the pixels of a box lie in the mouth, cm; `h w` each."""

    u: np.ndarray
    v: np.ndarray
    cm_per_px: float
    depth_shift: np.ndarray
    """`2`: by how much (u, v) a thing that lies 1 cm deeper is seen shifted."""

    def at_depth(self, depth_cm: float) -> tuple[np.ndarray, np.ndarray]:
        """u and v on an arch whose front lies this deep."""
        u, v = self.u, self.v
        for _ in range(2):  # the arch is shallow against the turns that occur: this converges at once
            depth = depth_cm + _ARCH_PER_CM * np.clip(u, -2.4, 2.4) ** 2
            u, v = self.u - self.depth_shift[0] * depth, self.v - self.depth_shift[1] * depth
        return u, v


class MouthInterior:
    """Paints what shows between the lips of one person."""

    def __init__(self, rgb: np.ndarray, head: HeadFrame, shape: FaceShape, rng: np.random.Generator) -> None:
        """rng draws the shape of the teeth, how low they stand and how white they are."""
        self.head = head
        self.origin_cm = np.array([shape.mouth_centre[0], shape.lip_line, head.points_cm[13, 2] - 1.0])
        self.tones = tones = Tones.measure(rgb, head)
        self.own_teeth = _find_own_teeth(rgb, head, _LEAST_OWN_ENAMEL * float(tones.enamel @ LUMA))
        child = float(smoothstep(_iris_cm(head), _ADULT_IRIS_CM, _CHILD_IRIS_CM))
        gap = 0.8 * np.clip(1.15 - 4 * tones.blur_cm, 0.3, 1) * np.clip(tones.contrast / 0.7, 0.5, 1)
        upper, lower = (
            Teeth.draw(widths, heights, rng, irregularity=irregularity, gap=float(gap))
            for widths, heights, irregularity in (
                (_UPPER_WIDTHS_CM, _UPPER_HEIGHTS_CM, 1.0),
                (_LOWER_WIDTHS_CM, _LOWER_HEIGHTS_CM, 1.6),
            )
        )
        mouth_cm = float(np.linalg.norm(head.points_cm[61] - head.points_cm[291]))
        width = (
            np.clip(mouth_cm / _USUAL_MOUTH_CM, 0.86, 1.08) ** 0.7
            * rng.uniform(0.95, 1.04)
            * (1 - 0.12 * child)
        )
        height = width * rng.uniform(0.92, 1.06) * (1 - 0.12 * child)
        self.upper_teeth, self.lower_teeth = (teeth.scaled(width, height) for teeth in (upper, lower))
        whiteness, warmth = np.exp(0.05 * np.clip(rng.standard_normal(2), -1.5, 1.5))
        enamel = tones.enamel * whiteness * tones.apply(np.array([1.0, 1.0, 1 / warmth]) * 200) / 200
        enamel = enamel if tones.colour == 1 else tones.apply(tones.enamel * whiteness)
        self.enamel = np.minimum(enamel, tones.highlight * enamel / (enamel @ LUMA))
        self.lower_edge_cm = float(rng.uniform(-0.2, 0.0))
        self.upper_edge_cm = float(rng.uniform(0.22, 0.42)) * height
        light = 1.0
        if self.own_teeth is not None:
            self.enamel = self.own_teeth.enamel
            light = float(self.enamel @ LUMA / (tones.enamel @ LUMA)) ** 0.7
            edge = (self.own_teeth.edge_px - head.origin_px[:2]) @ head.rotation[:2, 1] / head.scale_px
            self.upper_edge_cm = float(np.clip(edge - shape.lip_line, 0.15, 0.6))
        self.mucosa, self.gum = (tones.apply(np.clip(c * light, 0, 240)) for c in (tones.mucosa, tones.gum))
        cavity = self.mucosa * 0.17
        lift = max(0.85 * tones.shadow - float(cavity @ LUMA), 0.0)
        self.cavity = tones.apply(cavity + lift)
        self.shadow_power = 1 + tones.colour * _WARM_SHADOW
        self.upper_row, self.lower_row, self.tongue = self._textures(rng)

    def _textures(self, rng: np.random.Generator) -> tuple[Texture, Texture, Texture]:
        """Upper row, lower row (standing) and tongue, as blurred and as grainy as the portrait."""
        upper = self.upper_teeth.texture(self.enamel, self.gum)
        lower = self.lower_teeth.texture(0.94 * self.enamel, 0.9 * self.gum)
        lower.rgba = np.ascontiguousarray(lower.rgba[::-1])
        edge_cm = _GUM_CM + self.lower_teeth.heights_cm[:, 0].mean()
        self.lower_margin_cm = len(lower.rgba) / TEXTURE_PX_PER_CM - edge_cm
        sharp = (upper, lower, _tongue_texture(self.mucosa, rng))
        blur_px = 0.8 * self.tones.blur_cm * TEXTURE_PX_PER_CM
        grain_px = 0.5 * TEXTURE_PX_PER_CM / self.head.scale_px
        textures = []
        for texture in sharp:
            grain = cv2.GaussianBlur(
                rng.standard_normal(texture.rgba.shape[:2]).astype(np.float32), (0, 0), grain_px
            )
            textures.append(
                texture.blurred(blur_px).with_grain(grain * (self.tones.grain / (grain.std() + 1e-6)))
            )
        return tuple(textures)

    def paint(self, slit: Slit, scene: Scene) -> np.ndarray:
        """The interior in the box of a slit, `h w 3`; only what is near the opening is painted."""
        interior = np.zeros((*slit.opening.shape[:2], 3), np.float32)
        edges = np.concatenate([slit.upper, slit.lower])
        box = Box.around(edges, 2, scene.size_px)
        box = Box(
            max(box.x0, slit.box.x0),
            max(box.y0, slit.box.y0),
            min(box.x1, slit.box.x1),
            min(box.y1, slit.box.y1),
        )
        if not box.is_empty:
            part = (slice(box.y0 - slit.box.y0, box.y1 - slit.box.y0),
                    slice(box.x0 - slit.box.x0, box.x1 - slit.box.x0))  # fmt: skip
            interior[part] = self._paint_box(box, slit, scene)
        return interior

    def _paint_box(self, box: Box, slit: Slit, scene: Scene) -> np.ndarray:
        view, opening = self._plane(box, scene), _Opening.of(slit, box)
        jaw_cm, tip = scene.expression.jaw_cm, scene.state["tongue_tip"]
        lower_edge = self.lower_edge_cm + _JAW_TO_LOWER_TEETH * jaw_cm
        picture = self._paint_cavity(view)
        picture = self._paint_tongue(picture, view, scene.state, jaw_cm)
        lower_u, lower_v = view.at_depth(_LOWER_DEPTH_CM)
        lower_top = lower_edge - self.lower_margin_cm
        picture = self._paint_row(picture, self.lower_row, lower_u, lower_v - lower_top, view.cm_per_px)
        # what lies behind the upper teeth is in their shadow
        upper_u, upper_v = view.at_depth(0.0)
        edge = self.upper_edge_cm - self.upper_teeth.edge_curve * (upper_u / 1.5) ** 2
        picture *= (1 - 0.4 * np.exp(-np.clip(upper_v - edge, 0, None) / 0.22))[..., None]
        top = edge - self.upper_teeth.heights_cm[:, 0].mean() - _GUM_CM
        picture = self._paint_row(picture, self.upper_row, upper_u, upper_v - top, view.cm_per_px)
        light = opening.light(view)
        if self.tones.contrast < _SHARP_CONTRAST:
            light = 1 - (1 - light) * np.float32(max(self.tones.contrast / _SHARP_CONTRAST, 0.5))
        has_tip = tip > 0.7 and jaw_cm > 0.08
        if self.own_teeth is not None:
            if has_tip:  # before a painted edge it would look like a patch: own teeth are longer and brighter
                picture = self._paint_tongue_tip(picture, view, tip, lower_edge)
            picture = self._paint_own_teeth(picture, view, self.own_teeth)
        else:
            # the lit side is as bright as the face allows, the other is in shadow
            light = light * np.exp(np.minimum(_SIDE_LIGHT * self.tones.side_light * view.u, 0.08))
            if has_tip:
                picture = self._paint_tongue_tip(picture, view, tip, lower_edge)
        return picture * light[..., None] ** self.shadow_power + self.cavity * (0.3 * (1 - light))[..., None]

    def _plane(self, box: Box, scene: Scene) -> MouthPlane:
        corners = self.head.to_px(self.origin_cm + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, -1]]))
        shown = scene.to_output(scene.placement(corners, np.ones(4)))
        to_cm = cv2.getAffineTransform(shown[:3].astype(np.float32), np.float32([[0, 0], [1, 0], [0, 1]]))
        u, v = (row[0] * box.xs + row[1] * box.ys + row[2] for row in to_cm)
        shift = to_cm[:, :2] @ (shown[3] - shown[0])
        return MouthPlane(u.astype(np.float32), v.astype(np.float32), float(np.hypot(*to_cm[:, 0])), shift)

    def _paint_cavity(self, view: MouthPlane) -> np.ndarray:
        """Black towards the throat; the cheeks catch a little light."""
        aside = 0.16 * np.clip((np.abs(view.u) - 1.0) / 1.4, 0, 1) ** 1.5
        return self.cavity + aside[..., None] * (self.mucosa - self.cavity)

    def _paint_tongue(self, picture: np.ndarray, view: MouthPlane, state: State, jaw_cm: float) -> np.ndarray:
        # Higher than in anatomy: at its true rest height the tongue would never show.
        top = self.lower_edge_cm + _JAW_TO_LOWER_TEETH * jaw_cm - 0.42 - 0.34 * min(jaw_cm, 1.6)
        top -= 0.45 * max(state["tongue"] - 0.1, 0) * min(jaw_cm / 0.6, 1)
        top -= 0.30 * state["tongue_tip"] * min(jaw_cm / 0.4, 1)
        top = max(top, 0.22 + 0.15 * (1 - min(jaw_cm, 1)))
        bottom = max(self.lower_edge_cm + _JAW_TO_LOWER_TEETH * jaw_cm + 0.35, top + 0.5)
        width, height = _TONGUE_TEXTURE_CM
        x = (view.u / _TONGUE_HALF_WIDTH_CM + 1) * width / 2
        y = (view.v - top) / (bottom - top) * height
        return _lay(picture, *self.tongue.at(x, y, view.cm_per_px))

    def _paint_row(
        self, picture: np.ndarray, row: Texture, u: np.ndarray, y: np.ndarray, cm_per_px: float
    ) -> np.ndarray:
        """y: cm below the texture's upper border, `h w`."""
        colour, alpha = row.at(u + TEETH_HALF_ROW_CM, y, cm_per_px)
        # less light reaches the side teeth
        aside = 1 - 0.62 * smoothstep(np.abs(u), 0.7, 2.7)
        return _lay(picture, colour * aside[..., None] ** self.shadow_power, alpha)

    def _paint_tongue_tip(
        self, picture: np.ndarray, view: MouthPlane, tip: float, lower_edge: float
    ) -> np.ndarray:
        """The tip between the teeth, over the lower ones and just before the edge of the upper ones, for th."""
        amount = float(smoothstep(tip, 0.7, 0.95))
        top = min(self.upper_edge_cm, lower_edge) - 0.18 * amount
        across = view.u / _TIP_HALF_WIDTH_CM
        dome = 0.45 * (1 - np.sqrt(np.clip(1 - across**2, 0, 1)))
        below = view.v - top - dome
        alpha = smoothstep(below, -0.5 * view.cm_per_px - 0.02, view.cm_per_px + 0.03)
        alpha = alpha * np.clip((1 - np.abs(across)) / 0.2, 0, 1) * amount
        # the front of the tongue, bent down: its light falls off where it turns under and to the sides
        width, height = _TONGUE_TEXTURE_CM
        colour, cover = self.tongue.at(
            (0.75 * across + 1) * width / 2, (0.5 + 0.45 * below) * height, view.cm_per_px
        )
        roundness = 1 - 0.45 * (1 - smoothstep(below, -0.02, 0.16)) - 0.4 * smoothstep(below, 0.12, 0.6)
        roundness = roundness * (1 - 0.35 * np.square(across))
        lit = colour / np.maximum(cover, 0.5)[..., None]
        return over(picture, (_TIP_LIGHT * roundness)[..., None] * lit, alpha)

    def _pull_own(self, texture: np.ndarray, view: MouthPlane, own: OwnTeeth) -> np.ndarray:
        """A texture that lies on the own teeth's box, seen in the mouth's plane."""
        plane = self.origin_cm + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
        at, right, down = self.head.to_px(plane)[:, :2] - own.origin
        x, y = (
            (at[i] + (right - at)[i] * view.u + (down - at)[i] * view.v).astype(np.float32) for i in (0, 1)
        )
        return cv2.remap(texture, x, y, cv2.INTER_LINEAR)

    def _paint_own_teeth(self, picture: np.ndarray, view: MouthPlane, own: OwnTeeth) -> np.ndarray:
        return over(picture, self._pull_own(own.colour, view, own), self._pull_own(own.alpha, view, own))


@dataclass(frozen=True)
class _Opening:
    """The lips' edges over the columns of a box, px."""

    upper_y: np.ndarray
    lower_y: np.ndarray
    from_corner_px: np.ndarray
    """`w`"""
    ys: np.ndarray

    @classmethod
    def of(cls, slit: Slit, box: Box) -> _Opening:
        edges = ((e, np.argsort(e[:, 0])) for e in (slit.upper, slit.lower))
        upper_y, lower_y = (
            np.interp(box.xs, edge[order, 0], edge[order, 1]).astype(np.float32) for edge, order in edges
        )
        x = slit.upper[:, 0]
        aside = np.clip(np.minimum(box.xs - x.min(), x.max() - box.xs), 0, None)
        return cls(upper_y, lower_y, aside, box.ys)

    @property
    def gap_px(self) -> np.ndarray:
        return np.clip(self.lower_y - self.upper_y, 0, None)

    def light(self, view: MouthPlane) -> np.ndarray:
        """How much light comes in between the lips, `h w`: little in a narrow opening and under the upper lip."""
        cm = view.cm_per_px
        gap = cv2.GaussianBlur((self.gap_px * cm)[None].astype(np.float32), (0, 0), max(0.15 / cm, 0.5))[0]
        from_upper = np.clip(self.ys - self.upper_y, 0, None) * cm
        from_lower = np.clip(self.lower_y - self.ys, 0, None) * cm
        reach = 0.05 + 0.06 * np.clip(gap / 0.6, 0, 1)
        light = (1 - 0.5 * np.exp(-from_upper / reach)) * (1 - 0.22 * np.exp(-from_lower / 0.08))
        light = light * (0.50 + 0.50 * smoothstep(gap, 0.0, 0.5))
        return (light * (1 - 0.4 * np.exp(-self.from_corner_px * cm / 0.4))).astype(np.float32)


def _lay(base: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay colours `h w 3` that are multiplied by their alpha `h w` over a picture."""
    return base * (1 - alpha[..., None]) + colour


def _tint(enamel: np.ndarray) -> np.ndarray:
    """From cool to warm, 0 for a grey enamel; `3`."""
    colour = (enamel.max() - enamel.min()) / (enamel.max() + 1e-3)
    return np.array([0.35, 0.0, -1.0]) * float(np.clip(colour / 0.1, 0, 1))


def _warm_shadow(amount: float, enamel: np.ndarray, gum: np.ndarray) -> np.ndarray:
    """Factor `3`: shadow between teeth takes on the colour of the gum."""
    hue = (gum / (gum @ LUMA + 1e-3)) / (enamel / (enamel @ LUMA + 1e-3))
    return 1 + amount * (hue - 1)


def _iris_cm(head: HeadFrame) -> float:
    """Mean diameter of the irises in a face scaled to an average adult's."""
    rings = [head.mesh_px[eye.iris_ring, :2] - head.mesh_px[eye.iris, :2] for eye in EYES]
    return float(2 * np.linalg.norm(rings, axis=-1).mean() / head.scale_px)


def _tongue_texture(mucosa: np.ndarray, rng: np.random.Generator) -> Texture:
    """A tongue from its back (y = 0) to its tip, lit from the front."""
    width, height = (int(cm * TEXTURE_PX_PER_CM) for cm in _TONGUE_TEXTURE_CM)
    across = ((np.arange(width) + 0.5) / width * 2 - 1)[None]
    down = ((np.arange(height) + 0.5) / height)[:, None]
    dome = 1 - np.sqrt(np.clip(1 - across**2, 0, 1))
    alpha = smoothstep(down - 0.5 * dome, 0.0, 0.3) * np.clip((1 - np.abs(across)) / 0.12, 0, 1)
    shade = 0.30 + 0.70 * smoothstep(down - 0.3 * dome, 0.0, 0.55)
    shade = shade * (1 - 0.35 * smoothstep(down, 0.75, 1.0)) * (1 - 0.35 * across**2)
    groove = np.exp(-((across / 0.09) ** 2)) * smoothstep(down, 0.1, 0.4) * (1 - smoothstep(down, 0.6, 0.9))
    bumps = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 1.6)
    shade = shade * (1 - 0.13 * groove) * (1 + 0.025 * bumps / (bumps.std() + 1e-6))
    wet = np.exp(-(((np.abs(across) - 0.28) / 0.16) ** 2) - ((down - 0.58) / 0.12) ** 2)
    colour = shade[..., None] * mucosa + (18 * wet * (1 + 0.5 * bumps))[..., None] * (mucosa @ LUMA) / 100
    return Texture(np.clip(colour, 0, 255), alpha)


def _find_own_teeth(rgb: np.ndarray, head: HeadFrame, least_luma: float) -> OwnTeeth | None:
    """The upper teeth that show between the portrait's lips; None where there are not enough.

    least_luma: of what may be teeth.
    """
    if np.max(head.points_cm[LIP_INNER_LOWER, 1] - head.points_cm[LIP_INNER_UPPER, 1]) < _LEAST_OWN_GAP_CM:
        return None
    outline = np.concatenate([head.mesh_px[LIP_INNER_UPPER, :2], head.mesh_px[LIP_INNER_LOWER, :2][::-1]])
    box = Box.around(outline, 1.4 * head.scale_px, len(rgb))
    origin = np.array([box.x0, box.y0])
    rgb, scale_px = rgb[box.slices], head.scale_px
    area = np.zeros(rgb.shape[:2], np.uint8)
    cv2.fillPoly(area, [np.round(outline - origin).astype(np.int32)], 255)
    bright = _bright_between_lips(rgb, area)
    if bright is None:
        return None
    columns, brightest = np.flatnonzero((bright > 0.5).any(0)), bright > 0.6
    if not brightest.any():
        return None
    enamel = np.percentile(rgb[brightest].astype(np.float32), 70, axis=0)
    if len(columns) < 0.8 * scale_px or enamel @ LUMA < least_luma:
        return None
    rows = np.arange(len(rgb), dtype=np.float32)[:, None]
    lowest = _upper_edge(bright[:, columns] > 0.5, scale_px)[None]
    alpha = np.zeros(bright.shape, np.float32)
    gum_row = lowest - 0.95 * scale_px
    alpha[:, columns] = np.clip(lowest + 0.5 - rows, 0, 1) * np.clip((rows - gum_row) / 3, 0, 1)
    across = np.arange(rgb.shape[1])
    fade = np.clip(np.minimum(across - columns[0], columns[-1] - across) / (0.25 * scale_px), 0, 1)
    margin = 0.15 * np.ptp(columns)
    inner = (columns >= columns[0] + margin) & (columns <= columns[-1] - margin)
    edge_px = np.array([columns.mean(), np.median(lowest[0, inner])])
    alpha = cv2.GaussianBlur(alpha * fade, (0, 0), 0.7).astype(np.float32)
    colour = _extended_teeth(rgb, bright)
    return OwnTeeth(origin, colour, alpha, enamel.astype(np.float32), edge_px + origin)


def _upper_edge(teeth: np.ndarray, scale_px: float) -> np.ndarray:
    """The lowest row of the upper teeth in each column of a mask `h w`, float32.

    Where a row of lower teeth shows below it the first gap ends it, and where none shows a smooth arc does.
    """
    rows = np.arange(len(teeth))[:, None]
    top = np.argmax(teeth, 0)
    ends = ~teeth & (rows > top)
    edge = np.where(ends.any(0), np.argmax(ends, 0), len(teeth)) - 1.0
    across = np.linspace(-1, 1, teeth.shape[1])
    weight = np.ones(teeth.shape[1])
    for _ in range(_ARC_ROUNDS):
        arc = np.polyval(np.polyfit(across, edge, 2, w=weight), across)
        weight = np.where(edge > arc + _OVER_ARC_CM * scale_px, 0.1, 1.0)
    edge = np.minimum(edge, arc + _OVER_ARC_CM * scale_px).astype(np.float32)
    return cv2.GaussianBlur(edge[None], (0, 0), max(1.5, 0.06 * scale_px))[0]


def _extended_teeth(rgb: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """The portrait's teeth without the shade of its lip, carried on upwards; `H W 3` float32.

    Teeth stand upright: above the highest pixel seen of a column the column goes on with its own mean colour.
    """
    known = (bright > 0.6).astype(np.float32)
    colour = push_pull(rgb.astype(np.float32), known)
    count = known.sum(0)
    mean = (rgb * known[..., None]).sum(0) / (count + 1e-3)[:, None]
    columns = np.flatnonzero(count > 0)
    top = np.argmax(known > 0, axis=0)
    rows = np.arange(len(rgb))[:, None]
    above = np.clip((top[None] + 2 - rows) / 4.0, 0, 1) * (count > 0)
    span = slice(columns[0], columns[-1] + 1)
    colour[:, span] = over(
        colour[:, span], mean[None, span].astype(np.float32), above[:, span].astype(np.float32)
    )
    return colour


def _bright_between_lips(rgb: np.ndarray, area: np.ndarray) -> np.ndarray | None:
    """How tooth-like (bright, not red) each pixel between the lips is, `H W` in 0..1; None: no teeth.

    area: 255 between the lips, `H W` uint8.
    """
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
