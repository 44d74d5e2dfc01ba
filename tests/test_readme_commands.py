"""Every command of the README runs: here, on small data (nightly), or in the test that is named for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import openloopy
from openloopy.media.video import probe_video
from openloopy.puppet.drawn import draw_face
from tests.media.sounds import speechlike, write_sound
from tests.test_readme import ROOT, blocks

PYTHON = f"{sys.executable} -m openloopy"
FEED = f"{sys.executable} -c \"import sys; sys.stdout.buffer.write(open('speech.raw', 'rb').read())\""
SMALLER = {
    "make demo": f"{sys.executable} {ROOT / 'examples' / 'demo.py'} --out out",
    "arecord -f S16_LE -r 16000 -t raw": FEED,
    "mpv -": "cat > live.mp4",
    "--hours 1 --workers 2": "--num-clips 2 --clip-s 2 --workers 2",
    "--hours 20 --clip-s 20 --clip-s 45": "--num-clips 3 --clip-s 2 --clip-s 3",
    "--portraits FOLDER": "--portraits portraits",
    "--held-out NAME": "--held-out ann",
    "--explain CLIP": "--explain ann-000000",
    "GENERATED --truth REAL": "made --truth real",
    "report other-report": "report report2",
    "METHOD-A METHOD-B": "made real",
}
"""What stands for something, or would take hours, and what takes its place."""
ELSEWHERE = {
    "make test": None,  # it would run itself
    "pip install": "tests/test_package.py::test_what_is_installed_by_a_file_of_ours_is_pinned",
    "docker build": "tests/test_package.py",  # no daemon here; its parts are compared with the package
    "openloopy train mini --data data/states --run": "tests/test_tiny_run.py::test_every_step_ran_and_learned",
    "openloopy train mini.stage2": "tests/test_tiny_run.py::test_a_variant_shares_everything_before_stage2",
    "openloopy train mini --data data/states --data data/footage": "tests/test_tiny_run.py::"
    "test_prepared_footage_trains_stage2_from_the_finished_model",
    "openloopy import": "tests/models/test_importing.py",
    "openloopy prepare FOOTAGE shards": "tests/data/test_prepare_whole.py",
    "torchrun": "tests/recipes/test_sd15.py::test_two_machines_share_features_and_steps",
    "openloopy generate portrait.jpg speech.mp3 -o talking.mp4 --model": "tests/recipes/test_sd15.py::"
    "test_the_steps_lead_to_a_model_that_makes_a_video",
}
SERVED = {"openloopy app": 7860, "openloopy serve": 8360, "openloopy study": 8350}
"""Commands that go on until they are stopped, and where they listen."""


def commands() -> list[str]:
    """The README's shell commands as they stand there, without comments."""
    text = "\n".join(blocks("", "bash", "sh")).replace("\\\n", " ")
    lines = (re.sub(r"\s+#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def place_of(command: str) -> str | None:
    """Where else it is run; "here" if nowhere."""
    return next((place for start, place in ELSEWHERE.items() if command.startswith(start)), "here")


def test_every_command_has_a_place_and_every_place_exists():
    for start, place in ELSEWHERE.items():
        assert any(command.startswith(start) for command in commands()), (
            f"the README has no {start!r} any more"
        )
        if place and "::" in place:
            path, name = place.split("::")
            assert f"def {name}(" in (ROOT / path).read_text(), place
        elif place:
            assert (ROOT / place).exists(), place
    first_words = {command.split()[0] for command in commands() if place_of(command) == "here"}
    assert first_words <= {"openloopy", "arecord", "make"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with what the commands name, small."""
    home = tmp_path_factory.mktemp("readme")
    Image.fromarray(data.astronaut()).save(home / "portrait.jpg")
    write_sound(home / "speech.mp3", speechlike(1.0, 16_000), 16_000, "mp3")
    (home / "speech.raw").write_bytes((speechlike(1.0, 16_000)[0] * 32767).astype("<i2").tobytes())
    (home / "pairs.csv").write_text("portrait,audio\nportrait.jpg,speech.mp3\n")
    for folder in ("portraits", "FOOTAGE", "made", "real", "data"):
        (home / folder).mkdir()
    Image.fromarray(draw_face(np.random.default_rng(3), 320).rgb).save(home / "portraits" / "a.png")
    speech = ROOT / "src" / "openloopy" / "assets" / "demo_speech.flac"
    openloopy.generate(data.astronaut(), speech, home / "FOOTAGE" / "ann.mp4")
    (home / "FOOTAGE" / "ann.json").unlink()
    for folder in ("made", "real"):
        shutil.copy(home / "FOOTAGE" / "ann.mp4", home / folder / "case.mp4")
    return home


def _run(command: str, home: Path) -> str:
    for was, smaller in SMALLER.items():
        command = command.replace(was, smaller)
    command = re.sub(r"(^|\| )openloopy ", rf"\1{PYTHON} ", command)
    environment = os.environ | {"OPENLOOPY_CONFIG": str(home / "config"), "HF_HUB_OFFLINE": "1"}
    line = f"set -o pipefail; {command}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=home, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.nightly
@pytest.mark.slow
def test_all_commands_run_in_their_order(home):
    ran = []
    for command in commands():
        if place_of(command) != "here" or any(command.startswith(start) for start in SERVED):
            continue
        if command.startswith("openloopy compare"):
            shutil.copytree(home / "report", home / "report2")
        printed = _run(command, home)
        ran.append(command)
        if command.startswith("openloopy detect"):
            assert "talking.mp4: AI-generated" in printed
    assert len(ran) >= 9, ran
    for name in ("talking.mp4", "live.mp4", "out/portrait-speech.mp4"):
        assert probe_video(home / name).num_frames == 25, name


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("start", SERVED)
def test_servers_answer(home, start):
    command = next(command for command in commands() if command.startswith(start))
    command = command.replace("METHOD-A METHOD-B", "made real").replace("openloopy ", f"exec {PYTHON} ", 1)
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    address, stop = f"http://127.0.0.1:{SERVED[start]}/", time.monotonic() + 120
    if start == "openloopy serve":
        address += "docs"
    try:
        while True:
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < stop, process.stdout.read()
                time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
