"""Picture files: which formats are read, and how one is opened before any of its pixels is decoded."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from openloopy.media.colour import CODES, Say
from openloopy.media.files import MediaError, require_file
from openloopy.media.kinds import kind_of
from openloopy.media.picture_headers import (
    HEAD_BYTES,
    Codes,
    avif_codes,
    jpeg2000_profile,
    jxl_size,
    png_codes,
)

MIN_SIDE_PX = 64
MAX_SIDE_PX = 8192
HEIC, JPEG_XL = "HEIC", "JPEG XL"
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)
"""What Pillow and its plugins raise at damaged files."""


class ImageError(MediaError):
    """A picture that cannot be used as it is."""


@dataclass(frozen=True)
class PictureFormat:
    """A format that is read."""

    name: str
    endings: tuple[str, ...]
    """Of file names; only lists of folders go by them, opening a file does not."""
    pillow: tuple[str, ...]
    """Pillow's names for it."""
    extra: str | None = None
    """Of this package, where Pillow alone does not read it."""
    add_reader: Callable[[], None] | None = None
    """Brings what then reads it, if the extra is installed."""


def _add_heic() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)


def _add_jpeg_xl() -> None:
    import pillow_jxl  # noqa: F401 - it adds itself


FORMATS = (
    PictureFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), ("JPEG",)),
    PictureFormat("PNG", (".png", ".apng"), ("PNG",)),
    PictureFormat("WebP", (".webp",), ("WEBP",)),
    PictureFormat("AVIF", (".avif",), ("AVIF",)),
    PictureFormat(HEIC, (".heic", ".heif", ".hif"), ("HEIF",), "heic", _add_heic),
    PictureFormat(JPEG_XL, (".jxl",), ("JXL",), "jxl", _add_jpeg_xl),
    PictureFormat("TIFF", (".tif", ".tiff"), ("TIFF",)),
    PictureFormat("GIF", (".gif",), ("GIF",)),
    PictureFormat("BMP", (".bmp", ".dib"), ("BMP", "DIB")),
    PictureFormat("JPEG 2000", (".jp2", ".j2k", ".jpx"), ("JPEG2000",)),
    PictureFormat("Netpbm", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), ("PPM",)),
    PictureFormat("Photoshop", (".psd",), ("PSD",)),
    PictureFormat("QOI", (".qoi",), ("QOI",)),
    PictureFormat("PCX", (".pcx",), ("PCX",)),
    PictureFormat("SGI", (".sgi",), ("SGI",)),
    PictureFormat("DDS", (".dds",), ("DDS",)),
    PictureFormat("ICO", (".ico",), ("ICO",)),
    PictureFormat("TGA", (".tga",), ("TGA",)),
)
"""The commonest first; TGA, which nothing in a file gives away, last. What is not here is not opened: among Pillow's
other readers is one that starts a PostScript interpreter."""
PICTURE_ENDINGS = frozenset(ending for format in FORMATS for ending in format.endings)
CODES_IN_HEAD: dict[str, Callable[[bytes], Codes | None]] = {"PNG": png_codes, "AVIF": avif_codes}


def open_picture(path: Path | str) -> Image.Image:
    """A picture file as Pillow opens it, of a size that is taken, with what it tells of its colours.

    Raises:
        MediaError: no such file, no picture, or one of another size; the message says what to do.
    """
    path = require_file(path, "an image")
    if _holds(path, JPEG_XL):
        _check_jxl(path)
    try:
        image = Image.open(path, formats=_readable())
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} is too large; each side may have at most {MAX_SIDE_PX} px, scale it down first"
        ) from error
    except BROKEN as error:
        raise _refusal(path, error) from error
    check_size(image.size, str(path))
    _add_colours(image, path)
    return image


@contextlib.contextmanager
def pillow_heard(say: Say | None, name: str) -> Iterator[None]:
    """What Pillow warns of meanwhile is told in a user's words; of large pictures it need not warn.

    Args:
        say: None: its warnings stay Python's.
        name: what messages call the picture.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told: dict[str, None] = {}  # in their order, each once
    for warning in caught:
        if say and warning.category is UserWarning:
            told[" ".join(str(warning.message).split())] = None
        elif warning.category is not Image.DecompressionBombWarning:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if say and told:
        say(f"{name}: {' '.join(told)} Whether it should be turned, and its colours, may be lost with it")


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a picture, (width, height) px, that is too small or too large."""
    came = f"{name} is {size[0]}x{size[1]} px"
    if min(size) < MIN_SIDE_PX:
        raise ImageError(f"{came}; each side needs at least {MIN_SIDE_PX} px, use a larger picture")
    if max(size) > MAX_SIDE_PX:
        raise ImageError(f"{came}; each side may have at most {MAX_SIDE_PX} px, scale it down first")


def _check_jxl(path: Path) -> None:
    """Before its plugin opens it, which decodes it at once, however large it says that it is."""
    size = jxl_size(path.read_bytes())
    if size is None:
        raise _damaged(path)
    check_size(size, str(path))


@cache
def _readable() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here; readers from extras join it now."""
    return tuple(name for format in FORMATS if _has_reader(format) for name in format.pillow)


def _has_reader(format: PictureFormat) -> bool:
    if format.add_reader is None:
        return True
    try:
        format.add_reader()
    except ImportError:  # said when such a file comes
        return False
    return True


def _refusal(path: Path, error: Exception) -> ImageError:
    """What is wrong with a file that could not be opened."""
    for format in FORMATS:
        if format.extra and _holds(path, format.name):
            if format.pillow[0] not in _readable():
                return ImageError(
                    f"{path} is {format.name}, which needs the extra `{format.extra}`: pip install "
                    f"'openloopy[{format.extra}]', or save the picture as JPEG or PNG"
                )
            return _damaged(path)
    why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return ImageError(f"{path} is not a picture that can be read{why}; convert it to PNG or JPEG")


def _damaged(path: Path) -> ImageError:
    return ImageError(f"{path} is damaged or cut off; get the whole file or export it again")


def _holds(path: Path, name: str) -> bool:
    """Whether a file is of this format, by its first bytes."""
    kind = kind_of(path)
    return kind is not None and kind.name == {HEIC: "HEIF"}.get(name, name)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _add_colours(image: Image.Image, path: Path) -> None:
    """What the file tells of colours, and Pillow does not, into the picture's `info`."""
    codes = None
    if image.format in CODES_IN_HEAD:
        codes = CODES_IN_HEAD[image.format](_head(path))
    elif told := image.info.get("nclx_profile"):
        codes = told["color_primaries"], told["transfer_characteristics"]
    elif image.format == "JPEG2000" and (profile := jpeg2000_profile(_head(path))):
        image.info["icc_profile"] = profile
    elif image.format == "JXL" and not image.jpeg:
        # Its decoder has turned the picture upright, but left EXIF as it was.
        image.info.pop("exif", None)
    if codes:
        image.info[CODES] = codes
