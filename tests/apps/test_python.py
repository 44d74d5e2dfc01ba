"""`openloopy.generate`, and the studio behind it: one line, any kind of input, kept warm."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import openloopy
from openloopy.apps.generate import GenerateRequest, ModelChoice, Studio
from openloopy.apps.settings import VideoSettings
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.media import credentials
from openloopy.media.audio import open_waveform
from openloopy.media.mark import find_mark
from openloopy.media.video import probe_video, read_frames
from tests.apps.conftest import copy_speech


@pytest.fixture
def speech(folder) -> tuple[np.ndarray, int]:
    return open_waveform(folder / "speech.wav"), 16_000


@pytest.fixture
def studio(rig_model, landmarker) -> Studio:
    return Studio(ModelChoice(model=str(rig_model)), landmarker=landmarker)


def request(folder, **changes) -> GenerateRequest:
    settings = VideoSettings(**{"seed": 1, "steps": 1} | changes.pop("settings", {}))
    facts = {"portrait": folder / "face.png", "audio": folder / "speech.wav", "out": folder / "out" / "a.mp4"}
    return GenerateRequest(**facts | changes, settings=settings, may_overwrite=True)


def test_one_line_makes_a_video(folder, rig_model, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    seed = np.int64(3)
    report = openloopy.generate("face.png", "speech.wav", "out.mp4", model=rig_model, steps=1, seed=seed)
    assert probe_video("out.mp4").num_frames == report.num_frames == 12
    facts = json.loads((folder / "out.json").read_text())
    assert facts["settings"]["seed"] == 3 and facts["portrait"]["file"] == "face.png"
    with pytest.raises(ValueError, match="exists already"):
        openloopy.generate("face.png", "speech.wav", "out.mp4", model=rig_model)
    openloopy.generate("face.png", "speech.wav", "out.mp4", model=rig_model, steps=1, overwrite=True)


def test_wrong_settings_are_refused_before_any_work(folder):
    for settings, message in (
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"colour": "red"}, "no setting colour; there are: seed, steps"),
        ({"size": "768"}, "size must be even and at least 64 px, got '768'"),
        ({"crf": "x"}, "crf must lie in 0 .lossless. to 51, got 'x'"),
        ({"face": 0.5}, "face must be 0 .the largest. or more, got 0.5"),
        ({"temperature": "warm"}, "temperature must lie in 0 to 100, got 'warm'"),
        ({"label": "yes"}, "label must be True or False, got 'yes'"),
    ):
        with pytest.raises(ValueError, match=message):
            openloopy.generate(folder / "face.png", folder / "speech.wav", folder / "a.mp4", **settings)


def test_the_package_answers_without_torch():
    code = (
        "import sys, openloopy; print(openloopy.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [openloopy.__version__, "False", "False"]
    assert set(openloopy.__all__) == {"generate", "LoopyPipeline", "GenerationOptions"}
    assert all(getattr(openloopy, name) for name in openloopy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Loopy'"):
        _ = openloopy.Loopy


def test_arrays_and_files_give_the_same_frames(folder, studio, astronaut, speech):
    wanted = np.stack(list(read_frames(studio.make(request(folder)).out)))
    for portrait, audio in (
        (Image.open(folder / "face.png"), speech),
        (astronaut, (torch.from_numpy(speech[0].copy()), 16_000)),
    ):
        report = studio.make(request(folder, portrait=portrait, audio=audio))
        facts = json.loads(report.sidecar.read_text())
        assert facts["portrait"]["file"] is None and facts["audio"]["file"] is None
        assert facts["portrait"]["sha256"] == hashlib.sha256(astronaut).hexdigest()
        assert facts["audio"]["sha256"] == hashlib.sha256(speech[0]).hexdigest()
        made = np.stack(list(read_frames(report.out)))
        assert np.abs(made.astype(int) - wanted).mean() < 0.2


def test_the_last_portrait_stays_ready(folder, studio, monkeypatch):
    looked = []
    detect = NetworkLandmarker.detect
    monkeypatch.setattr(NetworkLandmarker, "detect", lambda *args: looked.append(1) or detect(*args))
    studio.make(request(folder))
    studio.make(request(folder, settings={"seed": 2}))
    assert len(looked) == 1
    studio.make(request(folder, settings={"size": 96}))
    assert len(looked) == 2  # its rig is another
    assert studio.is_loaded and studio.unload() and not studio.is_loaded and not studio.unload()
    assert studio.make(request(folder)).num_frames == 12


def test_another_portrait_gets_its_own_rig(folder, studio, astronaut):
    wanted = np.stack(list(read_frames(studio.make(request(folder)).out)))
    mirrored = np.ascontiguousarray(astronaut[:, ::-1])
    other = np.stack(list(read_frames(studio.make(request(folder, portrait=mirrored)).out)))
    assert np.abs(other.astype(int) - wanted).mean() > 5


def test_the_stream_shows_the_same_frames(folder, studio):
    stream = io.BytesIO()
    report = studio.make(request(folder, settings={"crf": 5}), stream=stream)
    (folder / "stream.mp4").write_bytes(stream.getvalue())
    shown, wanted = (
        np.stack(list(read_frames(path))).astype(int) for path in (folder / "stream.mp4", report.out)
    )
    assert shown.shape == wanted.shape and np.abs(shown - wanted).mean() < 3


def test_every_video_is_marked_tagged_and_signed_and_labelled_where_asked(
    folder, studio, monkeypatch, tmp_path
):
    monkeypatch.setenv("OPENLOOPY_CONFIG", str(tmp_path / "config"))
    copy_speech(folder / "speech.wav", 2.0)
    out = studio.make(request(folder, settings={"size": 512})).out
    assert find_mark(out).is_marked
    if credentials.is_available():
        assert credentials.read_credentials(out).validation == "valid, signer not verified"
    plain = next(read_frames(out))
    labelled = next(read_frames(studio.make(request(folder, settings={"size": 512, "label": True})).out))
    changed = np.abs(labelled.astype(int) - plain).max(axis=2) > 40
    rows, columns = np.nonzero(changed)
    assert len(rows) and rows.min() > 400 and columns.max() < 256


def test_who_wants_no_credentials_gets_none(folder, studio):
    out = studio.make(request(folder, has_credentials=False)).out
    if credentials.is_available():
        assert credentials.read_credentials(out) is None
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.json", "a.mp4"]
