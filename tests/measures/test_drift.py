"""Colour drift on pictures whose colours are known."""

import numpy as np
import pytest

from openloopy.measures.drift import colour_drift, colours_of, mean_colours, relative_change


def _noise(seed: int = 0) -> np.ndarray:
    """A picture of many colours, `64 64 3` uint8."""
    return np.random.default_rng(seed).integers(60, 200, (64, 64, 3)).astype(np.uint8)


def _flat(value: int) -> np.ndarray:
    return np.full((16, 16, 3), value, np.uint8)


def test_equal_pictures_have_not_drifted():
    colours = colours_of(_noise())
    drift = colour_drift(colours, colours)
    assert (drift.colour, drift.saturation, drift.contrast) == (0, 0, 0)


def test_from_black_to_white_is_the_whole_range():
    assert colour_drift(colours_of(_flat(0)), colours_of(_flat(255))).colour == pytest.approx(1, abs=1e-3)


def test_grey_has_neither_saturation_nor_contrast_and_their_change_is_unknown():
    grey = colours_of(_flat(120))
    assert (grey.saturation, grey.contrast) == pytest.approx((0, 0), abs=0.05)
    assert np.isnan(relative_change(0.0, 1.0))


def test_halved_contrast_and_saturation_are_seen():
    picture = _noise()
    grey = picture.mean(-1, keepdims=True)
    faded = colour_drift(colours_of(picture), colours_of((grey + 0.5 * (picture - grey)).astype(np.uint8)))
    assert faded.saturation == pytest.approx(-0.5, abs=0.06)
    flatter = colour_drift(colours_of(picture), colours_of((130 + 0.5 * (picture - 130.0)).astype(np.uint8)))
    assert flatter.contrast == pytest.approx(-0.5, abs=0.06)
    assert flatter.colour < 0.03


def test_the_mean_of_pictures():
    mean = mean_colours([colours_of(_flat(0)), colours_of(_flat(255))])
    assert mean.lab == pytest.approx([50, 0, 0], abs=0.1)
    with pytest.raises(ValueError, match="at least one"):
        mean_colours([])
