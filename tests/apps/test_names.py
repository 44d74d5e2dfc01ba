"""Names of any kind, links, two runs with one output, killed runs, disks that are full: through all of generate."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from openloopy.apps.batch import BatchConfig, make_batch
from openloopy.apps.detect import detect
from openloopy.apps.generate import GenerateRequest, ModelChoice, Studio
from openloopy.apps.settings import VideoSettings
from openloopy.media.files import BusyError, MediaError, WriteError, only_writer
from openloopy.media.video import probe_video
from tests.media.sounds import write_sound

SETTINGS = VideoSettings(steps=1, size=64)
NAMES = {
    "colons": ("12:30.png", "take:1.wav", "http:x:.mp4"),
    "dashes": ("-face.png", "--audio.wav", "-o.mp4"),
    "255 bytes of Chinese": ("画" * 83 + ".png", "画" * 83 + ".wav", "画" * 83 + ".mp4"),
    "255 bytes of letters": ("x" * 251 + ".png", "x" * 251 + ".wav", "x" * 251 + ".mp4"),
    "patterns": ("%03d.png", "[a]*?.wav", "{b}%d.mp4"),
    "lines": ("two\nlines.png", "two\nlines.wav", "two\nlines.mp4"),
    "no text": (os.fsdecode(b"\xff.png"), os.fsdecode(b"\xff.wav"), os.fsdecode(b"\xff.mp4")),
}


@pytest.fixture(scope="module")
def studio(rig_model, landmarker) -> Studio:
    return Studio(ModelChoice(model=str(rig_model)), landmarker=landmarker)


def request(folder: Path, out: str = "out/a.mp4", **changes) -> GenerateRequest:
    facts = {"portrait": folder / "face.png", "audio": folder / "speech.wav", "settings": SETTINGS}
    return GenerateRequest(**facts | {"out": folder / out} | changes)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", NAMES)
def test_any_name_goes_in_and_out(kind, folder, studio, monkeypatch):
    portrait, audio, out = NAMES[kind]
    monkeypatch.chdir(folder)
    Path("face.png").rename(portrait)
    Path("speech.wav").rename(audio)
    report = studio.make(GenerateRequest(portrait=portrait, audio=audio, out=Path(out), settings=SETTINGS))
    assert probe_video(out).num_frames == 12 and detect(Path(out)).is_generated
    facts = json.loads(report.sidecar.read_text())
    assert (facts["portrait"]["file"], facts["audio"]["file"]) == (portrait, audio)
    assert facts["video"]["file"] == out and report.sidecar.suffix == ".json"
    assert names_in(folder) == sorted([portrait, audio, out, "out", report.sidecar.name])
    with pytest.raises(MediaError, match="exists already"):
        studio.make(GenerateRequest(portrait=portrait, audio=audio, out=Path(out), settings=SETTINGS))


def test_a_sidecar_gets_a_shorter_name_only_where_it_must(folder):
    assert request(folder, "x" * 250 + ".mp4").sidecar.name == "x" * 250 + ".json"
    sidecars = {request(folder, "x" * 250 + last + ".mp4").sidecar.name for last in "ab"}
    assert len(sidecars) == 2 and all(len(name) <= 255 and name.endswith(".json") for name in sidecars)


def test_a_linked_output_is_followed_and_needs_force_where_a_file_is(folder, studio):
    link, target = folder / "link.mp4", folder / "out" / "real.mp4"
    link.symlink_to(target)
    studio.make(request(folder, "link.mp4"))
    assert link.is_symlink() and probe_video(target).num_frames == 12
    assert names_in(folder / "out") == ["real.mp4"] and (folder / "link.json").exists()
    with pytest.raises(MediaError, match="link.mp4 exists already"):
        studio.make(request(folder, "link.mp4"))
    studio.make(request(folder, "link.mp4", may_overwrite=True, settings=VideoSettings(steps=1, size=96)))
    assert link.is_symlink() and probe_video(target).width == 96
    (folder / "in.mp4").symlink_to(folder / "speech.wav")
    with pytest.raises(MediaError, match="in.mp4 is also an input"):
        studio.make(request(folder, "in.mp4", may_overwrite=True))


def test_a_second_run_with_the_same_output_is_refused(folder, studio):
    seen = []

    def look(progress) -> None:
        if not seen:
            seen.append(names_in(folder / "out"))
            other = Studio(studio.choice, landmarker=studio.landmarker)
            for name in ("out/a.mp4", "out/a.MP4"):
                with pytest.raises(BusyError, match="another run is writing .*a.json"):
                    other.make(request(folder, name, may_overwrite=True))

    studio.make(request(folder), watch=look)
    assert seen and names_in(folder / "out") == ["a.json", "a.mp4"]


def test_a_batch_is_run_once_at_a_time(folder, studio):
    (folder / "pairs.csv").write_text("portrait,audio\nface.png,speech.wav\n")
    config = BatchConfig(
        pairs=folder / "pairs.csv", out=str(folder / "out" / "{number}.mp4"), settings=SETTINGS
    )
    with only_writer(config.report), pytest.raises(BusyError, match="another run is writing .*report.csv"):
        make_batch(config, studio)
    assert make_batch(config, studio, say=lambda text: None).counts["made"] == 1


def test_a_batch_whose_names_are_too_long_goes_on_with_the_others(folder, studio):
    shutil.copy(folder / "face.png", folder / f"{'画' * 70}.png")
    rows = [f"{'画' * 70}.png,speech.wav", "face.png,speech.wav"]
    (folder / "pairs.csv").write_text("\n".join(["portrait,audio", *rows]))
    pattern = str(folder / "out" / "{portrait}-{portrait}.mp4")
    said: list[str] = []
    config = BatchConfig(pairs=folder / "pairs.csv", out=pattern, settings=SETTINGS)
    counts = make_batch(config, studio, say=said.append).counts
    assert dict(counts) == {"failed": 1, "made": 1}
    assert any("the name has 425 bytes, at most 255 work" in text for text in said)


def test_what_a_killed_run_left_is_gone_after_the_same_command(folder, studio):
    write_sound(folder / "long.wav", np.zeros((1, 120 * 8_000), np.float32), 8_000)
    command = [sys.executable, "-m", "openloopy", "generate", "face.png", "long.wav", "-o", "out/a.mp4"]
    command += ["--model", studio.choice.model, "--steps", "1"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((folder / "out").rglob("*.partial.mp4")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(names_in(folder / "out")) >= 2, "a lock and something half written"
    studio.make(request(folder))
    assert names_in(folder / "out") == ["a.json", "a.mp4"]


@pytest.fixture
def small_files():
    """No file may become larger than 60 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_nothing_stays(folder, studio, small_files):
    with pytest.raises(
        WriteError, match=f"cannot write {folder}/out/.*: files in .* may not become so large"
    ) as told:
        studio.make(request(folder, settings=VideoSettings(steps=1, size=256, crf=0), has_credentials=False))
    assert told.value.errno == errno.EFBIG and names_in(folder / "out") == []


def test_a_full_temporary_folder_is_named(folder, studio, monkeypatch, tmp_path, small_files):
    import tempfile

    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    write_sound(folder / "speech.wav", np.zeros((1, 3_000), np.float32), 1_000)
    with pytest.raises(OSError, match="TMPDIR") as told:
        studio.make(request(folder))
    assert str(spool) in str(told.value) and names_in(folder / "out") == []
