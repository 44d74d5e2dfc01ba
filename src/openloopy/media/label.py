"""A visible label in a corner of the picture: "AI-generated"."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TEXT = "AI-generated"
HEIGHT_SHARE = 0.05
"""Of the letters (what China asks for; docs/marking.md), to the picture's shorter side; at least SMALLEST_PX."""
SMALLEST_PX = 11
PADDING_SHARE = 0.5
"""Of the letters' height: around the text, and from the border."""
BACKGROUND_OPACITY = 0.6


class Label:
    """Draws the label on frames of one size, white on a darkened strip at the lower left."""

    def __init__(self, size: tuple[int, int]) -> None:
        """size: (width, height) of the frames, px."""
        letters_px = max(SMALLEST_PX, round(HEIGHT_SHARE * min(size)))
        font = ImageFont.load_default(letters_px)
        left, top, right, bottom = font.getbbox(TEXT)
        pad = round(PADDING_SHARE * letters_px)
        width, height = min(right - left + 2 * pad, size[0]), min(bottom - top + 2 * pad, size[1])
        picture = Image.new("L", (width, height))
        ImageDraw.Draw(picture).text((pad - left, pad - top), TEXT, fill=255, font=font)
        self._letters = np.asarray(picture, np.float32)[..., None] / 255
        x0, y1 = min(pad, size[0] - width), size[1] - min(pad, size[1] - height)
        self.place = slice(y1 - height, y1), slice(x0, x0 + width)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """`H W 3` uint8 -> the same with the label."""
        labelled = frame.copy()
        dark = labelled[self.place].astype(np.float32) * (1 - BACKGROUND_OPACITY)
        labelled[self.place] = np.rint(dark + (255 - dark) * self._letters).astype(np.uint8)
        return labelled
