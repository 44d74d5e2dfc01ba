"""What is asked for in live mode, and what of that can be refused before the model is loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openloopy.apps.request import check_inputs, is_path
from openloopy.apps.settings import VideoSettings
from openloopy.media.files import MediaError, require_folder_of
from openloopy.media.live_sound import SOURCES, is_live_source

STANDARD_OUTPUT = "-"
RAW = "y4m:"


@dataclass(frozen=True, kw_only=True)
class LiveRequest:
    """What to make of a sound that comes."""

    portrait: Any
    """A picture: path, PIL image or array."""
    audio: str
    """ "-", "pcm:RATE" or "mic[:DEVICE]" (`media.live_sound.open_live`)."""
    out: str
    """ "-", "y4m:-", "y4m:PATH" or PATH."""
    settings: VideoSettings = VideoSettings()

    def __post_init__(self) -> None:
        if not is_live_source(self.audio):
            raise ValueError(
                f"with --live the sound is {SOURCES}, got {self.audio!r}; leave --live out for a file"
            )

    @property
    def is_raw(self) -> bool:
        """Whether raw frames are wanted."""
        return self.out.startswith(RAW)


def check_live(request: LiveRequest) -> None:
    """Refuse, before any work, a portrait that is none and an output that must not be written."""
    if is_path(request.portrait):
        check_inputs(request.portrait, None)
    check_live_output(request.out)


def check_live_output(out: str) -> Path | None:
    """Where the video goes; None: to standard output. A file must be a new one, a pipe or a device may be there.

    Raises:
        ValueError: a terminal, a file that is there, or a name that says something else.
    """
    name = out.removeprefix(RAW)
    if name == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise ValueError(
                "the video would go to the terminal; pipe it to a player (`| mpv -`), or give -o FILE"
            )
        return None
    path, suffix = require_folder_of(name), ".y4m" if out.startswith(RAW) else ".mp4"
    if path.is_file():
        raise MediaError(f"{path} exists already; choose another name")
    if not path.exists() and path.suffix.lower() != suffix:
        raise MediaError(f"cannot write {path}: the name of a new file must end in {suffix}")
    return path
