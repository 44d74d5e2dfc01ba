"""Colours of pictures: whatever a file says that its numbers mean becomes sRGB.

What counts, in this order: codes of a PNG (cICP); an ICC profile; codes of HEIC and AVIF (nclx); EXIF's word that it is
Adobe RGB; a PNG's gamma and primaries, unless it says that it is sRGB. Without any of them numbers are sRGB, CIELAB in
a TIFF, and inks are mixed as browsers do. Colours that sRGB has not become the nearest that it has.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, ImageCms

from openloopy.media.icc import (
    ADOBE_RGB,
    BT709,
    HDR_TRANSFERS,
    UNSPECIFIED,
    ColourSpace,
    coded_space,
    power,
    srgb_curve,
)
from openloopy.media.picture_headers import Codes

Say = Callable[[str], None]
"""Told what a user should know."""

CODES = "colour_codes"
"""The name in `Image.info` under which `media.picture_file` keeps what Pillow does not."""
NO_CODES: Codes = (UNSPECIFIED, UNSPECIFIED)
SIXTEEN_BITS = "I;16"
MODES_OF = {
    "RGB": ("RGB",),
    "GRAY": ("L", SIXTEEN_BITS),
    "CMYK": ("CMYK",),
    "Lab": ("LAB",),
}
"""Pictures that a profile of this colour space fits; grey ones, moreover, may have a profile of RGB."""
GAMMA_TOLERANCE = 0.05
"""Relative; within it a PNG's gamma is a word for sRGB's curve, as libpng has it."""
SAME_LEVELS = 1
"""Of 255, by which a profile may differ from sRGB's own and still be it: what it writes in fixed point."""
CHROMATICITY_TOLERANCE = 0.005
UNCALIBRATED, ADOBE = 0xFFFF, 2
"""EXIF's ColorSpace; 2 is not in the standard, but many cameras'."""
ADOBE_INTEROP = "R03"
"""DCF option file: Adobe RGB."""
EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
"""What Pillow raises at garbled EXIF; KeyError, moreover, where a part of it is not there."""


def to_srgb(image: Image.Image, say: Say | None = None, name: str = "the picture") -> Image.Image:
    """A picture of any mode as RGB in sRGB, transparency over white; the picture itself stays as it is.

    Args:
        say: told of profiles that cannot be used, and of light that sRGB does not have.
        name: what messages call the picture.
    """
    if say and image.info.get(CODES, NO_CODES)[1] in HDR_TRANSFERS:
        say(f"{name} is HDR: what is brighter in it than white becomes white")
    colours, alpha = _parts(image)
    try:
        rgb = _converted(colours, _profile_of(image, is_grey=colours.mode in MODES_OF["GRAY"]))
    except (ValueError, ImageCms.PyCMSError) as error:
        if say:
            say(f"{name} has a colour profile that cannot be used ({error}): its colours are taken as sRGB")
        rgb = _converted(colours, None)
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def _parts(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours as RGB, L, I;16, CMYK or LAB, and opacity as L where there is any."""
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return _sixteen_bits(image), None
    if image.has_transparency_data:
        image = image.convert("LA" if mode in ("L", "LA", "La", "1") else "RGBA")
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if mode in ("RGB", "L", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if mode == "1" else "RGB"), None


def _sixteen_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits; floats count as 0..1 where nothing is above 1, as 0..255 otherwise."""
    grey = np.asarray(image)
    if grey.dtype.kind == "f":
        grey = np.nan_to_num(grey)
        grey = np.rint(grey * (65535 if grey.max(initial=0) <= 1 else 257))
    return Image.fromarray(np.clip(grey, 0, 65535).astype(np.uint16))


def _profile_of(image: Image.Image, *, is_grey: bool) -> bytes | None:
    """The ICC profile that tells a picture's colours; None for sRGB.

    Raises:
        ValueError: colours that are told but make no sense.
    """
    codes: Codes = image.info.get(CODES, NO_CODES)
    icc = image.info.get("icc_profile")
    if codes != NO_CODES and (image.format == "PNG" or not icc):
        space = coded_space(*codes)
    elif icc:
        return icc
    else:
        space = _told_by_exif(image) or _told_by_png(image)
    return space.profile(is_grey=is_grey) if space else None


def _told_by_exif(image: Image.Image) -> ColourSpace | None:
    """Adobe RGB, if EXIF says so: it has no other word for it."""
    try:
        exif = image.getexif()
        told = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        is_adobe = told == ADOBE or (told == UNCALIBRATED and _interoperability(exif) == ADOBE_INTEROP)
    except (
        EXIF_ERRORS
    ):  # then it says nothing of colours, and orientation, which matters more, is said to be lost
        return None
    return ADOBE_RGB if is_adobe else None


def _interoperability(exif: Image.Exif) -> str:
    return str(exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)).strip("\0 ")


def _told_by_png(image: Image.Image) -> ColourSpace | None:
    """Gamma and primaries of a PNG, unless it says that it is sRGB, or they come to that."""
    gamma, points = image.info.get("gamma"), image.info.get("chromaticity")
    if image.format != "PNG" or "srgb" in image.info or (gamma is None and points is None):
        return None
    is_curve = gamma is None or abs(gamma * 2.2 - 1) < GAMMA_TOLERANCE
    is_primaries = points is None or np.allclose(points, BT709, atol=CHROMATICITY_TOLERANCE)
    if is_curve and is_primaries:
        return None
    if gamma == 0:
        raise ValueError("a gamma of 0")
    return ColourSpace(points or BT709, srgb_curve if is_curve else power(1 / gamma))


def _converted(colours: Image.Image, icc: bytes | None) -> Image.Image:
    """Colours by their profile as RGB.

    Raises:
        ValueError: a profile that cannot be read, or of another kind than the picture.
        ImageCms.PyCMSError: one that littlecms cannot use.
    """
    if icc is None:
        return _without_profile(colours)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except OSError as error:
        raise ValueError(str(error)) from error
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and colours.mode in MODES_OF["GRAY"]:
        colours = _without_profile(colours)
    if colours.mode not in MODES_OF.get(space, ()):
        raise ValueError(f"it is for {space}, the picture is {colours.mode}")
    return _transformed(colours, profile)


def _without_profile(colours: Image.Image) -> Image.Image:
    if colours.mode == "LAB":
        return _transformed(colours, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if colours.mode == SIXTEEN_BITS:
        colours = Image.fromarray(
            ((np.asarray(colours).astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)
        )
    return colours if colours.mode == "RGB" else colours.convert("RGB")


def _transformed(colours: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    if colours.mode in MODES_OF["GRAY"]:
        # As littlecms hurries grey pictures, shadows are ten levels off; unhurried it takes ten seconds. So it is asked
        # once for every level.
        grey = np.asarray(colours)
        levels = Image.fromarray(np.arange(np.iinfo(grey.dtype).max + 1).astype(grey.dtype)[None])
        exact = _transform(profile, colours.mode, ImageCms.Flags.NOOPTIMIZE)
        return Image.fromarray(np.asarray(ImageCms.applyTransform(levels, exact))[0][grey])
    transform = _transform(profile, colours.mode)
    if colours.mode == "RGB" and _changes_nothing(transform):
        return colours
    return ImageCms.applyTransform(colours, transform)


def _transform(
    profile: ImageCms.ImageCmsProfile, mode: str, flags: ImageCms.Flags = ImageCms.Flags.NONE
) -> ImageCms.ImageCmsTransform:
    """By relative colorimetric intent with black point compensation: white stays white, and black black."""
    return ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | flags,
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether sRGB is transformed to itself, but for rounding: then the picture keeps its numbers."""
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    every = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    after = np.asarray(ImageCms.applyTransform(Image.fromarray(every), transform))
    return bool((np.abs(after.astype(int) - every) <= SAME_LEVELS).all())
