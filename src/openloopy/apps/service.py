"""The HTTP service: videos are asked for, waited for, watched while they are made, and fetched (`apps.jobs`).

Paths are made of ids that match a pattern, never of what a client sends; nothing is fetched from anywhere. On this
machine alone no token is needed, and then pages of other sites are refused (by the names in `Host` and `Origin`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import logging
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from openloopy import __version__
from openloopy.apps.generate import Studio
from openloopy.apps.jobs import ID_PATTERN, TAIL_WAIT_S, JobQueue, Limits, QueueFullError, Standing
from openloopy.apps.settings import VideoSettings, setting_kinds
from openloopy.media.files import WriteError, write_errors_named
from openloopy.media.video import FPS

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
OPEN_PATHS = frozenset({"/healthz"})
"""Answered without a token."""
UPLOAD_PATHS = frozenset({"/v1/videos", "/v1/videos/sync"})
PAGE_UPLOAD_PATH = "/gradio_api/upload"
"""Where the page (`apps.page`) sends a file before a video is asked for."""
FORM_BYTES = 1 << 20
"""Of a form, besides its files."""
MIN_TOKEN = 16
POLL_S = 0.1
Message = dict[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Where the service listens, and who may use it."""

    folder: Path
    """For jobs and their files."""
    host: str = "127.0.0.1"
    port: int = 8360
    token: str | None = None
    """What clients have to show as `Authorization: Bearer TOKEN`; None: nothing."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ValueError(f"the token has {len(self.token)} characters; use {MIN_TOKEN} or more")
        if self.token is None and not self.is_local:
            raise ValueError(
                f"{self.host} can be reached from other machines; set a token in OPENLOOPY_TOKEN, or listen on "
                "127.0.0.1"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ErrorText(BaseModel):
    """What went wrong, in words."""

    message: str


class ErrorAnswer(BaseModel):
    error: ErrorText


class ProgressAnswer(BaseModel):
    frames_done: int
    total_frames: int
    share: float = Field(description="0 to 1")


class VideoAnswer(BaseModel):
    """A video that was asked for."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    created: float = Field(description="Seconds since 1970")
    audio_s: float
    settings: dict[str, str] = Field(description="Those that are not the default")
    progress: ProgressAnswer
    num_before: int = Field(description="Videos that are made first")
    left_s: float | None = Field(description="Seconds until it is done, by guess")
    notes: list[str] = Field(description="What to know of this portrait or sound")
    error: str | None
    video: dict[str, Any] = Field(description="Size, number of frames, timings; once it is done")


class ModelAnswer(BaseModel):
    id: str
    size_px: int
    fps: int
    device: str


class ModelsAnswer(BaseModel):
    data: list[ModelAnswer]
    limits: dict[str, float]


class HealthAnswer(BaseModel):
    status: Literal["ok"]
    version: str
    jobs: dict[str, int]
    is_model_loaded: bool


VideoForm = create_model(
    "VideoForm",
    __config__=ConfigDict(extra="forbid"),
    image=(UploadFile, Field(description="The portrait: any common picture with a face")),
    audio=(UploadFile, Field(description="The sound: anything that FFmpeg decodes")),
    **{
        name: (str | None, Field(None, description=f"{kind.__name__}; see `openloopy generate --help`"))
        for name, kind in setting_kinds().items()
    },
)
Problem = {"model": ErrorAnswer}
UNKNOWN = {404: Problem | {"description": "No such video (any more)"}}
ASKED = {
    400: Problem | {"description": "No form that can be read"},
    413: Problem | {"description": "A file is too large"},
    422: Problem | {"description": "A picture, a sound or a setting that does not work"},
    429: Problem | {"description": "Too many are waiting; see Retry-After"},
    507: Problem | {"description": "The service's disk is full"},
}


def make_app(config: ServiceConfig, studio: Studio) -> FastAPI:
    """The service as an ASGI app; its queue runs as long as the app does."""
    queue = JobQueue(config.folder, studio, config.limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with queue:
            yield

    # Its page about the API has its scripts with it: it works without a network.
    app = FastAPIOffline(
        redoc_url=None,
        title="OpenLoopy",
        version=__version__,
        description="A portrait and a sound become a talking video.",
        lifespan=lifespan,
        responses={401: Problem, 403: Problem},
    )
    app.state.queue = queue
    _add_errors(app)
    _add_videos(app, queue, config)
    _add_facts(app, queue, config)
    app.add_middleware(Gate, config=config, queue=queue)
    return app


def run_service(config: ServiceConfig, app: FastAPI, say: Callable[[str], None]) -> None:
    """Serve until an interrupt; what is being made then is made anew at the next start."""
    say(f"OpenLoopy listens on http://{config.host}:{config.port} (API: /docs); files lie in {config.folder}")
    # What is still being streamed when the service ends is cut off; that is no error to tell of.
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    server.run()
    if not server.started:
        raise ValueError(f"cannot serve on {config.host}:{config.port}; choose another --port")


def _is_no_cut(record: logging.LogRecord) -> bool:
    is_cut = bool(record.exc_info) and record.exc_info[0] is asyncio.CancelledError
    return not is_cut and not record.getMessage().endswith("timeout graceful shutdown exceeded")


class Gate:
    """Who may come in, and with how much: before anything of a request's body is read."""

    def __init__(self, app: Any, config: ServiceConfig, queue: JobQueue) -> None:
        self.app, self.config, self.queue = app, config, queue
        limits = config.limits
        both = limits.max_image_bytes + limits.max_audio_bytes
        one = max(limits.max_image_bytes, limits.max_audio_bytes)
        self.max_bodies = {path: both + FORM_BYTES for path in UPLOAD_PATHS} | {
            PAGE_UPLOAD_PATH: one + FORM_BYTES
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        body = _Counted(receive, send, self._max_body(scope))
        with contextlib.suppress(_BodyTooLargeError):
            await self.app(scope, body.receive, body.send)
        if body.is_too_large and not body.has_answered:
            await _too_large(body.max_bytes)(scope, receive, send)

    def _refusal(self, scope: Message, headers: dict[str, str]) -> Response | None:
        if self.config.token is None:
            names = {_host_of(headers.get("host", "")), _host_of(headers.get("origin", "//127.0.0.1"))}
            if not names <= LOCAL_NAMES:
                return _problem(403, "this service is for programs and pages on its own machine")
        elif scope["path"] not in OPEN_PATHS and not self._has_token(headers):
            # A browser that opens the page asks its user for a name (any) and the token.
            way = 'Basic realm="OpenLoopy"' if "text/html" in headers.get("accept", "") else "Bearer"
            return _problem(401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": way})
        length, max_body = headers.get("content-length", ""), self._max_body(scope)
        if length.isdigit() and int(length) > max_body:
            return _too_large(max_body)
        if scope["method"] != "POST" or scope["path"] not in UPLOAD_PATHS:
            return None
        try:
            self.queue.check_room()
        except QueueFullError as error:
            return _full(error)
        return None

    def _max_body(self, scope: Message) -> int:
        return self.max_bodies.get(scope["path"], FORM_BYTES)

    def _has_token(self, headers: dict[str, str]) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            # Browsers show it by themselves, also when another site's page sends the request.
            host = headers.get("host", "")
            if re.sub(r"^https?://", "", headers.get("origin", host)) != host:
                return False
            token = _password_of(token)
        same = hmac.compare_digest(token.strip().encode("utf-8"), self.config.token.encode("utf-8"))
        return same and kind.lower() in ("bearer", "basic")


class _BodyTooLargeError(Exception):
    """More came than may."""


class _Counted:
    """A request's body, counted, and whether its answer has begun."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive, self._send, self.max_bytes = receive, send, max_bytes
        self.num_bytes, self.is_too_large, self.has_answered = 0, False, False

    async def receive(self) -> Message:
        message = await self._receive()
        self.num_bytes += len(message.get("body", b""))
        if self.num_bytes > self.max_bytes:
            self.is_too_large = True
            raise _BodyTooLargeError
        return message

    async def send(self, message: Message) -> None:
        if self.is_too_large and not self.has_answered:
            return  # what somebody inside, who caught the error, takes it for
        self.has_answered = True
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
        await self._send(message)


def _add_videos(app: FastAPI, queue: JobQueue, config: ServiceConfig) -> None:
    accept = _accepter(queue, config)

    @app.post("/v1/videos", status_code=202, responses=ASKED)
    async def create_video(form: Annotated[VideoForm, Form()], response: Response) -> VideoAnswer:
        """Ask for a video."""
        standing = await accept(form)
        response.headers["Location"] = f"/v1/videos/{standing.job.id}"
        return _answer(standing)

    @app.post(
        "/v1/videos/sync",
        response_class=FileResponse,
        responses=ASKED | {200: {"content": {"video/mp4": {}}}, 409: Problem, 500: Problem},
    )
    async def create_video_and_wait(form: Annotated[VideoForm, Form()], request: Request) -> Response:
        """Ask for a video and wait for it; who hangs up cancels it."""
        id = (await accept(form)).job.id
        while (standing := queue.find(id)) is not None and not standing.job.is_finished:
            await asyncio.sleep(POLL_S)
            if await request.is_disconnected():
                queue.forget(id)
                return Response(status_code=499)
        return _content(queue, standing, {"X-Video-Id": id})

    @app.get("/v1/videos/{id}", responses=UNKNOWN)
    async def get_video(id: str) -> VideoAnswer:
        """What became of a video."""
        return _answer(_found(queue, id))

    @app.get(
        "/v1/videos/{id}/content",
        response_class=FileResponse,
        responses=UNKNOWN | {200: {"content": {"video/mp4": {}}}, 206: {}, 409: Problem, 416: {}},
    )
    async def get_content(id: str) -> Response:
        """The video, once it is done; byte ranges work."""
        return _content(queue, _found(queue, id), {})

    @app.get(
        "/v1/videos/{id}/sidecar",
        response_class=FileResponse,
        responses=UNKNOWN | {200: {"content": {"application/json": {}}}, 409: Problem},
    )
    async def get_sidecar(id: str) -> Response:
        """Settings, hashes, versions and timings of a video that is done."""
        standing = _found(queue, id)
        _require_done(standing)
        return FileResponse(queue.sidecar_path(id), media_type="application/json")

    @app.get(
        "/v1/videos/{id}/stream",
        response_class=StreamingResponse,
        responses=UNKNOWN | {200: {"content": {"video/mp4": {}}}},
    )
    async def get_stream(id: str) -> StreamingResponse:
        """The video as fragmented mp4, from its beginning, while it is made; ends with it."""
        _found(queue, id)
        return StreamingResponse(
            _tail(queue, id), media_type="video/mp4", headers={"Cache-Control": "no-store"}
        )

    @app.delete("/v1/videos/{id}", status_code=204, responses=UNKNOWN)
    async def delete_video(id: str) -> None:
        """Cancel a video, and forget it."""
        _found(queue, id)
        queue.forget(id)


def _accepter(queue: JobQueue, config: ServiceConfig) -> Callable[[Any], Awaitable[Standing]]:
    # Decoding is work; more than two at once would only take turns with the video that is being made.
    turn = asyncio.Semaphore(2)

    async def accept(form: Any) -> Standing:
        texts = {name: value for name in setting_kinds() if (value := getattr(form, name)) is not None}
        try:
            settings = VideoSettings.from_text(texts)
            async with turn:
                return await run_in_threadpool(_take, queue, config.limits, form, settings)
        except QueueFullError as error:
            raise HTTPException(429, str(error), {"Retry-After": str(error.retry_after_s)}) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except WriteError as error:
            # Where files lie is not the client's business.
            logging.getLogger("uvicorn.error").error("%s", error)
            raise HTTPException(507, "the service has no room to store it; try again later") from error

    return accept


def _take(queue: JobQueue, limits: Limits, form: Any, settings: VideoSettings) -> Standing:
    with queue.new_folder() as folder:
        for name, most in (("image", limits.max_image_bytes), ("audio", limits.max_audio_bytes)):
            upload: UploadFile = getattr(form, name)
            if upload.size is None or upload.size > most:
                raise HTTPException(413, f"{name} may have at most {most} bytes, got {upload.size}")
            with write_errors_named(folder / name), open(folder / name, "wb") as file:
                shutil.copyfileobj(upload.file, file)
        try:
            job = queue.add(folder, settings)
        except ValueError as error:
            text = str(error)
            for name in ("image", "audio"):
                text = text.replace(str(folder / name), f"the {name}")
            raise type(error)(text) from error
    return queue.find(job.id) or Standing(job)


def _add_facts(app: FastAPI, queue: JobQueue, config: ServiceConfig) -> None:
    studio = queue.studio

    @app.get("/v1/models")
    async def get_models() -> ModelsAnswer:
        """The model of this service, and what it takes on."""
        facts = studio.model_config
        model = ModelAnswer(id=facts.name, size_px=facts.size_px, fps=FPS, device=str(studio.machine.device))
        return ModelsAnswer(data=[model], limits=asdict(config.limits))

    @app.get("/healthz")
    async def get_health() -> HealthAnswer:
        """Whether it is alive, and what it does."""
        return HealthAnswer(
            status="ok", version=__version__, jobs=queue.counts, is_model_loaded=studio.is_loaded
        )


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def refuse(request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names only the methods of the first route of a path
            headers["Allow"] = ", ".join(sorted(_methods_of(app, request.url.path)))
        return _problem(error.status_code, str(error.detail), headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(request: Request, error: RequestValidationError) -> Response:
        parts = [f"{'.'.join(map(str, part['loc'][1:]))}: {part['msg']}" for part in error.errors()]
        return _problem(422, "; ".join(parts)[:1000])


def _methods_of(app: FastAPI, path: str) -> set[str]:
    routes = (route for route in app.routes if isinstance(route, APIRoute) and route.path_regex.match(path))
    return {method for route in routes for method in route.methods}


def _found(queue: JobQueue, id: str) -> Standing:
    standing = queue.find(id) if ID_PATTERN.fullmatch(id) else None
    if standing is None:
        raise HTTPException(404, "there is no such video (any more)")
    return standing


def _require_done(standing: Standing) -> None:
    job = standing.job
    if job.status != "done":
        raise HTTPException(409, f"this video is {job.status}{f': {job.error}' if job.error else ''}")


def _content(queue: JobQueue, standing: Standing | None, headers: dict[str, str]) -> Response:
    if standing is None:
        raise HTTPException(404, "there is no such video (any more)")
    _require_done(standing)
    id = standing.job.id
    if not queue.video_path(id).is_file():  # deleted this moment
        raise HTTPException(404, "there is no such video (any more)")
    return FileResponse(
        queue.video_path(id),
        media_type="video/mp4",
        filename=f"openloopy-{id[:8]}.mp4",
        content_disposition_type="inline",
        headers=headers,
    )


async def _tail(queue: JobQueue, id: str) -> AsyncIterator[bytes]:
    for data in queue.stream(id):
        if data is None:
            await asyncio.sleep(TAIL_WAIT_S)
        else:
            yield data


def _answer(standing: Standing) -> VideoAnswer:
    job, progress = standing.job, standing.progress
    total = progress.total_frames if progress else round(job.audio_s * FPS)
    done = total if job.status == "done" else progress.frames_done if progress else 0
    return VideoAnswer(
        id=job.id,
        status=job.status,
        created=job.created_s,
        audio_s=round(job.audio_s, 3),
        settings=job.settings.as_text(),
        progress=ProgressAnswer(frames_done=done, total_frames=total, share=round(done / max(total, 1), 4)),
        num_before=standing.num_before,
        left_s=None if standing.left_s is None else round(standing.left_s, 2),
        notes=list(job.notes),
        error=job.error,
        video=job.video,
    )


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status, headers)


def _full(error: QueueFullError) -> JSONResponse:
    return _problem(429, str(error), {"Retry-After": str(error.retry_after_s)})


def _too_large(max_bytes: int) -> JSONResponse:
    return _problem(413, f"a request may have at most {max_bytes} bytes", {"Connection": "close"})


def _password_of(credentials: str) -> str:
    """Of HTTP's Basic scheme: base64 of NAME:PASSWORD; "" where it is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def _host_of(name: str) -> str:
    """The name in `Host` or `Origin`, without scheme and port."""
    return re.sub(r"^[a-z]*:?//|:\d+$", "", name.strip().lower())
