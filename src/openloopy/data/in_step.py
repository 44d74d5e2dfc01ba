"""Sound that is late or early is moved to where its lips say that it belongs, to the sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from openloopy.data.filters import OUT_OF_STEP
from openloopy.data.verdicts import Reason
from openloopy.measures.lip_sync import SAMPLES_PER_FRAME, LipSync

MOVED_STRENGTH = 4.5
"""What sound that did not fit must come to where it is moved to: of 31 places one fits well by chance more easily than
the one where it lay (docs/data.md)."""


class Heard(NamedTuple):
    """A track's sound, all measures, and the verdict."""

    sound: np.ndarray
    sync: LipSync | None
    measures: dict[str, float]
    reasons: tuple[Reason, ...]

    @property
    def is_out_of_step(self) -> bool:
        return any(reason.name == OUT_OF_STEP for reason in self.reasons)


def put_in_step(heard: Heard, listen: Callable[[int], Heard]) -> tuple[Heard, tuple[str, ...]]:
    """The sound where it belongs, and what was done, in words.

    It stays where it is if that is not sure, or if lips and sound do not agree better after the move.

    Args:
        listen: the same track with its sound cut so many samples later.
    """
    if heard.sync is None or heard.reasons and not heard.is_out_of_step:
        return heard, ()
    if not heard.is_out_of_step and not heard.sync.is_off:
        return heard, () if heard.sync.is_sure else (_unsure(heard.sync),)
    late = round(heard.sync.offset_frames * SAMPLES_PER_FRAME)
    move = f"moved by {-late / SAMPLES_PER_FRAME:.2f} frames"
    moved = listen(late)
    if moved.reasons:
        return heard, (f"sound left as it is: {move} the clip has {moved.reasons[0].name}",)
    if heard.is_out_of_step and moved.sync is not None and moved.sync.strength < MOVED_STRENGTH:
        return heard, (f"sound left as it is: {move} it fits too little to be believed",)
    if moved.sync is None or moved.sync.in_step < heard.sync.in_step:
        return heard, (f"sound left as it is: {move} it fits worse",)
    moved.measures["sound_was_late"] = late / SAMPLES_PER_FRAME
    return moved, (f"sound {move}",)


def _unsure(sync: LipSync) -> str:
    late = f"{sync.offset_frames:.2f} +- {sync.offset_error:.2f} frames"
    return f"sound left as it is: it is not sure by how much it is late ({late})"
