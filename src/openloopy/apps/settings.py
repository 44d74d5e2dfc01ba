"""What a user may choose of one video, the same everywhere: command line, list of a batch, service, page, node.

Imports nothing heavy.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from openloopy.inference.options import FrameKind, GenerationOptions, check_frame_kind, is_whole
from openloopy.media.video_format import CRF, MAX_CRF

NONE_WORDS = frozenset({"", "none", "null", "auto"})
TRUE_WORDS, FALSE_WORDS = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How one video is made; None means the model's own default."""

    seed: int = 0
    """Same seed, same video."""
    steps: int | None = None
    """Denoising steps per clip."""
    audio_guidance: float | None = None
    """How much the sound leads."""
    reference_guidance: float | None = None
    """How closely the portrait is kept."""
    temperature: float | None = None
    """Below 1: a calmer head; above 1: a livelier one."""
    size: int | None = None
    """Side of the square video, px, even."""
    frame: FrameKind = "crop"
    """crop: a square about the face; full: the whole picture, its head moving."""
    face: int | None = None
    """Which face, 0 the largest; None: the largest, said aloud if there are more."""
    crf: int = CRF
    """H.264's quality, 0 (lossless) to 51; lower is better and larger."""
    label: bool = False
    """A visible "AI-generated" in a corner."""

    def __post_init__(self) -> None:
        _ = self.options
        check_frame_kind(self.frame)
        if self.frame == "full" and self.size is not None:
            raise ValueError(
                "a size goes with frame crop; with frame full the video has the portrait's own size"
            )
        if self.face is not None and not (is_whole(self.face) and self.face >= 0):
            raise ValueError(f"face must be 0 (the largest) or more, got {self.face!r}")
        if not (is_whole(self.crf) and 0 <= self.crf <= MAX_CRF):
            raise ValueError(f"crf must lie in 0 (lossless) to {MAX_CRF}, got {self.crf!r}")
        if not isinstance(self.label, bool):
            raise ValueError(f"label must be True or False, got {self.label!r}")

    @property
    def options(self) -> GenerationOptions:
        """What the pipeline has to know of them."""
        return GenerationOptions(
            seed=self.seed,
            steps=self.steps,
            audio_guidance=self.audio_guidance,
            reference_guidance=self.reference_guidance,
            temperature=self.temperature,
            size_px=self.size,
        )

    @staticmethod
    def from_text(values: Mapping[str, str]) -> VideoSettings:
        """Settings from names and texts, such as columns of a table or fields of a form.

        Raises:
            ValueError: no such setting, or a text that is no value of it.
        """
        kinds = setting_kinds()
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise ValueError(f"no setting {unknown[0]!r}; there are: {', '.join(kinds)}")
        given = {name: _parse(name, text.strip(), kinds[name]) for name, text in values.items()}
        own = {field.name: field.default for field in fields(VideoSettings)}
        return VideoSettings(**{name: own[name] if value is None else value for name, value in given.items()})

    def as_text(self) -> dict[str, str]:
        """What `from_text` takes; settings that are the default are left out."""
        usual = asdict(VideoSettings())
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in asdict(self).items()
            if value != usual[name]
        }


def setting_kinds() -> dict[str, type]:
    """Name and type of each setting."""
    return {name: _without_none(hint) for name, hint in get_type_hints(VideoSettings).items()}


def _without_none(hint: Any) -> type:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    return hint if isinstance(hint, type) else str


def _parse(name: str, text: str, kind: type) -> Any:
    """None where nothing is said."""
    if text.lower() in NONE_WORDS:
        return None
    if kind is bool:
        if text.lower() not in TRUE_WORDS | FALSE_WORDS:
            raise ValueError(f"{name} must be true or false, got {text!r}")
        return text.lower() in TRUE_WORDS
    try:
        value = kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{name} must be {wanted}, got {text!r}") from None
    if kind is float and value != value:
        raise ValueError(f"{name} must be a number, got {text!r}")
    return value
