"""FID and FVD over videos: which frames count, in which batches, and what happens without weights."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from openloopy.measures import fid_fvd
from openloopy.measures.distribution import FeatureStats, frechet_distance
from openloopy.measures.fid_fvd import (
    FRAME_BATCH,
    SEGMENT_BATCH,
    compare,
    fid,
    frame_set,
    fvd_inc,
    fvd_res,
    segment_set,
)
from openloopy.measures.inception import InceptionV3
from openloopy.measures.outside_weights import FOLDER_VARIABLE, REGISTRY, WeightsMissing
from openloopy.measures.video_networks import I3d, ResNet3d50
from tests.measures.pattern import pattern_weights


class _Colours(nn.Module):
    """Mean red, green and blue instead of a network's features; keeps the shapes that it saw."""

    size_px = 8
    feature_width = 3

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []
        self.eval().requires_grad_(False)

    def embed(self, pictures: Tensor) -> Tensor:
        self.seen.append(tuple(pictures.shape))
        return pictures.flatten(2).mean(2)


def _video(num_frames: int, seed: int = 0, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    """Every frame has a colour of its own."""
    colours = np.random.default_rng(seed).integers(0, 256, (num_frames, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (num_frames, *size, 3))


def _stats(features: np.ndarray) -> FeatureStats:
    stats = FeatureStats(features.shape[1])
    stats.update(features)
    return stats


def _colours(video: np.ndarray) -> np.ndarray:
    return video[:, 0, 0].astype(float)


def test_every_frame_of_every_video_is_a_sample_of_fid():
    videos = [_video(40), _video(1, seed=1, size=(30, 20)), _video(17, seed=2)]
    network = _Colours()
    result = frame_set(iter(videos), network)
    assert (result.num_videos, result.stats.num_samples) == (3, 58)
    expected = np.concatenate([_colours(video) for video in videos])
    np.testing.assert_allclose(result.stats.mean, expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result.stats.covariance, np.cov(expected, rowvar=False), rtol=1e-5)
    assert [shape[0] for shape in network.seen] == [FRAME_BATCH, FRAME_BATCH, 8, 1, FRAME_BATCH, 1]


def test_frames_are_read_as_they_are_needed():
    network = _Colours()

    def frames() -> Iterator[np.ndarray]:
        for index, frame in enumerate(_video(100)):
            assert len(network.seen) >= index // FRAME_BATCH
            yield frame

    assert frame_set([frames()], network).stats.num_samples == 100


def test_segments_follow_each_other_and_what_is_left_is_counted():
    videos = [_video(16 * 6 + 5), _video(15, seed=1), _video(32, seed=2)]
    network = _Colours()
    result = segment_set(iter(videos), network)
    assert (result.num_videos, result.num_skipped, result.num_unused_frames) == (3, 1, 20)
    segments = np.concatenate([_colours(videos[0])[:96], _colours(videos[2])]).reshape(8, 16, 3)
    np.testing.assert_allclose(result.stats.mean, segments.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        result.stats.covariance, np.cov(segments.mean(1), rowvar=False), rtol=1e-4, atol=1e-3
    )
    assert network.seen == [(SEGMENT_BATCH, 3, 16, 8, 8), (2, 3, 16, 8, 8), (2, 3, 16, 8, 8)]


def test_a_video_may_count_once():
    videos = [_video(16 * 5, seed=seed) for seed in range(4)] + [_video(3)]
    result = segment_set(videos, _Colours(), sample="video")
    assert (result.stats.num_samples, result.num_skipped) == (4, 1)
    means = np.stack([_colours(video).mean(0) for video in videos[:4]])
    np.testing.assert_allclose(result.stats.covariance, np.cov(means, rowvar=False), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="'segment' or 'video'"):
        segment_set(videos, _Colours(), sample="frame")  # type: ignore[arg-type]


def test_the_result_says_what_it_was_computed_from():
    a = segment_set([_video(33), _video(10), _video(50)], _Colours())
    b = segment_set([_video(64, seed=5)], _Colours())
    assert asdict(compare(a, b)) == {
        "distance": frechet_distance(a.stats, b.stats),
        "num_samples_a": 5,
        "num_samples_b": 4,
        "num_skipped_a": 1,
        "num_skipped_b": 0,
        "num_unused_frames_a": 13,
        "num_unused_frames_b": 0,
    }


@pytest.mark.parametrize("measure", [fid, fvd_res, fvd_inc])
def test_measures_are_frechet_distances_of_their_sets(measure):
    a, b = [_video(64), _video(48, seed=1)], [_video(80, seed=2)]
    assert measure(a, list(a), network=_Colours()).distance == pytest.approx(0, abs=1e-6)
    size = 1 if measure is fid else 16
    features = [
        np.concatenate([_colours(video) for video in videos]).reshape(-1, size, 3).mean(1)
        for videos in (a, b)
    ]
    result = measure(a, b, network=_Colours())
    assert result.distance == pytest.approx(frechet_distance(*map(_stats, features)), rel=1e-4)
    assert (result.num_samples_a, result.num_samples_b) == (112 // size, 80 // size)


@pytest.mark.parametrize(
    ("measure", "name"), [(fid, "fid_inception"), (fvd_res, "r3d50_k400"), (fvd_inc, "i3d")]
)
def test_without_weights_nothing_is_read_and_the_error_says_what_to_get(measure, name, tmp_path, monkeypatch):
    def unread() -> Iterator[np.ndarray]:
        raise AssertionError("videos were read before the weights were there")
        yield

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(WeightsMissing, match=REGISTRY[name].file):
        measure(unread(), unread())


def test_a_registered_file_is_used(tmp_path, monkeypatch):
    network = I3d()
    network.load_state_dict(pattern_weights(network))
    torch.save(network.state_dict(), tmp_path / REGISTRY["i3d"].file)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(I3d, "size_px", 32)  # faster
    result = fvd_inc([_video(32)], [_video(32, seed=1)])
    assert result.distance > 0 and result.num_samples_a == 2


def test_another_inception_file_of_the_name_is_refused(tmp_path, monkeypatch):
    torch.save({}, tmp_path / REGISTRY["fid_inception"].file)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="sha256 differs"):
        fid([], [])


@pytest.mark.parametrize("kind", [InceptionV3, ResNet3d50])
def test_real_networks_take_the_pictures(kind):
    network = kind().eval()
    make, num_frames = (frame_set, 2) if kind is InceptionV3 else (segment_set, 16)
    result = make([_video(num_frames, size=(20, 30))], network)
    assert result.stats.width == 2048
    assert result.stats.num_samples == (2 if kind is InceptionV3 else 1)


def test_too_few_samples_and_empty_videos_are_refused():
    with pytest.raises(
        ValueError, match="second set has 1 samples.*2 videos, of which 1 are shorter than 16"
    ):
        fvd_res([_video(64)], [_video(20), _video(15)], network=_Colours())
    with pytest.raises(ValueError, match="first set has 0 samples"):
        fid([], [_video(4)], network=_Colours())
    for measure in (fid, fvd_res):
        with pytest.raises(ValueError, match="video 1 of a set has no frames"):
            measure([_video(20), iter(())], [_video(64)], network=_Colours())


def test_frames_of_other_kinds_are_refused():
    mixed = [*_video(8), *_video(8, size=(12, 10))]
    grey, real = np.zeros((16, 9, 9), np.uint8), np.zeros((16, 9, 9, 3), np.float32)
    for wrong in (mixed, grey, real, np.zeros((16, 9, 9, 4), np.uint8)):
        for measure in (fid, fvd_inc):
            with pytest.raises(ValueError, match="H W 3 uint8 RGB"):
                measure([wrong], [wrong], network=_Colours())


def test_networks_in_training_are_refused():
    for measure in (fid, fvd_inc):
        with pytest.raises(ValueError, match="eval"):
            measure([_video(32)], [_video(32)], network=_Colours().train())


def test_no_weights_come_with_the_package():
    folder = Path(fid_fvd.__file__).parents[1] / "weights"
    names = {path.name for path in folder.rglob("*")}
    assert not names & {REGISTRY[name].file for name in ("fid_inception", "r3d50_k400", "r3d50_k700", "i3d")}
