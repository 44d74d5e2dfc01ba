"""The arithmetic of the benchmark scripts; the scripts themselves need a trained model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("provenance", "quality", "identity", "generate"):
        sys.modules.pop(name, None)


def test_results_are_json_even_without_a_face():
    from provenance import rounded

    result = rounded({"a": np.float32(1 / 3), "b": [float("nan"), 7], "c": "text"})
    assert json.loads(json.dumps(result)) == {"a": 0.3333, "b": [None, 7], "c": "text"}


def test_a_model_is_known_by_its_content(tmp_path):
    from provenance import folder_hash

    for name, content in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    one, two, three = (folder_hash(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three


def test_summary_takes_medians_but_does_not_hide_a_lost_face():
    from quality import summary

    people = [
        {"person": "a", "lip_gap_correlation": 0.9, "face_found": 1.0, "sharpness": 0.1},
        {"person": "b", "lip_gap_correlation": 0.5, "face_found": 1.0, "sharpness": 0.3},
        {"person": "c", "lip_gap_correlation": 0.0, "face_found": 0.4, "sharpness": np.nan},
    ]
    assert summary(people) == pytest.approx({"lip_gap_correlation": 0.5, "face_found": 0.8, "sharpness": 0.2})


def test_frames_that_differ_from_the_portrait():
    from quality import Case, differing_frames

    points = np.random.default_rng(0).uniform(40, 60, (1, 68, 2)).repeat(3, 0)
    points[:, 36], points[:, 45] = (20, 50), (120, 50)
    points[:, [61, 62, 63], 1], points[:, [67, 66, 65]] = 80, points[:, [61, 62, 63]]
    points[:, [67, 66, 65], 1] = 80
    points[:, [37, 38, 43, 44], 1], points[:, [41, 40, 47, 46], 1] = 48, 56
    points[1, [67, 66, 65], 1] += 8  # the mouth opens by .08 eye distances
    points[2, [37, 38, 43, 44], 1] = 56  # the eyes close
    case = Case(
        person="", clip="", frames=np.zeros((3, 8, 8, 3), np.uint8), points=points, waveform=np.zeros(1)
    )
    mouth, eyes = differing_frames(case)
    assert mouth.tolist() == [False, True, False]
    assert eyes.tolist() == [False, False, True]


def test_area_under_curve_is_the_share_of_pairs_in_the_right_order():
    from identity import area_under_curve

    same, different = np.array([0.9, 0.4]), np.array([0.5, 0.1, 0.2])
    assert area_under_curve(same, different) == pytest.approx(5 / 6)


def test_speech_is_as_long_as_asked():
    from generate import speech

    assert speech(12.34).shape == (round(12.34 * 16_000),)
