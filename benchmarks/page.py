"""What does a visitor of the page see, and when? A run of `openloopy app` in a headless Chromium.

    python benchmarks/page.py --out DIR [--model mini] [--runs 3] [--quick]

Times are taken in the page: from the press of the button to the first picture on the screen, and where playing had to
wait for pictures; beside them what the service says of the same videos. The first video is a cold one (no model, no
rig), the others are warm. Pictures of every state, wide and narrow, light and dark, lie in DIR. The last line is one
JSON object, which is also kept in `results`.

- `click_to_player_s`, `click_to_frame_s`: until the page knows its job, and until the first picture is shown;
- `held_s`: how long playing was held in all, because there was nothing to play;
- `first_frame_s`, `seconds_per_video_second`: what the service measured of the same video;
- `cancel_s`: from the press of the button until the queue is free.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from provenance import ROOT, provenance, rounded, save_result

from openloopy.apps.generate import ModelChoice, Studio
from openloopy.apps.page import make_page_app
from openloopy.apps.service import ServiceConfig

sys.path.insert(0, str(ROOT))
from tests.apps.browser import Browser, find_chromium

WIDE, NARROW = (1280, 960), (390, 844)
STAGE = "document.querySelector('talking-video')"
VIDEO = f"{STAGE}.shadowRoot.querySelector('video')"
SPY = """(() => {
  const seen = window.seen = {events: []};
  document.querySelector('#make').addEventListener('click', () => {
    Object.assign(seen, {click: performance.now(), player: null, frame: null, events: []});
    const old = STAGE.job, wait = setInterval(() => {
      if (!STAGE.job || STAGE.job === old) return;
      clearInterval(wait);
      seen.player = performance.now();
      const video = VIDEO;
      video.requestVideoFrameCallback(() => { seen.frame = performance.now(); });
      for (const name of ['playing', 'pause', 'ended'])
        video.addEventListener(name, () => seen.events.push([name, performance.now(), video.currentTime]));
    }, 5);
  }, true);
})()""".replace("STAGE", STAGE).replace("VIDEO", VIDEO)


def main() -> None:
    options = _parse()
    program = find_chromium()
    if program is None:
        raise SystemExit("needs a Chromium on the path (chromium, chromium-browser or google-chrome)")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(options.model, Path(folder)) as (address, queue):
        with Browser(program, Path(folder) / "profile", timeout_s=120) as browser:
            visit = Visit(browser, address, queue, options.out)
            result = {"benchmark": "page", **visit.times(options.runs)}
            if not options.quick:
                visit.states(Path(folder))
    result = rounded({**result, **provenance()})
    save_result("page", result)
    print(json.dumps(result))


@contextmanager
def served(model: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """The page on a free port: its address and its queue."""
    config = ServiceConfig(folder=folder / "jobs", port=0)
    app = make_page_app(config, Studio(ModelChoice(model=model)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", app.state.queue
    server.should_exit = True
    thread.join(20)


class Visit:
    """Somebody in front of the page."""

    def __init__(self, browser: Browser, address: str, queue: Any, out: Path) -> None:
        self.browser, self.address, self.queue, self.out = browser, address, queue, out

    def times(self, runs: int) -> dict[str, Any]:
        """A cold video, then warm ones, and a cancelled one."""
        self.browser.size(*WIDE)
        begun_s = time.monotonic()
        self.enter()
        load_s = time.monotonic() - begun_s
        self.queue.warm = lambda *_: None  # the first one is to be cold
        self.press_example(0)
        cold = self.watched()
        del self.queue.warm
        warm = []
        for i in range(runs):
            self.press_example(
                (i + 1) % 2
            )  # another portrait, which is prepared before the button is pressed
            self.rest()
            warm.append(self.watched())
        return {"page_load_s": load_s, "cold": cold, "warm": warm, "cancel_s": self.cancel()}

    def watched(self) -> dict[str, Any]:
        """One video from the button to its last frame."""
        self.browser.run(SPY)
        self.make()
        self.browser.wait_for("window.seen.frame > 0")
        self.browser.wait_for(f"{VIDEO}.ended && {STAGE}.facts.status === 'done'")
        seen, facts = self.browser.run("window.seen"), self.browser.run(f"{STAGE}.facts")
        timings = facts["video"]["timings"]
        return {
            "click_to_player_s": (seen["player"] - seen["click"]) / 1000,
            "click_to_frame_s": (seen["frame"] - seen["click"]) / 1000,
            "held_s": _held_s(seen["events"]),
            "duration_s": facts["audio_s"],
            **{name: timings[name] for name in ("first_frame_s", "seconds_per_video_second", "total_s")},
        }

    def cancel(self) -> float:
        self.make()
        self.browser.wait_for(f"{VIDEO}.currentTime > 0 && {STAGE}.facts?.status === 'running'")
        begun_s = time.monotonic()
        self.browser.run(f"{STAGE}.shadowRoot.querySelector('.cancel').click()")
        self.rest()
        return time.monotonic() - begun_s

    def states(self, folder: Path) -> None:
        """A picture of each state of the page, in each form."""
        pictures = _pictures(folder)
        for form, size, is_dark in (
            ("wide", WIDE, False),
            ("wide_dark", WIDE, True),
            ("narrow", NARROW, False),
            ("narrow_dark", NARROW, True),
        ):
            self.browser.run("sessionStorage.clear()")
            self.browser.size(*size, is_dark)
            self.enter()
            self.picture(form, "0_empty")
            self.open("Settings", "Or type what is to be said")
            self.picture(form, "1_settings")
            self.open("Settings", "Or type what is to be said")
            self.choose(pictures["wall"])
            self.browser.wait_for("document.querySelector('#inputs .problem') !== null")
            self.make()
            self.browser.wait_for("document.querySelector('#right .problem') !== null")
            self.picture(form, "2_no_face")
            self.clear()
            self.choose(pictures["two"])
            self.browser.wait_for("document.querySelector('#faces img')?.naturalWidth > 0")
            self.picture(form, "3_two_faces")
            self.press_example(0)
            self.rest()
            self.make()
            self.browser.wait_for(f"{VIDEO}.currentTime > 0.3")
            self.picture(form, "4_playing")
            self.browser.wait_for(f"{VIDEO}.ended && {STAGE}.facts.status === 'done'")
            self.browser.run(f"{VIDEO}.currentTime = 2.9")
            self.picture(form, "5_done")
            self.waiting(form)
            self.failed(form)

    def waiting(self, form: str) -> None:
        """In the queue behind another, then cancelled."""
        self.make()
        self.browser.wait_for(f"{STAGE}.facts?.status === 'running'")
        with self.queue.new_folder() as new:
            source = self.queue.folder / self.browser.run(f"{STAGE}.job")
            for name in ("image", "audio"):
                (new / name).write_bytes((source / name).read_bytes())
            other = self.queue.add(new, self.queue.find(source.name).job.settings)
        self.make()  # gives the first one up; the other's turn is next
        self.browser.wait_for(f"{STAGE}.facts?.num_before > 0")
        self.picture(form, "6_waiting")
        self.browser.run(f"{STAGE}.shadowRoot.querySelector('.cancel').click()")
        self.picture(form, "7_cancelled")
        self.queue.forget(other.id)
        self.rest()

    def failed(self, form: str) -> None:
        """What the service says of a video that could not be made."""
        make = self.queue.studio.make

        def refuse(*_: Any, **__: Any) -> None:
            raise ValueError("the face is covered by a hand; use a picture where all of it is seen")

        self.queue.studio.make = refuse
        self.make()
        self.browser.wait_for(f"!{STAGE}.shadowRoot.querySelector('.error').hidden")
        self.picture(form, "8_failed")
        self.queue.studio.make = make

    # -- what a visitor does --------------------------------------------------------------------------------------

    def enter(self) -> None:
        self.browser.open(self.address)
        self.browser.wait_for(f"!!document.querySelector('#make') && !!{STAGE}?.shadowRoot")
        self.browser.wait_for("document.querySelectorAll('#examples button').length > 0")

    def press_example(self, number: int) -> None:
        looked = len(self.browser.run("document.querySelector('#portrait img')?.src || ''"))
        buttons = "[...document.querySelectorAll('#examples button')]"
        self.browser.run(f"{buttons}[Math.min({number}, {buttons}.length - 1)].click()")
        self.browser.wait_for("!!document.querySelector('#portrait img')")
        time.sleep(1.5 if looked else 2.5)  # it is looked at
        self.browser.wait_for("!document.querySelector('#inputs .problem')")

    def make(self) -> None:
        self.browser.run("document.querySelector('#make').click()")

    def open(self, *titles: str) -> None:
        for title in titles:
            labels = "[...document.querySelectorAll('.label-wrap')]"
            self.browser.run(f"{labels}.find(label => label.textContent.includes('{title}'))?.click()")

    def choose(self, path: Path) -> None:
        selector = "document.querySelector('#portrait input[type=file]')"
        self.browser.wait_for(f"!!{selector}")
        found = self.browser.send("Runtime.evaluate", expression=selector)
        self.browser.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def clear(self) -> None:
        self.browser.run("document.querySelector('#portrait button[aria-label=\"Remove Image\"]').click()")
        self.browser.wait_for("!document.querySelector('#inputs .problem')")
        time.sleep(1)  # no visitor is as quick as a script

    def rest(self) -> None:
        """Until neither a video nor a portrait is in the works."""
        while self.queue._running or self.queue._expected or self.queue._waiting:
            time.sleep(0.005)

    def picture(self, form: str, name: str) -> None:
        time.sleep(0.8)  # what moves has come to rest
        self.browser.screenshot(self.out / f"{form}_{name}.png")


def _held_s(events: list[Any]) -> float:
    """Time between pauses and what played on after them; the pause at the end is none."""
    held_s, paused_ms = 0.0, None
    for name, at_ms, _ in events:
        if name == "pause":
            paused_ms = at_ms
        elif name == "playing" and paused_ms is not None:
            held_s, paused_ms = held_s + (at_ms - paused_ms) / 1000, None
    return held_s


def _pictures(folder: Path) -> dict[str, Path]:
    from skimage import data

    astronaut = data.astronaut()
    two = np.full((512, 900, 3), 128, np.uint8)
    two[:, 388:] = astronaut
    two[100:484, :384] = np.asarray(Image.fromarray(astronaut).resize((384, 384)))[:, ::-1]
    paths = {"wall": folder / "wall.png", "two": folder / "two.png"}
    Image.fromarray(np.full((240, 320, 3), (200, 190, 170), np.uint8)).save(paths["wall"])
    Image.fromarray(two).save(paths["two"])
    return paths


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--runs", type=int, default=3, help="warm videos")
    parser.add_argument("--quick", action="store_true", help="times alone, no pictures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
