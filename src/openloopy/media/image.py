"""Pictures in and out: any common format becomes `H W 3` uint8 RGB, upright; so do pictures that are in memory."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from openloopy.media.files import MediaError, atomic_write, require_file

MIN_SIDE_PX = 64
MAX_SIDE_PX = 8192
SIXTEEN_TO_EIGHT_BITS = 257
"""65535 / 255."""
FLOAT_TOLERANCE = 1e-3
"""By which floats may miss [0, 1]: filters overshoot."""


class ImageError(MediaError):
    """A picture that cannot be used as it is."""


def as_rgb(picture: Any) -> np.ndarray:
    """A picture as `H W 3` uint8 RGB, whatever holds it.

    Args:
        picture: a path; a PIL image; or an array of numpy or torch: `H W`, `H W 3`, `H W 4` or (torch's habit) `3 H W`,
            of uint8 or of floats in [0, 1]. One picture in a batch of one is taken out of it.
    """
    if isinstance(picture, str | os.PathLike):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        _check_size(picture.size, "the picture")
        return np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))
    if not hasattr(picture, "__array__"):
        raise ImageError(
            f"expected a picture as a path, a PIL image or an array of numpy or torch, got {type(picture).__name__}"
        )
    array = np.asarray(picture.detach().cpu() if hasattr(picture, "detach") else picture)
    return np.ascontiguousarray(_to_rgb(Image.fromarray(_as_bytes(_channels_last(array)))))


def read_image(path: Path | str) -> np.ndarray:
    """A picture as `H W 3` uint8 RGB: EXIF rotation applied, transparency over white, first of several."""
    path = require_file(path, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{path} is not a picture that can be read ({error}); convert it to PNG or JPEG"
        ) from error
    with image:
        _check_size(image.size, str(path))
        try:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_to_rgb(upright))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ImageError(
                f"{path} is damaged or cut off ({error}); get the whole file or export it again"
            ) from error


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
    _check_size((array.shape[1], array.shape[0]), "the picture")
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


def _check_size(size: tuple[int, int], name: str) -> None:
    came = f"{name} is {size[0]}x{size[1]} px"
    if min(size) < MIN_SIDE_PX:
        raise ImageError(f"{came}; each side needs at least {MIN_SIDE_PX} px, use a larger picture")
    if max(size) > MAX_SIDE_PX:
        raise ImageError(f"{came}; each side may have at most {MAX_SIDE_PX} px, scale it down first")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64) // SIXTEEN_TO_EIGHT_BITS
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        image = _grey_from_float(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey_from_float(image: Image.Image) -> Image.Image:
    """Float pictures count as 0..1 where nothing is above 1, as 0..255 otherwise."""
    grey = np.nan_to_num(np.asarray(image))
    grey = grey * 255 if grey.max(initial=0) <= 1 else grey
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
