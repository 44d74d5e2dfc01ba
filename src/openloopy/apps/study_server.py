"""The server of a study: one page, two calls and the videos, to browsers on this machine only.

No path ever comes from the browser: a video is asked for by rater, place and letter. Byte ranges as RFC 9110 section 14
has them, so that seeking works.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import parse_qs

HOST = "127.0.0.1"
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Other names in a request mean that some other page had its name point to this machine."""
VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/mp4"}
MAX_BODY_BYTES = 1 << 14
BLOCK_BYTES = 1 << 16
MAX_RANGE_BYTES = 1 << 22
"""Of one answer to an open range; the browser asks for more. Chromium opens six connections to a host: unread rests
of eight videos of 90 MB held them all, and a vote waited for ever; so it took 0.06 s."""
PAGE = "study.html"


class Refusal(ValueError):
    """A request that is not granted; the message goes to the browser and names nothing but what came."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Ballot(Protocol):
    """What the server needs of a study."""

    def start(self, name: str) -> dict[str, Any]: ...

    def vote(self, facts: Mapping[str, Any]) -> None: ...

    def video(self, name: str, index: int, letter: str) -> Path: ...


class StudyServer(ThreadingHTTPServer):
    """Serves in a thread of its own from the start."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, booth: Ballot, port: int) -> None:
        self.booth, self.is_closed = booth, False
        page = (resources.files("openloopy") / "assets" / PAGE).read_text(encoding="utf-8")
        self.page, self.policy = page.encode(), _policy(page)
        try:
            super().__init__((HOST, port), StudyHandler)
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot serve on port {port} ({error}); choose another with --port") from error
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"

    def wait(self) -> None:
        """Block until the server is closed, or an interrupt."""
        while self._thread.is_alive():
            self._thread.join(1)

    def close(self) -> None:
        """Stop answering, on open connections too, and free the port."""
        self.is_closed = True
        self.shutdown()
        self._thread.join()
        self.server_close()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class StudyHandler(BaseHTTPRequestHandler):
    """Answers one browser."""

    protocol_version = "HTTP/1.1"
    server: StudyServer

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of requests."""

    def _answer(self, answer: Callable[[], None]) -> None:
        if self.server.is_closed:
            self.close_connection = True
            return
        try:
            self._require_local()
            answer()
        except Refusal as refusal:
            self._send_json(refusal.status, {"error": str(refusal)})
        except ConnectionError:
            self.close_connection = True
        except OSError as error:
            print(f"study: {error}", file=sys.stderr)
            self._send_json(500, {"error": "a file could not be read or written; see the server's terminal"})

    def _require_local(self) -> None:
        """Keep other sites' pages out: by their name for this machine, or by the origin browsers tell."""
        host = self.headers.get("Host", "")
        names = [re.sub(r"^https?://|:\d+$", "", name) for name in (host, self.headers.get("Origin", host))]
        if not {name.lower() for name in names} <= LOCAL_NAMES:
            self.close_connection = True
            raise Refusal(403, "this study is for browsers on its own machine")

    def _get(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/":
            self._send(200, "text/html; charset=utf-8", self.server.page)
            return
        match = re.fullmatch(r"/media/([0-9]{1,6})/([A-Z])", path)
        if match is None:
            raise Refusal(404, "there is nothing here")
        rater = parse_qs(query).get("rater", [""])[0]
        self._send_video(self.server.booth.video(rater, int(match[1]), match[2]))

    def _post(self) -> None:
        facts = self._body()
        if self.path == "/api/start":
            self._send_json(200, self.server.booth.start(str(facts.get("rater", ""))))
        elif self.path == "/api/vote":
            self.server.booth.vote(facts)
            self._send_json(200, {"kept": True})
        else:
            raise Refusal(404, "there is nothing here")

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        is_json = self.headers.get_content_type() == "application/json"
        if not is_json or not re.fullmatch(r"\d{1,9}", length) or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # what was not read would be taken for the next request
            raise Refusal(400, f"expected at most {MAX_BODY_BYTES} bytes of application/json")
        try:
            facts = json.loads(self.rfile.read(int(length)))
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            raise Refusal(400, "expected a JSON object")
        return facts

    def _send_video(self, path: Path) -> None:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            try:
                span = byte_range(self.headers.get("Range"), size)
            except ValueError:
                self._send(416, "text/plain", b"", {"Content-Range": f"bytes */{size}"})
                return
            start, stop = span or (0, size)
            headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
            if span:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            self._send_head(206 if span else 200, VIDEO_TYPES[path.suffix.lower()], headers)
            self._copy(stream, start, stop)

    def _copy(self, stream: BinaryIO, start: int, stop: int) -> None:
        stream.seek(start)
        while self.command != "HEAD" and start < stop:
            block = stream.read(min(BLOCK_BYTES, stop - start))
            if not block:
                raise ConnectionAbortedError("the file became shorter; the length promised cannot be kept")
            self.wfile.write(block)
            start += len(block)

    def _send_json(self, status: int, facts: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(facts).encode())

    def _send(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._send_head(status, kind, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        common = {
            "Content-Type": kind,
            "Cache-Control": "no-store",  # one address is another video for another rater
            "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**common, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def byte_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The bytes that a Range asks for, from start up to but without stop; None for the whole file.

    A Range that is not understood, or has several parts, is ignored, as a server may. One that lies outside of
    the file raises a ValueError.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (text or "").strip())
    if match is None or not any(match.groups()):
        return None
    first, last = (int(part) if part else None for part in match.groups())
    if first is None:
        first, last = max(size - (last or 0), 0), size - 1
    elif last is None:
        last = first + MAX_RANGE_BYTES - 1
    elif last < first:
        return None
    if first >= size:
        raise ValueError(f"bytes from {first} on, of {size}")
    return first, min(last + 1, size)


def _policy(page: str) -> str:
    """The page's own script runs, no other, and nothing is fetched from elsewhere."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; connect-src 'self'; "
        "media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
