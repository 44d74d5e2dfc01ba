"""High dynamic range and wide primaries: known levels, greys that stay grey, hues that stay."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.media.icc import pq_nits
from openloopy.media.wide_colour import (
    HLG,
    PEAK_NITS,
    PQ,
    STRIP_ROWS,
    WIDE,
    colour_names,
    needs_conversion,
    to_srgb,
    tone_mapped,
)

BT709, BT2020, DISPLAY_P3 = 1, 9, 12
PLAIN = 1


def level(number: float, primaries: int, transfer: int) -> int:
    """What a grey of this number, 0 to 1, becomes."""
    grey = np.full((1, 1, 3), round(number * 65535), np.uint16)
    (shown,) = to_srgb(grey, primaries, transfer)[0]
    assert np.ptp(shown) <= 1, f"a grey became {shown}"
    return int(shown[1])


def colour(rgb: tuple[float, float, float], primaries: int, transfer: int = PLAIN) -> list[int]:
    numbers = np.rint(np.array([[rgb]]) * 65535).astype(np.uint16)
    return to_srgb(numbers, primaries, transfer)[0, 0].tolist()


def test_pq_is_that_of_the_standard():
    """BT.2100 and BT.2408: 58 % of PQ are white at 203 cd/m2, 75 % are 1000."""
    assert pq_nits(np.array([0.0, 0.5081, 0.5807, 0.7518, 1.0])) == pytest.approx(
        [0, 100, 203, 1000, 10_000], rel=2e-3
    )


def test_white_is_white_and_the_peak_is_the_brightest():
    for white, transfer in ((0.75, HLG), (0.5807, PQ)):
        assert 222 <= level(white, BT2020, transfer) <= 236
    assert level(0.75, BT2020, HLG) == pytest.approx(level(0.5807, BT2020, PQ), abs=1)
    assert level(1.0, BT2020, HLG) == level(0.7518, BT2020, PQ) == level(1.0, BT2020, PQ) == 255
    assert level(0.0, BT2020, HLG) == level(0.0, BT2020, PQ) == 0


def test_levels_where_skin_lies_are_not_pressed_together():
    """HLG's signal 38 % shows 26 cd/m2 (BT.2408, table 1): an eighth of white, 100 of 255 in sRGB."""
    assert level(0.38, BT2020, HLG) == pytest.approx(100, abs=2)
    light = np.linspace(0, 0.4, 50)
    np.testing.assert_allclose(tone_mapped(light), light)


def test_tones_rise_without_a_step():
    light = np.linspace(0, PEAK_NITS / 203, 2000)
    steps = np.diff(tone_mapped(light))
    assert (steps > 0).all() and (np.diff(steps) < 1e-9).all()
    assert tone_mapped(light)[-1] == pytest.approx(1, abs=1e-6)


def test_wide_primaries_keep_greys_and_give_other_reds():
    for primaries in WIDE:
        for number in (0.0, 0.2, 0.5, 1.0):
            assert level(number, primaries, PLAIN) == pytest.approx(255 * number, abs=1)
    # sRGB's red written in Display P3 and in BT.2020 (CSS Color 4: P3's .9175 .2003 .1387).
    assert colour((0.9175, 0.2003, 0.1387), DISPLAY_P3) == pytest.approx([255, 0, 0], abs=2)
    assert colour((0.5, 0.4, 0.3), DISPLAY_P3)[0] > 128 > colour((0.5, 0.4, 0.3), DISPLAY_P3)[1]


def test_highlights_keep_their_hue():
    """What is brighter than the screen is dimmed as a whole; each primary alone would turn to yellow."""
    red, green, blue = colour((0.95, 0.8, 0.6), BT2020, HLG)
    assert red >= 250 and red > green + 20 > blue + 40


def test_rows_do_not_depend_on_strips():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 65536, (STRIP_ROWS + 3, 5, 3)).astype(np.uint16)
    whole = to_srgb(rgb, BT2020, HLG)
    rows = np.concatenate([to_srgb(rgb[i : i + 1], BT2020, HLG) for i in range(len(rgb))])
    assert (whole == rows).all() and whole.dtype == np.uint8


def test_codes_have_names():
    assert colour_names(BT2020, HLG) == "HLG, BT.2020" and colour_names(BT709, PLAIN) == ""
    assert needs_conversion(2, PQ) and needs_conversion(DISPLAY_P3, PLAIN) and not needs_conversion(5, 6)
    assert level(0.5, 2, PQ) == level(0.5, BT2020, PQ)
