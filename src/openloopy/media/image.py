"""Pictures in and out: any common format becomes `H W 3` uint8 sRGB, upright; so do pictures that are in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from openloopy.media.colour import EXIF_ERRORS, Say, to_srgb
from openloopy.media.files import atomic_write
from openloopy.media.picture_file import BROKEN, ImageError, check_size, open_picture, pillow_heard

FLOAT_TOLERANCE = 1e-3
"""By which floats may miss [0, 1]: filters overshoot."""
STRIP_ROWS = 256
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations, and what undoes them."""


def as_rgb(picture: Any, say: Say | None = None) -> np.ndarray:
    """A picture as `H W 3` uint8 sRGB, whatever holds it.

    Args:
        picture: a path; a PIL image; or an array of numpy or torch: `H W`, `H W 3`, `H W 4` or (torch's habit) `3 H W`,
            of uint8 or of floats in [0, 1]. One picture in a batch of one is taken out of it.
        say: told of what cannot be used of it: a colour profile, EXIF.
    """
    if isinstance(picture, str | os.PathLike):
        return read_image(picture, say)
    if isinstance(picture, Image.Image):
        check_size(picture.size, "the picture")
        with pillow_heard(say, "the picture"):
            return _pixels(picture, say, "the picture")
    if not hasattr(picture, "__array__"):
        raise ImageError(
            f"expected a picture as a path, a PIL image or an array of numpy or torch, got {type(picture).__name__}"
        )
    array = np.asarray(picture.detach().cpu() if hasattr(picture, "detach") else picture)
    return _as_array(to_srgb(Image.fromarray(_as_bytes(_channels_last(array)))))


def read_image(path: Path | str, say: Say | None = None) -> np.ndarray:
    """A picture file as `H W 3` uint8 sRGB: upright, transparency over white, the first or main one of several."""
    with pillow_heard(say, str(path)), open_picture(path) as image:
        return _pixels(image, say, str(path))


def write_image(path: Path | str, rgb: np.ndarray) -> None:
    """Write `H W 3` uint8 under its name's format (.png, .jpg, ...), whole or not at all."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected a uint8 picture of shape (H, W, 3), got {rgb.dtype} {rgb.shape}")
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise ImageError(f"cannot write {path}: unknown ending {Path(path).suffix!r}; use .png or .jpg")
    with atomic_write(path) as temporary:
        Image.fromarray(np.ascontiguousarray(rgb)).save(temporary, quality=95)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """`H W` or `H W c`, c 3 or 4."""
    whole = array
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[2] not in (3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"expected one picture of shape (H, W), (H, W, 3), (H, W, 4) or (3, H, W), got {whole.shape}"
        )
    check_size((array.shape[1], array.shape[0]), "the picture")
    return array


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """uint8 as it is, floats in [0, 1] times 255."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"expected a picture of uint8 or of floats in [0, 1], got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -FLOAT_TOLERANCE and high <= 1 + FLOAT_TOLERANCE):  # not a number is neither
        raise ImageError(
            f"expected a picture of floats in [0, 1], got values from {low:.3g} to {high:.3g}; divide it by 255, or "
            "give it as uint8"
        )
    return np.clip(np.rint(array * 255), 0, 255).astype(np.uint8)


def _pixels(image: Image.Image, say: Say | None, name: str) -> np.ndarray:
    try:
        image.load()
    except BROKEN as error:
        raise ImageError(
            f"{name} is damaged or cut off ({error}); get the whole file or export it again"
        ) from error
    if image.mode in ("P", "PA") and image.palette is None:
        raise ImageError(
            f"{name} is damaged: it has numbers of colours, but no colours; get the whole file or export it again"
        )
    orientation = _orientation(image, say, name)  # asked for after `load`: TIFFs are turned there
    rgb = to_srgb(image, say, name)
    return _as_array(rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb)


def _orientation(image: Image.Image, say: Say | None, name: str) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except EXIF_ERRORS as error:
        if say:
            say(f"{name} has EXIF that cannot be read ({error}): if it should be turned, turn it first")
        return 1


def _as_array(rgb: Image.Image) -> np.ndarray:
    """`np.asarray`, three times as fast for large pictures: it gathers all bytes in small pieces first."""
    array = np.empty((rgb.height, rgb.width, 3), np.uint8)
    for top in range(0, rgb.height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, rgb.height)
        array[top:bottom] = np.asarray(rgb.crop((0, top, rgb.width, bottom)))
    return array
