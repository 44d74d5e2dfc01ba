"""FID and FVD of two sets of videos: Frechet distances of frames, and of segments of 16 frames.

Sources: Heusel et al. 2017 (FID); Unterthiner et al. 2018, "Towards Accurate Generative Models of Video" (FVD). The
two flavours of FVD, Res and Inc, and their pictures are those of https://github.com/Wangt-CN/DisCo (`tool/metrics`).

A sample of FID is a frame; all are used. A sample of FVD is a segment; segments follow each other without overlap
from the first frame on. Frames after the last whole segment are left out, and so are videos shorter than a segment;
the result counts both. We differ: the public script repeats the last frame to fill a segment of Res, and takes a
whole video at once for Inc; it has one sample per video, which `sample="video"` gives here.

Values are comparable within one run only: they depend on the number of samples, on the weights and on resizing, and
published ones differ by factors between laboratories. No weights come with this package (`outside_weights`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from openloopy.measures.distribution import FeatureStats, frechet_distance
from openloopy.measures.inception import InceptionV3, load_inception
from openloopy.measures.outside_weights import weights_path
from openloopy.measures.video_networks import (
    SEGMENT_FRAMES,
    I3d,
    ResNet3d50,
    VideoNetwork,
    load_i3d,
    load_resnet3d50,
    resize_frames,
)

FRAME_BATCH = 16
"""Frames at a time for FID: about 0.3 GB of activations."""
SEGMENT_BATCH = 4
"""Segments at a time for FVD: 0.2 (Res) or 0.3 GB (Inc) of activations."""

Video: TypeAlias = Iterable[np.ndarray]
"""Frames in order, `H W 3` uint8 RGB each and of one size, read one by one: an array `f H W 3` or
`media.video.read_frames`."""
Sample: TypeAlias = Literal["segment", "video"]
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """What a network made of a set of videos."""

    stats: FeatureStats
    num_videos: int
    num_skipped: int = 0
    """Videos shorter than a segment, part of `num_videos`."""
    num_unused_frames: int = 0
    """Frames after the last whole segment of a video; all frames of skipped videos."""


@dataclass(frozen=True, kw_only=True)
class FrechetResult:
    """A distance, and what it was computed from."""

    distance: float
    """0 for equal statistics; lower is better."""
    num_samples_a: int
    num_samples_b: int
    """Frames (FID), segments or videos (FVD)."""
    num_skipped_a: int
    num_skipped_b: int
    """Videos shorter than a segment."""
    num_unused_frames_a: int
    num_unused_frames_b: int


def fid(
    videos_a: Iterable[Video], videos_b: Iterable[Video], *, network: InceptionV3 | None = None
) -> FrechetResult:
    """Frechet Inception distance over all frames.

    Args:
        videos_a, videos_b: the sets to compare; every video is read once.
        network: from `load_inception`, on the device that shall compute; else the registered file is loaded.

    Raises:
        WeightsMissing: no network was given and its file is not on this machine.
        ValueError: a set of fewer than two frames, a video without frames, or frames of another kind.
    """
    network = network or load_inception(weights_path("fid_inception"))
    return compare(frame_set(videos_a, network), frame_set(videos_b, network))


def fvd_res(
    videos_a: Iterable[Video],
    videos_b: Iterable[Video],
    *,
    sample: Sample = "segment",
    network: ResNet3d50 | None = None,
) -> FrechetResult:
    """Frechet video distance of the 2048 pooled features of a 3D ResNet-50, at 112 px.

    Args:
        videos_a, videos_b: the sets to compare; every video is read once.
        sample: "segment": each segment counts; "video": the mean over each video's segments does.
        network: from `load_resnet3d50`, on the device that shall compute; else the registered file of 400 classes
            is loaded.

    Raises:
        WeightsMissing: no network was given and its file is not on this machine.
        ValueError: a set of fewer than two samples, a video without frames, or frames of another kind.
    """
    network = network or load_resnet3d50(weights_path("r3d50_k400"))
    return compare(segment_set(videos_a, network, sample), segment_set(videos_b, network, sample))


def fvd_inc(
    videos_a: Iterable[Video],
    videos_b: Iterable[Video],
    *,
    sample: Sample = "segment",
    network: I3d | None = None,
) -> FrechetResult:
    """Frechet video distance of the 400 logits of I3D, at 224 px.

    Arguments and errors are those of `fvd_res`; the network is from `load_i3d`.
    """
    network = network or load_i3d(weights_path("i3d"))
    return compare(segment_set(videos_a, network, sample), segment_set(videos_b, network, sample))


def compare(a: VideoSet, b: VideoSet) -> FrechetResult:
    """The distance of two sets seen by one network.

    Raises:
        ValueError: fewer than two samples in a set; says how many videos were too short.
    """
    for name, videos in (("first", a), ("second", b)):
        if videos.stats.num_samples < 2:
            raise ValueError(
                f"the {name} set has {videos.stats.num_samples} samples, at least 2 are needed ({videos.num_videos} "
                f"videos, of which {videos.num_skipped} are shorter than {SEGMENT_FRAMES} frames)"
            )
    return FrechetResult(
        distance=frechet_distance(a.stats, b.stats),
        num_samples_a=a.stats.num_samples,
        num_samples_b=b.stats.num_samples,
        num_skipped_a=a.num_skipped,
        num_skipped_b=b.num_skipped,
        num_unused_frames_a=a.num_unused_frames,
        num_unused_frames_b=b.num_unused_frames,
    )


def frame_set(videos: Iterable[Video], network: InceptionV3) -> VideoSet:
    """Statistics of all frames. Memory is bounded by `FRAME_BATCH` frames, however many there are."""
    _check_network(network)
    stats, num_videos = FeatureStats(network.feature_width), 0
    for video in videos:
        before = stats.num_samples
        for frames in _batches(video, FRAME_BATCH):
            stats.update(_embed(network, _pictures(frames, network)))
        _require_frames(stats.num_samples - before, num_videos)
        num_videos += 1
    return VideoSet(stats=stats, num_videos=num_videos)


def segment_set(videos: Iterable[Video], network: VideoNetwork, sample: Sample = "segment") -> VideoSet:
    """Statistics of all whole segments, or of each video's mean over them. Memory is bounded by `SEGMENT_BATCH`
    segments and the features of one video."""
    if sample not in ("segment", "video"):
        raise ValueError(f"expected sample 'segment' or 'video', got {sample!r}")
    _check_network(network)
    stats, num_videos, num_skipped, num_unused = FeatureStats(network.feature_width), 0, 0, 0
    for video in videos:
        features, num_left = _segment_features(video, network)
        _require_frames(len(features) + num_left, num_videos)
        if len(features):
            stats.update(features if sample == "segment" else features.mean(0, keepdims=True))
        num_videos += 1
        num_skipped += not len(features)
        num_unused += num_left
    return VideoSet(stats=stats, num_videos=num_videos, num_skipped=num_skipped, num_unused_frames=num_unused)


def _segment_features(video: Video, network: VideoNetwork) -> tuple[np.ndarray, int]:
    """Features of the whole segments, `n d`, and the number of frames after them."""
    features, num_left = [np.empty((0, network.feature_width))], 0
    for group in _batches(_batches(video, SEGMENT_FRAMES), SEGMENT_BATCH):
        whole = [segment for segment in group if len(segment) == SEGMENT_FRAMES]
        num_left += sum(len(segment) for segment in group if len(segment) < SEGMENT_FRAMES)
        if whole:
            features.append(_embed(network, torch.stack([_clip(segment, network) for segment in whole])))
    return np.concatenate(features), num_left


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of so many items; the last one may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _clip(frames: list[np.ndarray], network: VideoNetwork) -> Tensor:
    """`3 f size_px size_px` RGB, about 0..255."""
    return rearrange(resize_frames(_pictures(frames, network), network.size_px), "f c h w -> c f h w")


def _pictures(frames: list[np.ndarray], network: InceptionV3 | VideoNetwork) -> Tensor:
    """`f 3 h w` float, 0..255, where the network is.

    Raises:
        ValueError: frames that are no `H W 3` uint8, or of several sizes.
    """
    for frame in frames:
        if (
            frame.dtype != np.uint8
            or frame.ndim != 3
            or frame.shape[2] != 3
            or frame.shape != frames[0].shape
        ):
            raise ValueError(
                f"expected frames H W 3 uint8 RGB of one size in a video, got {frame.shape} {frame.dtype} "
                f"beside {frames[0].shape} {frames[0].dtype}"
            )
    pictures = torch.from_numpy(np.stack(frames)).to(next(network.parameters()).device)
    return rearrange(pictures, "f h w c -> f c h w").float()


def _embed(network: InceptionV3 | VideoNetwork, pictures: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return network.embed(pictures).cpu().double().numpy()


def _check_network(network: InceptionV3 | VideoNetwork) -> None:
    if network.training:
        raise ValueError("the network is in training mode, where pictures change each other; call its eval()")


def _require_frames(num_frames: int, index: int) -> None:
    if not num_frames:
        raise ValueError(f"video {index} of a set has no frames; was it an iterator that was read before?")
