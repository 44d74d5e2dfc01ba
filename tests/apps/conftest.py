"""A tiny model folder, a portrait and a face finder, each made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from openloopy.apps import generate
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.inference.pipeline import LoopyPipeline
from tests.media.sounds import speechlike, write_sound
from tests.tiny import tiny_model, tiny_rig_model


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model folder with random weights."""
    folder = tmp_path_factory.mktemp("model")
    LoopyPipeline(tiny_model()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rig_model(tmp_path_factory) -> Path:
    """The same on face states: its portrait itself moves."""
    folder = tmp_path_factory.mktemp("rig-model")
    LoopyPipeline(tiny_rig_model()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """NASA's portrait of Eileen Collins (public domain), as it comes with scikit-image: one face, 512 px."""
    return data.astronaut()


@pytest.fixture(scope="session")
def landmarker() -> NetworkLandmarker:
    return NetworkLandmarker()


@pytest.fixture
def shared_landmarker(monkeypatch, landmarker) -> None:
    """The command line uses the session's landmarker: starting one takes a second."""
    monkeypatch.setattr(generate, "NetworkLandmarker", lambda: landmarker)


@pytest.fixture(scope="session")
def good_inputs(tmp_path_factory, astronaut) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(astronaut).save(folder / "face.png")
    write_sound(folder / "speech.wav", speechlike(0.5, 16_000), 16_000)
    (folder / "out").mkdir()
    return folder


def copy_speech(path: Path, duration_s: float) -> None:
    """Overwrite a sound file with longer speech."""
    write_sound(path, speechlike(duration_s, 16_000), 16_000)


@pytest.fixture(autouse=True, scope="session")
def own_config(tmp_path_factory) -> Iterator[None]:
    """Keys that are made on first use go to a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENLOOPY_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def folder(tmp_path, good_inputs) -> Path:
    """A folder with good inputs, face.png and speech.wav (0.5 s), and an empty folder `out`."""
    return Path(shutil.copytree(good_inputs, tmp_path / "here"))
