"""An evaluation as one HTML page: tables, and for each number the generated videos against the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from openloopy.apps.evaluation_tables import N_MEANS, num_videos_text, used_of_number, used_of_set
from openloopy.data.plots import histogram, number
from openloopy.data.report import histogram_of
from openloopy.data.report_page import POLICY, STYLE, plain
from openloopy.measures.paper_tables import COLUMNS, TABLES
from openloopy.measures.video_numbers import NUMBERS


def evaluation_page(report: dict[str, Any]) -> str:
    """The page for the report of `apps.evaluate.evaluate`; it needs nothing but itself."""
    sections = [
        f"<h1>{_html(report['name'])}</h1><p>{num_videos_text(report)}, {_html(report['date'])}, "
        f"OpenLoopy {_html(report['openloopy'])}</p>",
        _section("Numbers", _numbers(report)),
        _section("Between the sets", _values("sets", report)),
        _section("Networks from outside", _values("outside", report)),
        _section("Video by video", _plots(report)),
        _section("What the paper reports", "".join(_paper(name) for name in TABLES)),
        _section("Notes", "".join(f"<p>{_html(note)}</p>" for note in report["notes"]) or "<p>none</p>"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {_html(report['name'])}</title><style>{STYLE}</style></head>\n"
        f"<body>{chr(10).join(sections)}</body></html>\n"
    )


def _numbers(report: dict[str, Any]) -> str:
    rows = []
    for name, sides in report["numbers"].items():
        ours = sides.get("pair") or sides.get("generated")
        cells = [
            NUMBERS[name].title,
            _mean(ours),
            _mean(sides.get("real")),
            used_of_number(name, report),
            NUMBERS[name].better,
            NUMBERS[name].unit,
        ]
        rows.append(cells)
    table = _table(["measure", "generated", "real", "n", "better", "unit"], rows)
    return f"{table}<p>{_html(N_MEANS)}</p>"


def _mean(summary: dict[str, float] | None) -> str:
    if summary is None:
        return ""
    return f"{number(summary['mean'])} ({number(summary['low'])} to {number(summary['high'])})"


def _values(part: str, report: dict[str, Any]) -> str:
    rows = [
        [name, number(value) if isinstance(value, float) else value, used_of_set(name, report)]
        for name, value in report[part].items()
    ]
    return _table(["measure", "value", "n"], rows)


def _plots(report: dict[str, Any]) -> str:
    """Histograms: generated videos upwards, real ones downwards."""
    drawn = []
    for name, about in NUMBERS.items():
        sides = [
            [row[side][name] for row in report["videos"] if name in row.get(side, {})]
            for side in ("generated", "real")
        ]
        sides[0] = sides[0] or [r["pair"][name] for r in report["videos"] if name in r.get("pair", {})]
        if name != "num_frames" and sides[0]:
            axis = f"{about.title}, {about.unit}".rstrip(", ")
            plot = histogram(histogram_of(*sides) | {"thresholds": {}}, axis, "videos")
            drawn.append(f"<figure><figcaption>{_html(about.title)}</figcaption>{plot}</figure>")
    legend = "<p>Generated videos upwards, real ones downwards.</p>"
    return f'{legend}<div class="grid">{"".join(drawn)}</div>'


def _paper(name: str) -> str:
    rows = [
        [method, *(_paper_cell(row.get(column)) for column in COLUMNS)]
        for method, row in TABLES[name].items()
    ]
    return f"<h3>{_html(name)}</h3>" + _table(["method", *COLUMNS], rows)


def _paper_cell(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell.value:g}" if cell.is_certain else f"{cell.value:g} (not confirmed)"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_html(title)}</h2>{content}</section>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The column n stays on one line, in however narrow a window."""
    kinds = [' class="num"' if title == "n" else "" for title in titles]
    head = "".join(f"<th{kind}>{_html(title)}</th>" for kind, title in zip(kinds, titles, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_html(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html(text: object) -> str:
    return escape(plain(str(text)))
