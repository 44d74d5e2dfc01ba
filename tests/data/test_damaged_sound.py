"""Footage whose sound is damaged: clips with a gap are dropped, and all others keep their own sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openloopy.apps import evaluate
from openloopy.data import prepare_video
from openloopy.data.clips import decode_sound
from openloopy.data.filters import Thresholds, judge
from openloopy.data.prepare import PrepareConfig, prepare_footage
from openloopy.data.shards import read_shards
from openloopy.data.verdicts import VideoRecord, from_line
from openloopy.media.audio import SAMPLE_RATE_HZ
from tests.data.damaged import Talk, write_talk
from tests.data.test_prepare import EASY, DrawnLandmarker
from tests.media.sounds import damage_sound, speechlike

BAD_PACKET = 18
"""At 1.09 s: AAC has 1024 samples in a packet, and begins with one of delay."""
PACKET_S = 1024 / SAMPLE_RATE_HZ


@pytest.fixture
def footage(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Four seconds of a drawn face, and their sound; one packet of it is bad."""
    sound = speechlike(4, SAMPLE_RATE_HZ)[0]
    frames = np.full((100, 240, 320, 3), (100, 60, 120), np.uint8)
    path = write_talk(tmp_path / "raw" / "a.mp4", Talk(frames, sound))
    return damage_sound(path, [BAD_PACKET]), sound


def prepared(folder: Path, thresholds: Thresholds = EASY) -> VideoRecord:
    prepare_footage(
        PrepareConfig(
            raw=folder / "raw",
            out=folder / "out",
            size_px=64,
            workers=0,
            thresholds=thresholds,
            max_clip_s=2.0,
        )
    )
    return from_line((folder / "out" / "records.jsonl").read_text())


def test_a_bad_packet_costs_its_clip_and_no_other(tmp_path, monkeypatch, footage):
    monkeypatch.setattr(prepare_video, "_landmarker", DrawnLandmarker)
    _, sound = footage
    record = prepared(tmp_path)
    (first, *others) = record.spans
    assert first.start == 0 and [reason.name for reason in first.reasons] == ["damaged sound"]
    assert first.reasons[0].detail == "sound that is damaged, s: 0.064, at most 0 is wanted"
    assert others and all(span.is_kept and span.measures["sound_lost_s"] == 0 for span in others)
    assert record.info["sound_s"] == pytest.approx(4, abs=1e-3)
    told = "a.mp4 has lost 0.06 s of its sound at 1.09 s (it is damaged); it is silent there"
    assert record.info["sound_damage"] == told
    for sample, span in zip(read_shards(tmp_path / "out"), others, strict=True):
        expected = sound[span.start * 640 : span.stop * 640]
        assert np.corrcoef(decode_sound(sample.flac), expected)[0, 1] > 0.99


def test_whoever_wants_may_keep_it(tmp_path, monkeypatch, footage):
    monkeypatch.setattr(prepare_video, "_landmarker", DrawnLandmarker)
    spans = prepared(tmp_path, Thresholds(**EASY.to_json() | {"max_sound_lost_s": 0.1})).spans
    assert all(span.is_kept for span in spans) and spans[0].measures["sound_lost_s"] == PACKET_S


def test_records_without_that_measure_are_judged_as_before():
    assert judge({"duration_s": 2.0}, Thresholds()) == ()
    (reason,) = judge({"sound_lost_s": 0.001}, Thresholds())
    assert reason.name == "damaged sound"


def test_evaluation_hears_what_is_there_and_says_what_is_lost(footage):
    path, sound = footage
    heard = evaluate._sound_of(path, path)
    assert len(heard) == len(sound)
    assert np.corrcoef(heard[20_000:], sound[20_000:])[0, 1] > 0.99
    (note,) = evaluate._sound_notes(path)
    assert note.startswith("a.mp4 has lost 0.06 s of its sound at 1.09 s")
