"""Sound is moved where lips say where it belongs, and left where they say too little."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.data.describe import sync_measures
from openloopy.data.filters import Thresholds, judge
from openloopy.data.in_step import MOVED_STRENGTH, Heard, put_in_step
from openloopy.measures.lip_sync import LipSync

CHANCE = 0.5
IN_STEP = LipSync(3.0, 0.1, 3.0, 0.2, 2.0, in_step=2.9, chance=CHANCE)


def heard(sync: LipSync) -> Heard:
    measures = sync_measures(sync)
    return Heard(np.zeros(0, np.float32), sync, measures, judge(measures, Thresholds()))


def put(sync: LipSync, moved: LipSync) -> tuple[Heard, list[int], tuple[str, ...]]:
    """What comes of it, and by how many samples the sound was moved for a trial."""
    tried: list[int] = []

    def listen(late: int) -> Heard:
        tried.append(late)
        return heard(moved)

    found, notes = put_in_step(heard(sync), listen)
    return found, tried, notes


def test_sound_that_fits_is_left_alone():
    found, tried, notes = put(IN_STEP, IN_STEP)
    assert not found.reasons and not tried and notes == ()


def test_late_sound_is_moved_to_the_sample():
    late = IN_STEP._replace(score=0.4, offset_frames=4.25, in_step=0.2)
    found, tried, notes = put(late, IN_STEP)
    assert tried == [round(4.25 * 640)] and not found.reasons and notes == ("sound moved by -4.25 frames",)
    assert found.measures["sound_was_late"] == 4.25


@pytest.mark.parametrize(("strength", "is_believed"), [(MOVED_STRENGTH - 0.1, False), (MOVED_STRENGTH, True)])
def test_a_place_among_many_needs_more_than_the_own_one(strength: float, is_believed: bool):
    late = IN_STEP._replace(score=0.4, offset_frames=4.25, in_step=0.2)
    found, _, notes = put(late, IN_STEP._replace(score=strength * CHANCE, in_step=strength * CHANCE))
    assert (not found.reasons) is is_believed
    assert is_believed or "too little to be believed" in notes[0]
    as_it_is = IN_STEP._replace(score=strength * CHANCE)
    assert not put(as_it_is, as_it_is)[0].reasons


def test_a_small_move_needs_no_more_than_the_threshold():
    off = LipSync(3.0, 1.3, 3.0, 0.3, 2.0, in_step=2.0, chance=0.75)
    assert off.is_off and 3.75 < off.strength < MOVED_STRENGTH
    found, _, notes = put(off, off._replace(offset_frames=0.0, in_step=2.9))
    assert notes == ("sound moved by -1.30 frames",) and not found.reasons


def test_what_would_be_dropped_all_the_same_is_not_moved():
    weak = IN_STEP._replace(score=3.7 * CHANCE)
    found, tried, _ = put(weak, IN_STEP)
    assert [reason.name for reason in found.reasons] == ["low lip sync"] and not tried
    late = IN_STEP._replace(offset_frames=4.0)
    assert put(late, weak)[2] == ("sound left as it is: moved by -4.00 frames the clip has low lip sync",)
