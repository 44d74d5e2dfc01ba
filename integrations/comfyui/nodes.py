"""OpenLoopy's nodes for ComfyUI: a portrait and a sound become a video, or its frames.

Ours, on ComfyUI's V3 node schema (`comfy_api.latest`; read in and tested with ComfyUI 0.3.64).

There are two nodes because a VIDEO must not pay for an IMAGE. The first writes an mp4 while it is made, so memory does
not grow with the sound, and the file keeps its tag, its mark and its content credentials. The second holds every frame
as floats, for graphs that go on with the pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, InputImpl, io, ui
from PIL import Image
from torch import Tensor

from openloopy.apps.generate import GenerateRequest, ModelChoice, Studio
from openloopy.apps.settings import VideoSettings
from openloopy.inference.options import Say
from openloopy.inference.scene import Scene
from openloopy.media.audio import SAMPLE_RATE_HZ, AudioError, as_waveform
from openloopy.media.image import ImageError, as_rgb
from openloopy.media.video import FPS

CATEGORY = "OpenLoopy"
STUDIOS_KEPT = 2
"""Models that stay loaded: a graph may compare two."""
PREVIEW_EVERY_FRAMES = 12
"""About half a second of video."""
PREVIEW_PX = 512
LARGEST_SEED = 2**53 - 1
"""The largest whole number that the editor, JavaScript, tells from its neighbours."""
BYTES_PER_PIXEL = 3 * 4
"""Of an IMAGE: three float32."""

log = logging.getLogger("openloopy.comfyui")


class TalkingPortrait(io.ComfyNode):
    """The whole video, as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenLoopyTalkingPortrait",
            display_name="OpenLoopy: talking portrait",
            category=CATEGORY,
            description="A portrait says or sings what a sound holds. The mp4 is written to the output folder while it "
            "is made, with the sound, a tag and a mark that say it is AI-generated.",
            inputs=[
                *_inputs(),
                io.String.Input(
                    "filename_prefix",
                    default="video/OpenLoopy",
                    tooltip="Name in the output folder; %width% and %height% are known, as in Save Video.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The file that was written, 25 frames per second, with sound."),
                io.Audio.Output(display_name="audio", tooltip="The sound as it came."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, portrait: Tensor, audio: Any, model: str, filename_prefix: str, **widgets: Any
    ) -> io.NodeOutput:
        settings, sound = settings_of(**widgets), one_sound(audio)
        studio, scene = _opened(model, portrait, settings)
        out, saved = _output_file(filename_prefix, scene)
        rgb = scene.chosen.rgb
        studio.make(GenerateRequest(portrait=rgb, audio=sound, out=out, settings=settings), say=say)
        return io.NodeOutput(InputImpl.VideoFromFile(str(out)), audio, ui=ui.PreviewVideo([saved]))


class Frames(io.ComfyNode):
    """The same video as pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenLoopyFrames",
            display_name="OpenLoopy: frames",
            category=CATEGORY,
            description="The talking portrait as pictures, for graphs that change them. All frames are in memory at "
            "once: 79 MB per second of video at 512x512. For a video alone use OpenLoopy: talking portrait.",
            inputs=_inputs(),
            outputs=[
                io.Image.Output(
                    display_name="frames",
                    tooltip="All frames, 25 a second, in memory: 79 MB per second at 512x512, 315 MB at 1024x1024. "
                    "If you only want the video, OpenLoopy: talking portrait needs none of that.",
                ),
                io.Audio.Output(display_name="audio", tooltip="The sound as it came."),
                io.Float.Output(display_name="fps", tooltip="Always 25: for Create Video."),
            ],
        )

    @classmethod
    def execute(cls, portrait: Tensor, audio: Any, model: str, **widgets: Any) -> io.NodeOutput:
        settings, waveform = settings_of(**widgets), as_waveform(one_sound(audio), say)
        studio, scene = _opened(model, portrait, settings)
        images = _empty_images(studio.pipeline.num_frames(waveform), scene)
        for i, frame in enumerate(studio.frames(scene, (waveform, SAMPLE_RATE_HZ), settings, say)):
            images[i] = torch.from_numpy(frame) / 255
        return io.NodeOutput(images, audio, float(FPS))


class OpenLoopyExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TalkingPortrait, Frames]


async def comfy_entrypoint() -> OpenLoopyExtension:
    """ComfyUI looks for this name."""
    return OpenLoopyExtension()


class WatchedStudio(Studio):
    """A studio whose frames move ComfyUI's progress bar, are shown now and then, and end when the user cancels."""

    def frames(
        self, scene: Scene, audio: Any, settings: VideoSettings, say: Say | None = None
    ) -> Iterator[np.ndarray]:
        """As `Studio.frames`; raises ComfyUI's InterruptProcessingException between two frames."""
        bar = ProgressBar(self.pipeline.num_frames(as_waveform(audio)))
        for i, frame in enumerate(super().frames(scene, audio, settings, say)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            is_shown = i % PREVIEW_EVERY_FRAMES == 0
            preview = ("JPEG", Image.fromarray(frame), PREVIEW_PX) if is_shown else None
            bar.update_absolute(i + 1, preview=preview)
            yield frame


@lru_cache(maxsize=STUDIOS_KEPT)
def studio_of(choice: ModelChoice) -> WatchedStudio:
    """The one studio of a model: it stays loaded, and keeps its last portrait, from run to run."""
    return WatchedStudio(choice, say=say)


def choice_of(model: str) -> ModelChoice:
    """Which model, and where it runs: not on a GPU that ComfyUI was told to leave alone."""
    is_cpu = comfy.model_management.get_torch_device().type == "cpu"
    return ModelChoice(model=model.strip(), device="cpu" if is_cpu else "auto")


def settings_of(
    *, size: int, face: int, steps: int, temperature: float, audio_guidance: float, **others: Any
) -> VideoSettings:
    """What the widgets say. A number field cannot be empty: none of size or steps, and less than none of the others,
    leave it to the model.

    Raises:
        ValueError: settings that do not work, or not with each other.
    """
    return VideoSettings(
        size=size or None,
        steps=steps or None,
        face=_unless_negative(face),
        temperature=_unless_negative(temperature),
        audio_guidance=_unless_negative(audio_guidance),
        **others,
    )


def one_picture(images: Tensor) -> np.ndarray:
    """The picture of an IMAGE, `1 H W c` floats in [0, 1], as `H W 3` uint8.

    Raises:
        ImageError: more than one, or one that is no picture.
    """
    if len(images) != 1:
        raise ImageError(
            f"expected one portrait, got a batch of {len(images)} pictures; choose one with ImageFromBatch"
        )
    # Upscalers and sharpeners overshoot; whatever shows or saves an IMAGE clips it.
    return as_rgb(images.clamp(0, 1))


def one_sound(audio: Any) -> tuple[Tensor, int]:
    """The sound of an AUDIO as `c n` and its rate in Hz.

    Raises:
        AudioError: none, or more than one.
    """
    if audio is None:
        raise AudioError("there is no sound; the video that it should come from has none, connect another")
    waveform = audio["waveform"]
    if len(waveform) != 1:
        raise AudioError(f"expected one sound, got a batch of {len(waveform)}; make a video of each")
    return waveform[0], audio["sample_rate"]


def say(message: str) -> None:
    """What a user should know, such as that the portrait's eyes are shut, goes to ComfyUI's log."""
    log.warning("OpenLoopy: %s", message)


def _inputs() -> list[io.Input]:
    """What both nodes ask for; the names are those of `VideoSettings`."""
    return [
        io.Image.Input("portrait", tooltip="One picture with a face, seen from the front."),
        io.Audio.Input("audio", tooltip="What is said or sung; of any length, up to eight channels."),
        io.String.Input(
            "model",
            default="mini",
            tooltip="mini (comes with OpenLoopy), a model folder, or a hub id, which is downloaded once.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=LARGEST_SEED,
            control_after_generate=True,
            tooltip="Same seed, same video.",
        ),
        io.Combo.Input(
            "frame",
            options=["crop", "full"],
            default="crop",
            tooltip="crop: a square about the face. full: the whole picture at its own size, in which the head moves.",
        ),
        io.Int.Input(
            "size",
            default=0,
            min=0,
            max=4096,
            step=2,
            tooltip="Side of the square video in pixels, with frame crop. 0: the model's own, 512 for mini.",
        ),
        io.Int.Input(
            "face",
            default=-1,
            min=-1,
            max=99,
            tooltip="Which face, if there are more: 0 the largest, 1 the next. -1: the largest, and the log says so.",
        ),
        io.Float.Input(
            "temperature",
            default=-1.0,
            min=-1.0,
            max=100.0,
            step=0.05,
            tooltip="How lively the head is: below 1 calmer, above 1 livelier, 0 always the same. -1: the model's own.",
        ),
        io.Float.Input(
            "audio_guidance",
            default=-1.0,
            min=-1.0,
            max=100.0,
            step=0.1,
            tooltip="How much the sound leads. -1: the model's own.",
        ),
        io.Int.Input(
            "steps", default=0, min=0, max=1000, tooltip="Denoising steps per clip. 0: the model's own."
        ),
        io.Boolean.Input("label", default=False, tooltip='A visible "AI-generated" in a corner.'),
    ]


def _opened(model: str, portrait: Tensor, settings: VideoSettings) -> tuple[WatchedStudio, Scene]:
    rgb = one_picture(portrait)
    studio = studio_of(choice_of(model))
    return studio, studio.scene(rgb, settings, say=say)


def _output_file(prefix: str, scene: Scene) -> tuple[Path, ui.SavedResult]:
    """The next free name, and how the editor finds it."""
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), *scene.size
    )
    # ComfyUI counts by names of this form.
    file = f"{name}_{number:05}_.mp4"
    return Path(folder) / file, ui.SavedResult(file, subfolder, io.FolderType.output)


def _empty_images(num_frames: int, scene: Scene) -> Tensor:
    """`num_frames H W 3` float32, if they fit into memory."""
    width, height = scene.size
    needed = num_frames * width * height * BYTES_PER_PIXEL
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if needed > free:
        raise ValueError(
            f"{num_frames} frames of {width}x{height} need {needed / 1e9:.1f} GB as pictures, {free / 1e9:.1f} GB are "
            "free; use OpenLoopy: talking portrait, which writes a video while it is made, or a shorter sound"
        )
    return torch.empty(num_frames, height, width, 3)


def _unless_negative(value: float) -> Any:
    return None if value < 0 else value
