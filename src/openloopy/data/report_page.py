"""The report on footage as one HTML page: readable without a network, without scripts, on a phone, in the dark.

Source: ours. Colours: Okabe and Ito's set, which people with any colour vision tell apart; the order of the
parts, their labels and the direction of the bars say the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from openloopy.data.filters import DESCRIPTIONS
from openloopy.data.plots import histogram, number, percent, stacked_bar
from openloopy.data.verdicts import KEPT
from openloopy.media.video import FPS

MAX_STRIPS = 12
"""Pictures for each fate."""
MAX_ROWS = 500
"""Videos in the table."""
NUM_COLOURED = 6
"""Reasons with a colour of their own; the bar adds the others up."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses anything from elsewhere."""
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --muted: #57606a; --line: #d0d7de;
  --f0: #0072b2; --f1: #d55e00; --f2: #e69f00; --f3: #cc79a7; --f4: #009e73; --f5: #56b4e9; --f6: #f0e442;
  --f7: #8c959f; --dropped: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --text: #e6e8ea; --muted: #a3abb3; --line: #3d444d;
  --f7: #7d8590; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1200px; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 8px; } h2 { font-size: 1.2rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; margin: 24px 0 8px; } p { margin: 8px 0; max-width: 75ch; }
.headline { font-size: 1.2rem; } .muted, figcaption { color: var(--muted); }
nav a { display: inline-block; margin-right: 16px; } a { color: inherit; }
.fates { display: flex; gap: 16px; align-items: flex-start; }
svg.bar { flex: none; width: 96px; height: 320px; }
@media (max-width: 560px) { svg.bar { width: 44px; } }
.scroll { overflow-x: auto; min-width: 0; }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
th, td { padding: 4px 10px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.fate { white-space: nowrap; } td.name { overflow-wrap: anywhere; min-width: 9em; }
tr.sum td, tr.sum th { font-weight: 600; border-bottom: 0; }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border: 1px solid var(--muted); }
.grid { display: grid; gap: 24px 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
figure { margin: 0; } figcaption { font-size: .8125rem; } figcaption b { color: var(--text); }
.note { font-size: .8125rem; margin: 4px 0; }
figure img { display: block; width: 100%; height: auto; margin-bottom: 4px; }
svg.histogram { display: block; width: 100%; max-width: 480px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--text); }
.axis { stroke: var(--muted); } .limit { stroke: var(--text); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg text.limit { stroke: none; font-weight: 600; } .kept { fill: var(--f0); } .dropped { fill: var(--dropped); }
""" + "\n".join(f".f{i} {{ fill: var(--f{i}); background: var(--f{i}); }}" for i in range(NUM_COLOURED + 2))


def report_page(report: dict[str, Any], strips: Callable[[str], bytes | None]) -> str:
    """The page for a report of `data.report.build_report`.

    Args:
        strips: JPEG of a clip's frames side by side, by clip id; None where there is none.
    """
    parts = [
        _headline(report),
        _section("Where the hours went", "fates", _fates(report)),
        _section("Measures", "measures", _measures(report)),
        _section("Pictures", "pictures", _pictures(report, strips)),
        _section("Videos", "videos", _videos(report["videos"])),
        _section("Settings", "settings", _settings(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>What became of the footage</title><style>{STYLE}</style></head>\n"
        f"<body>{chr(10).join(parts)}</body></html>\n"
    )


def describe(measure: str) -> str:
    """A measure in words, with its unit behind a comma; one that is not known, by its name."""
    return DESCRIPTIONS.get(measure, measure)


def duration(num_frames: int) -> str:
    """Frames at 25 fps as hours, minutes or seconds, whichever reads best."""
    seconds = num_frames / FPS
    if seconds >= 3600:
        return f"{seconds / 3600:,.2f} h"
    if seconds >= 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s"


def frame_range(start: int, stop: int) -> str:
    """start (included) to stop (not included), in words."""
    if stop <= start:
        return "no frames"
    return f"frames {start} to {stop - 1} ({stop - start:,})"


def plain(text: str) -> str:
    """Text with everything escaped that does not print: control characters, undecodable bytes of file names."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _html(text: object) -> str:
    return escape(plain(str(text)))


def _section(title: str, name: str, content: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{content}</section>'


def _headline(report: dict[str, Any]) -> str:
    frames, clips, people = report["frames"], report["clips"], report["people"]
    num_reasons = sum(fate["name"] != KEPT for fate in report["fates"])
    names = ("fates", "measures", "pictures", "videos", "settings")
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in names)
    return (
        "<header><h1>What became of the footage</h1>"
        f'<p class="headline">{duration(frames["in"])} of video in {_count(report["num_videos"], "file")}: '
        f"<b>{duration(frames['kept'])} kept</b> ({_share(frames['kept'], frames['in'])}), "
        f"{duration(frames['dropped'])} dropped for {_count(num_reasons, 'reason')}.</p>"
        f"<p>To the frame, at {report['fps']} per second: {frames['in']:,} in = {frames['kept']:,} kept + "
        f"{frames['dropped']:,} dropped. Kept are {_count(clips['kept'], 'clip')} from "
        f"{_count(report['num_videos_with_clips'], 'file')}, of {_count(people['kept'], 'person', 'people')} "
        f"out of {people['in']:,}.{_overlap(frames['kept'], clips['kept_frames'])}</p>"
        f"<nav>{links}</nav></header>"
    )


def _overlap(kept: int, in_clips: int) -> str:
    if in_clips == kept:
        return ""
    return (
        f" The clips hold {in_clips:,} frames ({duration(in_clips)}): where several people are seen at once, "
        "a frame of video is in several clips."
    )


def _fates(report: dict[str, Any]) -> str:
    has_others = len(report["fates"]) > NUM_COLOURED + 1
    return f'<div class="fates">{stacked_bar(_bar_parts(report))}{_fate_table(report)}</div>' + (
        '<p class="muted">A frame counts once: as kept if any clip holds it, otherwise under the first reason '
        "of the first span that covers it. <i>Alone</i>: spans with no other reason, which would be kept if this "
        "filter were off. <i>Whole files</i> have no spans."
        + (" Grey in the bar: the rarer reasons together." if has_others else "")
        + "</p>"
    )


def _bar_parts(report: dict[str, Any]) -> list[tuple[str, float, str]]:
    fates, whole = report["fates"], max(report["frames"]["in"], 1)
    parts = [
        (plain(fate["name"]), fate["frames"] / whole, f"f{i}")
        for i, fate in enumerate(fates[: NUM_COLOURED + 1])
    ]
    others = sum(fate["frames"] for fate in fates[NUM_COLOURED + 1 :])
    parts.append(("other reasons", others / whole, f"f{NUM_COLOURED + 1}"))
    return [part for part in parts if part[1] > 0]


def _fate_table(report: dict[str, Any]) -> str:
    rows = [_fate_row(fate, i, report["frames"]["in"]) for i, fate in enumerate(report["fates"])]
    sums = [_total(report, "spans"), "", _total(report, "whole_videos")]
    cells = _numbers(duration(report["frames"]["in"]), "", f"{report['frames']['in']:,}", *sums)
    rows.append(f'<tr class="sum"><td>all</td>{cells}</tr>')
    return _as_table(["", "#duration", "#share", "#frames", "#spans", "#alone", "#whole files"], rows)


def _total(report: dict[str, Any], what: str) -> str:
    return f"{sum(fate[what] for fate in report['fates']):,}"


def _fate_row(fate: dict[str, Any], i: int, frames_in: int) -> str:
    alone = "" if fate["name"] == KEPT else f"{fate['spans_alone']:,}"
    return (
        f'<tr><td class="fate">{_swatch(i)}{_html(fate["name"])}</td>'
        + _numbers(duration(fate["frames"]), _share(fate["frames"], frames_in), f"{fate['frames']:,}")
        + _numbers(f"{fate['spans']:,}", alone, f"{fate['whole_videos']:,}")
        + "</tr>"
    )


def _swatch(i: int) -> str:
    return f'<span class="swatch f{min(i, NUM_COLOURED + 1)}"></span>'


def _measures(report: dict[str, Any]) -> str:
    if not report["measures"]:
        return "<p>Nothing was measured.</p>"
    legend = (
        '<p><span class="swatch" style="background: var(--f0)"></span>kept, upwards &emsp;'
        '<span class="swatch" style="background: var(--dropped)"></span>dropped for any reason, downwards &emsp;'
        "dashed: threshold</p>"
    )
    drawn = [_measure(name, measure, report["num_spans"]) for name, measure in report["measures"].items()]
    return f'{legend}<div class="grid">{"".join(drawn)}</div>'


def _measure(name: str, measure: dict[str, Any], num_spans: int) -> str:
    text = plain(describe(name))
    title = text[:1].upper() + text[1:]
    plot = histogram(measure, text) if measure["edges"] else "<p>No span has a finite value.</p>"
    off = [side for side, value in measure["thresholds"].items() if value is None]
    notes = [f"The threshold {side}_{_html(name)} is off." for side in off]
    notes += [note for note in (_medians(measure), _unseen(measure, num_spans)) if note]
    return (
        f"<figure><figcaption><b>{escape(title)}</b> <code>{_html(name)}</code></figcaption>{plot}"
        f'<p class="muted note">{" ".join(notes)}</p></figure>'
    )


def _medians(measure: dict[str, Any]) -> str:
    medians = [
        f"{side} {number(measure[side]['median'])}"
        for side in ("kept", "dropped")
        if measure[side]["median"] is not None
    ]
    return f"Median: {', '.join(medians)}." if medians else ""


def _unseen(measure: dict[str, Any], num_spans: int) -> str:
    """What the plot does not show."""
    sides = (measure["kept"], measure["dropped"])
    outside = {key: sum(side[key] for side in sides) for key in ("below", "above", "not_finite")}
    shown = sum(sum(side["counts"]) for side in sides)
    outside["not measured"] = num_spans - shown - sum(outside.values())
    named = {"not_finite": "not a number"}
    words = [f"{count:,} {named.get(key, key)}" for key, count in outside.items() if count]
    return f"Not in the plot: {', '.join(words)} (of {num_spans:,} spans)." if words else ""


def _pictures(report: dict[str, Any], strips: Callable[[str], bytes | None]) -> str:
    groups = [_group(fate, i, strips) for i, fate in enumerate(report["fates"]) if fate["examples"]]
    return (
        f'<p class="muted">Drawn by lot from all spans and files of each fate, at most {MAX_STRIPS}; the same ones '
        f"for the same footage.</p>{''.join(groups)}"
    )


def _group(fate: dict[str, Any], i: int, strips: Callable[[str], bytes | None]) -> str:
    pictured, others = [], []
    for example in fate["examples"]:
        jpeg = strips(example["clip_id"]) if example["clip_id"] is not None else None
        (others if jpeg is None else pictured).append(_figure(example, jpeg))
        if len(pictured) == MAX_STRIPS:
            break
    shown = (pictured + others)[:MAX_STRIPS]
    whole = fate["spans"] + fate["whole_videos"]
    return (
        f"<h3>{_swatch(i)}{_html(fate['name'])}: {len(shown)} of {whole:,}</h3>"
        f'<div class="grid">{"".join(shown)}</div>'
    )


def _figure(example: dict[str, Any], jpeg: bytes | None) -> str:
    video, clip = _html(example["video"]), _html(example["clip_id"] or "")
    picture = ""
    if jpeg is not None:
        data = base64.b64encode(jpeg).decode("ascii")
        picture = f'<img loading="lazy" alt="Frames of {clip}" src="data:image/jpeg;base64,{data}">'
    name = f"<b>{clip}</b><br>{video}" if clip else f"<b>{video}</b>"
    detail = f"<br>{_html(example['detail'])}" if example["detail"] else ""
    where = frame_range(example["start"], example["stop"])
    return f"<figure>{picture}<figcaption>{name}, {where}{detail}</figcaption></figure>"


def _videos(videos: Sequence[dict[str, Any]]) -> str:
    rows = [
        f'<tr><td class="name">{_html(video["name"])}</td>'
        + _numbers(f"{video['frames']:,}", f"{video['kept_frames']:,}")
        + f'<td class="name">{_why(video)}</td></tr>'
        for video in videos[:MAX_ROWS]
    ]
    rest = len(videos) - len(rows)
    more = f"<p>And {rest:,} more; all are in <code>records.jsonl</code>.</p>" if rest else ""
    return _as_table(["file", "#frames", "#kept", "dropped frames"], rows) + more


def _why(video: dict[str, Any]) -> str:
    dropped = video["dropped_frames"].items()
    parts = [f"{_html(name)} {count:,}" if count else _html(name) for name, count in dropped]
    return ", ".join(parts) + (f": {_html(video['detail'])}" if video["detail"] else "")


def _settings(report: dict[str, Any]) -> str:
    limits = {name: "off" if value is None else value for name, value in report["thresholds"].items()}
    rows = [
        f'<tr><td><code>{_html(name)}</code></td><td class="name">{_html(_as_text(value))}</td></tr>'
        for name, value in [*limits.items(), *report["settings"].items()]
    ]
    return _as_table(["setting", "value"], rows)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_table(titles: Iterable[str], rows: Sequence[str]) -> str:
    """Titles that begin with # stand over numbers."""
    heads = [
        f'<th scope="col" class="num">{title[1:]}</th>'
        if title[:1] == "#"
        else f'<th scope="col">{title}</th>'
        for title in titles
    ]
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _numbers(*texts: str) -> str:
    return "".join(f'<td class="num">{text}</td>' for text in texts)


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"


def _count(num: int, one: str, many: str | None = None) -> str:
    return f"{num:,} {one if num == 1 else many or one + 's'}"
