"""Tables: how many videos each mean used, and names that are no markup."""

from __future__ import annotations

import csv
import io

import pytest

from openloopy.apps.evaluation_page import evaluation_page
from openloopy.apps.evaluation_tables import markdown, means_csv, plain_cell, share_text, videos_csv

ODD = "a|b, <i>*x*</i>\n`\\&amp;"


def mean(value: float, num_videos: int) -> dict[str, float]:
    return {"mean": value, "low": value - 1, "high": value + 1, "sd": 1.0, "num_videos": num_videos}


@pytest.fixture
def report() -> dict:
    rows = [
        {"name": ODD, "category": "x,y", "generated": {"glo": 1.0}, "real": {"glo": 2.0}, "pair": {}}
    ] * 12
    return {
        "version": 3,
        "openloopy": "0",
        "date": "today",
        "name": ODD,
        "notes": [f"{ODD}, generated: no face was found"],
        "cases": {"generated": 13, "real": 12, "pair": 12},
        "numbers": {
            "glo": {"generated": mean(1.0, 11), "real": mean(2.0, 12)},
            "exp": {"generated": mean(3.0, 13)},
            "sharpness": {"generated": mean(5.0, 13), "real": mean(5.0, 12)},
            "lip_gap_r": {"pair": mean(0.5, 10)},
        },
        "sets": {"landmark expression distance": 4.5, "blink interval distance, s": "cannot compare | 0"},
        "outside": {"Sync-C": 7.0, "FID": "weights missing"},
        "used": {
            "landmark expression distance": {"generated": 11, "real": 12},
            "Sync-C": {"generated": 9},
            "FID": {},
        },
        "videos": rows,
    }


def cells(page: str, title: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.split(" | ")][1:]


def test_every_mean_says_of_how_many_videos_it_is(report):
    page = markdown(report)
    assert cells(page, "Glo")[2] == "11 of 13 / 12" and cells(page, "Exp")[2] == "13"
    assert cells(page, "sharpness of the face")[2] == "13 / 12"
    assert cells(page, "lip opening, correlation with the real video's")[2] == "10 of 12"
    assert cells(page, "landmark expression distance")[:2] == ["4.5", "11 of 13 / 12"]
    assert cells(page, "Sync-C")[1] == "9 of 13" and cells(page, "FID")[:2] == ["weights missing", ""]
    assert "\n12 of 13 videos, today.\n" in page
    report["cases"]["generated"] = 12
    page = markdown(report)
    assert (
        cells(page, "Glo")[2] == "11 / 12 of 12"
        and cells(page, "sharpness of the face")[2] == "13 / 12 of 12"
    )
    report["numbers"]["sharpness"]["generated"]["num_videos"] = 12
    assert cells(markdown(report), "sharpness of the face")[2] == "12" == share_text(12, 12)


def test_so_does_the_page(report):
    page = evaluation_page(report)
    for text in ("<td>11 of 13 / 12</td>", "<td>10 of 12</td>", "<td>9 of 13</td>"):
        assert text.replace("<td>", '<td class="num">') in page
    assert "<p>12 of 13 videos" in page


def test_so_do_the_files(report):
    rows = {(row["measure"], row["side"]): row for row in csv.DictReader(io.StringIO(means_csv(report)))}
    assert rows["glo", "generated"]["num_videos"] == "11" and rows["glo", "generated"]["num_cases"] == "13"
    assert rows["glo", "real"]["value"] == "2.0" and rows["lip_gap_r", "pair"]["low"] == "-0.5"
    assert rows["landmark expression distance", "real"]["num_videos"] == "12"
    assert rows["Sync-C", "generated"]["value"] == "7.0"
    assert not {"FID", "blink interval distance, s"} & {measure for measure, _ in rows}


def test_names_are_no_markup(report):
    page = markdown(report)
    escaped = r"a\|b, \<i\>\*x\*\</i\>\\n\`\\\&amp;"
    assert page.startswith(f"# {escaped}\n") and f"- {escaped}, generated: no face was found\n" in page
    assert r"cannot compare \| 0" in page
    page = evaluation_page(report)
    assert "a|b, &lt;i&gt;*x*&lt;/i&gt;\\n`\\&amp;amp;" in page and "<i>" not in page


def test_names_come_back_from_csv(report):
    text = videos_csv(report["videos"])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 36 and {row["name"] for row in rows} == {ODD} and rows[0]["category"] == "x,y"
    assert [rows[0]["glo"], rows[1]["glo"], rows[2]["glo"]] == ["1.0", "2.0", ""]


def test_names_that_are_no_text_can_be_written(report):
    """Names of files may hold bytes that no UTF-8 can say."""
    undecodable = b"caf\xe9".decode("utf-8", "surrogateescape")
    report["videos"][0]["name"] = report["name"] = undecodable
    assert r"caf\udce9" in videos_csv(report["videos"]) and "caf\\\\udce9" in markdown(report)
    assert "caf\\udce9" in evaluation_page(report)
    for text in (videos_csv(report["videos"]), markdown(report), evaluation_page(report)):
        text.encode("utf-8")
    assert plain_cell("grid_s1__bbaf3s") == "grid_s1__bbaf3s"
