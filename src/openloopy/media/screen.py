"""Decoded frames as a screen shows them: sRGB, square pixels, upright. And which stream of a file is the film.

Source: ours. Numbers are read in the range and by the matrix that the frame states, by FFmpeg; what a file leaves out
is guessed as players do (mpv, `mp_csp_mix`). Everybody who decodes video of users decodes it through here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition

from openloopy.media.files import MediaError
from openloopy.media.icc import UNSPECIFIED
from openloopy.media.wide_colour import colour_names, needs_conversion, to_srgb

SQUARE = Fraction(1)
NEARLY_SQUARE = Fraction(1, 100)
"""By so much pixels may be wider than high and be left as they are: nobody sees it, and resampling blurs."""
MAX_ASPECT = 4
"""Pixels that a header makes wider or narrower than this are a mistake of the header."""
MAX_SD_LINES, MIN_HD_COLUMNS = 576, 1280
"""Untagged pictures with more lines, or as many columns, are coded by BT.709, smaller ones by BT.601."""
BT709_MATRIX = 1


@dataclass(frozen=True)
class Look:
    """What a file says of a frame beside its numbers."""

    pixel_aspect: Fraction = SQUARE
    """Width of a pixel over its height, as the frame is stored."""
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    """Codes of H.273."""

    @property
    def is_square(self) -> bool:
        return abs(self.pixel_aspect - 1) <= NEARLY_SQUARE

    @property
    def colours(self) -> str:
        """In words, where they are not the usual ones."""
        return colour_names(self.primaries, self.transfer)

    def stored_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height with square pixels, before the frame is turned: the shorter side is lengthened."""
        if self.is_square:
            return width, height
        if not 1 / MAX_ASPECT <= self.pixel_aspect <= MAX_ASPECT:
            raise MediaError(
                f"the file says that its pixels are {float(self.pixel_aspect):.3g} times as wide as high; expected "
                f"1/{MAX_ASPECT} to {MAX_ASPECT}: correct its sample aspect ratio"
            )
        if self.pixel_aspect > 1:
            return _even(width * self.pixel_aspect), height
        return width, _even(height / self.pixel_aspect)


class StreamLook:
    """The look of a stream's frames as they come; it may change on the way, as in recordings of television."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._stream = stream
        self._first: Fraction | None = None

    def now(self) -> Look:
        """The look of the frame that was decoded last."""
        context = self._stream.codec_context
        coded = context.sample_aspect_ratio
        if self._first is None:
            self._first = coded
        # What the container says counts, until the pictures themselves change their mind.
        aspect = self._stream.sample_aspect_ratio if coded == self._first else coded
        return Look(aspect or coded or SQUARE, int(context.color_primaries), int(context.color_trc))


def film_of(container: av.container.InputContainer) -> av.VideoStream | None:
    """The stream with the moving pictures: not the cover that music and some films carry; of several, FFmpeg's best."""
    films = [
        stream
        for stream in container.streams.video
        # one without a codec is of a kind that FFmpeg does not know
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    best = container.streams.best("video")
    return best if best in films else next(iter(films), None)


def shown(frame: av.VideoFrame, look: Look) -> np.ndarray:
    """A frame as a player shows it: `H W 3` uint8 sRGB, square pixels, upright."""
    _guess_matrix(frame)
    is_wide = needs_conversion(look.primaries, look.transfer)
    form = "rgb48le" if is_wide else "rgb24"
    size = look.stored_size(frame.width, frame.height)
    if size != (frame.width, frame.height):
        frame_rgb = frame.reformat(*size, format=form, interpolation="BICUBIC").to_ndarray()
    else:
        frame_rgb = frame.to_ndarray(format=form)
    rgb = to_srgb(frame_rgb, look.primaries, look.transfer) if is_wide else frame_rgb
    return _upright(rgb, frame.rotation)


def shown_size(frame: av.VideoFrame, look: Look) -> tuple[int, int]:
    """Width and height of what `shown` gives."""
    width, height = look.stored_size(frame.width, frame.height)
    return (height, width) if frame.rotation % 180 else (width, height)


def _guess_matrix(frame: av.VideoFrame) -> None:
    """FFmpeg takes whatever is untagged for BT.601, the matrix of small pictures."""
    is_large = frame.height > MAX_SD_LINES or frame.width >= MIN_HD_COLUMNS
    if is_large and frame.colorspace == UNSPECIFIED and not frame.format.is_rgb:
        frame.colorspace = BT709_MATRIX


def _upright(picture: np.ndarray, rotation_degrees: int) -> np.ndarray:
    """Turn counter-clockwise as the container's display matrix asks (FFmpeg's sign)."""
    return np.ascontiguousarray(np.rot90(picture, rotation_degrees // 90)) if rotation_degrees else picture


def _even(length: Fraction) -> int:
    return 2 * round(length / 2)
