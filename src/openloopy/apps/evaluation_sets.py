"""Measures of whole sets of videos, and means of those whose networks come from outside.

A video that a measure cannot be had of is left out and named (`LeftOut`); the measure is computed from the others, and
how many these are is counted. Only where too few are left it is a text that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from openloopy.apps.evaluation_notes import LeftOut
from openloopy.apps.evaluation_videos import EvaluatedVideo
from openloopy.measures.amt import halfway, load_amt
from openloopy.measures.behaviour import interval_distance
from openloopy.measures.deep3d import expression_coefficients, published_deep3d
from openloopy.measures.expression import e_fid, landmark_expression_distance
from openloopy.measures.fid_fvd import fid, fvd_inc, fvd_res
from openloopy.measures.iqa import load_one_align, quality_scores
from openloopy.measures.outside_weights import weights_path
from openloopy.measures.smoothness import smoothness
from openloopy.measures.syncnet import SyncNet, SyncScore, load_syncnet, syncnet_crop, syncnet_score
from openloopy.measures.video_networks import SEGMENT_FRAMES
from openloopy.measures.video_numbers import NO_FACE, SILENT, is_silent, known_frames, too_few_faces

IQA_EVERY = 10
OUTSIDE = {
    "Sync-C": "higher",
    "Sync-D": "lower",
    "IQA": "higher",
    "Smooth": "truth",
    "FID": "lower",
    "FVD-Res": "lower",
    "FVD-Inc": "lower",
    "E-FID": "lower",
}
"""Metrics of the paper that need weights from outside, and what is better."""
SETS = {"landmark expression distance": "lower", "blink interval distance, s": "lower"}
"""Distances between the two sets that need none."""
NEEDS_REAL = "needs real videos (--truth)"
Sides = Mapping[str, Sequence[EvaluatedVideo]]
"""The "generated" videos and the "real" ones."""
Value = TypeVar("Value")


@dataclass
class SetValues:
    """What was found: values, or texts that say why there is none, and from how many videos of each side."""

    left_out: LeftOut
    values: dict[str, float | str] = field(default_factory=dict)
    used: dict[str, dict[str, int]] = field(default_factory=dict)

    def take(self, measure: str, compute: Callable[[], float]) -> None:
        """Keep a value, or the text that says why there is none."""
        self.used.setdefault(measure, {})
        try:
            value = float(compute())
        except ValueError as error:
            self.values[measure] = str(error)
            return
        self.values[measure] = value if np.isfinite(value) else f"it came out as {value}"

    def of_each(
        self,
        measures: Sequence[str],
        side: str,
        videos: Sequence[EvaluatedVideo],
        extract: Callable[[EvaluatedVideo], Value],
    ) -> Iterator[Value]:
        """What measures need of each video; those that do not have it are left out and named.

        Raises:
            ValueError: no video has it.
        """
        reason, count = "", 0
        for video in videos:
            try:
                value = extract(video)
            except ValueError as error:
                reason = str(error).removeprefix(f"{video.path} ")
                for measure in measures:
                    self.left_out.add(measure, side, video.case, reason)
                continue
            count += 1
            yield value
        for measure in measures:
            self.used.setdefault(measure, {})[side] = count
        if not count:
            raise ValueError(f"none of {len(videos)} {side} videos can be used; the last reason: {reason}")


def set_distances(videos: Sides, left_out: LeftOut) -> SetValues:
    """Distances of the generated and the real set that need no weights."""
    found = SetValues(left_out)
    _take_distance(found, "landmark expression distance", videos, _points, landmark_expression_distance)
    _take_distance(found, "blink interval distance, s", videos, _blink_intervals, _interval_distance)
    return found


def outside_measures(videos: Sides, device: str, left_out: LeftOut) -> SetValues:
    """The paper's metrics that need weights from outside: values, or what is missing."""
    found = SetValues(left_out)
    _take_syncnet(found, videos["generated"])
    _take_mean(found, "IQA", videos["generated"], lambda: _quality(device))
    _take_mean(found, "Smooth", videos["generated"], lambda: _smoothness(device))
    _take_distance(found, "FID", videos, lambda video: video.frames(), lambda *sides: fid(*sides).distance)
    _take_distance(found, "FVD-Res", videos, _segments, lambda *sides: fvd_res(*sides).distance)
    _take_distance(found, "FVD-Inc", videos, _segments, lambda *sides: fvd_inc(*sides).distance)
    _take_distance(found, "E-FID", videos, _coefficients, _e_fid)
    return found


def _take_distance(
    found: SetValues,
    measure: str,
    videos: Sides,
    extract: Callable[[EvaluatedVideo], Value],
    distance: Callable[[Iterator[Value], Iterator[Value]], float],
) -> None:
    """The distance of the two sets, each without the videos that do not have what it needs."""
    if not videos["real"]:
        found.values[measure] = NEEDS_REAL
        return
    sides = [found.of_each((measure,), side, videos[side], extract) for side in ("generated", "real")]
    found.take(measure, lambda: distance(*sides))


def _take_mean(
    found: SetValues,
    measure: str,
    videos: Sequence[EvaluatedVideo],
    load: Callable[[], Callable[[EvaluatedVideo], float]],
) -> None:
    """The mean over the generated videos of a score whose network is loaded once."""

    def mean() -> float:
        score = load()
        return float(np.mean(list(found.of_each((measure,), "generated", videos, partial(_finite, score)))))

    found.take(measure, mean)


def _finite(score: Callable[[EvaluatedVideo], float], video: EvaluatedVideo) -> float:
    value = float(score(video))
    if not np.isfinite(value):
        raise ValueError(f"it came out as {value}")
    return value


def _take_syncnet(found: SetValues, videos: Sequence[EvaluatedVideo]) -> None:
    names = ("Sync-C", "Sync-D")
    try:
        network = load_syncnet(weights_path("syncnet"))
        scores = list(found.of_each(names, "generated", videos, partial(_sync_score, network)))
    except ValueError as error:
        found.values |= dict.fromkeys(names, str(error))
        return
    found.take("Sync-C", lambda: float(np.mean([score.confidence for score in scores])))
    found.take("Sync-D", lambda: float(np.mean([score.distance for score in scores])))


def _sync_score(network: SyncNet, video: EvaluatedVideo) -> SyncScore:
    points = video.measured.points
    if not known_frames(points).any():
        raise ValueError(NO_FACE)
    sound = video.sound()
    if is_silent(sound):
        raise ValueError(SILENT)
    return syncnet_score(network, syncnet_crop(video.frames(), points), sound)


def _quality(device: str) -> Callable[[EvaluatedVideo], float]:
    scorer = load_one_align(device)
    return lambda video: float(np.mean(quality_scores(video.frames(), scorer, every=IQA_EVERY)))


def _smoothness(device: str) -> Callable[[EvaluatedVideo], float]:
    draw = partial(halfway, load_amt(weights_path("amt_s")).to(device))
    return lambda video: smoothness(video.frames(), draw)


def _points(video: EvaluatedVideo) -> np.ndarray:
    """Landmarks `f 68 2`: a face in a frame or two is its own mean, which would count as a face that never moves."""
    points = video.measured.points
    if reason := too_few_faces(points):
        raise ValueError(reason)
    return points


def _blink_intervals(video: EvaluatedVideo) -> np.ndarray:
    measured = video.measured
    if reason := too_few_faces(measured.points):
        raise ValueError(reason)
    if not len(measured.blink_intervals_s):
        raise ValueError("no two blinks with the face seen in between")
    return measured.blink_intervals_s


def _interval_distance(generated: Iterator[np.ndarray], real: Iterator[np.ndarray]) -> float:
    return interval_distance(np.concatenate(list(generated)), np.concatenate(list(real)))


def _segments(video: EvaluatedVideo) -> Iterator[np.ndarray]:
    if video.measured.numbers["num_frames"] < SEGMENT_FRAMES:
        raise ValueError(f"shorter than a segment of {SEGMENT_FRAMES} frames")
    return video.frames()


def _coefficients(video: EvaluatedVideo) -> np.ndarray:
    points = video.measured.points
    if not known_frames(points).any():
        raise ValueError(NO_FACE)
    return expression_coefficients(video.frames(), points, network=published_deep3d())


def _e_fid(generated: Iterator[np.ndarray], real: Iterator[np.ndarray]) -> float:
    published_deep3d()  # before any video, so that a missing file is not the videos' fault
    return e_fid(generated, real)
