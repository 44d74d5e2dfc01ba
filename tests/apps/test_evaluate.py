"""The whole evaluation on puppets and their damaged copies; tables and comparisons."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from openloopy.apps import evaluate as module
from openloopy.apps.compare import compare
from openloopy.apps.evaluate import OUTSIDE, EvaluateConfig, cases_of, evaluate, interval, markdown
from openloopy.apps.protocols import open_set_cases
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.shards import read_shards
from openloopy.face.movement import lip_gap
from openloopy.measures.sync import CLOSED_GAP
from openloopy.media.audio import open_waveform
from openloopy.media.video import VideoWriter, read_frames
from openloopy.puppet.corpus import CorpusConfig, write_corpus


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """real/: two talking puppets; frozen/: one picture each; late/: the sound comes late."""
    home = tmp_path_factory.mktemp("evaluate")
    write_corpus(CorpusConfig(out=home / "corpus", num_clips=2, clip_s=4.0, size_px=128, val_share=0.5))
    for sample in read_shards(home / "corpus"):
        frames, sound = decode_frames(sample.mp4), decode_sound(sample.flac)
        name = f"{sample.record.clip_id}.mp4"
        write(home / "real" / name, frames, sound)
        write(home / "frozen" / name, np.repeat(frames[:1], len(frames), 0), sound)
        write(home / "late" / name, frames, np.roll(sound, 8 * 640))
    return home


def write(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    with VideoWriter(path, size=(128, 128), sound=sound) as writer:
        for frame in frames:
            writer.write(frame)


def run(home: Path, name: str) -> dict:
    cases = cases_of(home / name, home / "real", None)
    return evaluate(EvaluateConfig(cases=cases, out=home / f"report-{name}", name=name))


@pytest.fixture(scope="module")
def reports(folders, tmp_path_factory) -> dict[str, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENLOOPY_WEIGHTS", str(tmp_path_factory.mktemp("no_weights")))
        return {name: run(folders, name) for name in ("real", "frozen", "late")}


@pytest.mark.slow
def test_the_real_videos_are_perfect(reports):
    numbers = reports["real"]["numbers"]
    assert numbers["face_found"]["generated"]["mean"] == 1
    assert numbers["d_glo"]["pair"]["mean"] == 0 == numbers["d_exp"]["pair"]["mean"]
    assert numbers["lip_gap_r"]["pair"]["mean"] == pytest.approx(1)
    assert numbers["identity"]["pair"]["mean"] > 0.95
    assert reports["real"]["sets"]["landmark expression distance"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_damage_shows_where_it_should(reports):
    real, frozen, late = (reports[name]["numbers"] for name in ("real", "frozen", "late"))
    assert frozen["glo"]["generated"]["mean"] < 0.01 * real["glo"]["generated"]["mean"]
    assert frozen["d_exp"]["pair"]["mean"] > 0 and frozen["lip_gap_r"]["pair"]["mean"] < 0.2
    assert frozen["lip_sync"]["generated"]["mean"] < 0.3 * real["lip_sync"]["generated"]["mean"]
    assert late["lip_sync_offset"]["generated"]["mean"] - real["lip_sync_offset"]["generated"][
        "mean"
    ] == pytest.approx(8, abs=1)
    assert late["glo"]["generated"]["mean"] == pytest.approx(real["glo"]["generated"]["mean"], rel=0.01)
    assert reports["frozen"]["sets"]["landmark expression distance"] > 1


@pytest.mark.slow
def test_without_weights_there_is_a_text_and_never_a_number(reports):
    for name in OUTSIDE:
        assert "weights missing" in reports["real"]["outside"][name]


@pytest.mark.slow
def test_every_form_is_written_and_nothing_is_measured_twice(folders, reports, monkeypatch):
    out = folders / "report-late"
    assert json.loads((out / "report.json").read_text())["name"] == "late"
    rows = list(csv.DictReader((out / "report.csv").open()))
    assert [row["side"] for row in rows] == ["generated", "real", "pair"] * 2 and float(rows[0]["glo"]) > 0
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=|url\(|<script|@import", page) and page.count("<svg") > 10
    offset = reports["late"]["numbers"]["lip_sync_offset"]["generated"]["mean"]
    assert f"| sound late by | {offset:.4g} [" in markdown(reports["late"])

    def again(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "measure_video", again)
    assert run(folders, "late")["numbers"] == reports["late"]["numbers"]


@pytest.mark.slow
def test_reports_become_one_table(folders, reports):
    table = compare([folders / f"report-{name}" for name in ("real", "frozen", "late")])
    lines = table.splitlines()
    titles = [cell.strip() for cell in lines[0].split("|")]
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")] for line in lines[2:6]}
    r = titles.index("lip opening, correlation with the real video's \N{UPWARDS ARROW}")
    assert cells["real"][r].startswith("**1 ") and "**" not in cells["frozen"][r]
    assert "real videos" in cells and "Without values in any report: IQA, Sync-C" in table
    with pytest.raises(ValueError, match="is no report"):
        compare([folders / "real"])


@pytest.mark.slow
def test_lips_are_asked_to_close_where_words_say_so(folders, reports, tmp_path):
    """A word with b about a moment at which the real lips are shut; a wide open mouth never closes."""
    (path,) = [p for p in (folders / "real").iterdir() if p.stem.startswith("val")]
    stored = module._stored(folders / "report-real", path, path, None)
    real = module._Video(path, stored).measured
    shut = int(np.nanargmin(lip_gap(real.points)[10:-10])) + 10
    assert lip_gap(real.points)[shut] < CLOSED_GAP
    (tmp_path / "x.align").write_text(f"{(shut - 3) * 1000} {(shut + 3) * 1000} bin\n0 1000 at\n")
    opened = real.points.copy()
    opened[:, 65:68, 1] += 0.2 * np.linalg.norm(opened[0, 36] - opened[0, 45])
    for points, closed in ((real.points, 1.0), (opened, 0.0)):
        pair = {"generated": replace(real, points=points), "real": real}
        assert module._closures(tmp_path, "x", pair) == {"closures": closed}
    assert module._closures(tmp_path, "y", pair) == {} == module._closures(None, "x", pair)


@pytest.mark.slow
def test_other_rates_are_read_at_25(folders, tmp_path):
    (path,) = [p for p in (folders / "real").iterdir() if p.stem.startswith("val")]
    frames = np.stack(list(read_frames(path)))
    (tmp_path / "a").mkdir()
    with VideoWriter(tmp_path / "a" / "x.mp4", size=(128, 128), fps=50, sound=open_waveform(path)) as writer:
        for frame in frames.repeat(2, 0):
            writer.write(frame)
    report = evaluate(
        EvaluateConfig(cases=cases_of(tmp_path / "a", None, None), out=tmp_path / "out", name="a")
    )
    assert report["numbers"]["num_frames"]["generated"]["mean"] == len(frames)
    assert report["notes"][-1] == "x, generated: 50.00 frames per second, read at 25"


@pytest.mark.slow
def test_each_set_metric_sees_all_frames_anew(folders, monkeypatch, tmp_path):
    """Networks are replaced by counting: an iterator that is read twice would be empty the second time."""

    class Counted(NamedTuple):
        distance: float

    def count(ours, real):
        return Counted(sum(sum(1 for _ in video) for side in (ours, real) for video in side))

    for name in ("fid", "fvd_res", "fvd_inc"):
        monkeypatch.setattr(module, name, count)
    found = run(folders, "late")["outside"]
    assert found["FID"] == found["FVD-Res"] == found["FVD-Inc"] == 4 * 100


def test_the_open_set_is_found_by_its_pairs(tmp_path):
    for folder, kinds in (("portraits", ("real", "anime")), ("sounds", ("speech", "rap"))):
        for kind in kinds:
            (tmp_path / folder / kind).mkdir(parents=True)
            ending = "png" if folder == "portraits" else "wav"
            (tmp_path / folder / kind / f"{kind}1.{ending}").write_bytes(b"x")
    wanted = open_set_cases(tmp_path / "portraits", tmp_path / "sounds")
    (tmp_path / "made").mkdir()
    for case in wanted.cases[:1]:
        (tmp_path / "made" / f"{case.name}.mp4").write_bytes(b"x")
    found = cases_of(tmp_path / "made", tmp_path / "portraits", tmp_path / "sounds", protocol="open-set")
    assert [case.generated is not None for case in found.cases] == [True, False]
    with pytest.raises(ValueError, match="needs its portraits"):
        cases_of(tmp_path, None, None, protocol="open-set")


def test_what_cannot_be_measured_is_said(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"none of 1 videos could be measured.*x\.mp4"):
        run_in(tmp_path)
    with pytest.raises(ValueError, match="give --truth"):
        cases_of(tmp_path / "a", None, None, method="sadtalker")


def run_in(home: Path) -> None:
    evaluate(EvaluateConfig(cases=cases_of(home / "a", None, None), out=home / "out", name="a"))


def test_intervals_hold_the_mean():
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5 and 1 <= found["low"] < 2.5 < found["high"] <= 4 and found["num_videos"] == 4
    assert interval([3.0]) == {"mean": 3.0, "low": 3.0, "high": 3.0, "sd": 0.0, "num_videos": 1}
