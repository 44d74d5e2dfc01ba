"""The visible label: there, legible, small, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.media.label import Label


@pytest.mark.parametrize("size", [(512, 512), (1920, 1080), (360, 640), (64, 64)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_it_stands_out_and_leaves_the_rest_alone(size, level):
    frame = np.full((size[1], size[0], 3), level, np.uint8)
    label = Label(size)
    labelled = label(frame)
    rows, columns = label.place
    assert 0 <= rows.start < rows.stop <= size[1] and 0 <= columns.start < columns.stop <= size[0]
    strip = labelled[label.place].astype(int)
    assert strip.max() - np.median(strip) > 100  # white letters on a darker strip
    assert (strip.max(axis=2) > 200).mean() > 0.02
    labelled[label.place] = level
    assert np.array_equal(labelled, frame)
    assert (frame == level).all()  # it draws on a copy


def test_its_letters_are_a_twentieth_of_the_shorter_side():
    rows, _ = Label((1280, 720)).place
    assert 0.05 * 720 < rows.stop - rows.start < 0.12 * 720
