"""Lengths of time as people say them."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """Such as "0.48 s", "12.3 s", "2 min 5 s" or "6 h 15 min"; no more than two parts."""
    if seconds < 59.95:
        return f"{round(seconds, 2 if seconds < 10 else 1):g} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, rest_min = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest_min} min"
