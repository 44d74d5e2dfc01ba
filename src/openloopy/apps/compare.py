"""Several reports as one table in the paper's form: a row per method, the best in bold, the second best underlined."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openloopy.apps.evaluate import OUTSIDE, SETS
from openloopy.measures.video_numbers import NUMBERS

COLUMNS = {
    "IQA": "outside",
    "Sync-C": "outside",
    "Sync-D": "outside",
    "FVD-Res": "outside",
    "FVD-Inc": "outside",
    "FID": "outside",
    "Smooth": "outside",
    "glo": "number",
    "exp": "number",
    "E-FID": "outside",
    "d_glo": "number",
    "d_exp": "number",
    "lip_sync": "number",
    "lip_gap_r": "number",
    "closures": "number",
    "identity": "number",
    "sharpness": "number",
    "flicker": "number",
    "smooth_blend": "number",
    "colour_drift": "number",
    "blinks_per_minute": "number",
    "landmark expression distance": "set",
    "blink interval distance, s": "set",
}
"""The paper's columns in its order, then ours; where a report holds them."""


@dataclass(frozen=True)
class Entry:
    """One cell: a value, and its interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.3g}, {self.high:.3g}]"


def compare(paths: Sequence[Path]) -> str:
    """A Markdown table of reports (`report.json` or the folders that hold them).

    Columns that no report has a value for are left out and named below the table. "Better" is higher, lower, or nearer
    to the real videos' value, which is the last row (that of the first report). Methods whose 95 % intervals overlap
    that of the best are marked as best too: the sets do not tell them apart.
    """
    reports = [read_report(path) for path in paths]
    names = _distinct([report["name"] for report in reports])
    rows = {name: _entries(report, "generated") for name, report in zip(names, reports, strict=True)}
    real = _entries(reports[0], "real")
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = ["| method | " + " | ".join(_title(column) for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    marks = {column: _marks(column, rows, real) for column in columns}
    for name, row in rows.items():
        cells = [_marked(row.get(column), marks[column].get(name, "")) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("| real videos | " + " | ".join(str(real.get(c, "")) for c in columns) + " |")
    missing = [column for column in COLUMNS if column not in columns]
    counts = ", ".join(f"{name}: {len(r['videos'])}" for name, r in zip(names, reports, strict=True))
    lines += [
        "",
        f"Videos: {counts}. Bold: best; underlined: second best; arrows: what is better, = nearer to real.",
    ]
    lines += [f"Without values in any report: {', '.join(missing)}."] if missing else []
    return "\n".join(lines) + "\n"


def read_report(path: Path) -> dict[str, Any]:
    """A report of `apps.evaluate`."""
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no report of `openloopy evaluate` ({error})") from error
    if not isinstance(report, dict) or not {"name", "numbers", "outside", "sets", "videos"} <= report.keys():
        raise ValueError(
            f"{file} is no report of `openloopy evaluate`; give its folder, or the report.json in it"
        )
    return report


def direction(column: str) -> str:
    """higher, lower, truth or none."""
    return NUMBERS[column].better if column in NUMBERS else {**OUTSIDE, **SETS}[column]


def _entries(report: dict[str, Any], side: str) -> dict[str, Entry]:
    entries = {}
    for column, kind in COLUMNS.items():
        if kind == "number":
            sides = report["numbers"].get(column, {})
            summary = sides.get(side) or (sides.get("pair") if side == "generated" else None)
            if summary:
                entries[column] = Entry(summary["mean"], summary["low"], summary["high"])
        elif side == "generated":
            value = report["outside" if kind == "outside" else "sets"].get(column)
            if isinstance(value, float | int):
                entries[column] = Entry(float(value))
    return entries


def _marks(column: str, rows: dict[str, dict[str, Entry]], real: dict[str, Entry]) -> dict[str, str]:
    """`**` for the best and all that cannot be told from it, `<u>` for the next."""
    costs = {name: _cost(column, row[column], real) for name, row in rows.items() if column in row}
    costs = {name: cost for name, cost in costs.items() if math.isfinite(cost)}
    if len(costs) < 2:
        return {}
    order = sorted(costs, key=lambda name: costs[name])
    best = rows[order[0]][column]
    tied = [name for name in order if name == order[0] or _overlap(best, rows[name][column])]
    rest = [name for name in order if name not in tied]
    return dict.fromkeys(tied, "**") | ({rest[0]: "<u>"} if rest else {})


def _cost(column: str, entry: Entry, real: dict[str, Entry]) -> float:
    better = direction(column)
    if better == "truth":
        return abs(entry.value - real[column].value) if column in real else math.nan
    return {"higher": -entry.value, "lower": entry.value}.get(better, math.nan)


def _overlap(a: Entry, b: Entry) -> bool:
    if None in (a.low, a.high, b.low, b.high):
        return a.value == b.value
    return a.low <= b.high and b.low <= a.high


def _marked(entry: Entry | None, mark: str) -> str:
    if entry is None:
        return ""
    return f"{mark}{entry}{mark.replace('<', '</')}"


def _title(column: str) -> str:
    arrow = {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}", "truth": " =", "none": ""}[
        direction(column)
    ]
    return (NUMBERS[column].title if column in NUMBERS else column) + arrow


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that are told twice get numbers."""
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
