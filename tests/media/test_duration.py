"""Lengths of time in words."""

from __future__ import annotations

import pytest

from openloopy.media.duration import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.48, "0.48 s"),
        (5.0, "5 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (22_500, "6 h 15 min"),
        (100_000, "27 h 47 min"),
    ],
)
def test_a_length_of_time_has_at_most_two_parts(seconds, words):
    assert in_words(seconds) == words
