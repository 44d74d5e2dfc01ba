"""Several reports as one table in the paper's form: a row per method, the best in bold, the second best underlined.

Means of different videos do not compare: where the reports, or their means, are not of the same ones, it says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from openloopy.apps.evaluation_notes import title_of
from openloopy.apps.evaluation_sets import OUTSIDE, SETS
from openloopy.apps.evaluation_tables import plain_cell, shares_text
from openloopy.measures.video_numbers import NUMBERS
from openloopy.media.text_file import expected, read_json

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


REPORT_EXPECTED = "a report of `openloopy evaluate`"


@dataclass(frozen=True)
class Entry:
    """One cell: a value, its interval where there is one, and which videos it lacks."""

    value: float
    low: float | None = None
    high: float | None = None
    share: str = ""
    """"11 of 12" where some videos are left out."""

    def __str__(self) -> str:
        text = f"{self.value:.4g}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{text} ({self.share})" if self.share else text


def compare(paths: Sequence[Path]) -> str:
    """A Markdown table of reports (`report.json` or the folders that hold them).

    Columns that no report has a value for are left out and named below the table. "Better" is higher, lower, or nearer
    to the real videos' value, which is the last row (that of the first report). Methods whose 95 % intervals overlap
    that of the best are marked as best too: the sets do not tell them apart. A value that is not of all videos of its
    report says of how many; videos that the reports do not share are named below.
    """
    found = [read_report(path) for path in paths]
    with expected(" or ".join(map(str, paths)), REPORT_EXPECTED):
        return _table(found)


def _table(found: Sequence[dict[str, Any]]) -> str:
    reports = dict(zip(_distinct([str(report["name"]) for report in found]), found, strict=True))
    rows = {name: _entries(report, "generated") for name, report in reports.items()}
    real = _entries(found[0], "real")
    columns = [column for column in COLUMNS if any(column in row for row in rows.values())]
    lines = ["| method | " + " | ".join(_title(column) for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    marks = {column: _marks(column, rows, real) for column in columns}
    for name, row in rows.items():
        cells = [_marked(row.get(column), marks[column].get(name, "")) for column in columns]
        lines.append(f"| {plain_cell(name)} | " + " | ".join(cells) + " |")
    lines.append("| real videos | " + " | ".join(str(real.get(c, "")) for c in columns) + " |")
    missing = [column for column in COLUMNS if column not in columns]
    counts = ", ".join(f"{plain_cell(name)}: {len(r['videos'])}" for name, r in reports.items())
    lines += [
        "",
        f"Videos: {counts}; a value of fewer says of how many. Bold: best; underlined: second best; arrows: what is "
        "better, = nearer to real.",
    ]
    lines += [f"Without values in any report: {', '.join(missing)}."] if missing else []
    lines += [f"\n**Warning**: {plain_cell(warning)}." for warning in _warnings(reports, columns)]
    return "\n".join(lines) + "\n"


def read_report(path: Path) -> dict[str, Any]:
    """A report of `apps.evaluate`."""
    file = path / "report.json" if path.is_dir() else path
    report = read_json(file, REPORT_EXPECTED, allows_nan=True)
    if not isinstance(report, dict) or not {"name", "numbers", "outside", "sets", "videos"} <= report.keys():
        raise ValueError(
            f"{file} is no report of `openloopy evaluate`; give its folder, or the report.json in it"
        )
    return report


def direction(column: str) -> str:
    """higher, lower, truth or none."""
    return NUMBERS[column].better if column in NUMBERS else {**OUTSIDE, **SETS}[column]


def _entries(report: dict[str, Any], side: str) -> dict[str, Entry]:
    entries = {column: _entry(report, column, side) for column in COLUMNS}
    return {column: entry for column, entry in entries.items() if entry is not None}


def _entry(report: dict[str, Any], column: str, side: str) -> Entry | None:
    kind = COLUMNS[column]
    if kind == "number":
        sides = report["numbers"].get(column, {})
        side = "pair" if side == "generated" and side not in sides else side
        summary = sides.get(side)
        if summary is None or not math.isfinite(summary["mean"]):
            return None
        share = _share({side: summary["num_videos"]}, report)
        return Entry(summary["mean"], summary["low"], summary["high"], share)
    value = report["outside" if kind == "outside" else "sets"].get(column) if side == "generated" else None
    if not isinstance(value, float | int) or not math.isfinite(value):
        return None
    return Entry(float(value), share=_share(report.get("used", {}).get(column, {}), report))


def _share(used: Mapping[str, int], report: Mapping[str, Any]) -> str:
    """Of how many videos a value is, by side; empty where it is of all. Reports of version 2 do not say how many."""
    cases = report.get("cases", {})
    counts = [(count, cases.get(side, len(report["videos"]))) for side, count in used.items()]
    return "" if all(count == num_cases for count, num_cases in counts) else shares_text(counts)


def _warnings(reports: Mapping[str, dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """What keeps the rows from being comparable."""
    warnings = []
    versions = {name: report.get("version") for name, report in reports.items()}
    if len(set(versions.values())) > 1:
        listed = ", ".join(f"{name}: {version}" for name, version in versions.items())
        warnings.append(f"the reports are of different versions ({listed}); evaluate again to compare")
    videos = {name: {row["name"] for row in report["videos"]} for name, report in reports.items()}
    if lacking := _lacking(videos):
        warnings.append(f"the reports are not of the same videos: {lacking}")
    by_text: dict[str, list[str]] = {}
    for column in columns:
        used = {name: _used(report, column) for name, report in reports.items() if _has(report, column)}
        shared = set.intersection(*(videos[name] for name in used))
        # Those of one report alone were named above.
        if lacking := _lacking({name: {v for v in found if v in shared} for name, found in used.items()}):
            by_text.setdefault(lacking, []).append(title_of(column))
    warnings += [
        f"not of the same videos are {'; '.join(titles)}: {text}" for text, titles in by_text.items()
    ]
    return warnings + _other_truth(reports)


def _lacking(videos: Mapping[str, set[str]]) -> str:
    """Which videos of the others each report lacks; empty where all have the same."""
    every = set().union(*videos.values())
    lacking = {name: sorted(every - found) for name, found in videos.items() if every - found}
    return "; ".join(f"{name} lacks {len(v)} of {len(every)} ({', '.join(v)})" for name, v in lacking.items())


def _has(report: dict[str, Any], column: str) -> bool:
    return _entry(report, column, "generated") is not None


def _used(report: dict[str, Any], column: str) -> set[str]:
    """The generated videos that a value comes from."""
    names = {row["name"] for row in report["videos"]}
    if COLUMNS[column] == "number":
        sides = report["numbers"][column]
        side = "generated" if "generated" in sides else "pair"
        return {row["name"] for row in report["videos"] if column in row.get(side, {})}
    return names - set(report.get("left_out", {}).get(column, {}).get("generated", {}))


def _other_truth(reports: Mapping[str, dict[str, Any]]) -> list[str]:
    """Reports whose real videos are others than those of the first, by the files' hashes."""
    (first, *others), truths = reports, {name: _real_files(report) for name, report in reports.items()}
    warnings = []
    for other in others:
        shared = truths[first].keys() & truths[other].keys()
        different = sorted(name for name in shared if truths[first][name] != truths[other][name])
        if different:
            warnings.append(
                f"the real videos of {other} are others than those of {first}: {len(different)} of {len(shared)} "
                f"({', '.join(different)})"
            )
    return warnings


def _real_files(report: Mapping[str, Any]) -> dict[str, str]:
    """By video; reports of version 2 do not say."""
    files = {row["name"]: row.get("files", {}).get("real") for row in report["videos"]}
    return {name: key for name, key in files.items() if key is not None}


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
    """Names that are told twice get numbers, none of which is another one's name."""
    distinct: list[str] = []
    for i, name in enumerate(names):
        free = (f"{name} ({k})" for k in count(i + 1))
        taken = {*names, *distinct}
        distinct.append(name if names.count(name) == 1 else next(text for text in free if text not in taken))
    return distinct
