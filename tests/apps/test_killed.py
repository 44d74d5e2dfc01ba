"""Killed between its two files, a video is made again by the same command; what is not ours stays."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from openloopy.apps.generate import GenerateRequest, ModelChoice, Studio
from openloopy.apps.settings import VideoSettings


@pytest.fixture(scope="module")
def studio(rig_model, landmarker) -> Studio:
    return Studio(ModelChoice(model=str(rig_model)), landmarker=landmarker)


@pytest.fixture
def request_(folder) -> GenerateRequest:
    return GenerateRequest(
        portrait=folder / "face.png",
        audio=folder / "speech.wav",
        out=folder / "out" / "a.mp4",
        settings=VideoSettings(size=64, steps=1),
    )


class Renaming:
    """`os.replace`, which notes the names that files get, and ends the run where one gets `deadly`."""

    def __init__(self, rename) -> None:
        self.names: list[str] = []
        self.deadly = ""
        self._rename = rename

    def __call__(self, source, target) -> None:
        if Path(target).name == self.deadly:
            raise KeyboardInterrupt
        self._rename(source, target)
        self.names.append(Path(target).name)


@pytest.fixture
def renaming(monkeypatch) -> Renaming:
    monkeypatch.setattr(os, "replace", Renaming(os.replace))
    return os.replace


@pytest.mark.parametrize("has_credentials", [True, False])
def test_a_video_gets_its_name_after_its_sidecar(request_, studio, renaming, has_credentials):
    request = replace(request_, has_credentials=has_credentials)
    studio.make(request, say=lambda _: None)
    assert renaming.names[-2:] == ["a.json", "a.mp4"]


def test_killed_between_the_two_the_same_request_goes_on(request_, studio, renaming):
    renaming.deadly = "a.mp4"
    with pytest.raises(KeyboardInterrupt):
        studio.make(request_, say=lambda _: None)
    assert [path.name for path in request_.out.parent.iterdir() if path.name[0] != "."] == ["a.json"]
    renaming.deadly = ""
    studio.make(request_, say=lambda _: None)
    assert json.loads(request_.sidecar.read_text())["video"]["file"] == "a.mp4" and request_.out.exists()


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "no json", '{"ai_generated": true, "video": {"file": "b.mp4"}}']
)
def test_a_sidecar_of_something_else_is_not_overwritten(request_, studio, text):
    request_.sidecar.write_text(text)
    with pytest.raises(ValueError, match="a.json exists already"):
        studio.make(request_, say=lambda _: None)
    assert request_.sidecar.read_text() == text
