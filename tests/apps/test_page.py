"""The page: what its controls do, who may come in, and a visit in a browser."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

gradio = pytest.importorskip("gradio", reason="needs Gradio (extra `app`)")
import httpx  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from gradio.blocks import Block  # noqa: E402

from openloopy.apps import page  # noqa: E402
from openloopy.apps.generate import ModelChoice, Studio  # noqa: E402
from openloopy.apps.jobs import JobQueue, Limits  # noqa: E402
from openloopy.apps.page import Desk, make_page_app  # noqa: E402
from openloopy.apps.service import ServiceConfig  # noqa: E402
from openloopy.apps.settings import VideoSettings  # noqa: E402
from openloopy.apps.text_to_speech import has_speech  # noqa: E402
from tests.apps.browser import Browser, find_chromium  # noqa: E402
from tests.media.sounds import speechlike, write_sound  # noqa: E402

TOKEN = "a-token-of-a-test"
LIMITS = Limits(max_image_bytes=1 << 20, max_audio_bytes=2 << 20, max_audio_s=20, max_waiting=2)
CHOSEN = {
    "face": None,
    "frame": "crop",
    "size_px": 64,
    "temperature": 1.0,
    "audio_guidance": 3.0,
    "seed": 0,
    "label": False,
}
"""As the page is opened."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """The example that is drawn, drawn once: it takes seconds."""
    folder = tmp_path_factory.mktemp("examples")
    page._examples(folder)
    return folder / "drawn.jpg"


class SlowStudio(Studio):
    """Makes a little more than one second of video in a second, after the first frames: there is time to look."""

    def frames(self, *arguments: Any, **named: Any) -> Iterator[np.ndarray]:
        for i, frame in enumerate(super().frames(*arguments, **named)):
            if i > 15:
                time.sleep(0.03)
            yield frame


@pytest.fixture
def studio(rig_model, landmarker) -> Studio:
    return SlowStudio(ModelChoice(model=str(rig_model)), landmarker=landmarker)


@pytest.fixture
def config(tmp_path, drawn) -> ServiceConfig:
    (tmp_path / "jobs" / "examples").mkdir(parents=True)
    shutil.copy(drawn, tmp_path / "jobs" / "examples" / "drawn.jpg")
    return ServiceConfig(folder=tmp_path / "jobs", port=0, limits=LIMITS)


@pytest.fixture
def queue(config, studio) -> Iterator[JobQueue]:
    with JobQueue(config.folder, studio, LIMITS) as queue:
        yield queue


@pytest.fixture
def desk(queue, tmp_path) -> Desk:
    return Desk(queue, tmp_path)


@pytest.fixture
def two_faces(tmp_path, astronaut) -> Path:
    """A larger face on the right, a smaller on the left."""
    picture = np.full((512, 900, 3), 128, np.uint8)
    picture[:, 388:] = astronaut
    picture[100:484, :384] = np.asarray(Image.fromarray(astronaut).resize((384, 384)))
    Image.fromarray(picture).save(tmp_path / "two.png")
    return tmp_path / "two.png"


def file(path: Path, name: str | None = None) -> dict[str, Any]:
    """As Gradio describes an upload."""
    return {"path": str(path), "orig_name": name or path.name}


def shown(update: dict[str, Any]) -> str:
    """The text of a problem."""
    assert update["visible"] == bool(update["value"])
    return update["value"]


# -- what the controls do -----------------------------------------------------------------------------------------


def test_a_portrait_with_one_face_needs_no_choice(desk, folder):
    looked, problem, faces, radio = desk.look(file(folder / "face.png"))
    assert len(looked.faces) == 1 and looked.size == (512, 512) and not shown(problem)
    assert not faces["visible"] and not radio["visible"]


def test_of_several_faces_one_is_chosen_by_number_or_click(desk, two_faces):
    looked, problem, faces, radio = desk.look(file(two_faces))
    assert not shown(problem) and faces["visible"] and radio["visible"]
    assert radio["value"] == 0 and [value for _, value in radio["choices"]] == [0, 1]
    left, right = sorted(range(2), key=lambda i: looked.faces[i].box[0])
    assert (left, right) == (1, 0)  # the larger one is on the right
    scale = 800 / 900
    for number, place in ((0, (650, 130)), (1, (170, 190))):
        event = SimpleNamespace(index=[place[0] * scale, place[1] * scale])
        assert desk.point(looked, event) == number
    picture = faces["value"]
    assert picture.shape == (455, 800, 3)
    plain = np.asarray(Image.open(two_faces).resize((800, 455)))
    changed = np.abs(picture.astype(int) - plain).max(2) > 60
    for face in looked.faces:
        x0, y0, x1, y1 = (face.box * scale).astype(int)
        assert changed[y0 : y1 + 1, x0 - 2 : x0 + 4].any(1).mean() > 0.9  # its left edge is drawn


def test_the_face_that_was_chosen_is_animated(desk, two_faces, folder):
    looked, *_ = desk.look(file(two_faces))
    chosen = CHOSEN | {"face": 1}
    html, problem = desk.start(file(two_faces), file(folder / "speech.wav"), looked, *chosen.values())
    assert not shown(problem)
    assert desk.queue.find(_id_in(html)).job.settings == VideoSettings(face=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a: np.full((200, 300, 3), 90, np.uint8), "Found no face in the 300x200 picture"),
        (lambda a: np.asarray(Image.fromarray(a).resize((128, 128))), "px high, at least 40 are needed"),
        (lambda a: np.full((40, 300, 3), 90, np.uint8), "mine.png is 300x40 px; each side needs at least 64"),
    ],
)
def test_a_portrait_that_does_not_work_is_told_at_once(desk, tmp_path, astronaut, make, words):
    Image.fromarray(make(astronaut)).save(tmp_path / "x.png")
    _, problem, faces, _ = desk.look(file(tmp_path / "x.png", "mine.png"))
    text = shown(problem)
    assert words.lower() in text.lower() and str(tmp_path) not in text and not faces["visible"]
    assert 'role="alert"' in text


def test_what_is_no_picture_is_told_by_its_own_name_and_escaped(desk, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    text = shown(desk.look(file(tmp_path / "x.png", "<b>mine</b>.png"))[1])
    assert (
        "is not a picture that can be read" in text and "&lt;b&gt;mine" in text and str(tmp_path) not in text
    )


def test_files_that_are_too_large_are_told_with_their_size(desk, tmp_path):
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    assert "the file has 3 MB, at most 1 MB work" in shown(
        desk.look(file(tmp_path / "big"))[1]
    ).lower().replace(" mb", " MB")
    assert "at most 2 MB" in shown(desk.listen(file(tmp_path / "big")))


def test_a_sound_is_checked_before_the_button_is_pressed(desk, tmp_path, folder):
    assert not shown(desk.listen(file(folder / "speech.wav"))) and not shown(desk.listen(None))
    write_sound(tmp_path / "long.wav", speechlike(21, 16_000), 16_000)
    assert "longer than 20 s" in shown(desk.listen(file(tmp_path / "long.wav")))
    text = shown(desk.listen(file(folder / "face.png", "mine.png")))
    assert "Mine.png has no sound" in text and str(folder) not in text


def test_no_file_but_an_upload_is_read(desk, good_inputs, folder):
    assert not good_inputs.is_relative_to(desk.uploads)
    foreign = file(good_inputs / "face.png")
    (folder / "link.png").symlink_to(good_inputs / "face.png")
    for portrait in (
        foreign,
        file(folder / "link.png"),
        file(folder / ".." / ".." / "x"),
        file(folder / "gone"),
    ):
        assert "no longer there" in shown(desk.look(portrait)[1])
        problem = desk.start(portrait, file(folder / "speech.wav"), None, *CHOSEN.values())[1]
        assert "no longer there" in shown(problem)
    assert "no longer there" in shown(desk.listen(file(good_inputs / "speech.wav")))
    assert sum(desk.queue.counts.values()) == 0


def test_nothing_is_asked_for_without_both(desk, folder):
    for portrait, sound, missing in (
        (None, None, "a portrait"),
        (file(folder / "face.png"), None, "a sound"),
    ):
        _, problem = desk.start(portrait, sound, None, *CHOSEN.values())
        assert f"Choose {missing} first" in shown(problem)
    assert sum(desk.queue.counts.values()) == 0


def test_a_bad_portrait_is_not_queued(desk, tmp_path, folder):
    Image.fromarray(np.full((200, 300, 3), 90, np.uint8)).save(tmp_path / "x.png")
    portrait = file(tmp_path / "x.png")
    looked, *_ = desk.look(portrait)
    _, problem = desk.start(portrait, file(folder / "speech.wav"), looked, *CHOSEN.values())
    assert "ound no face" in shown(problem)
    assert sum(desk.queue.counts.values()) == 0 and not list(desk.queue.folder.glob("*.new"))


def test_a_full_queue_says_when_to_come_again(desk, folder):
    asked = file(folder / "face.png"), file(folder / "speech.wav"), None, *CHOSEN.values()
    problems = [shown(desk.start(*asked)[1]) for _ in range(5)]
    assert any("2 videos are waiting already; try again in" in text for text in problems)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"size_px": 128}, {"size": 128}),
        ({"size_px": 128, "frame": "full"}, {"frame": "full"}),
        ({"temperature": 0.5, "audio_guidance": 2.0}, {"temperature": 0.5, "audio_guidance": 2.0}),
        ({"seed": 7, "label": True}, {"seed": 7, "label": True}),
        ({"seed": None}, {}),
        ({"face": 3}, {}),  # left over from a portrait with more faces
    ],
)
def test_what_is_chosen_becomes_settings(desk, folder, changes, settings):
    looked, *_ = desk.look(file(folder / "face.png"))
    html, problem = desk.start(
        file(folder / "face.png"), file(folder / "speech.wav"), looked, *(CHOSEN | changes).values()
    )
    assert not shown(problem)
    assert desk.queue.find(_id_in(html)).job.settings == VideoSettings(**settings)


def test_the_controls_start_at_the_model_s_own_settings(desk):
    inputs = page.make_page(desk, []).config["components"]
    values = {part["props"].get("label"): part["props"].get("value") for part in inputs}
    assert values["Size of the square"] == CHOSEN["size_px"]
    assert (
        values["Liveliness"] == CHOSEN["temperature"] and values["Audio guidance"] == CHOSEN["audio_guidance"]
    )


@pytest.mark.skipif(not has_speech(), reason="needs espeakng_loader (extra `puppet`)")
def test_a_text_becomes_the_sound(desk):
    (rate_hz, sound), problem = desk.speak("Good morning.", "en-us", next(iter(desk.voices)))
    assert len(sound) > rate_hz / 3 and not shown(problem)
    _, problem = desk.speak(" ", "en-us", next(iter(desk.voices)))
    assert "There is nothing to say" in shown(problem)


def test_a_portrait_is_warmed_for_the_video_that_follows(desk, folder):
    looked, *_ = desk.look(file(folder / "face.png"))
    assert not desk.queue.studio.is_loaded
    desk.warm(looked, *CHOSEN.values())
    _wait(lambda: desk.queue.studio._last is not None)
    warmed = desk.queue.studio._last[1]
    html, _ = desk.start(file(folder / "face.png"), file(folder / "speech.wav"), looked, *CHOSEN.values())
    assert desk.queue.wait(_id_in(html), 30).job.status == "done"
    assert desk.queue.studio._last[1] is warmed


def test_a_portrait_that_fails_while_it_is_warmed_stops_nothing(desk, folder, monkeypatch):
    scene = Studio.scene
    monkeypatch.setattr(Studio, "scene", lambda *a, **b: 1 / 0)
    looked, *_ = desk.look(file(folder / "face.png"))
    desk.warm(looked, *CHOSEN.values())
    _wait(lambda: desk.queue._expected is None)
    monkeypatch.setattr(Studio, "scene", scene)
    html, _ = desk.start(file(folder / "face.png"), file(folder / "speech.wav"), looked, *CHOSEN.values())
    assert desk.queue.wait(_id_in(html), 30).job.status == "done"


def _id_in(html: str) -> str:
    return html.split('"')[1]


def _wait(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    stop = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.02)


# -- who may come in ----------------------------------------------------------------------------------------------


@pytest.fixture
def client(config, studio) -> Iterator[TestClient]:
    with TestClient(make_page_app(config, studio), base_url="http://127.0.0.1") as client:
        yield client


def test_the_service_s_own_paths_go_on_working(client):
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny-states"
    assert "/v1/videos" in client.get("/openapi.json").json()["paths"]
    assert "swagger" in client.get("/docs").text.lower()
    assert client.get("/v1/videos/0").status_code == 404
    script = client.get("/player.js")
    assert script.headers["content-type"].startswith("text/javascript") and "talking-video" in script.text


def test_the_page_asks_no_other_host(client):
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False and not config.get("stylesheets")
    assert not config.get("space_id")
    assert "//" not in page.HEAD and "http" not in client.get("/player.js").text
    assert (
        "@font-face" not in client.get("/theme.css").text
        and "googleapis" not in client.get("/theme.css").text
    )


def test_nothing_of_the_page_is_an_interface_for_programs(client):
    info = client.get("/gradio_api/info").json()
    assert not info["named_endpoints"] and not info["unnamed_endpoints"]


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_only_uploads_are_read_never_another_file_of_the_server(client, folder, meta, monkeypatch):
    config = client.get("/config").json()
    starts = [each for each in config["dependencies"] if len(each["inputs"]) == 3 + len(CHOSEN)]
    assert len(starts) == 1
    upload = client.post(
        "/gradio_api/upload", files={"files": ("face.png", (folder / "face.png").read_bytes())}
    )
    sound = client.post(
        "/gradio_api/upload", files={"files": ("a.wav", (folder / "speech.wav").read_bytes())}
    )

    def ask(portrait):
        files = [{"path": str(path)} | meta for path in (portrait, sound.json()[0])]
        facts = {"fn_index": starts[0]["id"], "session_hash": "me", "data": [*files, None, *CHOSEN.values()]}
        client.post("/gradio_api/run/predict", json=facts)
        return sum(client.app.state.queue.counts.values())

    fetched = []
    monkeypatch.setattr(Block, "async_move_resource_to_block_cache", lambda self, path: fetched.append(path))
    assert ask(folder / "face.png") == 0 and ask("http://127.0.0.1:1/face.png") == 0
    assert not fetched
    monkeypatch.undo()
    for path in (folder / "face.png", client.app.state.queue.folder / ".lock", "/etc/hostname"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
    assert ask(upload.json()[0]) == (1 if meta else 0)  # it was asked for as the page does


def test_uploads_of_the_page_have_a_limit_of_their_own(client):
    def upload(num_bytes):
        return client.post("/gradio_api/upload", files={"files": ("a.bin", bytes(num_bytes))})

    kept = upload(LIMITS.max_audio_bytes - 1000)
    assert kept.status_code == 200 and Path(kept.json()[0]).stat().st_size == LIMITS.max_audio_bytes - 1000
    assert Path(kept.json()[0]).is_relative_to(client.app.state.queue.folder / "page")
    assert upload(LIMITS.max_audio_bytes + (2 << 20)).status_code == 413
    chunks = (bytes(1 << 16) for _ in range(80))  # without a length beforehand
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/gradio_api/upload", content=chunks, headers=headers)
    assert answer.status_code == 413
    big = client.post("/gradio_api/run/predict", content=bytes(2 << 20))
    assert big.status_code == 413


def test_other_sites_are_refused(client):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert client.get("/", headers=headers).status_code == 403
        files = {"files": ("a", b"x")}
        assert client.post("/gradio_api/upload", files=files, headers=headers).status_code == 403


@pytest.fixture
def guarded(config, studio) -> Iterator[TestClient]:
    """With a token."""
    app = make_page_app(replace(config, token=TOKEN, host="0.0.0.0"), studio)
    with TestClient(app, base_url="http://box:8360") as client:
        yield client


def test_a_browser_is_asked_for_the_token_a_program_is_not(guarded):
    answer = guarded.get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert guarded.get("/v1/models").headers["WWW-Authenticate"] == "Bearer"
    assert guarded.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_is_a_browser_s_password(guarded):
    assert guarded.get("/", auth=("anybody", TOKEN)).status_code == 200
    assert guarded.get("/healthz").status_code == 200
    for wrong in ("", "another-token-12345", TOKEN[:-1]):
        assert guarded.get("/", auth=("anybody", wrong)).status_code == 401
    for credentials in (
        "%%%",
        base64.b64encode(b"\xff:x").decode(),
        base64.b64encode(TOKEN.encode()).decode(),
    ):
        assert guarded.get("/", headers={"Authorization": f"Basic {credentials}"}).status_code == 401


def test_another_site_cannot_use_a_browser_s_password(guarded):
    files = {"files": ("a", b"x")}
    for origin, status in (("http://box:8360", 200), ("http://evil.example", 401), ("null", 401)):
        answer = guarded.post(
            "/gradio_api/upload", files=files, auth=("anybody", TOKEN), headers={"Origin": origin}
        )
        assert answer.status_code == status


# -- a browser ----------------------------------------------------------------------------------------------------


class Visitor(Browser):
    """A browser that also keeps what it was told of requests and errors."""

    def __init__(self, program: str, profile: Path) -> None:
        super().__init__(program, profile, timeout_s=40)
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Visitor:
        super().__enter__()
        for domain in ("Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self

    def _next(self) -> dict[str, Any]:
        message = super()._next()
        if "method" in message:
            self.events.append(message)
        return message

    def told(self, method: str) -> list[dict[str, Any]]:
        self.run("0")  # what was told before has come
        return [event["params"] for event in self.events if event["method"] == method]

    @property
    def errors(self) -> list[str]:
        """Of scripts, and what the console shows."""
        thrown = [str(facts["exceptionDetails"]) for facts in self.told("Runtime.exceptionThrown")]
        logged = [str(f["args"]) for f in self.told("Runtime.consoleAPICalled") if f["type"] == "error"]
        seen = [str(f["entry"]) for f in self.told("Log.entryAdded") if f["entry"]["level"] == "error"]
        return thrown + logged + seen

    def choose(self, selector: str, path: Path) -> None:
        """A file for an input."""
        self.wait_for(f"!!document.querySelector('{selector}')")
        found = self.send("Runtime.evaluate", expression=f"document.querySelector('{selector}')")
        self.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    _wait(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def site(config, studio) -> Iterator[SimpleNamespace]:
    app = make_page_app(config, studio)
    with served(app) as address:
        yield SimpleNamespace(address=address, queue=app.state.queue)


@pytest.fixture
def visitor(tmp_path) -> Iterator[Visitor]:
    program = find_chromium()
    if program is None:
        pytest.skip("needs a Chromium on the path (chromium, chromium-browser or google-chrome)")
    with Visitor(program, tmp_path / "profile") as visitor:
        visitor.size(1280, 900)
        yield visitor


STAGE = "document.querySelector('talking-video')"
VIDEO = f"{STAGE}.shadowRoot.querySelector('video')"


def part(selector: str) -> str:
    return f"{STAGE}.shadowRoot.querySelector('{selector}')"


def enter(visitor: Visitor, site: SimpleNamespace) -> None:
    visitor.open(site.address)
    visitor.wait_for(f"!!document.querySelector('#make') && !!{STAGE}?.shadowRoot")
    visitor.wait_for("document.querySelectorAll('#examples button').length >= 1")


def press_example(visitor: Visitor) -> None:
    visitor.run("document.querySelector('#examples button').click()")
    visitor.wait_for(
        "!!document.querySelector('#portrait img') && !!document.querySelector('#sound #waveform')"
    )


def make(visitor: Visitor) -> None:
    visitor.run("document.querySelector('#make').click()")


def assert_fits(visitor: Visitor, width: int) -> None:
    """Nothing to scroll to the side, and nothing cut off there."""
    assert visitor.run("document.scrollingElement.scrollWidth") == width
    beyond = (
        "[...document.querySelectorAll('main *')].filter(e => e.offsetParent && !e.closest('svg'))"
        f".filter(e => e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 200))"
    )
    assert visitor.run(beyond) == []


def test_the_page_loads_alone_and_fits(site, visitor):
    for width, is_dark in ((1280, False), (390, True), (390, False)):
        visitor.size(width, 850, is_dark)
        enter(visitor, site)
        assert_fits(visitor, width)
        colour = visitor.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, colour.strip("rgba()").split(",")[:3])) < 200) == is_dark
    for summary in ("Settings", "Or type what is to be said"):
        visitor.run(
            f"[...document.querySelectorAll('.label-wrap')].find(b => b.textContent.includes('{summary}'))?.click()"
        )
    visitor.wait_for("[...document.querySelectorAll('label')].some(l => l.textContent.includes('Seed'))")
    assert_fits(visitor, 390)
    asked = [facts["request"]["url"] for facts in visitor.told("Network.requestWillBeSent")]
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((site.address, "data:", "blob:"))]
    assert not visitor.errors


def test_controls_have_names_and_are_large_enough(site, visitor):
    visitor.size(390, 850)
    enter(visitor, site)
    names = (
        "[...document.querySelectorAll('button, input, textarea, select')].filter(e => e.offsetParent)"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert visitor.run(names) == []
    heights = "[...document.querySelectorAll('#make, .source-selection button')].map(e => e.offsetHeight)"
    assert min(visitor.run(heights)) >= 44


def test_an_example_plays_while_it_is_made(site, visitor):
    enter(visitor, site)
    press_example(visitor)
    make(visitor)
    visitor.wait_for(f"{VIDEO}.currentTime > 0.2 && {STAGE}.facts?.status === 'running'")
    assert visitor.run(f"{VIDEO}.videoWidth") == 64
    first = visitor.run(f"{VIDEO}.currentTime")
    visitor.wait_for(f"{VIDEO}.currentTime > {first} + 0.5 && {STAGE}.facts?.status === 'running'")
    assert 0 < visitor.run(f"{part('progress')}.value") < 1
    assert not visitor.run(f"{part('.cancel')}.offsetParent === null")
    visitor.wait_for(f"{STAGE}.facts.status === 'done'")
    playing = visitor.run(f"{VIDEO}.src")
    visitor.wait_for(f"{VIDEO}.ended")
    assert visitor.run(f"{VIDEO}.src") == playing  # it was not exchanged on the way
    assert abs(visitor.run(f"{VIDEO}.duration") - visitor.run(f"{STAGE}.facts.audio_s")) < 0.1
    visitor.wait_for(f"!{part('details')}.hidden")
    assert json.loads(visitor.run(f"{part('pre')}.textContent"))["ai_generated"] is True
    video = httpx.get(visitor.run(f"{part('.download')}.href"))
    assert video.content[4:8] == b"ftyp" and visitor.run(f"{part('.cancel')}.offsetParent === null")
    assert not visitor.errors
    enter(visitor, site)  # a reload shows it again
    visitor.wait_for(f"!{VIDEO}.hidden && {VIDEO}.src.endsWith('/content')")


def test_a_picture_without_a_face_is_told_beside_it(site, visitor, tmp_path):
    Image.fromarray(np.full((200, 300, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    enter(visitor, site)
    visitor.choose("#portrait input[type=file]", tmp_path / "wall.png")
    visitor.wait_for("document.querySelector('#inputs .problem')?.textContent.includes('Found no face')")
    make(visitor)
    visitor.wait_for(
        "document.querySelector('#right .problem')?.textContent.includes('Choose a sound first')"
    )
    press_example(visitor)
    visitor.wait_for("!document.querySelector('#inputs .problem')")


@pytest.mark.parametrize("ending", ["heic", "jxl", "avif"])
def test_pictures_that_browsers_do_not_know_are_taken(site, visitor, tmp_path, ending):
    path = tmp_path / f"wall.{ending}"
    for module in ("pillow_heif", "pillow_jxl"):
        pytest.importorskip(module, reason="needs the `heic` and `jxl` extras")
    sys.modules["pillow_heif"].register_heif_opener()
    Image.fromarray(np.full((200, 300, 3), 90, np.uint8)).save(path)
    enter(visitor, site)
    # Of files that scripts make a browser knows no type: as where the system does not know the ending.
    assert visitor.run(f"new File([], 'wall.{ending.upper()}').type") == f"image/{ending}"
    assert (
        visitor.run("new File([], 'a.txt').type + new File([], 'a.heic', {type: 'image/x'}).type")
        == "image/x"
    )
    visitor.choose("#portrait input[type=file]", path)
    visitor.wait_for("document.querySelector('#inputs .problem')?.textContent.includes('Found no face')")


def test_what_is_no_picture_is_told_in_words(site, visitor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    enter(visitor, site)
    visitor.choose("#portrait input[type=file]", tmp_path / "broken.png")
    visitor.wait_for(
        "document.querySelector('#inputs .problem')?.textContent.includes('Broken.png is not a picture')"
    )


def test_a_job_that_fails_is_told_where_the_video_would_be(site, visitor, monkeypatch):
    enter(visitor, site)
    press_example(visitor)
    monkeypatch.setattr(Studio, "make", _refuse)
    make(visitor)
    visitor.wait_for(f"{part('.error')}.textContent.includes('This portrait has no mouth')")
    assert not visitor.run(f"{part('.error')}.hidden") and visitor.run(f"{part('progress')}.hidden")


def _refuse(*arguments: Any, **named: Any) -> None:
    raise ValueError("this portrait has no mouth")


def test_cancel_frees_the_queue(site, visitor):
    enter(visitor, site)
    press_example(visitor)
    make(visitor)
    visitor.wait_for(f"{VIDEO}.currentTime > 0 && {STAGE}.facts?.status === 'running'")
    visitor.run(f"{part('.cancel')}.click()")
    begun_s = time.monotonic()
    _wait(lambda: site.queue._running is None)
    assert time.monotonic() - begun_s < 2
    assert visitor.run(f"{part('.over span')}.textContent") == "Cancelled"
    assert visitor.run(f"{VIDEO}.hidden") and sum(site.queue.counts.values()) == 0
    make(visitor)  # and again
    visitor.wait_for(f"{VIDEO}.currentTime > 0 && {STAGE}.facts?.status === 'running'")


@pytest.mark.parametrize("leave", ["about:blank", "again"])
def test_who_leaves_gives_up_the_video(site, visitor, leave):
    enter(visitor, site)
    press_example(visitor)
    make(visitor)
    if leave == "again":  # the next video takes the place of the one before
        visitor.wait_for(f"{STAGE}.facts?.status === 'running'")
        first = visitor.run(f"{STAGE}.job")
        make(visitor)
        visitor.wait_for(f"{STAGE}.job !== '{first}' && {STAGE}.facts?.status === 'running'")
        assert site.queue.find(first) is None and sum(site.queue.counts.values()) == 1
    else:
        visitor.wait_for(f"{STAGE}.facts?.status === 'running'")
        visitor.send("Page.navigate", url=leave)
        _wait(lambda: sum(site.queue.counts.values()) == 0)


def test_others_wait_in_the_queue_and_are_told_their_place(site, visitor, folder):
    with site.queue.new_folder() as new:
        (new / "image").write_bytes((folder / "face.png").read_bytes())
        write_sound(new / "audio.wav", speechlike(8.0, 16_000), 16_000)
        (new / "audio.wav").rename(new / "audio")
        other = site.queue.add(new, VideoSettings())
    enter(visitor, site)
    press_example(visitor)
    make(visitor)
    visitor.wait_for(f"{part('.phase')}.textContent === 'Waiting: 1 video comes first'")
    site.queue.forget(other.id)
    visitor.wait_for(f"{VIDEO}.currentTime > 0")


def test_one_of_several_faces_is_clicked(site, visitor, two_faces):
    enter(visitor, site)
    press_example(visitor)
    visitor.run(
        "document.querySelector('#portrait [aria-label=\"Remove Image\"], #portrait [title=Clear]').click()"
    )
    visitor.choose("#portrait input[type=file]", two_faces)
    visitor.wait_for("document.querySelectorAll('#face input[type=radio]').length === 2")
    visitor.wait_for("document.querySelector('#faces img')?.naturalWidth === 800")
    visitor.run("document.querySelector('#faces img').scrollIntoView()")
    box = visitor.run(
        "(() => { const b = document.querySelector('#faces img').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height] })()"
    )
    x, y = box[0] + box[2] * 170 / 900, box[1] + box[3] * 190 / 512
    for kind in ("mousePressed", "mouseReleased"):
        visitor.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    visitor.wait_for("document.querySelectorAll('#face input[type=radio]')[1].checked")
    make(visitor)
    visitor.wait_for(f"{STAGE}.facts?.settings?.face === '1'")
