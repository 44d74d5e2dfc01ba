"""Frames of high dynamic range (PQ, HLG) or with wide primaries become sRGB pictures, as a player shows them.

Sources: ITU-R BT.2100 (PQ, HLG and HLG's opto-optical transfer), BT.2408 (white at 203 cd/m2), BT.2390 section 5.4
(the knee that brings highlights into range), H.273 (codes). Up to 86 cd/m2, where skin lies, nothing is changed; from
there to the peak of 1000, brightness is pressed together, and hues stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from openloopy.media.icc import (
    HLG,
    HLG_SYSTEM_GAMMA,
    PQ,
    PQ_WHITE_NITS,
    PRIMARIES,
    SRGB_PRIMARIES,
    SRGB_TRANSFERS,
    TRANSFERS,
    UNSPECIFIED,
    hlg_scene,
    pq_nits,
    primaries_xyz,
)

WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Primaries (H.273, table 2) that are visibly other than sRGB's; those of old television are not."""
HIGH = {PQ: "PQ", HLG: "HLG"}
"""Transfers (H.273, table 3) of high dynamic range."""
PEAK_NITS = 1000.0
"""What is brighter is cut off: HLG's screen, and most films in PQ, go so far."""
LEVELS = 1 << 16
STRIP_ROWS = 64
"""Rows that are converted at once, so that the floats stay in the processor's cache."""
BT2020 = 9
LUMA_2020 = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
"""Luminance of linear BT.2020 (BT.2100, table 5)."""


def needs_conversion(primaries: int, transfer: int) -> bool:
    """Whether pictures with these codes are not sRGB as they are."""
    return primaries in WIDE or transfer in HIGH


def colour_names(primaries: int, transfer: int) -> str:
    """These codes in words; empty for the usual ones."""
    return ", ".join(name for name in (HIGH.get(transfer), WIDE.get(primaries)) if name)


def to_srgb(rgb: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """`H W 3` uint16 (full range) in the colours of the codes -> `H W 3` uint8 sRGB."""
    conversion = _conversion(primaries, transfer)
    picture = np.empty(rgb.shape, np.uint8)
    for first in range(0, len(rgb), STRIP_ROWS):
        rows = slice(first, first + STRIP_ROWS)
        picture[rows] = conversion(rgb[rows])
    return picture


def tone_mapped(light: np.ndarray) -> np.ndarray:
    """Light (white 1) up to the peak -> light in 0 to 1, by the knee of BT.2390, section 5.4.1.

    Black is not lifted (its step 4 left out), since sRGB's black is as dark as the source's.
    """
    peak = _pq_signal(np.float64(PEAK_NITS))
    signal = _pq_signal(np.minimum(light * PQ_WHITE_NITS, PEAK_NITS)) / peak
    most = _pq_signal(np.float64(PQ_WHITE_NITS)) / peak
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
    bent += (-2 * t**3 + 3 * t**2) * most
    return np.where(signal < knee, light, pq_nits(bent * peak) / PQ_WHITE_NITS)


@dataclass(frozen=True, eq=False)
class _Conversion:
    """Tables for the curves, so that a picture costs look-ups and one matrix."""

    to_light: np.ndarray
    """`65536` float32: numbers to light, white 1; of HLG to the light of the scene, 0 to 1."""
    matrix: np.ndarray
    """Light in the source's primaries to light in sRGB's, `3 3`."""
    is_hlg: bool
    gain: np.ndarray | None
    """`65536`: square root of the brightest primary, over that of the peak, to the factor that brings it into range;
    None: nothing is brighter than white."""

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        light = self.to_light[rgb]
        if self.is_hlg:
            light *= _hlg_gain(light)
        light = np.maximum(cv2.transform(light, self.matrix), 0)
        if self.gain is not None:
            light *= self.gain[_index(_brightest(light) * (PQ_WHITE_NITS / PEAK_NITS))][..., None]
        return _to_numbers()[_index(light)]


@lru_cache(maxsize=4)
def _conversion(primaries: int, transfer: int) -> _Conversion:
    numbers = np.linspace(0, 1, LEVELS)
    is_high = transfer in HIGH
    # High dynamic range has no other primaries, whatever a file leaves out.
    source = BT2020 if is_high and primaries == UNSPECIFIED else primaries
    return _Conversion(
        to_light=_light(numbers, transfer).astype(np.float32),
        matrix=_matrix(source).astype(np.float32),
        is_hlg=transfer == HLG,
        gain=_gains() if is_high else None,
    )


def _light(numbers: np.ndarray, transfer: int) -> np.ndarray:
    if transfer == HLG:
        return hlg_scene(numbers)
    if transfer == PQ:
        return pq_nits(numbers) / PQ_WHITE_NITS
    return TRANSFERS.get(transfer, TRANSFERS[min(SRGB_TRANSFERS)])(numbers)


def _matrix(primaries: int) -> np.ndarray:
    ours = primaries_xyz(PRIMARIES[SRGB_PRIMARIES])
    theirs = primaries_xyz(PRIMARIES.get(primaries, PRIMARIES[SRGB_PRIMARIES]))
    return np.linalg.solve(ours, theirs)


def _hlg_gain(scene: np.ndarray) -> np.ndarray:
    """Light of a screen of 1000 cd/m2 over that of the scene (BT.2100, table 5), `H W 1`."""
    luminance = cv2.transform(scene, LUMA_2020)
    return (cv2.pow(luminance, HLG_SYSTEM_GAMMA - 1) * (PEAK_NITS / PQ_WHITE_NITS))[..., None]


def _brightest(light: np.ndarray) -> np.ndarray:
    """The largest of three primaries, `H W`; NumPy takes ten times as long for it."""
    red, green, blue = (cv2.extractChannel(light, i) for i in range(3))
    return cv2.max(cv2.max(red, green), blue)


def _gains() -> np.ndarray:
    """Factors for the square roots of 0 to the peak; black is black whatever it is multiplied with."""
    light = np.linspace(0, 1, LEVELS)[1:] ** 2 * (PEAK_NITS / PQ_WHITE_NITS)
    return np.append(1, tone_mapped(light) / light).astype(np.float32)


def _index(light: np.ndarray) -> np.ndarray:
    """Where a value of 0 to 1 lies in a table over square roots, whose steps are fine in the dark."""
    return (np.sqrt(np.minimum(light, 1)) * (LEVELS - 1) + 0.5).astype(np.uint16)


@lru_cache(maxsize=1)
def _to_numbers() -> np.ndarray:
    """`65536` uint8: square roots of light to numbers of sRGB (IEC 61966-2-1)."""
    light = np.linspace(0, 1, LEVELS) ** 2
    numbers = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * numbers).astype(np.uint8)


def _pq_signal(nits: np.ndarray) -> np.ndarray:
    """The inverse of `pq_nits` (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (np.maximum(nits, 0) / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2
