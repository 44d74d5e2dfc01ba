"""Many videos in one call: made once, reported, gone on with."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from PIL import Image

from openloopy.apps.batch import BatchConfig, make_batch
from openloopy.apps.cli import SOME_FAILED, main
from openloopy.apps.generate import ModelChoice, Studio
from openloopy.apps.settings import VideoSettings
from openloopy.inference import memory
from openloopy.media.video import probe_video


@pytest.fixture
def studio(rig_model, landmarker) -> Studio:
    return Studio(ModelChoice(model=str(rig_model)), landmarker=landmarker)


@pytest.fixture
def table(folder):
    """Two rows that work, and one without a sound."""
    rows = ["portrait,audio,seed", "face.png,speech.wav,5", "face.png,no.wav,6", "face.png,speech.wav,7"]
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


def config(pairs, out, **changes) -> BatchConfig:
    facts = {"settings": VideoSettings(steps=1), "has_credentials": False} | changes
    return BatchConfig(pairs=pairs, out=str(out), **facts)


def report_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_is_made_row_by_row_with_one_model(table, folder, studio, monkeypatch):
    loads = []
    load = memory.load_model
    monkeypatch.setattr(memory, "load_model", lambda *args, **kw: loads.append(1) or load(*args, **kw))
    batch = config(table, folder / "new" / "{portrait}-{audio}-{seed}.mp4")
    said = []
    report = make_batch(batch, studio, say=said.append)
    assert dict(report.counts) == {"made": 2, "failed": 1} and len(loads) == 1
    assert report.path == folder / "new" / "report.csv"
    rows = report_of(report.path)
    assert [row["status"] for row in rows] == ["made", "failed", "made"]
    assert "no.wav does not exist" in rows[1]["message"] and rows[0]["frames"] == "12"
    for seed in (5, 7):
        assert probe_video(folder / "new" / f"face-speech-{seed}.mp4").num_frames == 12
        facts = json.loads((folder / "new" / f"face-speech-{seed}.json").read_text())
        assert facts["settings"]["seed"] == seed
    assert any("1 of 3" in line for line in said) and any("failed: " in line for line in said)


def test_the_same_call_goes_on(table, folder, studio):
    batch = config(table, folder / "out" / "{number}.mp4")
    make_batch(batch, studio, say=lambda _: None)
    made = (folder / "out" / "0.mp4").stat().st_mtime_ns
    shutil.copy(folder / "speech.wav", folder / "no.wav")
    report = make_batch(batch, studio, say=lambda _: None)
    assert dict(report.counts) == {"kept": 2, "made": 1}
    assert (folder / "out" / "0.mp4").stat().st_mtime_ns == made
    assert [row["status"] for row in report_of(report.path)] == ["kept", "made", "kept"]


def test_a_video_without_its_sidecar_is_not_overwritten(table, folder, studio):
    (folder / "out" / "0.mp4").write_text("somebody's")
    report = make_batch(config(table, folder / "out" / "{number}.mp4"), studio, say=lambda _: None)
    assert report.counts["failed"] == 2 and "exists already" in report_of(report.path)[0]["message"]
    assert (folder / "out" / "0.mp4").read_text() == "somebody's"


def test_json_lines_and_names_and_settings_of_their_own(folder, studio):
    lines = [{"portrait": "face.png", "audio": "speech.wav", "out": "out/own.mp4", "size": 96, "face": None}]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    make_batch(config(folder / "pairs.jsonl", folder / "out" / "x.mp4"), studio, say=lambda _: None)
    assert probe_video(folder / "out" / "own.mp4").width == 96


def test_a_folder_of_pairs(folder, studio):
    pairs = folder / "pairs"
    pairs.mkdir()
    for name in ("ann", "bob"):
        shutil.copy(folder / "speech.wav", pairs / f"{name}.wav")
    shutil.copy(folder / "face.png", pairs / "ann.png")
    Image.open(folder / "face.png").save(pairs / "bob.AVIF", quality=95)
    report = make_batch(config(pairs, folder / "out" / "{portrait}.mp4"), studio, say=lambda _: None)
    assert report.counts["made"] == 2
    assert {path.name for path in (folder / "out").glob("*.mp4")} == {"ann.mp4", "bob.mp4"}


def test_what_cannot_be_a_batch_is_refused_before_any_work(folder, studio, table):
    def refused(message, pairs=table, out="out/{number}.mp4"):
        with pytest.raises(ValueError, match=message):
            make_batch(config(pairs, folder / out), studio, say=lambda _: None)

    refused(
        r"unknown \{name\} in .*; there are \{portrait\}, \{audio\}, \{number\}, \{seed\}", out="{name}.mp4"
    )
    refused("the pattern must end in .mp4", out="{number}.avi")
    refused(r"3 rows would be written to .*one.mp4; use \{portrait\}", out="one.mp4")
    for text, message in (
        ("portrait,sound\nface.png,speech.wav", "row 1: expected a column 'audio', got"),
        ("portrait,audio,colour\nface.png,speech.wav,red", "row 1: no setting 'colour'"),
        ("portrait,audio,seed\nface.png,speech.wav,x", "row 1: seed must be a whole number, got 'x'"),
        ("portrait,audio\nface.png,speech.wav,more", "line 2: 3 values for 2 columns"),
        ("portrait,audio\n", "there is nothing to make"),
    ):
        (folder / "bad.csv").write_text(text)
        refused(message, folder / "bad.csv")
    (folder / "bad.jsonl").write_text("[1, 2]")
    refused("expected one object on each line", folder / "bad.jsonl")
    (folder / "bad.txt").write_text("x")
    refused("expected a folder, a .csv or a .jsonl", folder / "bad.txt")
    refused("without a partner: bad, face, speech", folder)
    refused("does not exist", folder / "none.csv")
    assert not list((folder / "out").iterdir())


def test_the_command(table, folder, rig_model, shared_landmarker, capsys):
    arguments = ["batch", str(table), "-o", str(folder / "out" / "{seed}.mp4"), "--set", "steps=1"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--model", str(rig_model), "--unsigned"])
    assert stop.value.code == SOME_FAILED
    printed = capsys.readouterr()
    assert printed.out.startswith("2 made, 1 failed in ") and "report.csv" in printed.out
    assert "2 of 3" in printed.err
