"""The page: a portrait and a sound go in, and the video plays while it is made. Gradio, on top of the HTTP service.

Source: ours. What is chosen is Gradio's own components, which call `Desk`; the video is a custom element
(assets/player.js) that follows `/v1/videos/ID` of `apps.service`, so that neither frames nor progress go through
Gradio. Nothing comes from another host: no fonts, no analytics, no sharing.

A video that is not done is given up when its page is closed, left or loaded anew: nobody could see it any more, and
others wait. The page itself says so to the service (`pagehide`); Gradio's own `unload` also comes where a phone was
locked or a connection lost for a moment, and there the video should go on.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI
from fastapi.responses import Response
from PIL import Image, ImageDraw, ImageFont

from openloopy.apps.generate import Studio
from openloopy.apps.jobs import JobQueue, QueueFullError
from openloopy.apps.service import ServiceConfig, make_app
from openloopy.apps.settings import VideoSettings
from openloopy.apps.text_to_speech import LANGUAGES, MAX_CHARACTERS, Voice, has_speech, speak, voices
from openloopy.face.crop import MIN_FACE_PX, select_face
from openloopy.face.landmarks import Face
from openloopy.media.files import make_folder
from openloopy.media.image import as_rgb, write_image
from openloopy.puppet.drawn import draw_face

TITLE = "OpenLoopy"
SIZES_PX = (256, 384, 512, 768, 1024)
EXAMPLE_PX, EXAMPLE_SEED = 512, 6
FACES_PX = 800
"""Longest side of the picture in which a face is chosen."""
CLEANING_S = 3600
ASSETS = resources.files("openloopy") / "assets"
HEAD = (
    '<meta name="description" content="A portrait and a sound become a talking video.">'
    '<script src="player.js" defer></script>'
)
STAGE = "<talking-video></talking-video>"
CONSENT = (
    "Only with people who have agreed to it. Every video is marked as AI\N{NON-BREAKING HYPHEN}generated, in its "
    "pictures and its file."
)
CSS = """
.gradio-container .main { max-width: 1180px; margin: 0 auto; }
.html-container { padding: 0 !important; }
#title h1 { margin: 4px 0 2px; font-size: 1.75rem; line-height: 1.2; }
#title p { margin: 0; color: var(--body-text-color-subdued); }
#inputs, #right { gap: 12px; }
.hint { margin: -4px 2px 4px; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.problem { margin: 0; padding: 10px 14px; border: 1px solid var(--error-border-color); border-radius: 8px;
  color: var(--error-text-color); background: var(--error-background-fill); overflow-wrap: anywhere; }
#sound [data-testid="upload-text"] { min-height: 96px; padding: 28px 12px 12px; font-size: 0; gap: 0; }
#sound [data-testid="upload-text"] span { font-size: 0; }
#sound [data-testid="upload-text"]::after { content: "Drop a sound here or choose one";
  font-size: var(--text-md); line-height: 1.5; }
#portrait [data-testid="upload-text"] { font-size: var(--text-md); }
#sound .upload-container svg, #portrait .upload-container svg { width: 22px; height: 22px; }
.source-selection { min-height: 44px; gap: 4px !important; }
.source-selection button { min-width: 44px; height: 44px; display: grid; place-items: center; }
.source-selection svg { width: 20px; height: 20px; }
h2.label { margin: 4px 2px -4px; font-size: var(--text-sm); font-weight: 400; color: var(--body-text-color-subdued); }
#examples { gap: 8px; flex-wrap: wrap; }
#examples button { flex: 0 0 112px; flex-direction: column; gap: 6px; padding: 8px; font-weight: 400;
  background: none; border: 1px solid var(--border-color-primary); }
#examples button:hover { border-color: var(--color-accent); }
#examples img { width: 96px; height: 96px; margin: 0; border-radius: 6px; object-fit: cover; }
#make { min-height: 52px; font-size: 1.125rem; font-weight: 600; }
#right { position: sticky; top: 16px; align-self: flex-start; }
@media (max-width: 800px) { #right { position: static; } .gradio-container .main { padding: 12px !important; } }
"""


def make_page_app(config: ServiceConfig, studio: Studio) -> FastAPI:
    """The service of `make_app` with the page at `/`."""
    # Gradio knows no other way to say where uploads lie.
    uploads = (config.folder / "page").resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    app = make_app(config, studio)

    @app.get("/player.js", include_in_schema=False)
    def get_player() -> Response:
        script = (ASSETS / "player.js").read_text("utf-8")
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    limits = config.limits
    return gr.mount_gradio_app(
        app,
        make_page(
            Desk(app.state.queue, uploads),
            _examples(config.folder / "examples"),
            "Nothing leaves this machine." if config.is_local else "",
        ),
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=True,
        max_file_size=max(limits.max_image_bytes, limits.max_audio_bytes),
        theme=_theme(),
        css=CSS,
        head=HEAD,
    )


@dataclass(frozen=True, eq=False)
class Looked:
    """A portrait that was looked at."""

    path: Path
    size: tuple[int, int]
    """Width and height, px."""
    faces: tuple[Face, ...] = ()
    """Largest first."""

    def problem(self, index: int | None) -> str:
        """Why the face cannot be animated; "" if it can."""
        try:
            select_face(list(self.faces), self.size, index)
        except ValueError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Example:
    """Something to try the page with: paths of a portrait and a sound."""

    title: str
    portrait: str
    sound: str


class Desk:
    """What happens when something on the page is chosen or pressed.

    Files come as Gradio's descriptions of them, `{"path": ..., "orig_name": ...}`, and are read here: it would not tell
    in words what is wrong with one, and in a mounted page it does not check that they were uploaded.
    """

    def __init__(self, queue: JobQueue, uploads: Path) -> None:
        """uploads: the folder of what visitors have sent; no other file is read for them."""
        self.queue, self.limits, self.uploads = queue, queue.limits, uploads
        self.voices: dict[str, Voice] = {voice.title: voice for voice in voices()}

    def look(self, portrait: dict[str, Any] | None) -> tuple[Looked | None, Any, Any, Any]:
        """What was seen in it, what is wrong with it, and if there are several faces a picture and their numbers."""
        nothing = gr.update(visible=False, value=None)
        if portrait is None:
            return None, _problem(""), nothing, gr.update(visible=False, value=None, choices=[])
        try:
            rgb = as_rgb(self._uploaded(portrait, self.limits.max_image_bytes))
        except ValueError as error:
            text = _named(str(error), portrait)
            return None, _problem(text), nothing, gr.update(visible=False, value=None, choices=[])
        faces = tuple(self.queue.studio.landmarker.detect(rgb))
        looked = Looked(Path(portrait["path"]).resolve(), (rgb.shape[1], rgb.shape[0]), faces)
        names = [
            (f"{number + 1}, the largest" if number == 0 else str(number + 1), number)
            for number in range(len(faces))
        ]
        is_choice = len(faces) > 1
        return (
            looked,
            _problem(looked.problem(None)),
            gr.update(visible=is_choice, value=numbered(rgb, faces) if is_choice else None),
            gr.update(visible=is_choice, value=0 if is_choice else None, choices=names),
        )

    def point(self, looked: Looked | None, event: gr.SelectData) -> int:
        """The number of the face that was clicked in the picture of `look`, or the nearest to it."""
        assert looked is not None and looked.faces
        place = np.array(event.index) / _shown_scale(looked.size)
        centres = [(face.box[:2] + face.box[2:]) / 2 for face in looked.faces]
        return int(np.argmin([np.linalg.norm(place - centre) for centre in centres]))

    def choose(self, looked: Looked | None, face: int | None) -> Any:
        """What is wrong with the chosen face."""
        return gr.skip() if looked is None or face is None else _problem(looked.problem(face))

    def listen(self, sound: dict[str, Any] | None) -> Any:
        """What is wrong with a sound."""
        if sound is None:
            return _problem("")
        try:
            self.queue.audio_s(self._uploaded(sound, self.limits.max_audio_bytes))
        except ValueError as error:
            return _problem(_named(str(error), sound))
        return _problem("")

    def speak(self, text: str, language: str, voice: str) -> tuple[Any, Any]:
        """The text as a sound, and what is wrong with it."""
        try:
            return speak(text, language, self.voices[voice]), _problem("")
        except ValueError as error:
            return gr.skip(), _problem(str(error))

    def warm(self, looked: Looked | None, *chosen: Any) -> None:
        """Prepare the portrait while nothing else is to be done."""
        if looked is None:
            return
        try:
            settings = self._settings(looked, *chosen)
        except ValueError:
            return  # the button says it
        if not looked.problem(settings.face):
            self.queue.warm(looked.path, settings)

    def start(
        self,
        portrait: dict[str, Any] | None,
        sound: dict[str, Any] | None,
        looked: Looked | None,
        *chosen: Any,
    ) -> tuple[Any, Any]:
        """Ask for the video: its player, and what is wrong."""
        if portrait is None or sound is None:
            missing = "a portrait" if portrait is None else "a sound"
            return gr.skip(), _problem(f"Choose {missing} first, or one of the examples.")
        if (
            looked is None or looked.path != Path(portrait["path"]).resolve()
        ):  # pressed before it was looked at
            looked = None
        try:
            settings = self._settings(looked, *chosen)
            if looked and (wrong := looked.problem(settings.face)):
                raise ValueError(wrong)
            with self.queue.new_folder() as folder:
                id = self._added(folder, settings, portrait, sound)
        except (ValueError, QueueFullError) as error:
            return gr.skip(), _problem(str(error))
        return f'<talking-video video="{id}"></talking-video>', _problem("")

    def _added(self, folder: Path, settings: VideoSettings, portrait: Any, sound: Any) -> str:
        shutil.copyfile(self._uploaded(portrait, self.limits.max_image_bytes), folder / "image")
        shutil.copyfile(self._uploaded(sound, self.limits.max_audio_bytes), folder / "audio")
        try:
            return self.queue.add(folder, settings).id
        except ValueError as error:
            text = str(error)
            for name, file in (("image", portrait), ("audio", sound)):
                text = _named(text, file | {"path": str(folder / name)})
            raise ValueError(text) from error

    def _uploaded(self, file: dict[str, Any], most: int) -> Path:
        """Where it lies, if it may be read."""
        path = Path(file["path"]).resolve()
        if not path.is_relative_to(self.uploads) or not path.is_file():
            raise ValueError("this file is no longer there; choose it anew")
        size = path.stat().st_size
        if size > most:
            raise ValueError(f"the file has {_megabytes(size)}, at most {_megabytes(most)} work")
        return path

    def _settings(
        self,
        looked: Looked | None,
        face: int | None,
        frame: str,
        size_px: int,
        temperature: float,
        audio_guidance: float,
        seed: float | None,
        label: bool,
    ) -> VideoSettings:
        own = self.queue.studio.model_config
        is_choice = looked is not None and len(looked.faces) > 1
        return VideoSettings(
            seed=int(seed or 0),
            face=face if is_choice else None,
            frame=frame,
            size=None if frame == "full" or size_px == own.size_px else size_px,
            temperature=None if temperature == own.defaults.temperature else temperature,
            audio_guidance=None if audio_guidance == own.defaults.audio_guidance else audio_guidance,
            label=label,
        )


def make_page(desk: Desk, examples: Sequence[Example], place: str = "") -> gr.Blocks:
    """The page; place: a sentence on where it runs."""
    with _Page(
        title=TITLE, analytics_enabled=False, delete_cache=(CLEANING_S, int(desk.limits.keep_s) + 1)
    ) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>A portrait and a sound become a talking video. {place}</p>", elem_id="title"
        )
        with gr.Row():
            with gr.Column(scale=5, min_width=320, elem_id="inputs"):
                inputs = _Inputs(desk)
                inputs.show_examples(examples)
                inputs.show_settings(desk)
            with gr.Column(scale=6, min_width=320, elem_id="right"):
                make = gr.Button("Make the video", variant="primary", size="lg", elem_id="make")
                _hint(CONSENT)
                wrong = gr.HTML(visible=False)
                stage = gr.HTML(STAGE, elem_id="stage")
        inputs.connect(desk)
        # Not through Gradio's queue: the first frame is waited for.
        quick = {"preprocess": False, "queue": False, "show_progress": "hidden", "api_visibility": "private"}
        make.click(
            desk.start,
            [inputs.portrait, inputs.sound, inputs.looked, *inputs.chosen],
            [stage, wrong],
            **quick,
        )
    return page


class _Page(gr.Blocks):
    """Gradio's, but that a client can name no file which it has not sent.

    In a mounted page Gradio 6 does not check that (`has_launched` is false there): it would copy any file of this
    machine, or of an address, to where the client can fetch it.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        """Called with what a client sends, before anything is made of it."""
        uploads = Path(self.GRADIO_CACHE).resolve()
        for path in _paths_in(inputs):
            if not Path(path).resolve().is_relative_to(uploads):
                raise gr.Error("A file was named that was not uploaded here.")
        return await super().preprocess_data(block_fn, inputs, *rest, **named)


def _paths_in(data: Any) -> Iterator[str]:
    """Paths of files, wherever they are in JSON."""
    if isinstance(data, dict):
        if data.get("path") is not None:
            yield str(data["path"])
        data = list(data.values())
    if isinstance(data, list):
        for part in data:
            yield from _paths_in(part)


class _Inputs:
    """The left side: portrait, sound, examples, settings."""

    def __init__(self, desk: Desk) -> None:
        limits = desk.limits
        self.portrait = gr.Image(
            label="Portrait",
            type="filepath",
            sources=["upload", "webcam", "clipboard"],
            height=260,
            buttons=[],
            elem_id="portrait",
            placeholder="Drop a picture here or choose one",
            alt_text="The portrait that you chose",
        )
        self.looked = gr.State(None)
        _hint(
            f"One face, seen from the front, at least {MIN_FACE_PX} px high; up to "
            f"{_megabytes(limits.max_image_bytes)}."
        )
        self.portrait_wrong = gr.HTML(visible=False)
        self.faces = gr.Image(
            label="Faces",
            visible=False,
            interactive=False,
            buttons=[],
            alt_text="The portrait, with a number at each face",
            elem_id="faces",
        )
        self.face = gr.Radio(
            label="Several faces: click the one that is to speak, or choose its number",
            choices=[],
            visible=False,
            elem_id="face",
        )
        self.sound = gr.Audio(
            label="Sound",
            type="filepath",
            sources=["upload", "microphone"],
            buttons=[],
            elem_id="sound",
        )
        _hint(
            f"Speech, in any language; up to {_minutes(limits.max_audio_s)} and "
            f"{_megabytes(limits.max_audio_bytes)}."
        )
        self.sound_wrong = gr.HTML(visible=False)
        self._text = _TextToSpeech(desk) if has_speech() else None

    def show_examples(self, examples: Sequence[Example]) -> None:
        gr.HTML('<h2 class="label">Examples, with portrait and sound</h2>')
        with gr.Row(elem_id="examples"):
            for example in examples:
                button = gr.Button(example.title, icon=example.portrait, min_width=0, size="sm")
                button.click(
                    lambda example=example: (example.portrait, example.sound),
                    None,
                    [self.portrait, self.sound],
                    queue=False,
                    show_progress="hidden",
                    api_visibility="private",
                )

    def show_settings(self, desk: Desk) -> None:
        own = desk.queue.studio.model_config
        with gr.Accordion("Settings", open=False):
            self.frame = gr.Radio(
                [("A square about the face", "crop"), ("The whole picture", "full")],
                value="crop",
                label="What the video shows",
            )
            sizes = sorted({*SIZES_PX, own.size_px})
            self.size = gr.Dropdown(
                [(f"{size} × {size} px", size) for size in sizes],
                value=own.size_px,
                label="Size of the square",
            )
            self.temperature = gr.Slider(
                0, 2, own.defaults.temperature, step=0.05, label="Liveliness", info="of head and eyes"
            )
            self.audio_guidance = gr.Slider(
                0,
                6,
                own.defaults.audio_guidance,
                step=0.1,
                label="Audio guidance",
                info="how much the sound leads",
            )
            self.seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="same seed, same video")
            self.label = gr.Checkbox(False, label='Write "AI-generated" into a corner')

    @property
    def chosen(self) -> list[Any]:
        """What `Desk._settings` takes, in its order."""
        return [
            self.face,
            self.frame,
            self.size,
            self.temperature,
            self.audio_guidance,
            self.seed,
            self.label,
        ]

    def connect(self, desk: Desk) -> None:
        """Say what is called when."""
        raw = {"preprocess": False, "show_progress": "hidden", "api_visibility": "private"}
        seen = [self.looked, self.portrait_wrong, self.faces, self.face]
        warmed = {"fn": desk.warm, "inputs": [self.looked, *self.chosen], "outputs": None, **raw}
        self.portrait.change(desk.look, self.portrait, seen, **raw).then(**warmed)
        self.faces.select(desk.point, self.looked, self.face, **raw)
        self.face.change(desk.choose, [self.looked, self.face], self.portrait_wrong, **raw).then(**warmed)
        gr.on([self.frame.change, self.size.change], **warmed)
        self.frame.change(lambda frame: gr.update(interactive=frame == "crop"), self.frame, self.size, **raw)
        self.sound.change(desk.listen, self.sound, self.sound_wrong, **raw)
        if self._text:
            self._text.connect(desk, self.sound)


class _TextToSpeech:
    """Part of the left side: a text instead of a recording."""

    def __init__(self, desk: Desk) -> None:
        with gr.Accordion("Or type what is to be said", open=False):
            self.text = gr.Textbox(
                label=f"Text, up to {MAX_CHARACTERS} characters", lines=3, max_length=MAX_CHARACTERS
            )
            with gr.Row():
                languages = list(LANGUAGES.items())
                self.language = gr.Dropdown(languages, value=languages[0][1], label="Language", min_width=200)
                titles = list(desk.voices)
                self.voice = gr.Dropdown(titles, value=titles[0], label="Voice", min_width=200)
            self.wrong = gr.HTML(visible=False)
            self.button = gr.Button("Speak it")

    def connect(self, desk: Desk, sound: gr.Audio) -> None:
        self.button.click(
            desk.speak,
            [self.text, self.language, self.voice],
            [sound, self.wrong],
            show_progress_on=sound,
            api_visibility="private",
        )


def numbered(rgb: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """The picture, `H W 3` uint8, at most FACES_PX long, with a box and a number at each face."""
    scale = _shown_scale((rgb.shape[1], rgb.shape[0]))
    picture = Image.fromarray(rgb).resize([max(round(side * scale), 1) for side in rgb.shape[1::-1]])
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(16, round(max(picture.size) / 32)))
    for number, face in enumerate(faces, 1):
        x0, y0, x1, y1 = (float(edge) * scale for edge in face.box)
        draw.rectangle((x0, y0, x1, y1), outline="white", width=5)
        draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline="#1d4ed8", width=3)
        left, top, right, bottom = draw.textbbox((0, 0), str(number), font=font)
        y0 = max(y0 - bottom - 8, 0.0)  # above the box, where there is room
        draw.rectangle((x0, y0, x0 + right + 10, y0 + bottom + 8), fill="#1d4ed8")
        draw.text((x0 + 5, y0 + 2), str(number), fill="white", font=font)
    return np.asarray(picture)


def _shown_scale(size: tuple[int, int]) -> float:
    return min(1.0, FACES_PX / max(size))


def _examples(folder: Path) -> list[Example]:
    """A drawn face and, where scikit-image is installed, a photograph that is in the public domain."""
    make_folder(folder)
    sound, drawn = folder / "hello.flac", folder / "drawn.jpg"
    sound.write_bytes((ASSETS / "demo_speech.flac").read_bytes())
    if not drawn.exists():
        write_image(drawn, draw_face(np.random.default_rng(EXAMPLE_SEED), EXAMPLE_PX).rgb)
    examples = [Example("A drawing", str(drawn.resolve()), str(sound.resolve()))]
    if importlib.util.find_spec("skimage"):
        from skimage.data import astronaut

        photograph = folder / "astronaut.jpg"
        write_image(photograph, astronaut())
        examples.insert(0, Example("A photograph", str(photograph.resolve()), str(sound.resolve())))
    return examples


def _theme() -> gr.themes.Base:
    """Gradio's own, in the fonts that the visitor has."""
    sans, mono = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono)
    # Gradio's own are too pale to be read by everybody.
    return theme.set(
        body_text_color_subdued="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def _hint(text: str) -> None:
    gr.HTML(f'<p class="hint">{text}</p>')


def _problem(text: str) -> Any:
    """A line that is read aloud, or nothing."""
    line = f'<p class="problem" role="alert">{escape(text[:1].upper() + text[1:])}</p>'
    return gr.update(value=line if text else "", visible=bool(text))


def _named(text: str, file: dict[str, Any]) -> str:
    """A message with the file's own name instead of its place on the server."""
    path = Path(file["path"])
    return text.replace(str(path), file.get("orig_name") or path.name)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.3g} MB"


def _minutes(duration_s: float) -> str:
    return f"{duration_s / 60:g} minutes" if duration_s >= 120 else f"{duration_s:g} s"
