"""Comparing reports: what is not of the same videos is said, with counts and names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from openloopy.apps.compare import compare


def report(folder: Path, name: str, videos: dict[str, dict], **changes: Any) -> Path:
    """A report of videos with these numbers, written as `evaluate` does."""
    rows = [
        {
            "name": v,
            "category": "",
            "files": {"real": f"real {v}"},
            "generated": numbers,
            "real": {"glo": 2.0},
        }
        for v, numbers in videos.items()
    ]
    means: dict[str, dict] = {}
    for number in ("glo", "exp", "identity"):
        values = [numbers[number] for numbers in videos.values() if number in numbers]
        if values:
            mean = sum(values) / len(values)
            about = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "sd": 0, "num_videos": len(values)}
            means[number] = {"pair" if number == "identity" else "generated": about}
    if "identity" in means:
        for row, numbers in zip(rows, videos.values(), strict=True):
            row["pair"] = {k: v for k, v in numbers.items() if k == "identity"}
    count = len(videos)
    facts = {
        "version": 3,
        "name": name,
        "cases": {"generated": count, "real": count, "pair": count},
        "numbers": means,
        "sets": {"landmark expression distance": 1.5},
        "outside": {"FID": "weights missing"},
        "used": {"landmark expression distance": {"generated": count, "real": count}},
        "left_out": {},
        "videos": rows,
    }
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({**facts, **changes}))
    return folder


def good(names: Iterable[str] = "abc", **numbers: float) -> dict[str, dict]:
    return {name: {"glo": 1.0, "exp": 2.0, "identity": 0.9, **numbers} for name in names}


def warnings(table: str) -> list[str]:
    return [
        line.removeprefix("**Warning**: ") for line in table.splitlines() if line.startswith("**Warning**")
    ]


def test_reports_of_the_same_videos_need_no_word(tmp_path):
    table = compare([report(tmp_path / "1", "one", good()), report(tmp_path / "2", "two", good(exp=3.0))])
    assert not warnings(table) and " of " not in table.splitlines()[2]


def test_videos_that_a_report_lacks_are_counted_and_named(tmp_path):
    table = compare([report(tmp_path / "1", "one", good("abcd")), report(tmp_path / "2", "two", good("bce"))])
    assert warnings(table) == [
        "the reports are not of the same videos: one lacks 1 of 5 (e); two lacks 2 of 5 (a, d)."
    ]


def test_means_of_fewer_videos_say_so_and_whose(tmp_path):
    lacking = good()
    del lacking["b"]["identity"], lacking["c"]["exp"], lacking["c"]["glo"]
    distance = {"landmark expression distance": {"generated": {"b": "no face was found"}}}
    paths = [
        report(tmp_path / "1", "one", good()),
        report(
            tmp_path / "2",
            "two",
            lacking,
            left_out=distance,
            used={"landmark expression distance": {"generated": 2, "real": 3}},
        ),
    ]
    table = compare(paths)
    line = table.splitlines()[3]
    assert "0.9 [0.8, 1] (2 of 3)" in line and "1.5 (2 / 3 of 3)" in line
    assert warnings(table) == [
        "not of the same videos are Glo; Exp: two lacks 1 of 3 (c).",
        "not of the same videos are identity, against the real video; landmark expression distance: "
        "two lacks 1 of 3 (b).",
    ]


def test_other_real_videos_are_told(tmp_path):
    paths = [report(tmp_path / str(k), name, good()) for k, name in enumerate(("one", "two"))]
    changed = json.loads((paths[1] / "report.json").read_text())
    changed["videos"][1]["files"]["real"] = "another"
    (paths[1] / "report.json").write_text(json.dumps(changed))
    assert warnings(compare(paths)) == ["the real videos of two are others than those of one: 1 of 3 (b)."]


def test_reports_of_earlier_versions_are_read_and_told(tmp_path):
    path = report(tmp_path / "1", "old", good(), version=2)
    old = json.loads((path / "report.json").read_text())
    for key in ("cases", "used", "left_out"):
        del old[key]
    old["numbers"]["glo"]["generated"]["mean"] = float("nan")
    old["sets"]["landmark expression distance"] = float("nan")
    for row in old["videos"]:
        del row["files"]
    (path / "report.json").write_text(json.dumps(old))
    table = compare([path, report(tmp_path / "2", "new", good())])
    assert "nan" not in table and "Glo" in table
    assert warnings(table) == [
        "the reports are of different versions (old: 2, new: 3); evaluate again to compare."
    ]


def test_names_are_no_markup_and_no_row_is_lost(tmp_path):
    names = ["a|b <i>", "x", "x", "x (2)", "x (3)"]
    paths = [report(tmp_path / str(k), name, good()) for k, name in enumerate(names)]
    table = compare(paths)
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:-1] == [r"| a\|b \<i\>", "| x (4)", "| x (5)", "| x (2)", "| x (3)"]


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="expected a report of"):
        compare([tmp_path])
