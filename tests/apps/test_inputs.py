"""The table of bad and odd inputs: each gives its clear error, or its correct result.

Errors are one readable line and exit code 1 (2 where the command line itself is wrong), and leave nothing behind.
"""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from openloopy.apps.cli import main
from openloopy.face.landmarks import Face
from openloopy.face.mesh import Pose, canonical_mesh, rotation_of
from openloopy.media.audio import open_sound, open_waveform
from openloopy.media.video import VideoWriter, probe_video
from tests.media.sounds import speechlike, write_damaged, write_sound

pytestmark = pytest.mark.usefixtures("shared_landmarker")

EXIF_ORIENTATION = 0x0112


def _cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _text(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("these are words, not media\n" * 20)


def _portrait_of(size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda folder: Image.new("RGB", size, "grey").save(folder / "face.png")


def _cut_jpeg(folder: Path) -> None:
    Image.open(folder / "face.png").convert("RGB").save(folder / "face.png", format="JPEG")
    _cut(folder / "face.png")


def _faraway_face(folder: Path) -> None:
    scene = np.full((1024, 1024, 3), 90, np.uint8)
    face = cv2.imread(str(folder / "face.png"))[:, :, ::-1]
    scene[400:528, 400:528] = cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA)
    Image.fromarray(scene).save(folder / "face.png")


def _mute_video(folder: Path) -> None:
    with VideoWriter(folder / "mute.mp4", size=(64, 64)) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))


def _twelve_channels(folder: Path) -> None:
    with wave.open(str(folder / "speech.wav"), "wb") as file:
        file.setparams((12, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 12 * 4_000))


def _nothing(folder: Path) -> None:
    """The good inputs as they are."""


BAD = {
    "portrait that does not exist": (_nothing, ["nobody.png", "speech.wav"], "nobody.png does not exist"),
    "portrait that is a folder": (_nothing, ["out", "speech.wav"], "out is a folder; expected an image"),
    "empty portrait": (
        lambda f: (f / "e.png").touch(),
        ["e.png", "speech.wav"],
        r"e.png is empty \(0 bytes\)",
    ),
    "text as portrait": (_text("t.jpg"), ["t.jpg", "speech.wav"], "not a picture.*convert it to PNG or JPEG"),
    "sound as portrait": (_nothing, ["speech.wav", "speech.wav"], "speech.wav is not a picture"),
    "portrait cut off": (_cut_jpeg, ["face.png", "speech.wav"], "face.png is damaged or cut off"),
    "tiny portrait": (_portrait_of((48, 300)), ["face.png", "speech.wav"], "48x300 px; .*at least 64 px"),
    "huge portrait": (_portrait_of((8200, 64)), ["face.png", "speech.wav"], "8200x64 px; .*at most 8192 px"),
    "no face": (_portrait_of((300, 300)), ["face.png", "speech.wav"], "face.png: found no face"),
    "small face": (_faraway_face, ["face.png", "speech.wav"], "px high, at least 40 are needed"),
    "a face too many": (_nothing, ["face.png", "speech.wav", "--face", "3"], "asked for face 3.*shows 1"),
    "sound that does not exist": (_nothing, ["face.png", "no.wav"], "no.wav does not exist"),
    "empty sound": (lambda f: (f / "e.wav").touch(), ["face.png", "e.wav"], r"e.wav is empty \(0 bytes\)"),
    "text as sound": (_text("t.wav"), ["face.png", "t.wav"], "t.wav is not a sound"),
    "picture as sound": (_nothing, ["face.png", "face.png"], "face.png has no sound in it"),
    "video without sound": (_mute_video, ["face.png", "mute.mp4"], "mute.mp4 has no sound in it"),
    "sound of a blink": (
        lambda f: write_sound(f / "speech.wav", speechlike(0.05, 8_000), 8_000),
        ["face.png", "speech.wav"],
        "lasts 0.050 s; at least 0.1 s",
    ),
    "output of another kind": (_nothing, ["face.png", "speech.wav", "-o", "out/a.avi"], "must end in .mp4"),
    "output in no folder": (
        _nothing,
        ["face.png", "speech.wav", "-o", "no/a.mp4"],
        "folder no does not exist",
    ),
    "output that exists": (
        _text("a.mp4"),
        ["face.png", "speech.wav", "-o", "a.mp4"],
        "exists already.*--force",
    ),
    "sidecar that exists": (
        _text("a.json"),
        ["face.png", "speech.wav", "-o", "a.mp4"],
        "a.json exists already",
    ),
    "output over an input": (
        _text("a.mp4"),
        ["face.png", "a.mp4", "-o", "a.mp4", "--force"],
        "a.mp4 is also an input",
    ),
    "model that does not exist": (
        _nothing,
        ["face.png", "speech.wav", "--model", "./no"],
        "no model at './no'",
    ),
    "folder that is no model": (
        _nothing,
        ["face.png", "speech.wav", "--model", "out"],
        "holds no config.json",
    ),
    "a size that H.264 does not have": (
        _nothing,
        ["face.png", "speech.wav", "--size", "255"],
        "size must be even and at least 64 px, got 255",
    ),
    "a size that the model does not have": (
        _nothing,
        ["face.png", "speech.wav", "--size", "256"],
        "tiny makes pictures of 32 px, not of 256; leave the size out",
    ),
    "the whole picture with a size": (
        _nothing,
        ["face.png", "speech.wav", "--size", "256", "--frame", "full"],
        "a size goes with frame crop",
    ),
    "the whole picture by a model that draws squares": (
        _nothing,
        ["face.png", "speech.wav", "--frame", "full"],
        "frame full needs a model whose portrait itself moves",
    ),
    "float16 on the CPU": (
        _nothing,
        ["face.png", "speech.wav", "--device", "cpu", "--dtype", "float16"],
        "float16 is unusably slow on a CPU",
    ),
}


def _generate(model: Path, arguments: list[str]) -> None:
    """Run the command, by default with the tiny model on the CPU in float32, to out/a.mp4."""
    given = {"--model": str(model), "-o": "out/a.mp4", "--device": "cpu", "--dtype": "float32"}
    for option, value in given.items():
        if option not in arguments:
            arguments = [*arguments, option, value]
    main(["generate", *arguments])


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, model, folder, monkeypatch, capsys):
    prepare, arguments, message = BAD[name]
    monkeypatch.chdir(folder)
    prepare(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        _generate(model, arguments)
    captured = capsys.readouterr()
    assert stop.value.code == 1
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    assert re.search(message, lines[0]), lines[0]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["face.png"],
        ["face.png", "speech.wav", "--steps", "0"],
        ["face.png", "speech.wav", "--seed", "-1"],
        ["face.png", "speech.wav", "--face", "-1"],
        ["face.png", "speech.wav", "--dtype", "float8"],
        ["face.png", "speech.wav", "--audio-guidance", "much"],
        ["face.png", "speech.wav", "--audio-guidance", "nan"],
        ["face.png", "speech.wav", "--frame", "half"],
        ["face.png", "speech.wav", "--crf", "52"],
        ["face.png", "speech.wav", "--unheard-of"],
    ],
)
def test_wrong_command_line(arguments, model, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        _generate(model, arguments)
    assert stop.value.code == 2 and "Usage" in capsys.readouterr().err
    assert not list((folder / "out").iterdir())


class _Profile:
    """Sees one head, turned by 60 degrees."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        turned = canonical_mesh().vertices @ rotation_of(Pose(yaw=60, pitch=0, roll=0)).T
        return [Face.from_mesh(turned * 12 + 256)]


def test_a_profile_is_refused(model, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("openloopy.apps.generate.NetworkLandmarker", _Profile)
    with pytest.raises(SystemExit) as stop:
        _generate(model, ["face.png", "speech.wav"])
    assert stop.value.code == 1 and "turned 60 degrees to the right" in capsys.readouterr().err


def _rotated_by_exif(folder: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # shown after a quarter turn clockwise
    lying = Image.open(folder / "face.png").rotate(90)
    lying.save(folder / "face.png", format="JPEG", exif=exif)


def _converted(mode: str, kind: str) -> Callable[[Path], None]:
    def convert(folder: Path) -> None:
        Image.open(folder / "face.png").convert(mode).save(folder / "face.png", format=kind)

    return convert


def _sixteen_bit(folder: Path) -> None:
    grey = np.asarray(Image.open(folder / "face.png").convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "face.png")


def _transparent(folder: Path) -> None:
    image = Image.open(folder / "face.png").convert("RGBA")
    image.putalpha(Image.radial_gradient("L").resize(image.size).point(lambda x: 255 if x < 200 else 0))
    image.save(folder / "face.png")


def _sound(duration_s: float, rate_hz: int, channels: int) -> Callable[[Path], None]:
    return lambda folder: write_sound(
        folder / "speech.wav", speechlike(duration_s, rate_hz, channels), rate_hz
    )


def _silence(folder: Path) -> None:
    write_sound(folder / "speech.wav", np.zeros((1, 8_000), np.float32), 16_000)


def _other_file(name: str, codec: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_sound(folder / name, speechlike(0.5, 44_100), 44_100, codec)
        (folder / name).rename(folder / "speech.wav")

    return write


def _sound_of_a_video(folder: Path) -> None:
    with VideoWriter(folder / "v.mp4", size=(64, 64), sound=folder / "speech.wav") as video:
        for _ in range(12):
            video.write(np.zeros((64, 64, 3), np.uint8))
    (folder / "v.mp4").rename(folder / "speech.wav")


ODD = {
    "portrait turned by EXIF": _rotated_by_exif,
    "grey portrait": _converted("L", "PNG"),
    "palette portrait": _converted("P", "GIF"),
    "CMYK portrait": _converted("CMYK", "JPEG"),
    "16-bit portrait": _sixteen_bit,
    "portrait with transparency": _transparent,
    "stereo 44.1 kHz": _sound(0.5, 44_100, 2),
    "8 kHz": _sound(0.5, 8_000, 1),
    "96 kHz in six channels": _sound(0.5, 96_000, 6),
    "a tenth of a second": _sound(0.1, 16_000, 1),
    "silence": _silence,
    "mp3 by another name": _other_file("a.mp3", "libmp3lame"),
    "sound of a video": _sound_of_a_video,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_input(name, model, folder, monkeypatch):
    monkeypatch.chdir(folder)
    ODD[name](folder)
    sound = open_sound("speech.wav").info
    with pytest.raises(SystemExit) as stop:
        _generate(model, ["face.png", "speech.wav", "--steps", "1"])
    assert stop.value.code == 0
    assert probe_video("out/a.mp4").num_frames == round(sound.duration_s * 25)
    written = open_sound("out/a.mp4").info
    assert (written.sample_rate_hz, written.channels) == (sound.sample_rate_hz, sound.channels)
    assert abs(len(open_waveform("out/a.mp4")) - sound.duration_s * 16_000) <= 2


def _out_of_phase(folder: Path) -> None:
    voice = speechlike(0.5, 16_000)
    write_sound(folder / "speech.wav", np.concatenate([voice, -voice]), 16_000)


def _with_a_bad_packet(folder: Path) -> None:
    write_damaged(folder / "a.m4a", speechlike(0.5, 16_000), 16_000, "aac", [4])
    (folder / "a.m4a").rename(folder / "speech.wav")


SAID = {
    "sound cut off": (
        lambda folder: _cut(folder / "speech.wav", 0.7),
        "speech.wav is cut off: its header promises 0.50 s of sound, 0.35 s are there and are used",
        1,
    ),
    "sound with a bad packet": (
        _with_a_bad_packet,
        "speech.wav has lost 0.06 s of its sound at 0.19 s (it is damaged); it is silent there",
        1,
    ),
    "channels out of phase": (
        _out_of_phase,
        "the channels of speech.wav are out of phase and cancel each other; only the louder one, channel 1",
        2,
    ),
    "twelve channels": (_twelve_channels, "12 channels, a video holds 8; it gets two, left and right", 2),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_to_be_known_of_a_sound_is_said_and_the_video_made(name, model, folder, monkeypatch, capsys):
    prepare, sentence, channels = SAID[name]
    monkeypatch.chdir(folder)
    prepare(folder)
    source = open_sound("speech.wav")
    with pytest.raises(SystemExit) as stop:
        _generate(model, ["face.png", "speech.wav", "--steps", "1"])
    captured = capsys.readouterr()
    assert stop.value.code == 0 and (captured.out + captured.err).count(sentence) == 1
    written = open_sound("out/a.mp4")
    assert written.info.channels == channels
    assert len(written.waveform) == len(source.waveform)
    assert probe_video("out/a.mp4").num_frames == round(source.info.duration_s * 25)
    sidecar = json.loads(Path("out/a.json").read_text())
    assert sidecar["audio"]["lost_s"] == round(sum(loss.lost_s for loss in source.losses), 3)


def test_a_profile_that_cannot_be_used_is_said_once(model, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Image.open("face.png").save("face.png", icc_profile=b"no profile")
    with pytest.raises(SystemExit) as stop:
        _generate(model, ["face.png", "speech.wav", "--steps", "1"])
    captured = capsys.readouterr()
    sentence = "face.png has a colour profile that cannot be used"
    assert stop.value.code == 0 and (captured.out + captured.err).count(sentence) == 1


def test_two_faces_are_said_aloud_and_can_be_chosen(model, folder, monkeypatch, capsys, astronaut):
    monkeypatch.chdir(folder)
    small = cv2.resize(astronaut, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    pair = np.zeros((512, 512 + small.shape[1], 3), np.uint8)
    pair[:, :512], pair[: small.shape[0], 512:] = astronaut, small
    Image.fromarray(pair).save("face.png")
    crops = []
    for choice in ([], ["--face", "1"]):
        with pytest.raises(SystemExit):
            _generate(model, ["face.png", "speech.wav", "--steps", "1", "--force", *choice])
        crops.append(json.loads(Path("out/a.json").read_text())["portrait"]["crop"])
        assert ("shows 2 faces: using the largest" in capsys.readouterr().err) == (not choice)
    assert crops[0]["x0"] < 400 < crops[1]["x0"]


def test_names_with_spaces_brackets_and_other_letters(model, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "face.png").rename("ein [Bild] für mich.png")
    (folder / "speech.wav").rename("речь 1.wav")
    with pytest.raises(SystemExit) as stop:
        _generate(model, ["ein [Bild] für mich.png", "речь 1.wav", "-o", "out/[red]видео.MP4"])
    assert stop.value.code == 0 and probe_video("out/[red]видео.MP4").has_audio
