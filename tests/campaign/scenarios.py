"""What is killed: each command that goes on where it stopped, on small inputs, and how its results are compared."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from openloopy.media.credentials import CONFIG_VARIABLE
from tests.campaign.alike import Likeness, differences
from tests.campaign.material import Material
from tests.campaign.media import face, write_face, write_speech
from tests.campaign.whole import num_frames

FINISH_S = 1800.0
NUM_JOBS = 3
JOB_SOUND_S = 1.0
SPEECH_S = 4.0
KEYS = "keys"
"""The user's folder for settings: each run makes a signing key of its own in it."""
LOGS = r"^keys(/|$)|\.log$|tensorboard|\.html$|report\.md$|report\.csv$|(^|/)\.(.*\.)?lock$"


class Scenario(Protocol):
    """A command that can be killed and started again."""

    likeness: Likeness

    def lay_out(self, folder: Path, material: Material) -> None:
        """Write the inputs."""

    def start(self, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Begin the work, as the leader of a group of processes."""

    def finish(self, folder: Path) -> list[str]:
        """The same command to its end; what was wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line that ends by itself."""

    arguments: tuple[str, ...]
    inputs: Callable[[Path, Material], None]
    likeness: Likeness = field(default_factory=lambda: Likeness(but=LOGS))
    once: tuple[str, ...] = ()
    """Outputs of a command that refuses to make them again: with all of them it has ended."""

    def lay_out(self, folder: Path, material: Material) -> None:
        """Write the inputs."""
        folder.mkdir(parents=True)
        self.inputs(folder, material)

    def start(self, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Begin the work."""
        return started(self.arguments, folder, environment)

    def finish(self, folder: Path) -> list[str]:
        """The same command to its end."""
        if self.once and all((folder / name).exists() for name in self.once):
            return []
        process = self.start(folder, dict(os.environ))
        with ended_after(process):
            code = process.wait(FINISH_S)
        return [] if code == 0 else [f"the same command failed with {code}: {last_words(folder)}"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """`openloopy serve`, which is asked for videos before it is killed."""

    likeness: Likeness = field(default_factory=lambda: Likeness(but=LOGS + r"|jobs/"))
    """Jobs have names of their own each time: `finish` looks at them."""

    def lay_out(self, folder: Path, material: Material) -> None:
        """A portrait and a sound."""
        folder.mkdir(parents=True)
        write_face(folder / "face.png")
        write_speech(folder / "speech.wav", JOB_SOUND_S)

    def start(self, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """The service; somebody asks it for three videos, and notes in `accepted.log` which it took."""
        process, port = self._served(folder, environment)
        threading.Thread(target=_ask, args=(process, port, folder), daemon=True).start()
        return process

    def finish(self, folder: Path) -> list[str]:
        """Start it again, wait until all are done, and look at each job that it had taken."""
        process, port = self._served(folder, dict(os.environ))
        with ended_after(process):
            counts = _settled(process, port)
        if counts is None:
            return [f"the service does not go on: {last_words(folder)}"]
        accepted = folder / "accepted.log"
        ids = accepted.read_text().split() if accepted.exists() else []
        found = {
            path.parent.name: json.loads(path.read_text()) for path in (folder / "jobs").glob("*/job.json")
        }
        wrong = [f"job {id} is lost" for id in ids if id not in found]
        wrong += [f"jobs are not done: {counts}"] if set(counts) - {"done"} else []
        seeds = Counter(job["settings"].get("seed", "0") for job in found.values())
        wrong += [f"{count} jobs of seed {seed}" for seed, count in seeds.items() if count > 1]
        return wrong + [told for id in found for told in _job_flaws(folder / "jobs" / id)]

    def _served(self, folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        return started(("serve", "--folder", "jobs", "--port", str(port)), folder, environment), port


def started(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """`openloopy` with its output in files beside the folder's inputs, leader of a session of its own."""
    with open(folder / "stdout.log", "ab") as out, open(folder / "stderr.log", "ab") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "openloopy", *arguments],
            cwd=folder,
            env=environment | {CONFIG_VARIABLE: str(folder / KEYS)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


@contextlib.contextmanager
def ended_after(process: subprocess.Popen[bytes]):
    """Nothing of it runs on."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def last_words(folder: Path) -> str:
    """The end of what was printed, in one line."""
    text = (folder / "stderr.log").read_text("utf-8", "replace")[-2000:]
    return " ".join(re.sub(r"[━╭╮╰╯│─]+|\x1b\[[0-9;]*m", " ", text).split())[-400:]


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def _ask(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    """Three videos, unless the service goes away."""
    if _is_up(process, port):
        for seed in range(NUM_JOBS):
            with contextlib.suppress(OSError, ValueError):  # it was killed while it was asked
                answer = _post(port, folder, seed)
                with open(folder / "accepted.log", "a") as lines:
                    lines.write(answer["id"] + "\n")


def _is_up(process: subprocess.Popen[bytes], port: int) -> bool:
    """Waits until a service answers; whether it does."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            return bool(_get(port, "/healthz"))
        time.sleep(0.1)
    return False


def _post(port: int, folder: Path, seed: int) -> dict[str, Any]:
    mark, fields = b"----campaign", {"seed": seed, "size": 64, "steps": 1}
    parts = [b'name="%s"\r\n\r\n%s' % (name.encode(), str(value).encode()) for name, value in fields.items()]
    for name, file in (("image", "face.png"), ("audio", "speech.wav")):
        head = f'name="{name}"; filename="{file}"\r\n\r\n'
        parts.append(head.encode() + (folder / file).read_bytes())
    body = b"".join(b"--%s\r\nContent-Disposition: form-data; %s\r\n" % (mark, part) for part in parts)
    headers = {"Content-Type": f"multipart/form-data; boundary={mark.decode()}"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/videos", body + b"--%s--\r\n" % mark, headers
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def _get(port: int, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.loads(answer.read())


def _settled(process: subprocess.Popen[bytes], port: int) -> dict[str, int] | None:
    """Jobs by status once none waits or runs; None: the service ended."""
    stop = time.monotonic() + FINISH_S
    while _is_up(process, port):
        with contextlib.suppress(OSError):
            counts = {status: count for status, count in _get(port, "/healthz")["jobs"].items() if count}
            if not {"queued", "running"} & set(counts):
                return counts
            if time.monotonic() > stop:
                return {"for ever": 1}
        time.sleep(0.2)
    return None


def _job_flaws(folder: Path) -> list[str]:
    if not (folder / "video.mp4").exists() or not (folder / "video.json").exists():
        return [f"job {folder.name} has no video with its sidecar"]
    count = num_frames(folder / "video.mp4")
    return [] if count == round(25 * JOB_SOUND_S) else [f"job {folder.name}: {count} frames"]


def _portrait_and_sound(folder: Path, material: Material) -> None:
    write_face(folder / "face.png")
    write_speech(folder / "speech.wav", SPEECH_S)


def _pairs(folder: Path, material: Material) -> None:
    write_face(folder / "face.png")
    write_speech(folder / "speech.wav", 1.0)
    rows = "".join(f"face.png,speech.wav,{seed}\n" for seed in range(3))
    (folder / "pairs.csv").write_text("portrait,audio,seed\n" + rows)


def _portraits(folder: Path, material: Material) -> None:
    from PIL import Image

    (folder / "portraits").mkdir()
    for i in range(2):
        Image.fromarray(face(i)).resize((320, 320)).save(folder / "portraits" / f"{i}.png")


def _footage(folder: Path, material: Material) -> None:
    material.copy("footage", folder / "raw")
    for path in list((folder / "raw").iterdir()):
        shutil.copy(path, path.with_name(f"again-{path.name}"))


def _made_and_real(folder: Path, material: Material) -> None:
    for name in ("made", "real"):
        material.copy("footage", folder / name)


def _corpus(folder: Path, material: Material) -> None:
    material.copy("shards", folder / "data")


def _trained_so_far(folder: Path, material: Material) -> None:
    """A line of which the codec and the audio encoder are there."""
    shutil.copytree(material.get("run") / "data", folder / "data")
    for step in ("codec", "audio"):
        shutil.copytree(material.get("run") / "run" / step, folder / "run" / step)
    shutil.copy(material.get("run") / "run" / "start.json", folder / "run")


ONE_STEP = ("--set", "steps=1")
SMALL = ("--size", "64", "--steps", "2")
CLIPS = ("--num-clips", "4", "--clip-s", "1", "--size", "64", "--val-share", "0.5")
OFTEN = ("--set", "loop.checkpoint_every=2", "--set", "loop.log_every=2", "--set", "loop.num_steps=12")
ABOUT = Likeness(but=LOGS + r"|strips/", tolerance=0.02)
"""Sums of floats depend on where memory lies, in their last digits: measures of footage are only about the same."""
BUT_FOR_SPEECH = Likeness(but=LOGS + r"|run/(audio|cache|stage2|model)/|stage1/config")
"""espeak draws the noise of its breathy voices on its own: what is learned from speech made anew is not the same."""
SCENARIOS: dict[str, Scenario] = {
    "generate": Command(
        arguments=("generate", "face.png", "speech.wav", "-o", "out.mp4", *SMALL, "--unsigned"),
        inputs=_portrait_and_sound,
        once=("out.mp4", "out.json"),
    ),
    "generate-signed": Command(
        arguments=("generate", "face.png", "speech.wav", "-o", "out.mp4", *SMALL),
        inputs=_portrait_and_sound,
        once=("out.mp4", "out.json"),
        likeness=Likeness(but=LOGS + r"|\.mp4$"),
    ),
    "batch": Command(
        arguments=(
            "batch",
            "pairs.csv",
            "-o",
            "out/{number}.mp4",
            "--unsigned",
            "--set",
            "size=64",
            "--set",
            "steps=1",
        ),
        inputs=_pairs,
    ),
    "train": Command(arguments=("train", "tiny", "--data", "data", "--run", "run"), inputs=_trained_so_far),
    "train-stage1": Command(
        arguments=("train", "tiny.stage1", "--data", "data", "--run", "run", *OFTEN), inputs=_trained_so_far
    ),
    "train-whole": Command(
        arguments=("train", "tiny", "--data", "data", "--run", "run"), inputs=_corpus, likeness=BUT_FOR_SPEECH
    ),
    "prepare": Command(
        arguments=("prepare", "raw", "out", "--size", "64", "--workers", "2"), inputs=_footage, likeness=ABOUT
    ),
    "puppet": Command(
        arguments=("puppet", "out", *CLIPS, "--workers", "2"), inputs=lambda folder, material: None
    ),
    "puppet-portraits": Command(
        arguments=("puppet", "out", *CLIPS, "--portraits", "portraits", "--workers", "2"), inputs=_portraits
    ),
    "evaluate": Command(
        arguments=("evaluate", "made", "--truth", "real", "-o", "report"),
        inputs=_made_and_real,
        likeness=ABOUT,
    ),
    "serve": Service(),
}


def unlike(scenario: Scenario, expected: Path, found: Path) -> list[str]:
    """What differs between the results of an unbroken run and of one that was killed."""
    return differences(expected, found, scenario.likeness)
