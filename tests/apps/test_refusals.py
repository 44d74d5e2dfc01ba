"""What cannot work is refused at once: before torch, numpy, PyAV or OpenCV are imported, in words, leaving nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from openloopy.apps.request import check_inputs
from openloopy.media.files import MediaError
from openloopy.media.kinds import kind_of
from tests.media.sounds import speechlike, write_sound

GENERATE = ["generate", "face.png", "speech.wav", "-o", "a.mp4"]
NUMBERS = ("inf", "-inf", "nan", "-1", "1e999", "9" * 30)
"""What no option takes; whole numbers do not take them either."""
NOT_BELOW_ONE, TEXTS = ("0",), ("", "much", "1,5", "0x10")
BAD_NUMBERS = {
    "generate": {
        "--seed": NUMBERS,
        "--steps": NUMBERS + NOT_BELOW_ONE + ("1001",),
        "--audio-guidance": NUMBERS,
        "--reference-guidance": NUMBERS,
        "--temperature": NUMBERS,
        "--face": ("inf", "nan", "-1"),
        "--size": NUMBERS + ("0", "63", "65", "8194"),
        "--crf": NUMBERS + ("52",),
    },
    "app": {"--port": NUMBERS + ("65536",)},
    "serve": {
        "--port": NUMBERS + ("65536",),
        "--max-waiting": NUMBERS + NOT_BELOW_ONE,
        "--max-audio-s": ("inf", "-inf", "nan", "-1", "1e999", "0"),
        "--keep-h": ("inf", "-inf", "nan", "-1", "1e999"),
        "--idle-s": ("inf", "-inf", "nan", "-1", "1e999"),
    },
    "speech": {"--kokoro-hours": NUMBERS + NOT_BELOW_ONE, "--workers": NUMBERS + NOT_BELOW_ONE},
    "puppet": {"--hours": NUMBERS + NOT_BELOW_ONE, "--num-clips": NUMBERS + NOT_BELOW_ONE},
    "two puppets": {
        "--size": NUMBERS + ("0", "31", "33"),
        "--workers": NUMBERS + NOT_BELOW_ONE,
    },
    "prepare": {
        "--size": NUMBERS + ("0", "31"),
        "--max-clip-s": ("inf", "-inf", "nan", "-1", "1e999", "0"),
        "--workers": NUMBERS + NOT_BELOW_ONE,
    },
    "label": {
        "--puppet-frames": NUMBERS,
        "--drawn": NUMBERS,
        "--toons": NUMBERS,
        "--workers": NUMBERS + NOT_BELOW_ONE,
    },
    "import": {"--size": NUMBERS + NOT_BELOW_ONE, "--seed": NUMBERS},
    "evaluate": {"--count": NUMBERS + NOT_BELOW_ONE, "--seed": ("inf", "nan", "-1")},
    "study": {"--port": NUMBERS + ("65536",), "--seed": ("inf", "nan", "-1")},
}
BASE = {
    "generate": GENERATE,
    "app": ["app"],
    "serve": ["serve"],
    "speech": ["speech", "new"],
    "puppet": ["puppet", "new"],
    "two puppets": ["puppet", "new", "--num-clips", "2"],
    "prepare": ["prepare", ".", "new"],
    "label": ["label", ".", "new"],
    "import": ["import", "face.png", "new"],
    "evaluate": ["evaluate", ".", "-o", "new"],
    "study": ["study", "a", "b"],
}
PUPPETS = ["puppet", "new", "--num-clips", "2"]
OTHERS = {
    "the two swapped": (
        ["generate", "speech.wav", "face.png", "-o", "a.mp4"],
        "PORTRAIT and AUDIO seem swapped",
    ),
    "another ending": (["generate", "face.png", "speech.wav", "-o", "a.avi"], "must end in .mp4"),
    "no ending": (["generate", "face.png", "speech.wav", "-o", "a"], "must end in .mp4"),
    "standard output": (["generate", "face.png", "speech.wav", "-o", "-"], "must end in .mp4"),
    "a name too long": (
        ["generate", "face.png", "speech.wav", "-o", "画" * 84 + ".mp4"],
        "the name has 256 bytes, at most 255 work",
    ),
    "a folder that is not there": (
        ["generate", "face.png", "speech.wav", "-o", "no/a.mp4"],
        "does not exist",
    ),
    "a portrait that is not there": (
        ["generate", "no.png", "speech.wav", "-o", "a.mp4"],
        "no.png does not exist",
    ),
    "a portrait that sounds": (
        ["generate", "speech.wav", "speech.wav", "-o", "a.mp4"],
        r"speech.wav is not a picture that can be read: it is a sound \(WAV\)",
    ),
    "a sound that is seen": (
        ["generate", "face.png", "face.png", "-o", "a.mp4"],
        r"face.png has no sound in it: it is a picture \(PNG\)",
    ),
    "a size for the whole picture": (
        [*GENERATE, "--size", "64", "--frame", "full"],
        "a size goes with frame crop",
    ),
    "a seed from beyond": ([*GENERATE, "--seed", str(2**63)], r"seed must be below 2\*\*63"),
    "a batch without pairs": (["batch", "no.csv", "-o", "{number}.mp4"], "no.csv does not exist"),
    "a batch of another ending": (
        ["batch", "pairs.csv", "-o", "{number}.avi"],
        "the pattern must end in .mp4",
    ),
    "a pattern that is none": (["batch", "pairs.csv", "-o", "{number.mp4"], "is no pattern"),
    "rows of one name": (["batch", "pairs.csv", "-o", "same.mp4"], "2 rows would be written to same.mp4"),
    "a setting of a row": (
        ["batch", "bad.csv", "-o", "{number}.mp4"],
        "row 1: temperature must lie in 0 to 100",
    ),
    "a setting of all rows": (
        ["batch", "pairs.csv", "-o", "{number}.mp4", "--set", "steps=0"],
        "steps must be a whole number, at least 1",
    ),
    "nothing to gather": (["speech", "new"], "nothing to gather"),
    "puppets of no length": ([*PUPPETS, "--clip-s", "0"], "every clip needs at least one frame"),
    "puppets of any length": ([*PUPPETS, "--clip-s", "1e9"], "lasts at most 3600 s"),
    "puppets, endless": ([*PUPPETS, "--clip-s", "2", "--clip-s", "inf"], "expected a finite number, got inf"),
    "a share above one": ([*PUPPETS, "--noise-share", "1.5"], r"noise_share must be in \[0, 1\]"),
    "a name for a tar": ([*PUPPETS, "--name", "a/b"], "name may have up to 60 letters, digits, - and _"),
    "puppets, counted twice": (
        ["puppet", "new", "--hours", "1", "--num-clips", "1"],
        "either hours or num_clips",
    ),
}
RUN_ALL = """
import contextlib, io, json, sys
import typer
from openloopy.apps import cli
cli.app = typer.main.get_command(cli.app)  # made once, not for each of hundreds of lines
said = []
for line in json.load(sys.stdin):
    error = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(error):
        try:
            cli.main(line)
        except SystemExit as stop:
            code = stop.code
    heavy = sorted({"torch", "numpy", "cv2", "av", "filelock"} & set(sys.modules))
    said.append((code, error.getvalue(), heavy))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    Image.new("RGB", (64, 64)).save(folder / "face.png")
    write_sound(folder / "speech.wav", speechlike(0.5, 16_000), 16_000)
    (folder / "pairs.csv").write_text("portrait,audio\nface.png,speech.wav\nface.png,speech.wav\n")
    (folder / "bad.csv").write_text("portrait,audio,temperature\nface.png,speech.wav,inf\n")
    return folder


def run_all(here: Path, lines: list[list[str]]) -> list[tuple[int, str, list[str]]]:
    """Exit code, what was printed, and heavy packages that are loaded by then, for each command line."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=here,
        env=os.environ | {"COLUMNS": "200"},
        check=True,
    )
    return json.loads(done.stdout)


def test_numbers_that_no_option_takes(here):
    cases = [
        (option, [*BASE[command], option, value])
        for command, options in BAD_NUMBERS.items()
        for option, values in options.items()
        for value in (*values, *TEXTS)
    ]
    before = sorted(here.iterdir())
    answers = run_all(here, [line for _, line in cases])
    for (option, line), (code, said, heavy) in zip(cases, answers, strict=True):
        assert code in (1, 2), (line, code, said)
        assert "unexpected" not in said and "Traceback" not in said, (line, said)
        name = option.strip("-").replace("-", "_")
        assert option in said or name in said or name.split("_")[-1] in said, (line, said)
        assert not heavy, (line, heavy)
    assert sorted(here.iterdir()) == before


def test_everything_else_that_can_be_seen_at_once(here):
    before = sorted(here.iterdir())
    answers = run_all(here, [line for line, _ in OTHERS.values()])
    for (name, (_, message)), (code, said, heavy) in zip(OTHERS.items(), answers, strict=True):
        assert code in (1, 2) and "unexpected" not in said, (name, code, said)
        assert re.search(message, said), (name, said)
        assert not heavy, (name, heavy)
    assert sorted(here.iterdir()) == before


def test_live_is_refused_before_the_model_is_loaded(here):
    (here / "there.mp4").write_text("old")
    lines = [
        (["generate", "face.png", "speech.wav", "--live", "-o", "new.mp4"], "with --live the sound is"),
        (["generate", "face.png", "pcm:16000", "--live", "-o", "new.avi"], "new file must end in .mp4"),
        (["generate", "face.png", "pcm:16000", "--live", "-o", "y4m:new.mp4"], "new file must end in .y4m"),
        (["generate", "face.png", "pcm:16000", "--live", "-o", "there.mp4"], "exists already"),
        (["generate", "speech.wav", "pcm:16000", "--live", "-o", "-"], "is not a picture"),
    ]
    answers = run_all(here, [line for line, _ in lines])
    (here / "there.mp4").unlink()
    for (line, message), (code, said, heavy) in zip(lines, answers, strict=True):
        assert code == 1 and message in said and "torch" not in heavy, (line, said, heavy)


KINDS = {
    "a.png": "a picture (PNG)",
    "a.jpg": "a picture (JPEG)",
    "a.gif": "a picture (GIF)",
    "a.bmp": "a picture (BMP)",
    "a.tif": "a picture (TIFF)",
    "a.webp": "a picture (WebP)",
    "a.wav": "a sound (WAV)",
    "a.flac": "a sound (FLAC)",
    "a.ogg": "a sound (Ogg)",
    "a.mp4": "a video (MP4)",
    "a.mkv": "a video (Matroska or WebM)",
    "a.avi": "a video (AVI)",
    "a.txt": "None",
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_what_its_first_bytes_say_whatever_it_is_called(name, tmp_path):
    path = tmp_path / name
    if name.endswith(("png", "jpg", "gif", "bmp", "tif", "webp")):
        Image.new("RGB", (8, 8)).save(path)
    elif name.endswith("txt"):
        path.write_text("words")
    else:
        codecs = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "avi": "pcm_s16le"}
        write_sound(path, speechlike(0.2, 48_000), 48_000, codecs.get(path.suffix[1:], "aac"))
    assert str(kind_of(path)) == KINDS[name]
    assert str(kind_of(path.rename(tmp_path / "misnamed.xyz"))) == KINDS[name]


def test_what_is_in_memory_or_of_unknown_kind_is_left_to_those_who_decode_it(here):
    (here / "raw.bin").write_bytes(bytes(100))
    check_inputs(object(), object())
    check_inputs(here / "raw.bin", here / "raw.bin")
    check_inputs(str(here / "face.png"), object())
    (here / "raw.bin").unlink()
    with pytest.raises(MediaError, match="the image and the audio seem swapped"):
        check_inputs(here / "speech.wav", here / "face.png", ("the image", "the audio"))
