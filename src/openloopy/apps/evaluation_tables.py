"""An evaluation as Markdown and CSV. Each mean stands beside the number of videos that it was computed from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openloopy.apps.evaluation_sets import OUTSIDE, SETS
from openloopy.data.report_page import plain
from openloopy.measures.video_numbers import NUMBERS

SIDES = ("generated", "real", "pair")
MARKUP = "\\`*[]|<>&"
"""What Markdown and HTML take for more than itself; _ inside of words is none of it."""
N_MEANS = "n: videos that a value was computed from, real ones after the stroke where they are not as many."
"""What tables say about their column n."""


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page."""
    lines = [f"# {plain_cell(report['name'])}", "", f"{num_videos_text(report)}, {report['date']}.", ""]
    lines += ["| measure | generated | real | n | better | unit |", "|---|---|---|---|---|---|"]
    lines += [_number_line(name, report) for name in report["numbers"]]
    for title, part, better in (
        ("Between the sets", "sets", SETS),
        ("Networks from outside", "outside", OUTSIDE),
    ):
        lines += ["", f"## {title}", "", "| measure | value | n | better |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {_value(value)} | {used_of_set(name, report)} | {better[name]} |"
            for name, value in report[part].items()
        ]
    lines += ["", "Means over videos with 95 % bootstrap intervals over videos. " + N_MEANS]
    lines += ["", *(f"- {plain_cell(note)}" for note in report["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def num_videos_text(report: Mapping[str, Any]) -> str:
    """How many generated videos could be measured."""
    return f"{share_text(len(report['videos']), report['cases']['generated'])} videos"


def used_of_number(name: str, report: Mapping[str, Any]) -> str:
    """From how many videos a number's means come: "12", "11 of 12", or "11 / 10 of 12" with the real ones."""
    sides = report["numbers"][name]
    own = "pair" if "pair" in sides else "generated"
    shown = [side for side in (own, "real") if side in sides]
    return shares_text((sides[side]["num_videos"], report["cases"][side]) for side in shown)


def used_of_set(name: str, report: Mapping[str, Any]) -> str:
    """The same for a measure of sets."""
    return shares_text((count, report["cases"][side]) for side, count in report["used"].get(name, {}).items())


def shares_text(counts: Iterable[tuple[int, int]]) -> str:
    """Counts of one or two sides, each of so many videos: "12", "11 of 12", "11 / 10 of 12", "11 of 12 / 9"."""
    counts = list(dict.fromkeys(counts))
    all_cases = {num_cases for _, num_cases in counts}
    if len(all_cases) == 1 and any(count != num_cases for count, num_cases in counts):
        return f"{' / '.join(str(count) for count, _ in counts)} of {all_cases.pop()}"
    return " / ".join(share_text(*count) for count in counts)


def share_text(count: int, num_cases: int) -> str:
    """ "12" where all are there, else "11 of 12"."""
    return str(count) if count == num_cases else f"{count} of {num_cases}"


def videos_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per video and side; what could not be had is empty."""
    lines = [
        [row["name"], row["category"], side, *(row[side].get(name, "") for name in NUMBERS)]
        for row in rows
        for side in SIDES
        if side in row
    ]
    return _csv(["name", "category", "side", *NUMBERS], lines)


def means_csv(report: Mapping[str, Any]) -> str:
    """One line per measure and side, with the number of videos that it comes from and that there are."""
    lines: list[list[Any]] = []
    for name, sides in report["numbers"].items():
        for side, summary in sides.items():
            found = [summary[key] for key in ("mean", "low", "high", "sd", "num_videos")]
            lines.append([name, side, *found, report["cases"][side]])
    for name, value in {**report["sets"], **report["outside"]}.items():
        if isinstance(value, float):
            for side, count in report["used"][name].items():
                lines.append([name, side, value, "", "", "", count, report["cases"][side]])
    return _csv(["measure", "side", "value", "low", "high", "sd", "num_videos", "num_cases"], lines)


def _csv(titles: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([titles, *lines])
    return _encodable(text.getvalue())


def _encodable(text: str) -> str:
    """Undecodable bytes of file names, which UTF-8 cannot hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain_cell(text: str) -> str:
    """Any text for a Markdown table or list: one line, and nothing in it is markup."""
    return "".join(f"\\{c}" if c in MARKUP else c for c in plain(text))


def _number_line(name: str, report: Mapping[str, Any]) -> str:
    number, sides = NUMBERS[name], report["numbers"][name]
    cells = [_mean(sides.get("pair") or sides.get("generated")), _mean(sides.get("real"))]
    return (
        f"| {number.title} | {cells[0]} | {cells[1]} | {used_of_number(name, report)} "
        f"| {number.better} | {number.unit} |"
    )


def _mean(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return ""
    return f"{summary['mean']:.4g} [{summary['low']:.4g}, {summary['high']:.4g}]"


def _value(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain_cell(value)
