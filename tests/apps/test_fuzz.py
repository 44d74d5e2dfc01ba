"""Whatever comes in, the service answers, never with an error of its own (nightly)."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from openloopy.apps.generate import ModelChoice, Studio  # noqa: E402
from openloopy.apps.jobs import Limits  # noqa: E402
from openloopy.apps.service import ServiceConfig  # noqa: E402
from openloopy.apps.settings import setting_kinds  # noqa: E402
from tests.apps.test_service import Running  # noqa: E402
from tests.campaign.damage import damaged  # noqa: E402
from tests.campaign.media import picture, sound  # noqa: E402

pytestmark = [pytest.mark.nightly, pytest.mark.slow]
NUM_FILES, NUM_SCHEMA = 300, 200
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SEEDS = st.integers(0, 2**32)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1", "64", "full", "true", "nan", "inf", "1e400", "9" * 400, "٣", "0x10", "1_0"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=40),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory, rig_model, landmarker):
    studio = Studio(ModelChoice(model=str(rig_model)), landmarker=landmarker)
    config = ServiceConfig(
        folder=tmp_path_factory.mktemp("fuzzed"), limits=Limits(max_waiting=200, max_audio_s=5)
    )
    with Running(config, studio) as client:
        yield client


def image_of(rng: random.Random, good: bytes) -> bytes:
    """A portrait in some format, often damaged."""
    data = picture(rng)[1] if rng.random() < 0.5 else good
    return damaged(data, rng, rng.choice([0, 1, 1, 2]))


def audio_of(rng: random.Random, good: bytes, folder: Path) -> bytes:
    """A sound in some format, often damaged."""
    data = sound(rng, folder).read_bytes() if rng.random() < 0.5 else good
    return damaged(data, rng, rng.choice([0, 1, 1, 2]))


def test_damaged_files_and_odd_settings_are_answered(client, good_inputs, tmp_path):
    image, audio = ((good_inputs / name).read_bytes() for name in ("face.png", "speech.wav"))
    seen, ids = set(), []

    @settings(
        max_examples=NUM_FILES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(SEEDS, st.dictionaries(st.sampled_from(list(setting_kinds())), TEXTS, max_size=3), st.text())
    def ask(seed, texts, name):
        rng = random.Random(seed)
        files = {
            "image": (name or "a", image_of(rng, image)),
            "audio": (name or "b", audio_of(rng, audio, tmp_path)),
        }
        answer = client.post("/v1/videos", files=files, data=texts)
        seen.add(answer.status_code)
        assert answer.status_code < 500, (answer.text, texts)
        if answer.status_code == 202:
            ids.append(answer.json()["id"])

    ask()
    assert {202, 422} <= seen
    stop = time.monotonic() + 300
    while any(client.get("/healthz").json()["jobs"][status] for status in ("queued", "running")):
        assert time.monotonic() < stop
        time.sleep(0.2)
    found = [client.get(f"/v1/videos/{id}").json() for id in ids]
    assert any(each["status"] == "done" for each in found)
    assert not [each["error"] for each in found if (each["error"] or "").startswith("unexpected")]


def test_schemathesis_finds_no_error(client, tmp_path):
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed (extra `dev`)")
    command = [
        program,
        "run",
        f"{client.base_url}/openapi.json",
        "--max-examples",
        str(NUM_SCHEMA),
        "--seed",
        "1",
    ]
    done = subprocess.run(
        [*command, "--checks", CHECKS], capture_output=True, text=True, cwd=tmp_path, timeout=900
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "9 selected" in done.stdout
