"""The whole evaluation on puppets and their damaged copies; tables and comparisons."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from openloopy.apps import evaluate as module
from openloopy.apps import evaluation_sets
from openloopy.apps.compare import compare
from openloopy.apps.evaluate import EvaluateConfig, cases_of, evaluate, interval, markdown
from openloopy.apps.evaluation_sets import OUTSIDE
from openloopy.apps.evaluation_videos import read_steady
from openloopy.apps.protocols import open_set_cases
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.shards import read_shards
from openloopy.media.audio import open_waveform
from openloopy.media.video import VideoWriter, read_frames
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from tests.measures.talking import SIZE_PX, pictures, speech, talking

REPOSITORY = Path(__file__).parents[2]
FACELESS = REPOSITORY.parent / "shared" / "faults" / "evaluate_gen" / "noface.mp4"


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
    with pytest.raises(ValueError, match="expected a report of"):
        compare([folders / "real"])


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
    assert "x, generated: 50.00 frames per second, read at 25" in report["notes"]


@pytest.mark.slow
def test_each_set_metric_sees_all_frames_anew(folders, monkeypatch, tmp_path):
    """Networks are replaced by counting: an iterator that is read twice would be empty the second time."""

    class Counted(NamedTuple):
        distance: float

    def count(ours, real):
        return Counted(sum(sum(1 for _ in video) for side in (ours, real) for video in side))

    for name in ("fid", "fvd_res", "fvd_inc"):
        monkeypatch.setattr(evaluation_sets, name, count)
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
    (tmp_path / "a" / "y.mp4").write_bytes(b"no video either")
    with pytest.raises(
        ValueError, match=r"none of 2 videos could be measured; the first reason: x, .*x\.mp4"
    ):
        run_in(tmp_path)
    with pytest.raises(ValueError, match="give --truth"):
        cases_of(tmp_path / "a", None, None, method="sadtalker")


def run_in(home: Path) -> None:
    evaluate(EvaluateConfig(cases=cases_of(home / "a", None, None), out=home / "out", name="a"))


@pytest.mark.slow
@pytest.mark.skipif(not FACELESS.exists(), reason="needs the sample footage beside the repository")
def test_a_film_without_a_face_is_left_out_and_named(folders, tmp_path):
    """It counted as a correlation of 0, and cost the set its distance."""
    (tmp_path / "gen").mkdir()
    for name in sorted(path.name for path in (folders / "real").iterdir()):
        shutil.copy(folders / "real" / name, tmp_path / "gen" / name)
    last = name
    shutil.copy(FACELESS, tmp_path / "gen" / last)
    cases = cases_of(tmp_path / "gen", folders / "real", None)
    report = evaluate(EvaluateConfig(cases=cases, out=tmp_path / "out", name="x"))
    found = report["numbers"]["lip_gap_r"]["pair"]
    assert found["num_videos"] == 1 and found["mean"] == pytest.approx(1)
    assert isinstance(report["sets"]["landmark expression distance"], float)
    assert report["used"]["landmark expression distance"] == {"generated": 1, "real": 2}
    assert any(
        note.startswith(f"{Path(last).stem}, generated: no face was found") for note in report["notes"]
    )


class _BrightFaces:
    """A landmarker to which bright pictures are faces that talk."""

    def tracker(self) -> _BrightFaces:
        self._next = iter(talking(1000))
        return self

    def follow(self, frames: Sequence[np.ndarray]) -> list[SimpleNamespace | None]:
        found = zip(frames, self._next, strict=False)
        return [SimpleNamespace(points68=points) if rgb.mean() > 100 else None for rgb, points in found]


@pytest.fixture
def run_fast(tmp_path, monkeypatch):
    """Evaluates tmp_path/gen against tmp_path/real with a landmarker that costs nothing."""
    monkeypatch.setattr(module, "NetworkLandmarker", _BrightFaces)
    monkeypatch.setenv("OPENLOOPY_WEIGHTS", str(tmp_path / "none"))

    def run(**changes: Any) -> dict:
        truth = tmp_path / "real"
        cases = cases_of(tmp_path / "gen", truth if truth.exists() else None, None)
        return evaluate(EvaluateConfig(cases=cases, out=tmp_path / "out", name="x", **changes))

    return run


def film(
    path: Path, num_frames: int = 40, *, seed: int = 0, is_bright: bool = True, sound: Any = ...
) -> None:
    path.parent.mkdir(exist_ok=True)
    frames = pictures(num_frames, seed=seed) if is_bright else pictures(num_frames, seed=seed) // 4
    sound = speech(num_frames) if sound is ... else sound
    with VideoWriter(path, size=(SIZE_PX, SIZE_PX), sound=sound) as writer:
        for frame in frames:
            writer.write(frame)


def test_every_video_counts_or_is_named(tmp_path, run_fast):
    for k, name in enumerate(("talks", "faceless", "silent", "a|b\n<i>,x")):
        film(tmp_path / "real" / f"{name}.mp4", seed=k + 10)
    film(tmp_path / "gen" / "talks.mp4", seed=0)
    film(tmp_path / "gen" / "faceless.mp4", seed=1, is_bright=False)
    film(tmp_path / "gen" / "silent.mp4", seed=2, sound=None)
    film(tmp_path / "gen" / "a|b\n<i>,x.mp4", seed=3)
    (tmp_path / "gen" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "real" / "broken.mp4").write_bytes(b"no video either")
    report = run_fast()
    assert report["cases"] == {"generated": 5, "real": 5, "pair": 5} and len(report["videos"]) == 4
    numbers = report["numbers"]
    counts = {
        name: sides["generated"]["num_videos"] for name, sides in numbers.items() if "generated" in sides
    }
    assert counts["flicker"] == counts["face_found"] == 4 and counts["glo"] == 3 and counts["lip_sync"] == 2
    assert numbers["face_found"]["generated"]["mean"] == 0.75, "no face is what this one counts"
    assert numbers["lip_gap_r"]["pair"]["num_videos"] == 3 and numbers["lip_gap_r"]["pair"]["mean"] > 0.99
    assert report["used"]["landmark expression distance"] == {"generated": 3, "real": 4}
    assert "| Glo |" in markdown(report) and "| 3 / 4 of 5 |" in markdown(report)
    notes = "\n".join(report["notes"])
    assert "faceless, generated: no face was found; left out of " in notes
    assert "silent, generated: sound: has no sound in it (streams: video); left out of lip synchrony" in notes
    assert "broken, generated: " in notes and "broken, real: " in notes
    assert report["left_out"]["lip_gap_r"] == {"pair": {"faceless": "generated video: no face was found"}}
    written = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert written == report
    names = {row["name"] for row in csv.DictReader((tmp_path / "out" / "report.csv").open(newline=""))}
    assert names == {"talks", "faceless", "silent", "a|b\n<i>,x"}
    means = list(csv.DictReader((tmp_path / "out" / "means.csv").open(newline="")))
    assert {row["num_videos"] for row in means if row["measure"] == "glo"} == {"3", "4"}


def test_videos_that_do_not_match_are_told(tmp_path, run_fast):
    film(tmp_path / "gen" / "a.mp4", 25, seed=0, sound=speech(40))
    film(tmp_path / "real" / "a.mp4", seed=1)
    film(tmp_path / "gen" / "b.mp4", 25, seed=0, sound=speech(40))
    film(tmp_path / "real" / "b.mp4", seed=2)
    report = run_fast()
    notes = "\n".join(report["notes"])
    assert "2 of 2 generated videos differ from the real ones in length (25 and 40 frames: a, b)" in notes
    assert "a, b, generated: sound and picture differ in length" in notes
    assert "a, b, generated: the same file; it counts 2 times in every mean" in notes
    assert report["videos"][0]["files"]["generated"] == report["videos"][1]["files"]["generated"]


OF_ANOTHER_FORM = {"words": np.array(["a", "b"]), "one row": np.ones(3, np.float32)}


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "other", *OF_ANOTHER_FORM])
def test_what_was_kept_and_is_damaged_is_measured_again(tmp_path, run_fast, damage):
    film(tmp_path / "gen" / "a.mp4")
    first = run_fast()
    (stored,) = (tmp_path / "out" / "videos").iterdir()
    whole = stored.read_bytes()
    if damage == "other":
        np.savez(stored, numbers="{}", points=np.zeros(3))
    elif damage in OF_ANOTHER_FORM:
        with np.load(stored) as arrays:
            kept = dict(arrays)
        np.savez(stored, **kept | {"descriptors": OF_ANOTHER_FORM[damage]})
    else:
        kinds = {"cut": whole[:1000], "empty": b"", "changed": whole[:200] + bytes(50) + whole[250:]}
        stored.write_bytes(kinds[damage])
    again = run_fast()
    assert again["videos"] == first["videos"]
    assert any(note.startswith("a.mp4 is measured again: ") for note in again["notes"])
    assert "measured again" not in "\n".join(run_fast()["notes"])


def test_words_are_asked_for_by_name(tmp_path, run_fast):
    for side, seed in (("gen", 0), ("real", 1)):
        film(tmp_path / side / "a.mp4", seed=seed)
        film(tmp_path / side / "b.mp4", seed=seed + 5)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.align").write_text("0 50000 bin\n")
    assert "closures" not in run_fast()["left_out"], "nobody asked"
    left_out = run_fast(align=tmp_path / "words")["left_out"]["closures"]["pair"]
    assert left_out["b"] == f"no word times (NAME.align) in {tmp_path / 'words'}"
    assert "a" not in left_out or "no word with b, m, p" in left_out["a"]


def test_a_hole_in_the_pictures_is_held_and_not_closed(tmp_path):
    """What followed it came too early against the sound, and against the other video of a pair."""
    written = tmp_path / "x.mp4"
    film(written, 50, sound=None)
    with av.open(str(written)) as source, av.open(str(tmp_path / "hole.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                late = round((1.0 if packet.pts * packet.time_base >= 1 else 0.0) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                target.mux(packet)
    whole, held = (list(read_steady(path)) for path in (written, tmp_path / "hole.mp4"))
    assert len(held) == len(whole) + 25
    assert all((frame == held[24]).all() for frame in held[25:50]) and (held[50] == whole[25]).all()


def test_intervals_hold_the_mean():
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5 and 1 <= found["low"] < 2.5 < found["high"] <= 4 and found["num_videos"] == 4
    assert interval([3.0]) == {"mean": 3.0, "low": 3.0, "high": 3.0, "sd": 0.0, "num_videos": 1}
