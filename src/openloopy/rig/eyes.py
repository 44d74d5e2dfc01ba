"""The eyes: an eyeball that looks around behind the lids, and lids that are painted when they close.

Stretching the skin of an open eye over it smears; so a closing lid is painted: its colour is that of the skin which
the portrait shows above the lashes, below the brow and under the eye, its texture that of the cheek. What lies
above the open lid's lashes (fold, brow) stays the portrait's own. The line of the lashes is as dark and as thick as
the portrait's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from openloopy.rig.mesh import EyeIndices, HeadFrame, smoothstep
from openloopy.rig.paint import (
    Box,
    Scene,
    Slit,
    affine,
    fill_polygon,
    open_slit,
    over,
    push_pull,
    smooth_curve,
    threefold,
)
from openloopy.rig.tones import LUMA, eye_sharpness, skin_grain

NUM_EDGE_POINTS = 25
_LEAST_CLOSURE = 0.02
"""Below this no lid is painted."""
_LASHES_FADE_CM = (0.04, 0.22)
"""From the top of the open lid's lashes up, the painted lid gives way to the portrait's own skin."""
_LID_ABOVE_LASHES_CM = 0.14
"""So far above that it is laid over the portrait: a fold that hugs the lashes flattens as the lid closes."""
_MAX_LASHES_CM = 0.32
_LONG_LASHES_CM, _OUTER_LASHES_CM = 0.5, 0.3
"""So high above the lid its lashes are looked for; the second is added towards the outer corner."""
_STROKE_CM = 0.2
"""Half the width of a dark stroke: what is wider is shade."""
_PAST_CORNER_CM = (0.45, 0.7)
"""So far beyond the outer corner they and the eye's liner are looked for."""
_BELOW_CORNER_CM = 0.2
"""And there so far below it: lids meet in a dark wedge that goes on outwards."""
_CHEEK_BELOW_CM = 1.1
"""The painted lid has the texture of skin this far below the eye."""
_LID_MARGIN_CM = 0.9
_COOLER = (0.04, 0.1)
"""By so much more blue or less red than the skin under the eye, at equal luma, a lid may be and is painted."""
_FADES_BY = 0.06
_LEAST_LID_LIGHT = 0.96
"""A lid that is darker than this share of the skin around it is in the shade of its fold and lashes."""


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
        y = np.interp(box.xs, ordered[:, 0], ordered[:, 1]).astype(np.float32)
        across = np.interp(box.xs, ordered[:, 0], np.linspace(-1, 1, len(ordered))).astype(np.float32)
        return cls(y, across, (box.ys - y) / np.float32(px_per_cm), float(px_per_cm))


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
        self.eyeball = _eyeball_texture(
            picture, outline - self.eyeball_at, self.centre - self.eyeball_at, self.iris_px
        )
        region = EyeRegion.of(rgb, head, indices)
        columns = np.linspace(-1, 1, len(region.lash_top_cm))
        at = (
            np.linspace(-1, 1, NUM_EDGE_POINTS) * -indices.side
        )  # lids run from the outer corner to the inner one
        self.lid_top_cm = (
            np.interp(at, columns, region.lash_top_cm) + _LASHES_FADE_CM[1] + _LID_ABOVE_LASHES_CM
        )
        self.lid = _lid_texture(region, skin_grain(rgb, mesh), rng)
        self.lid_at = region.origin
        self.lashes = Lashes.measure(region, eye_sharpness(rgb, mesh)[0] / head.scale_px, rng)

    def paint(
        self, canvas: np.ndarray, landmarks: np.ndarray, skin_landmarks: np.ndarray, scene: Scene
    ) -> tuple[Box, np.ndarray]:
        """The painted eye: a box of the canvas `size size 3` and what to show there, `h w 3` float32.

        landmarks, skin_landmarks: `478 2` output px, lids where they are; where skin is pulled to.
        """
        upper, lower = (
            smooth_curve(landmarks[i], NUM_EDGE_POINTS) for i in (self.indices.upper, self.indices.lower)
        )
        closure = scene.expression.lid_closures[0 if self.indices.side < 0 else 1]
        margin_px = 6 * scene.size_px / 256
        if closure > _LEAST_CLOSURE:
            # a painted lid reaches up to where it was open
            top = skin_landmarks[self.indices.upper, 1].min()
            top -= (self.lid_top_cm.max() + 0.1) * self.head.scale_px * scene.scale
            margin_px = max(margin_px, float(upper[:, 1].min() - top))
        slit = open_slit(upper, lower, margin_px, 0.8, scene.size_px)
        if slit.box.is_empty:
            return slit.box, canvas[slit.box.slices]
        edge = LidEdge.of(upper, slit.box, self.head.scale_px * scene.scale)
        here = canvas[slit.box.slices]
        skin = over(
            here, scene.pull(scene.maps.lower, scene.source, slit.box), slit.below * slit.box.feather(3)
        )
        eyeball = self._eyeball_in(slit.box, scene)
        if closure > 0:
            shadow = 0.30 * min(1, 2 * closure) * np.exp(np.maximum(edge.below_cm, 0) * (-1 / 0.12))
            eyeball = eyeball * threefold(1 - shadow)
        if closure > _LEAST_CLOSURE:
            open_edge = smooth_curve(skin_landmarks[self.indices.upper], NUM_EDGE_POINTS)
            skin = self._paint_lid(skin, slit, open_edge, edge, scene)
        picture = over(skin, eyeball, slit.opening)
        if closure > _LEAST_CLOSURE:
            picture = over(picture, self.lashes.colour, self.lashes.alpha(edge, closure, self.indices.side))
        return slit.box, picture

    def _eyeball_in(self, box: Box, scene: Scene) -> np.ndarray:
        """The eyeball turned by gaze, `h w 3`."""
        left, right = self.indices.upper[0], self.indices.upper[-1]
        corners = self.head.mesh_px[[left, right, left]].copy()
        corners[2] += self.head.vectors_to_px(np.array([0.0, 2.0, 0.0]))
        shown = scene.to_output(scene.placement(corners, np.ones(3)))
        to_source = cv2.getAffineTransform(shown.astype(np.float32), corners[:, :2].astype(np.float32))
        gaze = self.head.vectors_to_px(np.append(scene.expression.gaze_cm, 0.0))[:2].tolist()
        # from where the iris goes
        to_source[:, 2] -= self.centre + gaze
        x, y = affine(to_source, box)
        share = smoothstep(cv2.magnitude(x, y), 2.6 * self.iris_px, 1.15 * self.iris_px)
        from_corner = (self.centre - self.eyeball_at + gaze).tolist()
        x += from_corner[0] - gaze[0] * share
        y += from_corner[1] - gaze[1] * share
        return cv2.remap(self.eyeball, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _paint_lid(
        self, skin: np.ndarray, slit: Slit, open_edge: np.ndarray, edge: LidEdge, scene: Scene
    ) -> np.ndarray:
        """Skin from above the open lid's lashes down to the present edge, `h w 3`."""
        closure = scene.expression.lid_closures[0 if self.indices.side < 0 else 1]
        lid = scene.pull(scene.maps.upper, self.lid, slit.box, self.lid_at)
        across = np.linspace(-1, 1, NUM_EDGE_POINTS)
        top, bottom = open_edge.copy(), slit.upper.copy()
        top[:, 1] -= edge.px_per_cm * self.lid_top_cm * (1 - across**6)
        bottom[:, 1] += 0.3
        area = fill_polygon(np.concatenate([top, bottom[::-1]]), slit.box)
        # the eyeball is laid over it: only the skin around sees its soft border
        soft = cv2.GaussianBlur(area, (0, 0), edge.px_per_cm * 0.08)
        near = cv2.GaussianBlur(area, (0, 0), max(edge.px_per_cm * 0.04, 0.5))
        high = smoothstep(edge.below_cm, -0.05, -0.2)
        lashes = cv2.extractChannel(lid, 3)
        area = near + high * (np.maximum(soft, np.minimum(lashes, 1)) - near)
        # past the corner they are beside the lid
        area = np.maximum(area, lashes - 1)
        area *= smoothstep(closure, _LEAST_CLOSURE, 0.16)
        # a ball under the skin: lit in its middle, darker where it turns away and above the lashes
        turn = np.square(np.square(np.minimum(np.abs(edge.across), 1)))
        bulge = np.exp(-np.square((edge.below_cm + 0.45) * (1 / 0.3))) * (1 - np.square(edge.across))
        rim = np.exp(np.minimum(edge.below_cm, 0) * (1 / 0.09))
        shade = (1 - 0.07 * closure * turn) + 0.07 * closure * bulge - 0.05 * rim
        return over(skin, cv2.cvtColor(lid, cv2.COLOR_RGBA2RGB) * threefold(shade), area)


@dataclass(frozen=True, eq=False)
class EyeRegion:
    """The portrait about one eye, with cm along and across the lids."""

    picture: np.ndarray
    """`h w 3` uint8."""
    origin: tuple[int, int]
    """(x, y) of its first pixel in the portrait."""
    head: HeadFrame
    centre_px: np.ndarray
    upper_cm: np.ndarray
    """`9 2`: the upper lid's edge, x rising, from the eye's centre."""
    lower_cm: np.ndarray
    brow_cm: float
    """Height of the brow's lower border (y; negative: up)."""
    side: int
    """-1 for the eye at the picture's left, +1 for the other."""

    @classmethod
    def of(cls, rgb: np.ndarray, head: HeadFrame, indices: EyeIndices) -> EyeRegion:
        mesh, points = head.mesh_px, head.points_cm
        lids = [*indices.upper, *indices.lower]
        outline = mesh[lids, :2]
        box = Box.around(outline, (_LID_MARGIN_CM + _CHEEK_BELOW_CM) * head.scale_px, len(rgb))
        centre = points[lids].mean(0)
        upper, lower = ((points[i] - centre)[:, :2] for i in (indices.upper, indices.lower))
        upper, lower = (edge[np.argsort(edge[:, 0])] for edge in (upper, lower))
        brow = float(np.max(points[indices.brow[5:], 1]) - centre[1])
        return cls(
            rgb[box.slices], (box.x0, box.y0), head, head.to_px(centre)[:2], upper, lower, brow, indices.side
        )

    def to_px(self, x_cm: np.ndarray, y_cm: np.ndarray) -> np.ndarray:
        """Places in cm from the eye's centre in px of `picture`, `... 2`."""
        flat = np.stack([x_cm, y_cm, np.zeros_like(x_cm)], -1)
        return self.head.vectors_to_px(flat)[..., :2] + self.centre_px - self.origin

    def sample(self, x_cm: np.ndarray, y_cm: np.ndarray) -> np.ndarray:
        """Colours `h w 3` float32 at places `h w` in cm."""
        at = self.to_px(*np.broadcast_arrays(x_cm, y_cm)).astype(np.float32)
        return cv2.remap(self.picture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(
            np.float32
        )

    def pixels_cm(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y in cm of each pixel of `picture`, `h w` each."""
        to_px = self.head.scale_px * self.head.rotation[:2, :2]
        y, x = np.mgrid[: self.picture.shape[0], : self.picture.shape[1]]
        away = np.stack([x, y], -1) + self.origin - self.centre_px
        cm = away @ np.linalg.inv(to_px).T
        return cm[..., 0], cm[..., 1]

    def past_cm(self, x_cm: np.ndarray) -> np.ndarray:
        """How far places `h w` lie beyond the eye's outer corner; below 0 on its inner side."""
        return self.side * x_cm - float(np.max(self.side * self.upper_cm[:, 0]))

    @cached_property
    def lash_top_cm(self) -> np.ndarray:
        """How far the dark line of the upper lid's edge reaches above the mesh's edge, `9` cm."""
        heights = np.linspace(-0.06, 0.5, 29)[:, None]
        luma = self.sample(self.upper_cm[None, :, 0], self.upper_cm[None, :, 1] - heights) @ LUMA
        darkest = luma[: np.searchsorted(heights[:, 0], 0.24)].argmin(0)
        columns = np.arange(luma.shape[1])
        skin = np.percentile(luma[heights[:, 0] > 0.1], 70, axis=0)
        half = 0.35 * luma[darkest, columns] + 0.65 * skin
        above = (np.arange(len(luma))[:, None] > darkest) & (luma > half)
        first = np.where(above.any(0), above.argmax(0), darkest)
        top = np.clip(heights[first, 0], 0.05, _MAX_LASHES_CM)
        top = np.median(np.stack([np.roll(top, -1), top, np.roll(top, 1)])[:, 1:-1], axis=0)
        top = np.interp(columns, columns[1:-1], top)
        return cv2.GaussianBlur(top[None], (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)[0]

    def bright_skin(self, y_cm: np.ndarray, share: float) -> np.ndarray:
        """Mean colour of the brighter share of samples in each column, `columns 3`: skin without lashes or hair.

        y_cm: `samples columns`, at the columns of `upper_cm`.
        """
        colours = self.sample(self.upper_cm[None, :, 0], y_cm)
        order = np.argsort(-(colours @ LUMA), axis=0)[: max(1, round(share * len(y_cm)))]
        return np.take_along_axis(colours, order[..., None], 0).mean(0)


@dataclass(frozen=True, eq=False)
class Lashes:
    """The dark line of a lid's edge, as the portrait has it."""

    colour: np.ndarray
    strength: float
    """How dark against the skin, 0 to 1."""
    thickness_cm: float
    blur_cm: float
    """Standard deviation of the portrait's own blur."""
    strands: np.ndarray
    """Length of the lashes along the lid, about 1."""

    @classmethod
    def measure(cls, region: EyeRegion, blur_cm: float, rng: np.random.Generator) -> Lashes:
        columns = np.linspace(region.upper_cm[1, 0], region.upper_cm[-2, 0], 15)
        edge = np.interp(columns, *region.upper_cm.T)
        steps = np.linspace(-0.16, 0.06, 12)[:, None]
        colours = region.sample(columns[None], edge[None] + steps)
        luma = colours @ LUMA
        darkest = np.take_along_axis(colours, luma.argmin(0)[None, :, None], 0)[0]
        colour = np.median(darkest, 0)
        lid = np.median(_lid_colours(region)[1], 0)
        skin = float(lid @ LUMA)
        strength = float(np.clip(1 - (colour @ LUMA) / (skin + 1e-3), 0, 1))
        dark = luma < (0.5 * (luma.min(0) + skin))
        thickness = float(np.clip(np.median(dark.sum(0)) * (steps[1, 0] - steps[0, 0]), 0.04, 0.11))
        strands = cv2.GaussianBlur(rng.standard_normal((1, 64)).astype(np.float32), (0, 0), 0.8)[0]
        # single dark pixels have chance hues
        colour = 0.5 * colour + 0.5 * lid * (colour @ LUMA) / (skin + 1e-3)
        return cls(colour, strength, thickness, blur_cm, 1 + 0.35 * strands / (strands.std() + 1e-6))

    def alpha(self, edge: LidEdge, closure: float, side: int) -> np.ndarray:
        """`h w`: a soft line along the lid's edge that thins out towards the nose, and lashes below it."""
        inner = np.clip(-side * edge.across, 0, 1)
        taper = np.maximum(1 - np.square(np.square(edge.across)), 0) * (1 - 0.8 * inner**1.5)
        pixel_cm = np.hypot(0.5 / edge.px_per_cm, 0.7 * self.blur_cm)
        half = np.hypot(0.45 * self.thickness_cm * (0.35 + 0.65 * taper), pixel_cm)
        below = edge.below_cm - np.float32(0.01)
        strands = np.interp(edge.across, np.linspace(-1, 1, len(self.strands)), self.strands)
        strands = strands.astype(np.float32)
        tail = np.hypot((0.35 + closure) * self.thickness_cm * taper * strands * self.strength, pixel_cm)
        line = np.exp(-0.5 * np.square(below / np.where(below < 0, half, np.maximum(half, 0.8 * tail))))
        strength = smoothstep(self.strength, 0.05, 0.6) * smoothstep(closure, _LEAST_CLOSURE, 0.16)
        return line * (0.85 * strength * (0.1 + 0.9 * taper) * (np.abs(edge.across) < 0.99))


def _eyeball_texture(
    picture: np.ndarray, outline: np.ndarray, iris: np.ndarray, iris_px: float
) -> np.ndarray:
    """The eye without its lids, `h w 3`: outside of the outline `n 2` the iris and the white go on from inside.

    iris: its centre, px of picture; iris_px: its radius.
    """
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(outline).astype(np.int32)], 1)
    inside = cv2.erode(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))).astype(np.float32)
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    radius = np.hypot(x - iris[0], y - iris[1]) / iris_px
    colour = picture.astype(np.float32)
    is_white = inside * (radius > 1.12)
    white, coloured = (
        push_pull(colour, known.astype(np.float32)) if known.sum() > 4 else colour
        for known in (is_white, inside * (radius < 1.02))
    )
    behind = over(white, coloured, 1 - smoothstep(radius, 0.98, 1.14))
    return over(behind, colour, cv2.GaussianBlur(inside, (0, 0), 0.7) * inside)


def _lid_texture(region: EyeRegion, grain: float, rng: np.random.Generator) -> np.ndarray:
    """The skin of a closing lid in the portrait, `h w 4` float32.

    The last channel, 0 to 1, is where lashes above the open lid must be painted over too.
    """
    x, y = region.pixels_cm()
    columns, edge = region.upper_cm.T
    height = np.interp(x, columns, edge - region.lash_top_cm) - y
    fold, lid, below = (
        np.stack([np.interp(x, columns, c) for c in colours.T], -1) for colours in _lid_colours(region)
    )
    opening = max(0.5, float(np.ptp([region.upper_cm[:, 1].min(), region.lower_cm[:, 1].max()])))
    skin = over(fold, lid, smoothstep(-height, -0.2, 0.55 * opening))
    skin = over(skin, below, 0.5 * smoothstep(-height, 0.6 * opening, 1.2 * opening))
    skin += _cheek_detail(region, x, y)
    noise = cv2.GaussianBlur(rng.standard_normal(x.shape).astype(np.float32), (0, 0), 0.6)
    skin += (noise * (0.6 * grain / (noise.std() + 1e-6)))[..., None]
    # above the open lid's edge the portrait's own skin, without its lashes: they show as dark strokes once the lid
    # is skin below them too
    own = over(skin, region.picture.astype(np.float32), smoothstep(height, *_LASHES_FADE_CM))
    return np.dstack(_without_long_lashes(region, np.clip(own, 0, 255).astype(np.uint8), x, y)).astype(
        np.float32
    )


def _lid_colours(region: EyeRegion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours under the fold, in the middle of the shut lid and under the eye, `9 3` each."""
    top, bottom = region.upper_cm[:, 1], np.interp(region.upper_cm[:, 0], *region.lower_cm.T)
    to_brow = np.clip(top - region.brow_cm, 0.5, 1.2)
    own = region.bright_skin(top - region.lash_top_cm - np.linspace(0.04, 0.3, 7)[:, None], 0.4)
    above = region.bright_skin(top - to_brow * np.linspace(0.4, 0.8, 7)[:, None], 0.5)
    below = region.bright_skin(bottom + np.linspace(0.25, 0.9, 9)[:, None], 0.6)
    own, above, below = (_smooth_along(colours) for colours in (own, above, below))
    # the skin under an eye is often bluish: for its hue it counts less
    around = 0.3 * above + 0.7 * below
    around = 0.5 * around + 0.5 * around.mean(0)
    painted = _painted_share(own, above, below)
    own_share = 0.5 + 0.4 * painted
    hue = own_share * _hue(own) + (1 - own_share) * _hue(around)
    light, lit = own @ LUMA, around @ LUMA
    fold, lid = (
        hue * (light + (1 - 0.7 * painted) * share * np.clip(least * lit - light, 0, None))[:, None]
        for share, least in ((0.6, 0.9), (0.9, _LEAST_LID_LIGHT))
    )
    return np.clip(fold, 0, 255), np.clip(lid, 0, 255), np.clip(below, 0, 255)


def _painted_share(lid: np.ndarray, above: np.ndarray, skin: np.ndarray) -> float:
    """How sure it is that a lid wears make-up, 0 to 1: shade makes skin redder, only paint makes it cooler.

    lid, above, skin: colours `9 3` right above the lid's edge, below the brow and under the eye.
    """

    def cooler(colours: np.ndarray) -> float:
        red, _, blue = np.median(_hue(colours) - _hue(skin), 0)
        return float(max(blue, -red))

    # an iris that a mesh counts as lid is cool as well, but paint fades out upwards
    return float(smoothstep(min(cooler(lid), cooler(above) + _FADES_BY), *_COOLER))


def _hue(colours: np.ndarray) -> np.ndarray:
    """Colours `n 3` of luma 1."""
    return colours / (colours @ LUMA + 1e-3)[:, None]


def _smooth_along(colours: np.ndarray) -> np.ndarray:
    """Smoothed along a lid, `columns 3`."""
    return cv2.GaussianBlur(colours, (1, 0), sigmaX=0.1, sigmaY=1.2, borderType=cv2.BORDER_REPLICATE)


def _cheek_detail(region: EyeRegion, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fine structure of the skin below the eye, moved up onto it; `h w 3`, about 0."""
    picture = region.picture.astype(np.float32)
    fine = picture - cv2.GaussianBlur(picture, (0, 0), 0.09 * region.head.scale_px)
    at = region.to_px(x, y + _CHEEK_BELOW_CM).astype(np.float32)
    detail = cv2.remap(fine, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    limit = 2.5 * float(np.median(np.abs(detail))) + 0.5
    return np.clip(detail, -limit, limit)


def _without_long_lashes(
    region: EyeRegion, lid: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A lid's texture, uint8, without dark strokes, `h w 3`, and where it or the portrait has them, 0 to 1.

    Past the outer corner it is the skin there, and strokes count up to 2: no lid closes over them.
    """
    radius = max(2, round(_STROKE_CM * region.head.scale_px))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed = cv2.morphologyEx(lid, cv2.MORPH_CLOSE, kernel).astype(np.float32)
    closed = cv2.GaussianBlur(closed, (0, 0), 0.5 * radius)
    clear, zone, past = closed @ LUMA, _lash_zone(region, x, y), smoothstep(region.past_cm(x), -0.1, 0.15)

    def strokes(picture: np.ndarray) -> np.ndarray:
        darker = (clear - picture.astype(np.float32) @ LUMA) / (clear + 1e-3)
        stroke = 0.9 * smoothstep(darker, 0.03, 0.14) * zone
        return cv2.GaussianBlur(cv2.dilate(stroke.astype(np.float32), np.ones((3, 3))), (0, 0), 0.8)

    own = strokes(lid)
    shown = np.maximum(own, strokes(region.picture))
    known = (shown < 0.05) & (np.interp(x, *region.upper_cm.T) - _LASHES_FADE_CM[0] > y)
    known |= np.interp(x, *region.lower_cm.T) + _LASHES_FADE_CM[1] < y
    known |= (region.past_cm(x) > 0.05) & (shown < 0.05)
    beside = push_pull(region.picture.astype(np.float32), known.astype(np.float32))
    return over(over(lid.astype(np.float32), closed, own), beside, past), shown * (1 + past)


def _lash_zone(region: EyeRegion, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the upper lid's lashes and liner may be, 0 to 1: above its edge, and a little past the outer corner.

    x, y: places `h w` in cm.
    """
    columns, edge = region.upper_cm.T
    height = np.interp(x, columns, edge) - y
    width, past = float(np.ptp(columns)), region.past_cm(x)
    along = 1 + past / width
    top = _LONG_LASHES_CM + _OUTER_LASHES_CM * smoothstep(along, 0.5, 0.9)
    below = _BELOW_CORNER_CM * smoothstep(past, -0.1, 0.15)
    zone = smoothstep(top - height, 0.0, 0.15) * smoothstep(height + below, -0.1, 0.0)
    zone = zone * (y > region.brow_cm + 0.15) * smoothstep(along, 0.0, 0.1)
    return zone * (1 - smoothstep(past, *_PAST_CORNER_CM))
