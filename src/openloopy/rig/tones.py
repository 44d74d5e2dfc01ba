"""The light and colours of a portrait, as far as painting needs them: how bright teeth would be, and how sharp.

The rules for teeth are a regression over 431 smiling photographs: the log of their luma on those of the eyes' white
and of the face's highlights (a standard deviation of .115 remains), their hue on that of the eyes' white and the skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.rig.mesh import EYES, FACE_OVAL, LOWER_LIP, UPPER_LIP, HeadFrame, smoothstep

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SKIN_SAMPLES = [50, 280, 205, 425, 101, 330]
_NEAR_MOUTH = ([205, 203, 206, 50], [425, 423, 426, 280])
"""Skin to the left and to the right of the mouth, mostly clear of beards."""
_MONOCHROME, _COLOURED = 2.0, 4.5
"""Spread of colour that brightness does not explain, of 255: up to the first in monochrome pictures."""
_TONE_BINS = 16
_MAX_OVER_HIGHLIGHT = 0.99
_MAX_OVER_SCLERA = 1.7
_LIT_SCLERA = 1.15
"""How much brighter the white of the eyes would be outside the shade of the lids."""


@dataclass(frozen=True, eq=False)
class Tones:
    """What the light of one portrait makes of things that it does not show. Colours are RGB of 255, `3`."""

    enamel: np.ndarray
    """A well lit front tooth."""
    mucosa: np.ndarray
    """Tongue and inner cheeks, well lit."""
    gum: np.ndarray
    highlight: float
    """Luma of what is brightest in the face: lit skin, or the white of the eyes if it were lit as well."""
    shadow: float
    """Luma of the darkest part of the eyes: pupils and lashes; in a pale drawing it is far from black."""
    side_light: float
    """Growth of the log of brightness to the right about the mouth, per cm."""
    colour: float
    """1: a coloured picture; 0: monochrome (grey, sepia, stone), whose colour follows from the luma."""
    scale: np.ndarray
    """`_TONE_BINS 3`: RGB over luma 0 to 255 in the picture's own tone."""
    blur_cm: float
    """Standard deviation of the portrait's own blur, measured at the edges of the eyes."""
    contrast: float
    """Luma range of the eyes over the face's highlight: near 1 in photographs, less in soft paintings."""
    grain: float
    """Standard deviation of noise in its skin, of 255."""

    @classmethod
    def measure(cls, rgb: np.ndarray, head: HeadFrame) -> Tones:
        """rgb: the portrait `S S 3` uint8."""
        mesh = head.mesh_px[:, :2]
        whole = rgb[::5, ::5].reshape(-1, 3).astype(np.float32)
        picture, mesh = _face_box(rgb, mesh)
        pixels = picture[_inside(picture, mesh[FACE_OVAL])][::3].astype(np.float32)
        luma = pixels @ LUMA
        scale = _tone_scale(pixels, luma)
        colour = _colourfulness(pixels, whole, scale)
        sclera = _sclera_colour(picture, mesh)
        skin = _median_at(picture, mesh[_SKIN_SAMPLES])
        highlight = float(np.percentile(luma, 98))
        if sclera is not None:
            highlight = max(highlight, min(_LIT_SCLERA * float(sclera @ LUMA), 250.0))
        near_mouth = np.array([_colours_at(picture, mesh[side]) @ LUMA for side in _NEAR_MOUTH])
        mouth_light = float(np.percentile(near_mouth, 75) / (np.percentile(luma, 75) + 1e-3))
        apart = float(np.ptp(head.points_cm[[side[0] for side in _NEAR_MOUTH], 0]))
        left, right = np.log(np.median(near_mouth, axis=1) + 8)
        enamel = _enamel(skin, sclera, highlight, mouth_light)
        lips = _median_at(picture, mesh[[*UPPER_LIP[1:3].flat, *LOWER_LIP[1:3].flat]])
        mucosa, gum = _soft_tissue(enamel, skin, lips)
        blur_px, shadow, range_ = eye_sharpness(picture, mesh)
        return cls(
            *(_in_tone(c, colour, scale) for c in (enamel, mucosa, gum)),
            highlight,
            shadow,
            float(np.clip((right - left) / apart, -0.3, 0.3)),
            colour,
            scale,
            blur_px / head.scale_px,
            float(np.clip(range_ / (highlight + 1e-3), 0, 1)),
            skin_grain(picture, mesh),
        )

    def apply(self, colour: np.ndarray) -> np.ndarray:
        """A colour `... 3` as this picture would show it."""
        return _in_tone(colour, self.colour, self.scale)


def skin_grain(rgb: np.ndarray, mesh: np.ndarray) -> float:
    """Robust standard deviation of what is finer than two px in the cheeks, of 255. mesh: `478 2` px of rgb."""
    at, radius = mesh[_SKIN_SAMPLES], max(4, int(np.ptp(mesh[FACE_OVAL, 0]) / 30))
    spreads = []
    for x, y in np.clip(at.astype(int), radius, np.array(rgb.shape[1::-1]) - radius - 1):
        patch = rgb[y - radius : y + radius, x - radius : x + radius].astype(np.float32) @ LUMA
        fine = patch - cv2.GaussianBlur(patch, (0, 0), 1.2)
        spreads.append(1.48 * np.median(np.abs(fine)))
    return float(np.clip(1.3 * np.median(spreads), 0, 6))


def eye_sharpness(picture: np.ndarray, mesh: np.ndarray) -> tuple[float, float, float]:
    """Standard deviation of blur in px, the darkest luma and the range of luma in the eyes.

    picture: `h w 3` uint8 with the face; mesh: `478 2` px in it.
    """
    found = []
    for eye in EYES:
        outline = mesh[[*eye.upper, *eye.lower]]
        x0, y0 = np.clip(np.floor(outline.min(0)).astype(int) - 3, 0, None)
        x1, y1 = np.ceil(outline.max(0)).astype(int) + 4
        luma = picture[y0:y1, x0:x1].astype(np.float32) @ LUMA
        if min(luma.shape) < 4:
            continue
        slope = np.percentile(np.hypot(*np.gradient(luma)), 99.5)
        dark, light = np.percentile(luma, [3, 97])
        # an edge of height h blurred by sigma is steepest with h / (sigma sqrt(2 pi))
        found.append(((light - dark) / (2.5 * slope + 1e-3), dark, light - dark))
    blur_px, dark, range_ = np.mean(found, 0) if found else (1.0, 20.0, 128.0)
    return float(blur_px), float(dark), float(range_)


def _face_box(rgb: np.ndarray, mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face's part of the picture, and the mesh in it."""
    x0, y0 = np.clip(np.floor(mesh.min(0)).astype(int) - 2, 0, None)
    x1, y1 = np.ceil(mesh.max(0)).astype(int) + 3
    return rgb[y0:y1, x0:x1], mesh - [x0, y0]


def _inside(picture: np.ndarray, outline: np.ndarray) -> np.ndarray:
    area = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(area, [np.round(outline).astype(np.int32)], 1)
    return area > 0


def _colours_at(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Mean colours `n 3` of 3x3 px at points `n 2`."""
    limit = np.array(picture.shape[1::-1]) - 2
    x, y = np.clip(np.round(points).astype(int), 1, limit).T
    near = [picture[y + j, x + i] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.mean(near, 0, dtype=np.float32)


def _median_at(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.median(_colours_at(picture, points), 0)


def _tone_scale(pixels: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Mean colour of the face at each luma, `_TONE_BINS 3`."""
    centres = (np.arange(_TONE_BINS) + 0.5) * 256 / _TONE_BINS
    if np.ptp(pixels, axis=1).max() == 0:
        return np.repeat(centres[:, None], 3, 1)
    at = np.clip(luma / 256 * _TONE_BINS, 0, _TONE_BINS - 1).astype(int)
    count = np.bincount(at, minlength=_TONE_BINS)
    offset = np.stack([np.bincount(at, pixels[:, c] - luma, _TONE_BINS) for c in range(3)], -1)
    # bins with few pixels lean on a straight line through black
    prior = (pixels - luma[:, None]).sum(0) / (luma.sum() + 1e-3)
    weak = 0.01 * len(pixels)
    return centres[:, None] + (offset + weak * prior * centres[:, None]) / (count + weak)[:, None]


def _colourfulness(face: np.ndarray, whole: np.ndarray, scale: np.ndarray) -> float:
    """0: the picture is monochrome, or the face is (a sculpture's); 1: it has colours of its own.

    face, whole: pixels `n 3` of the face and of the picture.
    """
    if np.ptp(whole, axis=1).max() == 0:
        return 0.0
    of_face, of_whole = (
        np.clip((_unexplained_colour(p, s) - _MONOCHROME) / (_COLOURED - _MONOCHROME), 0, 1)
        for p, s in ((face, scale), (whole, _tone_scale(whole, whole @ LUMA)))
    )
    mean = face.mean(0)
    saturation = (mean.max() - mean.min()) / (mean.max() + 1e-3)
    return float(max(of_face, of_whole * smoothstep(saturation, 0.1, 0.22)))


def _unexplained_colour(pixels: np.ndarray, scale: np.ndarray) -> float:
    """Mean distance in red and blue from the tone scale, of 255; outliers count little."""
    away = pixels - _in_tone(pixels, 0.0, scale)
    return float(np.clip(np.abs(away[:, ::2]), 0, 40).mean())


def _in_tone(colour: np.ndarray, share: float, scale: np.ndarray) -> np.ndarray:
    """share: how much of its own colour is kept; the rest is the picture's tone at its luma."""
    colour = np.asarray(colour, np.float32)
    luma = (colour @ LUMA) * (_TONE_BINS / 256) - 0.5
    # linear beyond both ends
    first = np.clip(np.floor(luma).astype(int), 0, _TONE_BINS - 2)
    step = (luma - first)[..., None]
    tone = np.clip(scale[first] * (1 - step) + scale[first + 1] * step, 0, 255)
    return (tone + share * (colour - tone)).astype(np.float32)


def _sclera_colour(picture: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
    """The lit white of both eyes; None where too little of it shows."""
    found = []
    for eye in EYES:
        outline = np.concatenate([mesh[eye.upper], mesh[eye.lower][-2:0:-1]])
        x0, y0 = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, None)
        x1, y1 = np.ceil(outline.max(0)).astype(int) + 2
        box = picture[y0:y1, x0:x1]
        area = _inside(box, outline - [x0, y0])
        area = cv2.erode(area.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        y, x = np.mgrid[: box.shape[0], : box.shape[1]]
        radius = np.linalg.norm(mesh[eye.iris_ring] - mesh[eye.iris], axis=1).mean()
        area &= np.hypot(x + x0 - mesh[eye.iris, 0], y + y0 - mesh[eye.iris, 1]) > 1.15 * radius
        white = box[area].astype(np.float32)
        if len(white) > 15:
            luma = white @ LUMA
            found.append(white[luma >= np.percentile(luma, 70)].mean(0))
    return np.mean(found, 0) if found else None


def _enamel(skin: np.ndarray, sclera: np.ndarray | None, highlight: float, mouth_light: float) -> np.ndarray:
    """mouth_light: brightness of the skin about the mouth over the face's."""
    luma = usual = np.exp(0.655 * np.log(highlight) + 1.79)
    white = skin if sclera is None else sclera
    if sclera is not None:
        sclera_luma = float(sclera @ LUMA)
        luma = np.exp(0.262 * np.log(sclera_luma + 1) + 0.449 * np.log(highlight) + 1.56)
        # in the shade of glasses or of a brow it says less
        luma = np.clip(min(luma, _MAX_OVER_SCLERA * sclera_luma), 0.8 * usual, 1.2 * usual)
    luma = min(luma * np.clip(mouth_light, 0.35, 1.1) ** 0.7, _MAX_OVER_HIGHLIGHT * highlight)
    red_skin, red_white, blue_white = (
        float(np.log((c[i] + 1) / (c[1] + 1))) for c, i in ((skin, 0), (white, 0), (white, 2))
    )
    weight = 1.0 if sclera is not None else 0.5
    red = 0.185 * red_skin + 0.225 * red_white + 0.01
    blue = 0.71 * weight * blue_white - 0.037
    colour = np.exp(np.array([np.clip(red, -0.1, 0.3), 0.0, np.clip(blue, -0.45, 0.12)]))
    return colour * (luma / (colour @ LUMA))


def _soft_tissue(enamel: np.ndarray, skin: np.ndarray, lips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours of tongue and gums: as red as flesh is in this light, towards this person's lips and skin."""
    flesh = enamel * np.array([0.86, 0.50, 0.50])
    own = lips * np.clip(0.62 * (enamel @ LUMA) / (lips @ LUMA + 1), 0.7, 1.5)
    dark = float(np.clip(1 - (skin @ LUMA) / (0.72 * (enamel @ LUMA) + 1), 0, 0.6))
    mucosa = 0.75 * flesh + 0.25 * own
    return mucosa, (1 - 0.4 * dark) * (0.8 * flesh + 0.2 * own) * 0.88
