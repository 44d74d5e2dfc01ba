"""What is asked for: a video, of which model; and all that can be refused before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openloopy.apps.settings import VideoSettings
from openloopy.media.files import MediaError, require_file, require_writable, with_suffix_that_fits
from openloopy.media.kinds import FileKind, kind_of
from openloopy.media.text_file import read_json


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model, and how it runs."""

    model: str = "mini"
    """"mini" (embedded), a model folder or a hub id."""
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    """A memory tier (see `inference.memory`), or the first that fits."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """What to make, from what, and how."""

    portrait: Any
    """A picture: path, PIL image or array (`media.image.as_rgb`)."""
    audio: Any
    """A sound: path or (samples, rate) (`media.audio.as_sound`)."""
    out: Path
    """Ends in .mp4; the sidecar gets the same name with .json."""
    settings: VideoSettings = VideoSettings()
    has_credentials: bool = True
    """Whether content credentials are written where c2pa-python is installed."""
    may_overwrite: bool = False

    @property
    def sidecar(self) -> Path:
        """Where the settings go. A name that has no room for the longer ending is cut."""
        return with_suffix_that_fits(self.out, ".json")


def check_request(request: GenerateRequest) -> None:
    """Refuse, before any work, what cannot be made: an output that must not be written, inputs that are none."""
    check_output(request)
    check_inputs(request.portrait, request.audio)


def check_output(request: GenerateRequest) -> None:
    """Refuse an output that cannot or should not be written."""
    out = request.out
    if out.suffix.lower() != ".mp4":
        raise MediaError(f"cannot write {out}: the name must end in .mp4")
    require_writable(out)
    require_writable(request.sidecar)
    for source in filter(is_path, (request.portrait, request.audio)):
        if out.exists() and Path(source).exists() and out.samefile(source):
            raise MediaError(f"{out} is also an input; write the video under another name")
    for path in (out, request.sidecar):
        if path.exists() and not request.may_overwrite and not _is_left_over(path, request):
            raise MediaError(f"{path} exists already; choose another name, or --force to overwrite it")


def _is_left_over(path: Path, request: GenerateRequest) -> bool:
    """Whether a file is this video's sidecar, and the video did not get its name: its run was killed in between."""
    if path == request.out or request.out.exists():
        return False
    try:
        facts = read_json(path, "a sidecar")
        return facts["ai_generated"] is True and facts["video"]["file"] == request.out.name
    except (ValueError, OSError, TypeError, LookupError):  # something else, which is not ours to overwrite
        return False


def check_inputs(portrait: Any, audio: Any, names: tuple[str, str] = ("PORTRAIT", "AUDIO")) -> None:
    """Refuse files that are not there, or that surely hold something else: the two may have been swapped.

    names: what messages call the two, where they are swapped.
    """
    picture = _kind(portrait, "an image")
    sound = _kind(audio, "a sound or video")
    if picture and picture.kind != "picture" and sound and sound.kind == "picture":
        raise MediaError(
            f"{names[0]} and {names[1]} seem swapped: {portrait} is {picture}, {audio} is {sound}; the picture comes "
            "first"
        )
    if picture and picture.kind != "picture":
        raise MediaError(f"{portrait} is not a picture that can be read: it is {picture}; expected an image")
    if sound and sound.kind == "picture":
        raise MediaError(f"{audio} has no sound in it: it is {sound}; expected a sound or video")


def is_path(thing: Any) -> bool:
    """Whether it is a file's name, and not what a file would hold."""
    return isinstance(thing, str) or hasattr(thing, "__fspath__")


def _kind(thing: Any, what: str) -> FileKind | None:
    """Of a file that is there; None for what is in memory."""
    return kind_of(require_file(thing, what)) if is_path(thing) else None
