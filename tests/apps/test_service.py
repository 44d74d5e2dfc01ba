"""The service, asked by a real client: videos, streams, refusals, and who may ask."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import uvicorn  # noqa: E402

from openloopy.apps import service  # noqa: E402
from openloopy.apps.generate import ModelChoice, Studio  # noqa: E402
from openloopy.apps.jobs import Limits  # noqa: E402
from openloopy.apps.service import ServiceConfig, make_app  # noqa: E402
from openloopy.apps.settings import setting_kinds  # noqa: E402

TOKEN = "a-token-of-some-length"


class Running:
    """A service in a thread, on a port of its own."""

    def __init__(self, config: ServiceConfig, studio: Studio) -> None:
        self.app = make_app(config, studio)
        server = uvicorn.Config(
            self.app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=2
        )
        self.server = uvicorn.Server(server)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> httpx.Client:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.02)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        return self.client

    def __exit__(self, *error) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def studio(rig_model, landmarker) -> Studio:
    return Studio(ModelChoice(model=str(rig_model)), landmarker=landmarker)


@pytest.fixture(scope="module")
def client(tmp_path_factory, studio):
    config = ServiceConfig(folder=tmp_path_factory.mktemp("jobs"), limits=Limits(max_image_bytes=1 << 20))
    with Running(config, studio) as client:
        yield client


def files(inputs: Path, **other):
    return {
        "image": ("face.png", (inputs / "face.png").read_bytes()),
        "audio": ("speech.wav", (inputs / "speech.wav").read_bytes()),
    } | other


def finished(client, id: str) -> dict:
    stop = time.monotonic() + 60
    while (found := client.get(f"/v1/videos/{id}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < stop
        time.sleep(0.05)
    return found


def frames_of(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_video_is_asked_for_watched_and_fetched(client, good_inputs):
    answer = client.post(
        "/v1/videos", files=files(good_inputs), data={"seed": "3", "steps": "1", "size": "96"}
    )
    assert answer.status_code == 202
    asked = answer.json()
    assert answer.headers["location"] == f"/v1/videos/{asked['id']}"
    assert asked["settings"] == {"seed": "3", "steps": "1", "size": "96"} and asked["audio_s"] == 0.5
    streamed = client.get(f"/v1/videos/{asked['id']}/stream")
    assert streamed.headers["content-type"] == "video/mp4" and frames_of(streamed.content) == 12
    found = finished(client, asked["id"])
    assert found["status"] == "done" and found["progress"] == {
        "frames_done": 12,
        "total_frames": 12,
        "share": 1.0,
    }
    assert found["video"]["width"] == 96 and found["left_s"] is None and found["error"] is None
    content = client.get(f"/v1/videos/{asked['id']}/content")
    assert content.headers["content-type"] == "video/mp4" and frames_of(content.content) == 12
    assert content.headers["x-content-type-options"] == "nosniff"
    part = client.get(f"/v1/videos/{asked['id']}/content", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == content.content[10:20]
    sidecar = client.get(f"/v1/videos/{asked['id']}/sidecar").json()
    assert sidecar["settings"]["seed"] == 3 and sidecar["ai_generated"] is True
    assert client.delete(f"/v1/videos/{asked['id']}").status_code == 204
    for path in ("", "/content", "/stream", "/sidecar"):
        assert client.get(f"/v1/videos/{asked['id']}{path}").status_code == 404
    assert client.delete(f"/v1/videos/{asked['id']}").status_code == 404


def test_one_call_waits_for_its_video(client, good_inputs):
    answer = client.post("/v1/videos/sync", files=files(good_inputs), data={"steps": "1"})
    assert answer.status_code == 200 and frames_of(answer.content) == 12
    assert client.get(f"/v1/videos/{answer.headers['x-video-id']}").json()["status"] == "done"


def test_a_full_disk_is_told_without_the_place_of_files(client, good_inputs, monkeypatch, caplog):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(service.shutil, "copyfileobj", full)
    answer = client.post("/v1/videos", files=files(good_inputs))
    assert answer.status_code == 507
    assert answer.json() == {"error": {"message": "the service has no room to store it; try again later"}}
    assert "no space is left in /" in caplog.text
    monkeypatch.undo()
    assert client.post("/v1/videos", files=files(good_inputs), data={"steps": "1"}).status_code == 202


def test_who_hangs_up_cancels(client, good_inputs, tmp_path):
    from tests.apps.conftest import copy_speech

    copy_speech(tmp_path / "long.wav", 60.0)
    long = files(good_inputs, audio=("long.wav", (tmp_path / "long.wav").read_bytes()))
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/videos/sync", files=long, data={"steps": "1"}, timeout=1.0)
    stop = time.monotonic() + 20
    while client.get("/healthz").json()["jobs"]["running"]:
        assert time.monotonic() < stop
        time.sleep(0.1)


@pytest.mark.parametrize(
    "change, data, status, message",
    [
        ({"image": ("a.txt", b"words")}, {}, 422, "the image is not a picture"),
        ({"image": ("a.png", b"")}, {}, 422, "the image is empty (0 bytes)"),
        ({"audio": ("a.txt", b"words " * 100)}, {}, 422, "the audio is not a sound"),
        ({"image": ("a.png", b"x" * (1 << 20) + b"x")}, {}, 413, "image may have at most 1048576 bytes"),
        ({}, {"seed": "x"}, 422, "seed must be a whole number, got 'x'"),
        ({}, {"steps": "0"}, 422, "steps must be a whole number, at least 1"),
        ({}, {"crf": "99"}, 422, "crf must lie in 0"),
        ({}, {"colour": "red"}, 422, "colour: Extra inputs are not permitted"),
        ({}, {"image": "http://127.0.0.1/a.png"}, 422, "image"),
    ],
)
def test_what_does_not_work_is_refused_in_words(client, good_inputs, change, data, status, message):
    upload = files(good_inputs, **change)
    if "image" in data:
        del upload["image"]
    answer = client.post("/v1/videos", files=upload, data=data)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_forms_that_are_none_are_refused(client):
    assert client.post("/v1/videos", json={"image": "x"}).status_code == 422
    assert client.post("/v1/videos", data={"seed": "1"}).status_code == 422
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/videos", content=b"rubbish", headers=headers).status_code in (400, 422)


def test_a_job_that_fails_says_why(client, good_inputs, tmp_path):
    from PIL import Image

    Image.new("RGB", (300, 300), "grey").save(tmp_path / "grey.png")
    grey = ("grey.png", (tmp_path / "grey.png").read_bytes())
    id = client.post("/v1/videos", files=files(good_inputs, image=grey)).json()["id"]
    found = finished(client, id)
    assert found["status"] == "failed" and found["error"].startswith("the image: found no face")
    content = client.get(f"/v1/videos/{id}/content")
    assert content.status_code == 409 and "found no face" in content.json()["error"]["message"]
    sync = client.post("/v1/videos/sync", files=files(good_inputs, image=grey))
    assert sync.status_code == 409 and "found no face" in sync.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e", "a" * 32, "A" * 32, ".lock", "x", "0" * 4000],
)
def test_no_path_leads_out_of_the_folder(client, path):
    for ending in ("", "/content", "/stream", "/sidecar"):
        assert client.get(f"/v1/videos/{path}{ending}").status_code == 404
    assert client.delete(f"/v1/videos/{path}").status_code in (404, 405)


def test_facts_health_and_documentation(client):
    models = client.get("/v1/models").json()
    assert models["data"][0] == {"id": "tiny-states", "size_px": 64, "fps": 25, "device": "cpu"}
    assert models["limits"]["max_audio_s"] == 600
    health = client.get("/healthz").json()
    assert health["status"] == "ok" and set(health["jobs"]) == {
        "queued",
        "running",
        "done",
        "failed",
        "cancelled",
    }
    schema = client.get("/openapi.json").json()
    form = schema["components"]["schemas"]["VideoForm"]
    assert set(form["properties"]) == {"image", "audio", *setting_kinds()}
    page = client.get("/docs").text
    sources = [part.split('"')[0] for part in page.split('src="')[1:]] + [
        part.split('"')[0] for part in page.split('href="')[1:]
    ]
    assert sources and all(source.startswith("/") for source in sources)
    assert all(client.get(source).status_code == 200 for source in sources)


def test_pages_of_other_sites_are_kept_out(client, good_inputs):
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
        answer = client.post("/v1/videos", files=files(good_inputs), headers=headers)
        assert answer.status_code == 403, headers
        assert client.get("/healthz", headers=headers).status_code == 403
    for origin in ("http://127.0.0.1:7860", "http://localhost:3000"):
        assert client.get("/healthz", headers={"Origin": origin}).status_code == 200


def test_with_a_token_nobody_comes_in_without(tmp_path, studio, good_inputs):
    with Running(ServiceConfig(folder=tmp_path, token=TOKEN), studio) as client:
        assert client.get("/healthz").status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer ü"},
        ):
            headers = {name: value.encode() for name, value in headers.items()}
            for path in ("/v1/models", "/docs", "/openapi.json", "/v1/videos/x"):
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert client.post("/v1/videos", files=files(good_inputs), headers=headers).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}", "Host": "videos.example"}
        assert client.get("/v1/models", headers=right).status_code == 200


def test_a_full_queue_says_when_to_come_again(tmp_path, studio, good_inputs):
    limits = Limits(max_waiting=1)
    with Running(ServiceConfig(folder=tmp_path, limits=limits), studio) as client:
        for _ in range(20):
            answer = client.post("/v1/videos", files=files(good_inputs), data={"steps": "1"})
            if answer.status_code == 429:
                break
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert "are waiting already" in answer.json()["error"]["message"]


def test_bodies_that_are_too_large_are_not_read(tmp_path, studio):
    limits = Limits(max_image_bytes=1000, max_audio_bytes=1000)
    with Running(ServiceConfig(folder=tmp_path, limits=limits), studio) as client:
        most = 2000 + (1 << 20)

        def endless():
            yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            for _ in range(40):
                yield b"x" * (1 << 16)

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        stated = client.post("/v1/videos", content=b"x" * (most + 1), headers=headers)
        assert stated.status_code == 413 and f"at most {most} bytes" in stated.json()["error"]["message"]
        try:
            assert client.post("/v1/videos", content=endless(), headers=headers).status_code == 413
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            pass  # the connection was closed while it was still sending
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"host": "0.0.0.0"}, "0.0.0.0 can be reached from other machines; set a token in OPENLOOPY_TOKEN"),
        ({"host": "example.org"}, "can be reached from other machines"),
        ({"token": "short"}, "the token has 5 characters; use 16 or more"),
    ],
)
def test_unsafe_configurations_are_refused(tmp_path, facts, message):
    with pytest.raises(ValueError, match=message):
        ServiceConfig(folder=tmp_path, **facts)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert ServiceConfig(folder=tmp_path, host=host).is_local
    ServiceConfig(folder=tmp_path, host="0.0.0.0", token=TOKEN)


@pytest.mark.slow
def test_the_command_serves_survives_a_kill_and_stops_politely(tmp_path, rig_model, good_inputs):
    from tests.apps.conftest import copy_speech

    copy_speech(tmp_path / "long.wav", 20.0)
    long = files(good_inputs, audio=("long.wav", (tmp_path / "long.wav").read_bytes()))
    port = 18_360 + os.getpid() % 1000
    command = [
        sys.executable,
        "-m",
        "openloopy",
        "serve",
        "--folder",
        str(tmp_path / "jobs"),
        "--port",
        str(port),
    ]
    command += ["--model", str(rig_model)]

    def start():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        stop = time.monotonic() + 60
        while True:
            try:
                client.get("/healthz")
                return process, client
            except httpx.ConnectError:
                assert process.poll() is None and time.monotonic() < stop, process.stderr.read()
                time.sleep(0.1)

    process, client = start()
    ids = [client.post("/v1/videos", files=long, data={"steps": "1"}).json()["id"] for _ in range(2)]
    while client.get(f"/v1/videos/{ids[0]}").json()["progress"]["frames_done"] < 5:
        time.sleep(0.05)
    process.kill()
    process.wait()
    process, client = start()
    try:
        statuses = [finished(client, id)["status"] for id in ids]
        assert statuses == ["done", "done"]
        assert json.loads((tmp_path / "jobs" / ids[0] / "job.json").read_text())["attempts"] == 2
    finally:
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}" in printed and "Traceback" not in printed
    assert np.isin(process.returncode, (0, 130))
