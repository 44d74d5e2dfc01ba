"""The arithmetic of benchmarks/puppets.py; the script itself needs footage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def meter(monkeypatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import puppets

    yield puppets
    for name in ("puppets", "provenance"):
        sys.modules.pop(name, None)


def test_head_measures_know_a_swinging_head(meter) -> None:
    """5 degrees of yaw at 1 Hz: sd 5 / sqrt 2, mean speed 4 * 5 degrees per second, all within the middle band."""
    time_s = np.arange(250) / 25
    poses = np.stack([5 * np.sin(2 * np.pi * time_s), 0 * time_s, 0 * time_s], 1)
    found = meter.head_measures(poses)
    assert found["yaw_sd_deg"] == pytest.approx(5 / np.sqrt(2), rel=0.05)
    assert found["yaw_speed_deg_s"] == pytest.approx(20, rel=0.05)
    assert found["turn_speed_deg_s"] == pytest.approx(20, rel=0.05)
    assert found["pitch_sd_deg"] == 0 and found["speed_share_half_to_2_hz"] > 0.95


def test_lid_measures_count_a_blink(meter) -> None:
    opening = np.full(75, 0.2)
    opening[30:35] = 0.02
    found = meter.lid_measures(opening)
    assert found["closed_share"] == pytest.approx(5 / 75)
    assert found["blinks_per_min"] == pytest.approx(20) and found["blink_s"] == pytest.approx(0.2)
    assert found["eye_jitter"] == 0


def test_mouth_is_measured_while_the_voice_is_heard(meter) -> None:
    face_cm = np.zeros((50, 478, 3))
    face_cm[:, 14, 1] = 1.0
    face_cm[25:, 14, 1] = 9.0
    is_heard = np.arange(50) < 25
    assert meter.mouth_measures(face_cm, is_heard)["lip_gap_p95_cm"] == pytest.approx(1.0)
    assert meter.mouth_measures(face_cm, np.zeros(50, bool)) == {}


def test_a_speaker_counts_once(meter) -> None:
    real = {"a": [{"x": 1.0}] * 9, "b": [{"x": 3.0}]}
    row = meter.compare(real, {"c": [{"x": 4.0}]})["measures"]["x"]
    assert row["real"] == 2.0 and row["ratio"] == 2.0
