"""Fixtures of the face room: one landmarker for all tests, drawn faces, and sample files where present."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.puppet.drawn import DrawnFace, draw_face

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def landmarker() -> NetworkLandmarker:
    return NetworkLandmarker()


@pytest.fixture(scope="session")
def samples() -> Path:
    folder = Path(os.environ.get("OPENLOOPY_SAMPLES", REPOSITORY.parent / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(
            f"no sample files at {folder}; set OPENLOOPY_SAMPLES to a folder with portraits and videos"
        )
    return folder


@pytest.fixture(scope="session")
def drawn() -> DrawnFace:
    return draw_face(np.random.default_rng(1), 256)
