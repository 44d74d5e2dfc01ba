"""The results of a study as one HTML page: for each dimension a bar for each method, overall and by category.

Source: Loopy (arXiv:2409.02634) shows its user study as such bars; the intervals are ours. The page looks as the report
on footage does, whose style sheet it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from openloopy.data.plots import percent
from openloopy.data.report_page import POLICY, STYLE, plain
from openloopy.measures.votes import group_title, kappa_text

WIDTH, ROW, BAR = 360, 26, 14
"""Of a plot and of what a method takes in it, px."""
LABEL, RIGHT, TOP, BOTTOM = 118, 50, 4, 18
MAX_LABEL_CHARACTERS = 15
NUM_COLOURS = 6
"""Methods with a colour of their own; the labels and the order say the same."""
RESULTS_STYLE = """
svg.shares { display: block; width: 100%; max-width: 480px; overflow: visible; }
.grid h4 { font-size: .9375rem; margin: 0; }
.whisker { stroke: var(--text); stroke-width: 1.5; } .grid-line { stroke: var(--line); }
svg text.muted { fill: var(--muted); } svg text.best { font-weight: 700; } td b { font-weight: 700; }
"""


def results_page(facts: Mapping[str, Any]) -> str:
    """The page for the facts of `measures.votes.study_table`."""
    sections = [_headline(facts), *(_group(facts, group) for group in facts["groups"]), _notes(facts)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Results of the study</title><style>{STYLE}{RESULTS_STYLE}</style></head>\n"
        f"<body>{chr(10).join(sections)}</body></html>\n"
    )


def shares_plot(label: str, dimension: Mapping[str, Any]) -> str:
    """Bars of the methods' shares with their intervals, 0 to 100 per cent, as inline SVG."""
    names = list(dimension["methods"])
    height = TOP + ROW * len(names) + BOTTOM
    drawn = [_grid(height - BOTTOM)]
    for i, name in enumerate(names):
        drawn.append(_bar(name, dimension["methods"][name], i, name in dimension["best"]))
    text = ", ".join(f"{name} {_share(option)}" for name, option in dimension["methods"].items())
    return (
        f'<svg class="shares" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{_html(f"{label}: {text}")}">{"".join(drawn)}</svg>'
    )


def _html(text: object) -> str:
    return escape(plain(str(text)))


def _share(option: Mapping[str, Any]) -> str:
    return "-" if option["share"] is None else percent(option["share"])


def _headline(facts: Mapping[str, Any]) -> str:
    raters = facts["raters"]
    return (
        "<header><h1>Which method is best?</h1>"
        f'<p class="headline">{facts["num_votes"]:,} votes on {facts["num_cases"]:,} cases, '
        f"{len(facts['methods'])} methods.</p>"
        f"<p>Raters: {raters['num']:,}, of whom complete, with {raters['votes_when_complete']:,} votes each: "
        f"{raters['num_complete']:,}. What the others gave counts too. Votes changed later, of which the last counts: "
        f"{facts['num_changed']:,}. Votes that say no difference: {facts['num_ties']:,}.</p></header>"
    )


def _group(facts: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    plots = [
        _panel(label, group["dimensions"][key], bool(facts["num_ties"]))
        for key, label in facts["dimensions"].items()
    ]
    return (
        f"<section><h2>{_html(group_title(group))}, {group['num_cases']:,} cases</h2>"
        f'<div class="grid">{"".join(plots)}</div></section>'
    )


def _panel(label: str, dimension: Mapping[str, Any], has_ties: bool) -> str:
    agreement = dimension["agreement"]
    ties = f", no difference {_share(dimension['no_difference'])}" if has_ties else ""
    return (
        f"<figure><h4>{_html(label)}</h4>{shares_plot(label, dimension)}<figcaption>{dimension['num_votes']:,} votes "
        f"of {dimension['num_raters']:,} raters{ties}; kappa {kappa_text(agreement['all_raters'])}, two or more "
        f"raters {kappa_text(agreement['two_or_more'])}</figcaption></figure>"
    )


def _grid(floor: float) -> str:
    lines = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _x(share)
        lines.append(
            f'<line class="grid-line" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{floor}"/>'
            f'<text class="muted" x="{x:.1f}" y="{floor + 13}" text-anchor="middle">{100 * share:.0f}</text>'
        )
    return "".join(lines)


def _bar(name: str, option: Mapping[str, Any], row: int, is_best: bool) -> str:
    y = TOP + ROW * row + (ROW - BAR) / 2
    middle, style = y + BAR / 2, ' class="best"' if is_best else ""
    label = _text(LABEL - 8, middle + 4, _shortened(name), f'text-anchor="end"{style}')
    value = _text(WIDTH, middle + 4, _share(option), f'text-anchor="end"{style}')
    if option["share"] is None:
        return label + value
    return (
        f"<g><title>{_html(_told(name, option))}</title>{label}"
        f'<rect class="f{row % NUM_COLOURS}" x="{LABEL}" y="{y:.1f}" width="{_x(option["share"]) - LABEL:.1f}" '
        f'height="{BAR}"/>{_whisker(option, middle)}{value}</g>'
    )


def _whisker(option: Mapping[str, Any], y: float) -> str:
    low, high = _x(option["low"]), _x(option["high"])
    path = f"M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 4:.1f}v8"
    return f'<path class="whisker" fill="none" d="{path}"/>'


def _told(name: str, option: Mapping[str, Any]) -> str:
    interval = f"{percent(option['low'])} to {percent(option['high'])}"
    return f"{name}: {option['votes']:,} votes, {percent(option['share'])}, interval {interval}"


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{_html(text)}</text>'


def _shortened(name: str) -> str:
    return (
        name
        if len(name) <= MAX_LABEL_CHARACTERS
        else name[: MAX_LABEL_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


def _x(share: float) -> float:
    return LABEL + (WIDTH - LABEL - RIGHT) * share


def _notes(facts: Mapping[str, Any]) -> str:
    bootstrap, votes = facts["bootstrap"], facts["raters"]["votes_of_each"]
    return (
        "<section><h2>How to read this</h2><p>Bars: share of the votes that name a method the best, per cent. Bold: "
        f"the most votes. Lines: {100 * bootstrap['level']:g} % interval, bootstrap over raters and cases, "
        f"{bootstrap['replicates']:,} times, seed {bootstrap['seed']}. It knows only the raters and cases that there "
        "are: with one of either it is too narrow, and for a method without a vote it is empty.</p>"
        "<p>Kappa: Fleiss' agreement of the raters, 0 as by chance, 1 in full, with the number of cases in brackets: "
        "those that all raters voted on, and those that at least two did. A dash: not defined.</p>"
        f"<p>Votes of each rater: {', '.join(f'{count:,}' for count in votes) or 'none'}.</p></section>"
    )
