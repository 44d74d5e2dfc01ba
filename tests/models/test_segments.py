"""The temporal segment module keeps the frames that Loopy's setting names."""

import pytest
import torch

from openloopy.models.segments import SegmentConfig, gather_segments, segment_offsets

PAPER_OFFSETS = [0, 1, 2, 3, 5, 7, 9, 11, 14, 18, 22, 26, 32, 40, 48, 56, 68, 84, 100, 116]


def numbered_history(batch: int, frames: int) -> torch.Tensor:
    """`b m 1 1 1`; the value of a frame is its offset back from the clip, plus 1000 per sample."""
    offsets = torch.arange(frames - 1, -1, -1, dtype=torch.float32)
    return (offsets + 1000 * torch.arange(batch)[:, None])[:, :, None, None, None]


def test_offsets_are_the_papers():
    assert segment_offsets(SegmentConfig()) == PAPER_OFFSETS


@pytest.mark.parametrize(
    ("stride", "ratio", "segments", "span", "kept"),
    [
        (4, 2, 5, 124, 20),
        (4, 1, 5, 20, 20),
        (1, 2, 5, 31, 5),
        (2, 2, 5, 62, 10),
        (3, 2, 5, 93, 15),
        (4, 1, 1, 4, 4),
    ],
)
def test_span_and_number_kept(stride, ratio, segments, span, kept):
    config = SegmentConfig(stride=stride, expand_ratio=ratio, num_segments=segments)
    offsets = segment_offsets(config)
    assert (config.span, config.num_kept, len(offsets)) == (span, kept, kept)
    assert offsets == sorted(set(offsets)) and offsets[-1] < span


def test_without_expansion_every_frame_is_kept():
    assert segment_offsets(SegmentConfig(expand_ratio=1)) == list(range(20))


def test_ratio_three_takes_the_exact_middle():
    config = SegmentConfig(stride=2, expand_ratio=3, num_segments=3)
    assert segment_offsets(config) == [0, 1, 3, 6, 12, 21]


@pytest.mark.parametrize("frames", [124, 130])
def test_gather_is_oldest_first(frames):
    history = numbered_history(2, frames)
    motion, mask = gather_segments(history, torch.ones(2, frames), SegmentConfig())
    assert motion[0].flatten().tolist() == PAPER_OFFSETS[::-1]
    assert (motion[1] - motion[0]).unique().tolist() == [1000.0]
    assert mask.shape == (2, 20) and mask.all()


def test_missing_frames_are_zero_and_masked():
    present = torch.zeros(1, 124)
    present[:, -13:] = 1
    motion, mask = gather_segments(numbered_history(1, 124) + 1, present, SegmentConfig())
    assert mask[0].tolist() == [0.0] * 12 + [1.0] * 8
    assert motion.flatten().tolist() == [0.0] * 12 + [offset + 1.0 for offset in PAPER_OFFSETS[7::-1]]


def test_mean_of_the_present_frames():
    config = SegmentConfig(stride=2, expand_ratio=2, num_segments=2, sampling="mean")
    present = torch.tensor([[0.0, 1, 1, 1, 1, 1]])
    motion, mask = gather_segments(numbered_history(1, 6), present, config)
    assert motion.flatten().tolist() == [4.0, 2.5, 1.0, 0.0]
    assert mask.all()
    motion, mask = gather_segments(numbered_history(1, 6), torch.tensor([[0.0, 0, 1, 1, 1, 1]]), config)
    assert motion.flatten().tolist() == [0.0, 2.5, 1.0, 0.0] and mask.flatten().tolist() == [0, 1, 1, 1]


def test_random_frames_stay_in_their_intervals_and_repeat_with_the_seed():
    config, history = SegmentConfig(sampling="random"), numbered_history(64, 124)
    fractions = torch.rand(64, config.num_kept, generator=torch.Generator().manual_seed(3))
    motion, _ = gather_segments(history, torch.ones(64, 124), config, fractions)
    again, _ = gather_segments(history, torch.ones(64, 124), config, fractions)
    assert torch.equal(motion, again)
    offsets = motion.flatten(1) - 1000 * torch.arange(64)[:, None]
    oldest, newest = offsets[:, 0], offsets[:, -1]
    assert oldest.min() >= 108 and oldest.max() < 124 and oldest.unique().numel() > 10
    assert newest.eq(0).all()


def test_too_short_a_history_is_an_error():
    with pytest.raises(ValueError, match="at least 124 history frames"):
        gather_segments(numbered_history(1, 20), torch.ones(1, 20), SegmentConfig())


def test_unknown_sampling_is_an_error():
    with pytest.raises(ValueError, match="unknown sampling"):
        SegmentConfig(sampling="nearest")
