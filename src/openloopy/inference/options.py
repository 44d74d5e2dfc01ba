"""What one may choose of a video's frames, and the rules of it; imports nothing heavy.

So the command line refuses a wrong number before torch is loaded.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from openloopy.media.video_format import MAX_SIDE_PX

BranchOrder = Literal["auto", "batched", "in_turn"]
FrameKind = Literal["crop", "full"]
"""crop: the square about the face; full: the whole picture at its own resolution, in which the head moves."""
Say = Callable[[str], None]
"""Told what a user should know."""
MIN_SIZE_PX = 64
MAX_STEPS = 1000
"""As many as there are levels of noise."""
MAX_SEED = 2**63 - 1
MOST = 100
"""Of guidance and temperature: far beyond what makes sense, far below what is no longer a number."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to generate; None means the model's own default."""

    seed: int = 0
    steps: int | None = None
    audio_guidance: float | None = None
    reference_guidance: float | None = None
    temperature: float | None = None
    """How lively: 0 always moves alike, below the model's own is calmer, above it livelier."""
    size_px: int | None = None
    """Side of the pictures; only a model whose portrait itself moves makes others than its own."""
    branches: BranchOrder = "auto"
    """Guidance branches as one batch (faster), in turn (a third of the memory), or whichever fits."""

    def __post_init__(self) -> None:
        if not is_whole(self.seed) or self.seed < 0:
            raise ValueError(f"seed must be a whole number and not negative, got {self.seed!r}")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed must be below 2**63, got {self.seed}")
        if self.steps is not None and (not is_whole(self.steps) or self.steps < 1):
            raise ValueError(f"steps must be a whole number, at least 1, got {self.steps!r}")
        if self.steps is not None and self.steps > MAX_STEPS:
            raise ValueError(f"steps must be at most {MAX_STEPS}, got {self.steps}")
        for name in ("audio_guidance", "reference_guidance", "temperature"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 <= value <= MOST):
                raise ValueError(f"{name} must lie in 0 to {MOST}, got {value!r}")
        is_size = self.size_px is None or is_whole(self.size_px)
        if not is_size or (self.size_px is not None and (self.size_px < MIN_SIZE_PX or self.size_px % 2)):
            raise ValueError(f"size must be even and at least {MIN_SIZE_PX} px, got {self.size_px!r}")
        if self.size_px is not None and self.size_px > MAX_SIDE_PX:
            raise ValueError(f"size must be at most {MAX_SIDE_PX} px, got {self.size_px}")
        if self.branches not in get_args(BranchOrder):
            raise ValueError(f"branches must be one of {get_args(BranchOrder)}, got {self.branches!r}")


def check_frame_kind(frame: str) -> None:
    """Refuse what is no `FrameKind`."""
    if frame not in get_args(FrameKind):
        raise ValueError(f"frame must be one of {', '.join(get_args(FrameKind))}, got {frame!r}")


def is_whole(value: Any) -> bool:
    """numpy's whole numbers are some too; True is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Any real number, of numpy too; True is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


OWN_DEFAULTS = GenerationOptions()
"""The model's."""
