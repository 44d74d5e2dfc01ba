"""A headless Chromium, steered over its DevTools pipe: no driver, no websocket, nothing to install."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """The first Chromium on the path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab. Context manager; the profile lies in a folder given."""

    def __init__(self, program: str, profile: Path, timeout_s: float = 20) -> None:
        self.timeout_s, self._num_sent, self._read = timeout_s, 0, b""
        for_child, self._to = os.pipe()
        self._from, of_child = os.pipe()
        command = f'exec "$0" "$@" 3<&{for_child} 4>&{of_child}'  # the pipe's two ends have fixed numbers
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(for_child, of_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(for_child)
        os.close(of_child)

    def __enter__(self) -> Browser:
        self._session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._session = None
            self.send("Browser.close")
            self._process.wait(5)
        except Exception:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.protocol === 'http:'")

    def size(self, width: int, height: int, is_dark: bool = False) -> None:
        facts = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **facts)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        facts = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.send("Runtime.evaluate", **facts)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        stop = time.monotonic() + self.timeout_s
        while not self.run(condition):
            assert time.monotonic() < stop, f"never became true: {condition}"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: Path) -> None:
        """The whole page, however long."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a DevTools method and wait for its answer; events are passed over."""
        self._num_sent += 1
        message = {"id": self._num_sent, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._num_sent:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], self.timeout_s)
            block = os.read(self._from, 1 << 16) if ready else b""
            assert block, f"the browser said nothing for {self.timeout_s} s, or ended"
            self._read += block
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)
