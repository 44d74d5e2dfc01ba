"""Filters are pure functions of measures and thresholds; simultaneous people compete for the sound."""

from __future__ import annotations

from dataclasses import fields

import pytest

from openloopy.data.filters import DESCRIPTIONS, NAMES, Thresholds, another_speaks, judge, thresholds_from
from openloopy.data.verdicts import Reason, Span


def test_all_reasons_are_kept_and_the_first_threshold_comes_first():
    reasons = judge({"yaw_deg": 60.0, "duration_s": 0.4, "rms_db": -20.0}, Thresholds())
    assert [reason.name for reason in reasons] == ["too short", "extreme rotation"]
    assert "0.4, at least 1 is wanted" in reasons[0].detail and "60, at most 40" in reasons[1].detail


def test_limits_themselves_pass_and_what_is_not_measured_drops_nothing():
    limits = Thresholds()
    at_the_limit = {
        f.name[4:]: getattr(limits, f.name) for f in fields(limits) if getattr(limits, f.name) is not None
    }
    assert judge(at_the_limit, limits) == () == judge({}, limits)


@pytest.mark.parametrize("late", [-7.0, 7.0])
def test_late_and_early_sound_are_out_of_step(late):
    assert [reason.name for reason in judge({"sync_offset": late}, Thresholds())] == ["out of step"]


def test_thresholds_are_typed_and_unknown_ones_refused():
    limits = thresholds_from({"min_face_px": "60", "max_music_score": "none"})
    assert (limits.min_face_px, limits.max_music_score) == (60.0, None)
    assert judge({"face_px": 50.0, "music_score": 1.0}, limits)[0].name == "small face"
    with pytest.raises(ValueError, match="no threshold 'face_px'; there are: min_duration_s"):
        thresholds_from({"face_px": "60"})
    with pytest.raises(ValueError, match="min_face_px needs a number or none, got 'large'"):
        thresholds_from({"min_face_px": "large"})


def test_every_threshold_has_a_reason_and_words():
    measures = {f.name[4:] for f in fields(Thresholds)}
    assert measures <= set(NAMES) and measures <= set(DESCRIPTIONS)


def span(start: int, stop: int, score: float | None, clip: str = "a", dropped: bool = False) -> Span:
    measures = {} if score is None else {"sync_score": score}
    reasons = (Reason(name="too short", detail=""),) if dropped else ()
    return Span(start=start, stop=stop, clip_id=clip, measures=measures, reasons=reasons)


def test_of_people_seen_at_once_the_best_is_kept():
    found = another_speaks([span(0, 90, 2.0), span(10, 90, 4.0, "b"), span(90, 150, 1.0, "c")])
    assert [s.reasons[0].name if s.reasons else "kept" for s in found] == ["another speaks", "kept", "kept"]
    assert "2.00, with those of b by 4.00" in found[0].reasons[0].detail


def test_little_overlap_and_missing_scores_drop_nothing():
    for spans in (
        [span(0, 90, 2.0), span(60, 200, 4.0, "b")],
        [span(0, 90, None), span(0, 90, 4.0, "b")],
        [span(0, 90, 2.0), span(0, 90, 4.0, "b", dropped=True)],
    ):
        assert another_speaks(spans) == spans
