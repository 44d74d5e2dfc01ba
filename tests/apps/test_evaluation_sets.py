"""Set measures do without the videos that lack what they need, and name them; networks are replaced by counting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from openloopy.apps import evaluation_sets as module
from openloopy.apps.evaluation_notes import LeftOut
from openloopy.apps.evaluation_sets import OUTSIDE, SETS, SetValues, outside_measures, set_distances
from openloopy.apps.evaluation_videos import EvaluatedVideo, save_measured
from openloopy.measures.expression import landmark_expression_distance
from openloopy.measures.smoothness import blend, smooth_blend
from openloopy.measures.syncnet import SyncScore
from openloopy.measures.video_numbers import FEW_FACES, NO_FACE, SILENT, Measured
from openloopy.media.audio import AudioError
from tests.measures.talking import lost, pictures, speech, talking

NOT_TWO_BLINKS = "no two blinks with the face seen in between"


class _Pictures(EvaluatedVideo):
    """Shows a texture instead of a file's pictures."""

    def frames(self):
        return iter(pictures(len(self.measured.points), 16))


@pytest.fixture
def video(tmp_path) -> Callable[..., EvaluatedVideo]:
    def make(case: str, points: np.ndarray, intervals=(1.0, 1.2), sound=speech) -> EvaluatedVideo:
        numbers = {"num_frames": float(len(points))}
        stored = tmp_path / f"{case}-{len(list(tmp_path.iterdir()))}.npz"
        measured = Measured(numbers, {}, points, np.array(intervals), np.zeros((0, 0)), (16, 16), 3.0)
        save_measured(measured, stored)
        return _Pictures(case, Path(f"{case}.mp4"), stored, sound)

    return make


@pytest.fixture
def sides(video) -> dict[str, list[EvaluatedVideo]]:
    """Two good videos of each side, and generated ones without a face, of ten frames, and without blinks."""
    good = [video("a", talking(seed=0)), video("b", talking(seed=1))]
    bad = [
        video("noface", lost(talking()), ()),
        video("ten", talking(10), ()),
        video("staring", talking(seed=2), ()),
    ]
    return {"generated": [*good, *bad], "real": [video("a", talking(seed=3)), video("b", talking(seed=4))]}


def test_a_distance_is_that_of_the_videos_that_have_it(sides):
    left_out = LeftOut()
    found = set_distances(sides, left_out)
    kept = [talking(seed=seed) for seed in (0, 1, 2)], [talking(seed=seed) for seed in (3, 4)]
    expected = landmark_expression_distance(*kept)
    assert found.values["landmark expression distance"] == pytest.approx(expected)
    assert found.values["blink interval distance, s"] == 0
    assert found.used == {
        "landmark expression distance": {"generated": 3, "real": 2},
        "blink interval distance, s": {"generated": 2, "real": 2},
    }
    assert left_out.reasons == {
        "landmark expression distance": {"generated": {"noface": NO_FACE, "ten": FEW_FACES}},
        "blink interval distance, s": {
            "generated": {"noface": NO_FACE, "ten": FEW_FACES, "staring": NOT_TWO_BLINKS}
        },
    }


def test_a_distance_without_videos_is_a_text(video):
    nobody = [video("x", lost(talking()), ())]
    found = set_distances({"generated": nobody, "real": [video("x", talking())]}, LeftOut())
    text = f"none of 1 generated videos can be used; the last reason: {NO_FACE}"
    assert found.values == dict.fromkeys(SETS, text)
    alone = set_distances({"generated": nobody, "real": []}, LeftOut())
    assert alone.values == dict.fromkeys(SETS, "needs real videos (--truth)")


class _Counted(NamedTuple):
    distance: float


@pytest.fixture
def networks(monkeypatch):
    """Every network is there, and answers with what it was shown."""

    def count(generated, real) -> _Counted:
        return _Counted(float(sum(sum(1 for _ in video) for side in (generated, real) for video in side)))

    def syncnet(network, crops, sound) -> SyncScore:
        return SyncScore(float(len(crops)), 2.0 * len(crops), 0)

    def coefficients(frames, points, network) -> np.ndarray:
        return points[:, :32].reshape(-1, 64)

    for name in ("fid", "fvd_res", "fvd_inc"):
        monkeypatch.setattr(module, name, count)
    monkeypatch.setattr(module, "weights_path", lambda name: Path(name))
    monkeypatch.setattr(module, "load_syncnet", lambda path: None)
    monkeypatch.setattr(module, "syncnet_crop", lambda frames, points: list(frames))
    monkeypatch.setattr(module, "syncnet_score", syncnet)
    monkeypatch.setattr(module, "load_one_align", lambda device: None)
    monkeypatch.setattr(module, "quality_scores", lambda frames, scorer, every: [float(len(list(frames)))])
    monkeypatch.setattr(module, "_smoothness", lambda device: lambda video: 0.5)
    monkeypatch.setattr(module, "published_deep3d", lambda: None)
    monkeypatch.setattr(
        module, "expression_coefficients", lambda frames, points, network: points[:, :32].reshape(-1, 64)
    )


def test_outside_measures_leave_out_and_name(sides, networks):
    left_out = LeftOut()
    found = outside_measures(sides, "cpu", left_out)
    assert list(found.values) == list(OUTSIDE) == list(found.used)
    assert found.values["FID"] == 3 * 75 + 75 + 10 + 2 * 75 and found.used["FID"] == {
        "generated": 5,
        "real": 2,
    }
    assert found.values["FVD-Res"] == found.values["FVD-Inc"] == 4 * 75 + 2 * 75
    assert left_out.reasons["FVD-Res"] == {"generated": {"ten": "shorter than a segment of 16 frames"}}
    assert found.values["Sync-C"] == np.mean([75, 75, 10, 75]) == found.values["Sync-D"] / 2
    assert left_out.reasons["Sync-C"] == left_out.reasons["Sync-D"] == {"generated": {"noface": NO_FACE}}
    assert isinstance(found.values["E-FID"], float) and found.used["E-FID"] == {"generated": 4, "real": 2}
    assert left_out.reasons["E-FID"] == {"generated": {"noface": NO_FACE}}
    assert "FID" not in left_out.reasons and "IQA" not in left_out.reasons
    assert found.used["IQA"] == {"generated": 5}


def test_one_video_that_fails_does_not_cost_the_mean(sides, networks, monkeypatch):
    def quality(frames, scorer, every) -> list[float]:
        count = len(list(frames))
        if count == 10:
            raise ValueError("ten.mp4 cannot be scored")
        return [4.0]

    def lost_at_the_end(frames, points):
        raise ValueError("a track must begin and end with a face")

    monkeypatch.setattr(module, "quality_scores", quality)
    monkeypatch.setattr(module, "syncnet_crop", lost_at_the_end)
    smooth = {"ten": float("nan")}
    monkeypatch.setattr(module, "_smoothness", lambda device: lambda video: smooth.get(video.case, 0.5))
    left_out = LeftOut()
    found = outside_measures(sides, "cpu", left_out)
    assert found.values["IQA"] == 4 and found.used["IQA"] == {"generated": 4}
    assert left_out.reasons["IQA"] == {"generated": {"ten": "cannot be scored"}}
    assert "none of 5 generated videos can be used; the last reason: a track must" in found.values["Sync-C"]
    assert set(left_out.reasons["Sync-D"]["generated"]) == {"a", "b", "noface", "ten", "staring"}
    assert found.values["Smooth"] == 0.5 and found.used["Smooth"] == {"generated": 4}
    assert left_out.reasons["Smooth"] == {"generated": {"ten": "it came out as nan"}}


def test_sync_needs_a_sound(video, networks):
    def none() -> np.ndarray:
        raise AudioError("quiet.mp4 has no sound in it")

    videos = [
        video("ok", talking()),
        video("quiet", talking(), sound=none),
        video("silent", talking(), sound=lambda: np.zeros(48000, np.float32)),
    ]
    left_out = LeftOut()
    found = outside_measures({"generated": videos, "real": []}, "cpu", left_out)
    assert found.values["Sync-C"] == 75 and found.values["FID"] == "needs real videos (--truth)"
    assert left_out.reasons["Sync-C"] == {"generated": {"quiet": "has no sound in it", "silent": SILENT}}


def test_missing_weights_are_nobodys_fault(sides, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENLOOPY_WEIGHTS", str(tmp_path))
    left_out = LeftOut()
    found = outside_measures(sides, "cpu", left_out)
    assert all("weights missing" in found.values[name] for name in OUTSIDE) and not left_out.reasons


def test_a_value_that_is_no_number_is_a_text():
    found = SetValues(LeftOut())
    found.take("FID", lambda: float("inf"))
    assert found.values == {"FID": "it came out as inf"}


def test_the_network_of_a_mean_is_loaded_once(video, monkeypatch):
    loaded = []
    network = SimpleNamespace(to=lambda device: network)
    monkeypatch.setattr(module, "weights_path", lambda name: Path(name))
    monkeypatch.setattr(module, "load_amt", lambda path: loaded.append(path) or network)
    monkeypatch.setattr(module, "halfway", lambda network, before, after: blend(before, after))
    videos, found = [video("a", talking()), video("b", talking(30))], SetValues(LeftOut())
    module._take_mean(found, "Smooth", videos, lambda: module._smoothness("cpu"))
    expected = np.mean([smooth_blend(video.frames()) for video in videos])
    assert found.values["Smooth"] == pytest.approx(expected) and loaded == [Path("amt_s")]
