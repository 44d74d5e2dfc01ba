"""Inline SVG for the report on footage: where the hours went, and how a measure is spread.

Source: ours. Pictures carry no colour of their own: the page's style sheet gives the classes `f0`..`f7`, `kept`,
`dropped`, `axis` and `limit` theirs, so that they follow the reader's light or dark mode. The viewBox is in CSS px
and narrow enough for a phone, where it is shown one to one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

BAR_WIDTH, BAR_HEIGHT = 96, 320
MIN_LABEL_PX = 13
"""A part of the bar that is lower than its label goes without one."""
GAP_PX = 1.5
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 34, 40
CHARACTER_PX, BOLD_CHARACTER_PX = 6.2, 7.0
"""Widths of an average character of 11 px, to keep text inside the picture."""


def number(value: float) -> str:
    """A number as people write it: four digits are enough, thousands get commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def stacked_bar(parts: Sequence[tuple[str, float, str]]) -> str:
    """A standing bar, the first part at the top.

    Args:
        parts: label, share of the whole in 0..1, class that gives the colour.
    """
    drawn, y = [], 0.0
    for label, share, colour in parts:
        height = share * BAR_HEIGHT
        drawn.append(_bar_part(label, (y, height), share, colour))
        y += height
    text = ", ".join(f"{label} {percent(share)}" for label, share, _ in parts)
    return _svg(BAR_WIDTH, BAR_HEIGHT, f"Hours by fate: {text}", drawn, "bar")


def percent(share: float) -> str:
    """A share of 0..1 in percent; what is there is never shown as 0, nor what is missing as all."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def histogram(measure: dict[str, Any], axis: str, counted: str = "spans") -> str:
    """Spans by value: kept ones upwards, dropped ones downwards, on one scale; thresholds as lines.

    Args:
        measure: an entry of the report's `measures`, with at least one bin.
        axis: what the values are, with their unit.
        counted: what there are several of.
    """
    edges = measure["edges"]
    kept, dropped = measure["kept"]["counts"], measure["dropped"]["counts"]
    scale = _Scale(edges[0], edges[-1], max(kept), max(dropped))
    drawn = [*_axes(scale, axis, counted)]
    drawn += _bars(scale, edges, kept, "kept")
    drawn += _bars(scale, edges, [-count for count in dropped], "dropped")
    drawn.append(_line((LEFT, scale.y(0)), (WIDTH - RIGHT, scale.y(0)), "axis"))
    drawn += [
        _limit(scale, side, value) for side, value in measure["thresholds"].items() if value is not None
    ]
    return _svg(WIDTH, HEIGHT, f"Histogram of {axis}", drawn, "histogram")


def ticks(low: float, high: float, at_most: int) -> list[float]:
    """Round numbers within low..high, in steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


class _Scale:
    """Values and counts to CSS px; counts of dropped spans are negative."""

    def __init__(self, low: float, high: float, most_kept: int, most_dropped: int) -> None:
        self.low, self.high = low, high
        self.top, self.bottom = most_kept, -most_dropped

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.low) / (self.high - self.low)

    def y(self, count: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.top - count) / max(self.top - self.bottom, 1)


def _bar_part(label: str, place: tuple[float, float], share: float, colour: str) -> str:
    y, height = place
    drawn = _rect((0, y), (44, max(height - GAP_PX, 0.5)), colour, f"{label}: {percent(share)}")
    if height >= MIN_LABEL_PX:
        drawn += _text((50, y + height / 2 + 4), percent(share), "start")
    return drawn


def _axes(scale: _Scale, axis: str, counted: str) -> list[str]:
    floor = HEIGHT - BOTTOM
    drawn = [_line((LEFT, TOP), (LEFT, floor), "axis"), _line((LEFT, floor), (WIDTH - RIGHT, floor), "axis")]
    for value in ticks(scale.low, scale.high, 5):
        drawn.append(_line((scale.x(value), floor), (scale.x(value), floor + 4), "axis"))
        drawn.append(_text((_inside(scale.x(value), number(value)), floor + 15), number(value), "middle"))
    for count in ticks(scale.bottom, scale.top, 5):
        if count == int(count):
            drawn.append(_line((LEFT - 4, scale.y(count)), (LEFT, scale.y(count)), "axis"))
            drawn.append(_text((LEFT - 7, scale.y(count) + 4), number(abs(count)), "end"))
    squeeze = f'textLength="{WIDTH - 8}" lengthAdjust="spacingAndGlyphs"'
    is_long = len(axis) * CHARACTER_PX > WIDTH
    drawn.append(_text((WIDTH / 2, HEIGHT - 6), axis, "middle", squeeze if is_long else ""))
    turn = f'transform="rotate(-90 11 {(TOP + floor) / 2:.1f})"'
    drawn.append(_text((11, (TOP + floor) / 2), f"number of {counted}", "middle", turn))
    return drawn


def _bars(scale: _Scale, edges: Sequence[float], counts: Sequence[int], colour: str) -> list[str]:
    drawn = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            y = min(scale.y(count), scale.y(0))
            size = (max(scale.x(high) - scale.x(low) - 0.5, 0.5), abs(scale.y(count) - scale.y(0)))
            title = f"{number(low)} to {number(high)}: {number(abs(count))} {colour}"
            drawn.append(_rect((scale.x(low), y), size, colour, title))
    return drawn


def _limit(scale: _Scale, side: str, value: float) -> str:
    """A threshold; one outside of the picture is drawn at its edge, with an arrow."""
    label = f"at least {number(value)}" if side == "min" else f"at most {number(value)}"
    if value < scale.low:
        label = f"\N{LEFTWARDS ARROW} {label}"
    elif value > scale.high:
        label = f"{label} \N{RIGHTWARDS ARROW}"
    x = scale.x(min(max(value, scale.low), scale.high))
    y = 12 if side == "min" else 25
    line = _line((x, y + 4), (x, HEIGHT - BOTTOM), "limit")
    return line + _text((_inside(x, label), y), label, "middle", 'class="limit"')


def _inside(x: float, label: str) -> float:
    """The middle of a label near x that does not leave the picture."""
    half = len(label) * BOLD_CHARACTER_PX / 2
    return min(max(x, half), WIDTH - half)


def _svg(width: int, height: int, label: str, drawn: Sequence[str], name: str) -> str:
    """Made narrower than its own shape, it loses its right side: the bar its labels."""
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" preserveAspectRatio="xMinYMin slice" role="img" '
        f'aria-label="{escape(label)}">{"".join(drawn)}</svg>'
    )


def _rect(at: tuple[float, float], size: tuple[float, float], colour: str, title: str) -> str:
    return (
        f'<rect class="{colour}" x="{at[0]:.1f}" y="{at[1]:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _line(start: tuple[float, float], stop: tuple[float, float], name: str) -> str:
    return f'<line class="{name}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{stop[0]:.1f}" y2="{stop[1]:.1f}"/>'


def _text(at: tuple[float, float], text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
