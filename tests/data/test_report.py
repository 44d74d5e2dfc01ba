"""The report on footage: every frame in is kept or dropped with a reason, and the page shows it safely."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from openloopy.data import report as report_module
from openloopy.data.filters import DESCRIPTIONS, Thresholds, judge
from openloopy.data.plots import histogram, number, percent, ticks
from openloopy.data.report import (
    MAX_BINS,
    NUM_EXAMPLES,
    PAGE_NAME,
    REPORT_NAME,
    build_report,
    explain,
    histogram_of,
    limits_of,
    write_report,
)
from openloopy.data.report_page import MAX_ROWS, MAX_STRIPS, duration, frame_range, plain
from openloopy.data.verdicts import Reason, Span, VideoRecord
from openloopy.media.files import MediaError

THRESHOLDS = {"min_face_px": 80.0, "max_yaw_deg": 30.0, "min_snr_db": None, "max_sync_offset": 2.0}
NASTY = "<img src=http://evil.example/x.png onerror=alert(1)>&\"'\x1b[31m\udcff.mp4"
JPEG = b"\xff\xd8\xff\xe0 not looked into"
SMALL = Reason(name="face too small", detail="the face is 40 px high, at least 80 are needed")
TURNED = Reason(name="head turned", detail="the head is turned by 50 degrees, at most 30 are allowed")
NOBODY = Reason(name="nobody seen", detail="no face in any frame")


def span(start: int, stop: int, *reasons: Reason, clip_id: str | None = "a-0", **measures: float) -> Span:
    return Span(start=start, stop=stop, clip_id=clip_id, reasons=reasons, measures=measures)


def video(name: str, num_frames: int, *spans: Span, person: str = "anna", **more) -> VideoRecord:
    return VideoRecord(
        name=name, person_id=person, num_frames=num_frames, info={"size": "640x480"}, spans=spans, **more
    )


def mixed() -> list[VideoRecord]:
    """600 frames in: 250 kept, 50 too small, 100 nobody, 200 without sound; 350 frames in clips."""
    overlapping = video(
        "a.mp4",
        400,
        span(0, 200, clip_id="a-0", face_px=100.0, yaw_deg=10.0),
        span(100, 250, clip_id="a-1", face_px=90.0, yaw_deg=float("nan")),
        span(150, 300, SMALL, TURNED, clip_id="a-2", face_px=40.0, yaw_deg=50.0),
        span(300, 400, NOBODY, clip_id=None),
    )
    silent = video("b.mp4", 200, person="ben", reasons=(Reason(name="no sound", detail="it is silent"),))
    unreadable = video("c.mp4", 0, person="cem", reasons=(Reason(name="cannot be read", detail="no moov"),))
    return [overlapping, silent, unreadable]


def many(num_spans: int, reason: Reason | None = None) -> VideoRecord:
    reasons = (reason,) if reason else ()
    spans = [
        span(10 * i, 10 * i + 10, *reasons, clip_id=f"m-{i}", face_px=float(i)) for i in range(num_spans)
    ]
    return video("m.mp4", 10 * num_spans, *spans)


def page_of(tmp_path, records, strips=lambda clip: None) -> Page:
    write_report(tmp_path, build_report(records, THRESHOLDS, {"size_px": 256}), strips)
    page = Page()
    page.feed((tmp_path / PAGE_NAME).read_text("utf-8"))
    page.close()
    return page


class Page(HTMLParser):
    """What a browser would make of the page: its tags with their attributes, its text, its tables."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def fates(report: dict) -> dict[str, dict]:
    return {fate["name"]: fate for fate in report["fates"]}


def test_hours_in_are_kept_and_dropped_to_the_frame():
    report = build_report(mixed(), THRESHOLDS, {})
    frames = {name: fate["frames"] for name, fate in fates(report).items()}
    assert frames == {
        "kept": 250,
        "no sound": 200,
        "nobody seen": 100,
        "face too small": 50,
        "cannot be read": 0,
    }
    assert list(frames)[0] == "kept"
    assert report["frames"] == {"in": 600, "kept": 250, "dropped": 350}
    assert report["hours"]["in"] == pytest.approx(600 / 25 / 3600)
    assert report["hours"]["in"] == pytest.approx(sum(fate["hours"] for fate in report["fates"]))
    assert report["sum_check"]["adds_up"]
    assert report["sum_check"]["sum"].startswith("600 frames in = 250 kept + 200 no sound + 100 nobody seen")


def test_clips_spans_files_and_people_are_counted():
    report = build_report(mixed(), THRESHOLDS, {})
    assert report["clips"]["kept"] == 2 and report["clips"]["dropped"] == 1
    assert report["clips"]["kept_frames"] == 350, "two people seen at once are two clips"
    assert (report["num_videos"], report["num_videos_with_clips"], report["num_spans"]) == (3, 1, 4)
    assert report["people"] == {"in": 3, "kept": 1}
    by_name = fates(report)
    assert by_name["face too small"]["spans"] == 1 and by_name["face too small"]["spans_alone"] == 0
    assert by_name["nobody seen"]["spans_alone"] == 1
    assert by_name["no sound"]["whole_videos"] == 1 and by_name["no sound"]["spans"] == 0


def test_rows_of_videos():
    rows = build_report(mixed(), THRESHOLDS, {})["videos"]
    assert [row["name"] for row in rows] == ["a.mp4", "b.mp4", "c.mp4"]
    assert rows[0]["kept_frames"] == 250
    assert rows[0]["dropped_frames"] == {"nobody seen": 100, "face too small": 50}
    assert rows[1]["dropped_frames"] == {"no sound": 200} and rows[1]["detail"] == "it is silent"


def test_no_footage_at_all(tmp_path):
    page = page_of(tmp_path, [])
    assert "0.0 s of video in 0 files" in page.text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (video("x.mp4", 100, span(0, 60)), "40 frames lie in no span"),
        (video("x.mp4", 100, span(0, 120)), "outside of it"),
        (video("x.mp4", 100, span(0, 100), span(50, 50)), "empty"),
        (video("x.mp4", 100, span(0, 100), reasons=(NOBODY,)), "dropped as a whole and has spans"),
        (video("x.mp4", 100, span(0, 100, Reason(name="kept", detail=""))), "kept spans cover 0"),
    ],
)
def test_records_that_do_not_add_up_are_our_error(record, message):
    with pytest.raises(AssertionError, match=message) as caught:
        build_report([record], THRESHOLDS, {})
    assert "x.mp4" in str(caught.value)


def test_sums_that_are_miscounted_are_noticed(monkeypatch):
    monkeypatch.setattr(report_module, "total", lambda records: {"kept": 99})
    with pytest.raises(AssertionError, match="kept and dropped frames are 99"):
        build_report([video("x.mp4", 100, span(0, 100))], THRESHOLDS, {})


def test_histogram_counts_add_up():
    rng = np.random.default_rng(0)
    kept, dropped = rng.normal(size=3000), np.append(rng.normal(2, 1, 500), [np.nan, np.inf])
    made = histogram_of(kept, dropped)
    assert len(made["edges"]) <= MAX_BINS + 1
    for side, values in (("kept", kept), ("dropped", dropped)):
        counted = made[side]
        assert sum(counted["counts"]) + counted["below"] + counted["above"] + counted["not_finite"] == len(
            values
        )
    assert made["dropped"]["not_finite"] == 2
    assert made["kept"]["below"] > 0 and made["dropped"]["above"] > 0
    outside = made["kept"]["below"] + made["dropped"]["below"]
    assert outside <= 0.01 * (len(kept) + len(dropped)) + 1


def test_few_values_are_all_inside():
    made = histogram_of([1.5, 2.5, 100.25], [3.5])
    assert sum(made["kept"]["counts"]) == 3 and sum(made["dropped"]["counts"]) == 1


@pytest.mark.parametrize(("values", "num_bins"), [([2, 3, 3, 5], 4), ([0.25, 0.25], 1), ([7.0], 1)])
def test_bins_fit_the_values(values, num_bins):
    made = histogram_of(values, [])
    assert len(made["kept"]["counts"]) == num_bins
    assert sum(made["kept"]["counts"]) == len(values)
    assert made["edges"][0] < min(values) and made["edges"][-1] > max(values)


def test_what_is_nearly_always_nothing_has_a_bin_of_some_width():
    made = histogram_of([0.0] * 200, [0.3])
    assert made["edges"] == [-0.1, 0.1] and made["kept"]["counts"] == [200]
    assert made["dropped"]["above"] == 1
    assert "<svg" in histogram({**made, "thresholds": {"max": 0.0}}, "share")


def test_without_a_finite_value_there_are_no_bins(tmp_path):
    made = histogram_of([], [float("nan")])
    assert made["edges"] == [] and made["dropped"]["not_finite"] == 1
    page = page_of(tmp_path, [video("a.mp4", 10, span(0, 10, sync_offset=float("nan")))])
    assert "No span has a finite value" in page.text


def test_measures_carry_their_thresholds():
    measures = build_report(mixed(), THRESHOLDS, {})["measures"]
    assert list(measures) == ["face_px", "yaw_deg"], "the order of the thresholds"
    assert measures["face_px"]["thresholds"] == {"min": 80.0}
    assert measures["yaw_deg"]["kept"]["not_finite"] == 1
    assert (
        sum(measures["face_px"]["kept"]["counts"]) == 2 and sum(measures["face_px"]["dropped"]["counts"]) == 1
    )


def test_a_threshold_is_named_for_its_side():
    assert limits_of({"min_a": 1, "max_a": None}) == {"a": {"min": 1, "max": None}}
    assert limits_of({"max_sync_offset": 2}) == {"sync_offset": {"min": -2, "max": 2}}
    assert limits_of({"max_sync_offset": None}) == {"sync_offset": {"max": None}}
    with pytest.raises(ValueError, match="min_... or max_..., got 'face_px'"):
        limits_of({"face_px": 1})


def test_the_report_is_strict_json(tmp_path):
    page_of(tmp_path, mixed())
    text = (tmp_path / REPORT_NAME).read_text("utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["settings"] == {"size_px": 256} and content["thresholds"] == THRESHOLDS
    assert sorted(path.name for path in tmp_path.iterdir()) == [PAGE_NAME, REPORT_NAME]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        write_report(tmp_path / "missing", build_report([], {}, {}), lambda clip: None)


def test_the_page_says_the_sums(tmp_path):
    text = page_of(tmp_path, mixed()).text
    assert "24.0 s of video in 3 files: 10.0 s kept (41.7 %), 14.0 s dropped for 4 reasons." in text
    assert "600 in = 250 kept + 350 dropped" in text
    assert "The clips hold 350 frames (14.0 s): where several people are seen at once" in text


def test_the_page_needs_nothing_but_itself(tmp_path):
    page = page_of(tmp_path, mixed(), lambda clip: JPEG)
    source = (tmp_path / PAGE_NAME).read_text("utf-8")
    assert not page.open, "every tag is closed"
    assert (
        not page.all("script") and not page.all("link") and "url(" not in source and "@import" not in source
    )
    links = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")
    ]
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert "://" not in source
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {link[1:] for link in links if link[0] == "#"} <= targets


def test_names_and_details_are_escaped(tmp_path):
    reason = Reason(name="<b>odd</b>", detail='<script>alert("x")</script> & more')
    records = [
        video(NASTY, 100, span(0, 50, reason, clip_id=NASTY), span(50, 100, clip_id="fine", **{"<i>": 1.0})),
        video(NASTY + "2", 10, reasons=(reason,)),
    ]
    write_report(tmp_path, build_report(records, {}, {"<u>": "</style>"}), lambda clip: JPEG)
    page = Page()
    page.feed((tmp_path / PAGE_NAME).read_text("utf-8"))
    assert not page.all("script") and not page.all("b")[0].get("onerror")
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))
    assert {"i", "u"} & {tag for tag, _ in page.tags} == {"i"}, "the page's own i only"
    assert len(page.all("style")) == 1
    assert "<img src=http://evil.example/x.png onerror=alert(1)>&\"'\\x1b[31m\\udcff.mp4" in page.text
    assert '<script>alert("x")</script> & more' in page.text


def test_pictures_are_few_and_the_same_in_any_order(tmp_path):
    asked = []
    records = [many(100), video("n.mp4", 500, *many(50, SMALL).spans)]
    page = page_of(tmp_path, records, lambda clip: asked.append(clip) or JPEG)
    assert len(page.all("img")) == 2 * MAX_STRIPS == len(asked)
    first = fates(build_report(records, {}, {}))["kept"]["examples"]
    backwards = video("m.mp4", 1000, *reversed(records[0].spans))
    assert fates(build_report([backwards], {}, {}))["kept"]["examples"] == first
    assert len(first) == NUM_EXAMPLES == len({example["clip_id"] for example in first})
    assert max(example["start"] for example in first) > 500, "drawn from all of them"


def test_clips_with_a_picture_come_first(tmp_path):
    examples = fates(build_report([many(100)], {}, {}))["kept"]["examples"]
    without = {example["clip_id"] for example in examples[:10]}
    page = page_of(tmp_path, [many(100)], lambda clip: None if clip in without else JPEG)
    assert len(page.all("img")) == MAX_STRIPS
    assert page_of(tmp_path, [many(100)]).text.count("frames ") >= MAX_STRIPS, "named without a picture"


def test_captions_say_clip_video_frames_and_details(tmp_path):
    text = page_of(tmp_path, mixed(), lambda clip: JPEG).text
    assert f"a-2a.mp4, frames 150 to 299 (150){SMALL.detail}; {TURNED.detail}" in text
    assert "a.mp4, frames 300 to 399 (100)no face in any frame" in text
    assert "c.mp4, no framesno moov" in text


def test_the_table_of_videos_is_cut_and_counted(tmp_path):
    records = [video(f"v{i:04d}.mp4", 10, span(0, 10, clip_id=f"v{i}")) for i in range(MAX_ROWS + 7)]
    text = page_of(tmp_path, records).text
    assert "And 7 more; all are in records.jsonl." in text
    assert text.count("v0499.mp4") >= 1


def test_histograms_show_thresholds_and_units():
    made = {**histogram_of([100.0, 120.5], [90.0]), "thresholds": {"min": 80.0, "max": 110.0}}
    drawn = histogram(made, "Height of the face (px)")
    assert "\N{LEFTWARDS ARROW} at least 80" in drawn, "outside of the picture"
    assert ">at most 110<" in drawn and "Height of the face (px)" in drawn
    assert drawn.count('class="limit"') == 4, "two lines, two labels"


def test_a_long_axis_is_squeezed_below_the_plot():
    made = {**histogram_of([1.0, 2.0], [1.5]), "thresholds": {}}
    assert "textLength" not in histogram(made, "height of the face, px")
    assert 'textLength="352"' in histogram(made, "a" * 80)


def test_many_reasons_share_the_last_colour(tmp_path):
    reasons = [Reason(name=f"reason {i}", detail="") for i in range(12)]
    spans = [span(10 * i, 10 * i + 10, reason, clip_id=f"c{i}") for i, reason in enumerate(reasons)]
    page = page_of(tmp_path, [video("a.mp4", 120, *spans)])
    bar = next(svg for svg in page.all("svg") if svg["class"] == "bar")
    assert "other reasons 50.0 %" in bar["aria-label"]
    assert all(f"reason {i}" in page.text for i in range(12)), "the table names all"


def test_explain_a_video():
    text = explain(mixed()[0], None, THRESHOLDS)
    assert "a.mp4, person anna" in text and "size: 640x480" in text
    assert "400 frames at 25 fps, 16.0 s" in text and "kept: 250 frames (62.5 %)" in text
    assert "Span 3 of 4: a-2\n  6.00-12.00 s, frames 150 to 299 (150): dropped" in text
    assert (
        f"reason: face too small: {SMALL.detail}" in text and f"reason: head turned: {TURNED.detail}" in text
    )
    assert "Span 4 of 4: no clip" in text
    assert "not measured: face_px, yaw_deg, snr_db, sync_offset" in text


def test_explain_holds_measures_against_thresholds():
    measures = {"face_px": 40.0, "yaw_deg": 50.0, "snr_db": 3.0, "sync_offset": -3.0, "odd": 1.0}
    record = video("a.mp4", 100, span(0, 100, SMALL, **measures))
    rows = [" ".join(line.split()) for line in explain(record, "a-0", THRESHOLDS).splitlines()]
    assert f"face_px 40 at least 80 under {DESCRIPTIONS['face_px']}" in rows
    assert f"yaw_deg 50 at most 30 over {DESCRIPTIONS['yaw_deg']}" in rows
    assert f"snr_db 3 off {DESCRIPTIONS['snr_db']}" in rows
    assert f"sync_offset -3 at least -2 under {DESCRIPTIONS['sync_offset']}" in rows
    assert f"sync_offset -3 at most 2 ok {DESCRIPTIONS['sync_offset']}" in rows
    assert "odd 1 none odd" in rows


@pytest.mark.parametrize("value", [-3.0, -2.0, 0.0, 2.0, 3.0])
def test_explain_and_the_filters_agree(value):
    measures = {"sync_offset": value, "yaw_deg": 20 + value, "face_px": 80 + value}
    thresholds = Thresholds(max_yaw_deg=21.0, min_face_px=79.0)
    text = explain(video("a.mp4", 100, span(0, 100, **measures)), None, thresholds.to_json())
    verdicts = [word for line in text.splitlines() for word in line.split() if word in ("over", "under")]
    assert len(verdicts) == len(judge(measures, thresholds))


def test_explain_one_clip_only():
    text = explain(mixed()[0], "a-1", THRESHOLDS)
    assert "Span 2 of 4: a-1" in text and "kept" in text and "Span 1" not in text
    assert "not a number" in text
    with pytest.raises(ValueError, match="no clip 'a-9'; its clips: a-0, a-1, a-2"):
        explain(mixed()[0], "a-9", THRESHOLDS)


def test_explain_a_file_that_was_dropped_as_a_whole():
    text = explain(mixed()[2], None, THRESHOLDS)
    assert "dropped as a whole" in text and "reason: cannot be read: no moov" in text and "Span" not in text


def test_explain_prints_no_control_characters():
    text = explain(video(NASTY, 10, span(0, 10, clip_id="x\x07")), None, {})
    assert all(c.isprintable() for c in text.replace("\n", ""))
    text.encode("utf-8")


def test_numbers_in_words():
    assert (number(12345.6), number(0.12344), number(-3.0)) == ("12,346", "0.1234", "-3")
    assert (percent(0.0), percent(0.0002), percent(0.9999), percent(1.0)) == (
        "0.0 %",
        "< 0.1 %",
        "> 99.9 %",
        "100.0 %",
    )
    assert (duration(50), duration(3000), duration(450_000)) == ("2.0 s", "2.0 min", "5.00 h")
    assert (frame_range(3, 5), frame_range(0, 0)) == ("frames 3 to 4 (2)", "no frames")
    assert plain("Vorträge \n\udc80") == "Vorträge \\n\\udc80"


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-7.0, 23.0, 5) == [0.0, 10.0, 20.0]
    assert ticks(2.0, 2.0, 5) == [2.0]
