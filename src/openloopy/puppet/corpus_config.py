"""What a corpus of puppets is made of (see `puppet.corpus`), and what of that cannot be; imports nothing heavy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openloopy.media.video_format import FPS, MAX_SIDE_PX

MIN_SIZE_PX = 32
MAX_CLIPS = 10_000_000
"""Some years of video; beyond that somebody has mistyped."""
MAX_CLIP_S = 3600.0
"""A clip's frames are held in memory."""
MAX_NAME = 60
"""Names in tar archives have a hundred bytes."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What to make. Give `hours` or `num_clips`."""

    out: Path
    portraits: Path | None = None
    """A folder of pictures, with or without a manifest; None: drawn faces."""
    hours: float | None = None
    num_clips: int | None = None
    clip_s: float = 8.0
    more_clip_s: tuple[float, ...] = ()
    """Further lengths: clips take clip_s and these in turn."""
    size_px: int = 256
    content: Literal["pictures", "states"] = "pictures"
    """"states": sound, face states and landmarks (px of a picture of size_px), and nothing is rendered."""
    workers: int = 1
    """Processes; the result does not depend on it."""
    seed: int = 0
    name: str = ""
    """Put before clip ids, so that corpora can be used together."""
    val_share: float = 0.04
    """Share of people (where no manifest says) and of clips that is held out."""
    clips_per_shard: int = 16
    speech: tuple[Path, ...] = ()
    """Speech folders (see `openloopy speech`), whose sounds are said besides what espeak-ng and flite say."""
    speech_share: float = 0.7
    """Clips in which sounds of the speech folders are said, where there are any."""
    noise_share: float = 0.0
    """Clips that are recorded in noise, rooms and by bad microphones (`puppet.augment`)."""
    quiet_share: float = 0.0
    """Clips in which nobody speaks."""

    def __post_init__(self) -> None:
        if (self.hours is None) == (self.num_clips is None):
            raise ValueError(
                f"give either hours or num_clips, got hours={self.hours}, num_clips={self.num_clips}"
            )
        if not all(1 / FPS <= length_s <= MAX_CLIP_S for length_s in self.lengths_s):
            raise ValueError(
                f"every clip needs at least one frame and lasts at most {MAX_CLIP_S:g} s, got clip_s {self.lengths_s}"
            )
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ValueError(f"hours must be a number above 0, got {self.hours}")
        if not 1 <= self.total_clips <= MAX_CLIPS:
            asked = f"num_clips {self.num_clips}" if self.hours is None else f"{self.hours:g} hours"
            raise ValueError(f"expected at least one clip and at most {MAX_CLIPS}, got {asked}")
        if self.workers < 1 or self.clips_per_shard < 1:
            raise ValueError(
                f"expected at least one worker and one clip per shard, got {self.workers} and {self.clips_per_shard}"
            )
        if not MIN_SIZE_PX <= self.size_px <= MAX_SIDE_PX or self.size_px % 2:
            raise ValueError(
                f"size_px must be even, at least {MIN_SIZE_PX} and at most {MAX_SIDE_PX} (H.264), got {self.size_px}"
            )
        if not re.fullmatch(rf"[\w-]{{0,{MAX_NAME}}}", self.name, re.ASCII):
            raise ValueError(
                f"name may have up to {MAX_NAME} letters, digits, - and _ (clips are called by it), got {self.name!r}"
            )
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share must be in [0, 1), got {self.val_share}")
        for name in ("speech_share", "noise_share", "quiet_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def lengths_s(self) -> tuple[float, ...]:
        return (self.clip_s, *self.more_clip_s)

    def num_frames(self, clip: int) -> int:
        """Frames of the clip with this number."""
        return round(self.lengths_s[clip % len(self.lengths_s)] * FPS)

    @property
    def total_clips(self) -> int:
        if self.hours is None:
            return self.num_clips
        return round(self.hours * 3600 * len(self.lengths_s) / sum(self.lengths_s))
