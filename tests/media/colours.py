"""Colours by the formulas of CSS Color 4, against which pictures that are read are held; and profiles that are tables.

The matrices are those of the specification's sample code (section 18), not derived as `openloopy.media.icc` does it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

P3_TO_XYZ = np.array(
    [
        [608311 / 1250200, 189793 / 714400, 198249 / 1000160],
        [35783 / 156275, 247089 / 357200, 198249 / 2500400],
        [0, 32229 / 714400, 5220557 / 5000800],
    ]
)
A98_TO_XYZ = np.array(
    [
        [573536 / 994567, 263643 / 1420810, 187206 / 994567],
        [591459 / 1989134, 6239551 / 9945670, 374412 / 4972835],
        [53769 / 1989134, 351524 / 4972835, 4929758 / 4972835],
    ]
)
PROPHOTO_TO_XYZ_D50 = np.array(
    [
        [0.79776664490064230, 0.13518129740053308, 0.03134773412839220],
        [0.28807482881940130, 0.71183523424187300, 0.00008993693872564],
        [0, 0, 0.82510460251046020],
    ]
)
D50_TO_D65 = np.array(
    [
        [0.955473421488075, -0.02309845494876471, 0.06325924320057072],
        [-0.0283697093338637, 1.0099953980813041, 0.021041441191917323],
        [0.012314014864481998, -0.020507649298898964, 1.330365926242124],
    ]
)
XYZ_TO_SRGB = np.array(
    [
        [12831 / 3959, -329 / 214, -1974 / 3959],
        [-851781 / 878810, 1648619 / 878810, 36519 / 878810],
        [705 / 12673, -2585 / 12673, 705 / 667],
    ]
)
LAB_WHITE_D50 = np.array([0.3457 / 0.3585, 1, (1 - 0.3457 - 0.3585) / 0.3585])

PROPHOTO_CHROMATICITIES = (0.3457, 0.3585, 0.734699, 0.265301, 0.159597, 0.840403, 0.036598, 0.000105)


def srgb_light(levels: np.ndarray) -> np.ndarray:
    """Light of levels in 0 to 1."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def srgb_levels(xyz: np.ndarray) -> np.ndarray:
    """XYZ (D65) as sRGB's levels of 0 to 255."""
    light = np.clip(XYZ_TO_SRGB @ xyz, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def from_p3(rgb: tuple[int, int, int]) -> np.ndarray:
    return srgb_levels(P3_TO_XYZ @ srgb_light(np.array(rgb) / 255))


def from_a98(rgb: tuple[int, int, int]) -> np.ndarray:
    return srgb_levels(A98_TO_XYZ @ (np.array(rgb) / 255) ** (563 / 256))


def from_prophoto(rgb: tuple[int, int, int]) -> np.ndarray:
    return srgb_levels(D50_TO_D65 @ PROPHOTO_TO_XYZ_D50 @ prophoto_light(np.array(rgb) / 255))


def from_lab(lab: tuple[float, float, float]) -> np.ndarray:
    """Of CIELAB with the white of D50."""
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * LAB_WHITE_D50
    return srgb_levels(D50_TO_D65 @ xyz)


def prophoto_light(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 16 / 512, levels / 16, levels**1.8)


def corner_profile(kind: bytes, space: bytes, lab_of: Callable[..., tuple[float, float, float]]) -> bytes:
    """An ICC profile that knows the colours of nothing and all of each channel, and lies evenly between them.

    Args:
        kind: b"prtr", b"mntr" or b"scnr".
        space: b"CMYK" or b"RGB ".
        lab_of: the channels, each 0 or 1 -> CIELAB.
    """
    channels = len(space.strip())
    table = b""
    for corner in range(2**channels):
        lab = lab_of(*((corner >> shift) & 1 for shift in reversed(range(channels))))
        table += bytes([round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)])
    line = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + identity + line * channels + table + line * 3
    lut += bytes(-len(lut) % 4)
    start = 128 + 4 + 2 * 12
    header = struct.pack(">I4sI4s4s4s12x", start + len(lut), bytes(4), 0x02400000, kind, space, b"Lab ")
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    place = struct.pack(">II", start, len(lut))  # one table for both intents
    return header.ljust(128, b"\0") + struct.pack(">I", 2) + b"A2B0" + place + b"A2B1" + place + lut
