"""ICC profiles of colour spaces that are known by their numbers: Adobe RGB, those of PNG, HEIC and AVIF.

Sources: ICC.1:2001-04 (profiles of version 2.4); ITU-T H.273 (codes, primaries, transfer characteristics);
IEC 61966-2-1 (sRGB); ITU-R BT.2100 (PQ, HLG) and BT.2408 (how bright white is in them).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

D50_XYZ = (0.9642, 1.0, 0.8249)
"""The white of every profile."""
D65_XY = (0.3127, 0.329)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""XYZ to the cone responses in which one white is turned into another."""
CURVE_POINTS = 4096
PQ_WHITE_NITS, PQ_PEAK_NITS = 203, 10_000
HLG_WHITE = 0.75
"""The signal that shows white; its display at 1000 cd/m2 shows it at 203, as PQ does."""
HLG_SYSTEM_GAMMA = 1.2

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue: the order of a PNG's chunk cHRM."""
Curve = Callable[[np.ndarray], np.ndarray]
"""Numbers in 0 to 1 -> light, where white is 1."""


@dataclass(frozen=True)
class ColourSpace:
    """Which colours the primaries are, and how numbers become light."""

    chromaticities: Chromaticities
    to_light: Curve

    def profile(self, *, is_grey: bool) -> bytes:
        """As an ICC profile, of grey pictures or of coloured ones.

        Raises:
            ValueError: primaries that span no colours, or a curve that is none.
        """
        tags = {b"wtpt": _xyz(D50_XYZ)}
        curve = _curve(self.to_light)
        if is_grey:
            return _profile(b"GRAY", tags | {b"kTRC": curve})
        columns = primaries_xyz(self.chromaticities).T
        tags |= {
            name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
        }
        return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def power(exponent: float) -> Curve:
    """Light = number ** exponent.

    Raises:
        ValueError: an exponent that no picture has.
    """
    if not 0.1 <= exponent <= 10:
        raise ValueError(f"a gamma of {exponent:.3g}")
    return lambda numbers: numbers**exponent


def srgb_curve(numbers: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def pq_nits(numbers: np.ndarray) -> np.ndarray:
    """BT.2100, table 4: what a screen shows, cd/m2."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = numbers ** (1 / m2)
    return PQ_PEAK_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def pq_curve(numbers: np.ndarray) -> np.ndarray:
    """PQ as light; what is brighter than white is cut off."""
    return np.minimum(pq_nits(numbers) / PQ_WHITE_NITS, 1)


def hlg_scene(numbers: np.ndarray) -> np.ndarray:
    """BT.2100, table 5: the light that a camera saw, at most 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(numbers <= 0.5, numbers**2 / 3, (np.exp((numbers - c) / a) + b) / 12)


def hlg_curve(numbers: np.ndarray) -> np.ndarray:
    """HLG as light, its system gamma for each primary alone; what is brighter than white is cut off."""
    return np.minimum((hlg_scene(numbers) / hlg_scene(np.array(HLG_WHITE))) ** HLG_SYSTEM_GAMMA, 1)


BT709 = (*D65_XY, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB = ColourSpace((*D65_XY, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), power(563 / 256))
"""Adobe RGB (1998), May 2005, section 4.3."""
PRIMARIES: dict[int, Chromaticities] = {
    1: BT709,
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65_XY, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65_XY, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65_XY, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*D65_XY, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65_XY, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*D65_XY, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}
"""H.273, table 2, without what no picture is stored in."""
UNSPECIFIED, SRGB_PRIMARIES = 2, 1
SRGB_TRANSFERS = frozenset({1, 6, 13, 14, 15})
"""sRGB's own, and BT.709's in its forms: those tell how a camera coded, and screens show both alike."""
PQ, HLG = 16, 18
HDR_TRANSFERS = frozenset({PQ, HLG})
TRANSFERS: dict[int, Curve] = {
    4: power(2.2),
    5: power(2.8),
    8: power(1),
    PQ: pq_curve,
    HLG: hlg_curve,
} | dict.fromkeys(SRGB_TRANSFERS, srgb_curve)
"""H.273, table 3, likewise."""


def coded_space(primaries: int, transfer: int) -> ColourSpace | None:
    """The colour space of codes; None for sRGB, which is also what is not specified.

    Raises:
        ValueError: codes that are not known.
    """
    primaries = SRGB_PRIMARIES if primaries == UNSPECIFIED else primaries
    transfer = min(SRGB_TRANSFERS) if transfer == UNSPECIFIED else transfer
    if primaries == SRGB_PRIMARIES and transfer in SRGB_TRANSFERS:
        return None
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        raise ValueError(f"codes {primaries} and {transfer} of H.273 are not known here")
    return ColourSpace(PRIMARIES[primaries], TRANSFERS[transfer])


def primaries_xyz(chromaticities: Chromaticities) -> np.ndarray:
    """XYZ of red, green and blue as columns, which add up to the white of profiles."""
    points = np.array(chromaticities, float).reshape(4, 2)
    if not (points[:, 1] > 0).all():
        raise ValueError(f"primaries that are no colours ({chromaticities})")
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in points)
    matrix = np.stack(primaries, axis=1)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise ValueError(f"primaries in one line ({chromaticities})")
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = (BRADFORD @ D50_XYZ) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ (cones[:, None] * (BRADFORD @ matrix))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """ICC.1:2001-04, clause 6: header, table of tags, tags."""
    header_bytes, at = 128, 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    rest = b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50_XYZ))
    header = (
        struct.pack(">I4sI4s4s4s12x", at + len(body), bytes(4), 0x02400000, b"mntr", space, b"XYZ ") + rest
    )
    return header.ljust(header_bytes, b"\0") + table + body


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    fixed = [round(float(v) * 65536) for v in values]
    if max(map(abs, fixed)) >= 1 << 31:
        raise ValueError("primaries out of all bounds")
    return b"XYZ " + bytes(4) + struct.pack(">3i", *fixed)


def _curve(to_light: Curve) -> bytes:
    levels = np.clip(to_light(np.linspace(0, 1, CURVE_POINTS)), 0, 1)
    numbers = np.rint(levels * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", CURVE_POINTS) + numbers.tobytes()
