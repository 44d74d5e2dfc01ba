"""An imperceptible mark in generated video: one bit, found again in the pictures alone. Ours.

One fixed pattern of about a grey level lies over every frame, stretched to the picture; so a smaller copy, or one of
another shape, still holds all of it. It stays where it is while the head moves. It tells people of good will that a
video was generated where tags and signatures were lost on the way. It is no secret (the pattern follows from `NAME`)
and no proof: who wants to remove it can, and who wants to put it on other pictures can too. It survives H.264 at crf 30
and half the size, both together; it does not survive cropping by more than a hundredth of the picture, padding,
mirroring or turning. benchmarks/mark.py measures that.

The pattern is a sum of waves of random phases. What a picture that does not know them scores is a weighted sum of the
cosines of 907 random angles, brought to deviation 1: nearly standard normal, and never above z more often than
exp(-z**2 / 2), whatever the picture (the mean of exp(t a cos(angle)) is I0(t a) <= exp(t**2 a**2 / 4)).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import NormalDist

import av
import cv2
import numpy as np

from openloopy.media.image import read_image
from openloopy.media.picture_file import PICTURE_ENDINGS
from openloopy.media.video import read_frames

NAME = b"openloopy mark 1"
"""All phases follow from it; another name is another mark."""
GRID_PX = 256
"""Side of the square that the pattern is defined on, and that pictures are brought to."""
BAND = (24, 34)
"""Waves per picture, from and to: coarser ones drown in what the picture shows, finer ones in compression."""
FALSE_ALARM_RATE = 1e-6
THRESHOLD = NormalDist().inv_cdf(1 - FALSE_ALARM_RATE)
"""Least score that counts as marked, 4.75."""
MAX_FRAMES = 250
"""Read of a video, from its beginning."""
STILL_ENDINGS = PICTURE_ENDINGS - {".gif"}
"""GIFs mostly are films, and read as such."""

STRENGTHS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.88)
"""In smooth places, grey levels (root mean square before rounding). Times `PEAK` below 1.5: no pixel of a smooth place
changes by more than one level, which is .4 of L* in CIELAB, where about 1 can just be told."""
PEAK = 1.7
"""Where the pattern is cut off, in its own standard deviations."""
GAIN_PER_LEVEL, MAX_GAIN = 1.6, 1.8
"""How much stronger the mark is per grey level of fine texture, which hides it; and at most."""
SMOOTH_LEVEL = 0.7
"""Fine texture up to which a place counts as smooth, grey levels."""
TRIAL_CRF = 33
"""H.264 codes a lone picture at this crf about as a video's at 30, where macroblock trees raise the quantiser."""
TRIAL_SCORE = 9.0
TRIAL_MAX_SIDE_PX = 960

TEXTURE_SIGMAS_PX = (1.2, 3.0)
"""Of the grid: texture is what is finer than the first, such as hair and canvas but not the shading of skin; its
deviation is taken over the second."""
TEXTURE_MARGIN_PX = 11
"""Of the grid: texture hides nothing in the flat places beside it, nor where the head uncovers them."""
WAVE_PX = (GRID_PX / (2 * math.pi * BAND[1]), GRID_PX / (2 * math.pi * BAND[0]))
"""Of the band's finest and coarsest wave: the period over two pi."""
DETAIL_SIGMAS_PX = (0.8 * WAVE_PX[0], 1.2 * WAVE_PX[1])
VARIANCE_SIGMA_PX = 0.3 * GRID_PX / BAND[0]
VARIANCE_FLOOR = 0.5**2
"""Squared grey levels. Keeps places that compression has emptied from counting most."""
SPECTRUM_SIGMA = 4.0
"""Waves per picture over which the picture's own spectrum is levelled."""


@dataclass(frozen=True)
class MarkFinding:
    """What was found.

    Attributes:
        score: standard deviations above what unmarked pictures score on average, which is 0.
        is_marked: the score reaches `THRESHOLD`.
        num_frames: how many frames were looked at.
    """

    score: float
    is_marked: bool
    num_frames: int


class Marker:
    """Adds the mark to the frames of one video.

    Its strength is chosen once: the least of `STRENGTHS` at which the first frame, at half its size and coded by H.264,
    would still show the mark well.
    """

    def __init__(self, first_frame: np.ndarray) -> None:
        """first_frame: `H W 3` uint8 RGB."""
        if first_frame.dtype != np.uint8 or first_frame.ndim != 3 or first_frame.shape[2] != 3:
            raise ValueError(
                f"expected a uint8 frame of shape (H, W, 3), got {first_frame.dtype} {first_frame.shape}"
            )
        self._gain = _gain(picture_on_grid(first_frame))
        last = len(STRENGTHS) - 1
        chosen = bisect_left(
            STRENGTHS, True, hi=last, key=lambda strength: self._holds(first_frame, strength)
        )
        self.strength = STRENGTHS[chosen]
        self._lighter, self._darker = self._pictures(first_frame.shape, self.strength)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The frame with the mark, `H W 3` uint8."""
        if frame.dtype != np.uint8 or frame.shape != self._lighter.shape:
            raise ValueError(
                f"expected a uint8 frame of shape {self._lighter.shape} like the first, got {frame.dtype} "
                f"{frame.shape}; every video needs a Marker of its own"
            )
        return cv2.subtract(cv2.add(frame, self._lighter), self._darker)

    def _holds(self, frame: np.ndarray, strength: float) -> bool:
        lighter, darker = self._pictures(frame.shape, strength)
        marked = cv2.subtract(cv2.add(frame, lighter), darker)
        waves = picture_waves(picture_on_grid(_coded_at_half(marked)))
        return correlation(waves, pattern_phasors()) >= TRIAL_SCORE

    def _pictures(self, shape: tuple[int, ...], strength: float) -> tuple[np.ndarray, np.ndarray]:
        """What to add and what to subtract, `H W 3` uint8."""
        size = shape[1], shape[0]
        pattern = np.clip(cv2.resize(_pattern(), size, interpolation=cv2.INTER_CUBIC), -PEAK, PEAK)
        levels = np.rint(strength * pattern * cv2.resize(self._gain, size))
        lighter, darker = (cv2.max(sign * levels, 0).astype(np.uint8) for sign in (1, -1))
        return cv2.merge([lighter] * 3), cv2.merge([darker] * 3)


def find_mark(path: Path | str) -> MarkFinding:
    """Look for the mark in a picture file or in the first `MAX_FRAMES` frames of a video.

    Raises:
        MediaError: a file that cannot be read.
    """
    if Path(path).suffix.lower() in STILL_ENDINGS:
        return _finding([read_image(path)])
    return _finding(islice(read_frames(path), MAX_FRAMES))


def score_frames(frames: Iterable[np.ndarray]) -> float:
    """How clearly frames of one video show the mark together: standard normal for unmarked ones.

    Args:
        frames: `H W 3` uint8 RGB each; their mean is looked at, so any number of them takes the same memory.
    """
    return _finding(frames).score


def picture_waves(grey: np.ndarray) -> np.ndarray:
    """Amplitudes and phases of the band's waves in a picture, with loud places and loud waves turned down.

    Where the picture itself varies it hides the pattern: each place counts by the inverse of its variance.

    Args:
        grey: grey levels on the grid, `GRID_PX GRID_PX` float32.

    Returns:
        `k` complex, one for each wave of the band.
    """
    detail = _smooth(grey, DETAIL_SIGMAS_PX[0]) - _smooth(grey, DETAIL_SIGMAS_PX[1])
    variance = _smooth(detail**2, VARIANCE_SIGMA_PX) + VARIANCE_FLOOR
    spectrum = np.fft.fft2(detail / variance)
    power = np.fft.ifftshift(_smooth(np.fft.fftshift(np.abs(spectrum) ** 2), SPECTRUM_SIGMA))
    band, power = spectrum[_band()], power[_band()]
    return np.divide(band, np.sqrt(power), out=np.zeros_like(band), where=power > 0)


def correlation(waves: np.ndarray, phasors: np.ndarray) -> float:
    """How well a picture's waves, `k` complex, agree with a pattern's, in standard deviations over all phases."""
    power = float((np.abs(waves) ** 2).sum())
    return float((waves * phasors.conj()).real.sum() / math.sqrt(power / 2)) if power else 0.0


@cache
def pattern_phasors(name: bytes = NAME) -> np.ndarray:
    """A pattern's phases as complex numbers of size 1, `k`; from a hash, which stays the same for ever."""
    num_waves = len(_band()[0])
    words = np.frombuffer(hashlib.shake_256(name).digest(8 * num_waves), "<u8")
    return np.exp(2j * np.pi * words / 2.0**64)


def picture_on_grid(frame: np.ndarray) -> np.ndarray:
    """`H W 3` or `H W` uint8 -> grey levels on the grid, `GRID_PX GRID_PX` float32."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
    return cv2.resize(grey.astype(np.float32), (GRID_PX, GRID_PX), interpolation=cv2.INTER_AREA)


def _finding(frames: Iterable[np.ndarray]) -> MarkFinding:
    total, num_frames = np.zeros((GRID_PX, GRID_PX), np.float32), 0
    for frame in frames:
        total += picture_on_grid(frame)
        num_frames += 1
    if num_frames == 0:
        raise ValueError("expected at least one frame to look for the mark in, got none")
    score = correlation(picture_waves(total / num_frames), pattern_phasors())
    return MarkFinding(score, score >= THRESHOLD, num_frames)


@cache
def _band() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, in a spectrum of the grid, of the band's waves; of each and its mirror image one."""
    waves = np.fft.fftfreq(GRID_PX, 1 / GRID_PX)
    length = np.hypot(waves[:, None], waves[None])
    return np.nonzero((length >= BAND[0]) & (length <= BAND[1]) & (waves[None] > 0))


@cache
def _pattern() -> np.ndarray:
    """The pattern on the grid, `GRID_PX GRID_PX` float32 with mean 0 and deviation 1."""
    spectrum = np.zeros((GRID_PX, GRID_PX), complex)
    spectrum[_band()] = pattern_phasors()
    pattern = np.fft.ifft2(spectrum).real
    return (pattern / pattern.std()).astype(np.float32)


def _gain(grey: np.ndarray) -> np.ndarray:
    """How strong the mark may be where a picture on the grid has texture, over flat places: from 1 to `MAX_GAIN`."""
    fine, wide = TEXTURE_SIGMAS_PX
    deviation = np.sqrt(_smooth((grey - _smooth(grey, fine)) ** 2, wide))
    inside = cv2.erode(deviation, np.ones((TEXTURE_MARGIN_PX, TEXTURE_MARGIN_PX), np.uint8))
    gain = 1 + GAIN_PER_LEVEL * (_smooth(inside, TEXTURE_MARGIN_PX / 2) - SMOOTH_LEVEL)
    return np.clip(gain, 1, MAX_GAIN)


def _smooth(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)


def _coded_at_half(frame: np.ndarray) -> np.ndarray:
    """What is left of a picture's brightness at half its size (or less) in H.264, `h w` uint8."""
    scale = min(0.5, TRIAL_MAX_SIDE_PX / max(frame.shape[:2]))
    height, width = (max(2, 2 * round(scale * side / 2)) for side in frame.shape[:2])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    picture = av.VideoFrame.from_ndarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), format="gray")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    encoder.options = {"crf": str(TRIAL_CRF), "preset": "veryfast", "x264-params": "mbtree=0"}
    packets = [*encoder.encode(picture.reformat(format="yuv420p")), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return decoded[0].to_ndarray(format="gray")
