"""Pictures without a face, made by code: what a finder takes for one (text, coins, plates, lattices) among them."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openloopy.puppet.camera import draw_background

LETTERS = "aaabcdeeeefghiiijklmnnooopqrrssttuuvwxyz  ABCDEFGHIKLMNOPRSTUVW 0123456789.,:;!?&%+-()"
_DRAWN_SHARES = {"plain": 0.3, "waves": 0.15, "text": 0.18, "discs": 0.25, "blots": 0.12}


def face_free_background(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A picture made by code, at times with something in it: `size size 3` uint8."""
    picture = draw_background(rng, size_px, rng.uniform(20, 220, 3))
    kind = rng.choice(list(_DRAWN_SHARES), p=list(_DRAWN_SHARES.values()))
    if kind == "plain":
        return picture
    draw = {"waves": _add_waves, "text": _write_text, "discs": _lay_discs, "blots": _lay_blots}[kind]
    return np.clip(draw(picture, rng), 0, 255).astype(np.uint8)


def _add_waves(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(picture)
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(60)))
    y, x = np.mgrid[:size, :size]
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * np.pi * (np.cos(angle) * y - np.sin(angle) * x) / period)
    return picture + rng.uniform(5, 60) * wave[..., None] * rng.uniform(0.5, 1, 3)


def _write_text(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines of letters, as on a page, a sign or a screen."""
    size = len(picture)
    shown = Image.fromarray(picture)
    if rng.random() < 0.5:  # paper, in any light
        shown = Image.blend(shown, Image.new("RGB", (size, size), _colour(rng, 150)), 0.85)
    pen = ImageDraw.Draw(shown)
    x, y = (float(v) for v in rng.uniform(-0.1, 0.3, 2) * size)
    colour = _colour(rng, 0)
    while y < size:
        height = float(np.exp(rng.uniform(np.log(0.03), np.log(0.25)))) * size
        font = ImageFont.load_default(height)
        for _ in range(rng.integers(1, 9)):
            line = "".join(rng.choice(list(LETTERS), rng.integers(2, 40)))
            pen.text((x, y), line, fill=colour, font=font)
            y += height * float(rng.uniform(1, 1.5))
        y += height * float(rng.uniform(0, 2))
    return _turned(np.asarray(shown), rng)


def _lay_discs(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coins, plates, cups, buttons, wheels, fruit: round things with rims, rings, reliefs and shadows."""
    size = len(picture)
    picture = picture.astype(np.float32)
    in_rows = rng.random() < 0.4
    count, radius = int(rng.integers(1, 10)), float(rng.uniform(0.04, 0.3)) * size
    colour = np.float32(_colour(rng, 30))
    for number in range(count):
        if in_rows:
            place = (np.array(divmod(number, 3))[::-1] * 2.3 + 0.7) * radius + rng.normal(0, 0.05 * radius, 2)
        else:
            place, radius = rng.uniform(0, 1, 2) * size, float(rng.uniform(0.04, 0.3)) * size
        colour = colour if rng.random() < 0.6 else np.float32(_colour(rng, 30))
        _lay_disc(picture, place, radius, colour, rng)
    return picture


def _lay_disc(
    picture: np.ndarray, place: np.ndarray, radius: float, colour: np.ndarray, rng: np.random.Generator
) -> None:
    size, light = len(picture), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    squeeze, tilt = rng.uniform(0.6, 1), rng.uniform(0, np.pi)
    u = (np.cos(tilt) * (x - place[0]) + np.sin(tilt) * (y - place[1])) / radius
    v = (np.cos(tilt) * (y - place[1]) - np.sin(tilt) * (x - place[0])) / (radius * squeeze)
    distance = np.hypot(u, v)
    height = np.sqrt(np.clip(1 - distance**2, 0, None)) * rng.choice([0, 0.4, 1])
    for _ in range(rng.integers(0, 4)):  # rims and rings
        height = height + rng.uniform(-0.4, 0.4) * np.exp(-(((distance - rng.uniform(0.2, 1)) / 0.06) ** 2))
    grain = rng.standard_normal((int(rng.integers(3, 14)),) * 2).astype(np.float32)
    relief = cv2.resize(grain, (size, size), interpolation=cv2.INTER_CUBIC)
    height = height + rng.uniform(0, 0.12) * np.where(distance < 0.85, relief, 0)
    slope_y, slope_x = np.gradient(height)
    lit = 1 + (np.cos(light) * slope_x + np.sin(light) * slope_y) * radius * rng.uniform(0.15, 0.5)
    alpha = np.clip((1 - distance) * radius, 0, 1)[..., None]
    shadow = np.exp(-np.clip(distance - 1, 0, None) * 5)[..., None] * (1 - alpha)
    picture *= 1 - rng.uniform(0, 0.5) * shadow
    picture[:] = picture * (1 - alpha) + np.clip(colour * lit[..., None], 0, 255) * alpha


def _lay_blots(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft and hard spots and bars with nothing of a face's order."""
    size = len(picture)
    picture = picture.copy()
    for _ in range(rng.integers(2, 14)):
        shape = np.zeros((size, size), np.uint8)
        centre = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        axes = tuple(int(v) for v in np.exp(rng.uniform(np.log(0.01), np.log(0.25), 2)) * size + 1)
        if rng.random() < 0.6:
            cv2.ellipse(shape, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
        else:
            box = cv2.boxPoints((centre, axes, float(rng.uniform(0, 180))))
            cv2.fillConvexPoly(shape, np.round(box).astype(np.int32), 255, cv2.LINE_AA)
        if rng.random() < 0.5:
            shape = cv2.GaussianBlur(shape, (0, 0), float(rng.uniform(0.5, 0.05 * size)))
        alpha = shape[..., None].astype(np.float32) / 255
        picture = picture * (1 - alpha) + np.float32(_colour(rng, 0)) * alpha
    return picture


def _turned(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(picture)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 12), rng.uniform(1, 1.6))
    return cv2.warpAffine(picture, turn, (size, size), borderMode=cv2.BORDER_REFLECT)


def _colour(rng: np.random.Generator, least: int) -> tuple[int, int, int]:
    """Any, or a grey, as of ink and paper."""
    colour = rng.integers(least, 256, 3)
    return tuple(int(v) for v in (colour if rng.random() < 0.5 else np.repeat(colour[:1], 3)))
