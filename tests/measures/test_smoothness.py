"""Smoothness by hand: synthetic motion with simple interpolators, short and odd videos, AMT-S with random weights."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from openloopy.measures.amt import AmtS, halfway
from openloopy.measures.outside_weights import FOLDER_VARIABLE, REGISTRY, WeightsMissing
from openloopy.measures.smoothness import blend, motion_smoothness, smooth_blend, smoothness


def _flat(value: int, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def _moving_edge(num_frames: int, step_px: int) -> list[np.ndarray]:
    """White from the left, further by `step_px` in each frame of 4 x 20 px."""
    frames = [_flat(0, (4, 20)) for _ in range(num_frames)]
    for index, frame in enumerate(frames):
        frame[:, : 4 + step_px * index] = 255
    return frames


def _follow_edge(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Knows that there is an edge: puts it halfway."""
    width = (np.count_nonzero(before[0, :, 0]) + np.count_nonzero(after[0, :, 0])) // 2
    drawn = np.zeros_like(before)
    drawn[:, :width] = 255
    return drawn


def _noise(num_frames: int, side: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(num_frames)]


@pytest.fixture
def random_amt(tmp_path, monkeypatch) -> AmtS:
    """A network whose weights lie in the weights folder, registered without the digest of the public file."""
    torch.manual_seed(0)
    network = AmtS().eval().requires_grad_(False)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "amt-s.pth")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setitem(REGISTRY, "amt_s", replace(REGISTRY["amt_s"], sha256=None))
    return network


def test_a_still_video_is_perfectly_smooth():
    assert smooth_blend([_flat(77)] * 7) == 1


def test_an_even_ramp_of_brightness_is_perfectly_smooth_for_the_blend():
    assert smooth_blend([_flat(10 * index) for index in range(9)]) == 1


def test_one_flash_by_hand():
    """Frames 0 0 51 0 0 0 0: drawn are 1, 3 and 5 from 0 2, 2 4 and 4 6: off by 25, 25 and 0 (51 / 2 cut down)."""
    frames = [_flat(51 if index == 2 else 0) for index in range(7)]
    assert smooth_blend(frames) == pytest.approx(1 - (25 + 25 + 0) / 3 / 255)


def test_flicker_of_every_second_frame_by_hand():
    """Even frames 100, odd ones 130: drawn 100 instead of 130."""
    assert smooth_blend([_flat(100 + 30 * (index % 2)) for index in range(8)]) == pytest.approx(1 - 30 / 255)


def test_only_the_true_odd_frames_count():
    """What an interpolator sees are neighbours, never the frame it should draw."""
    seen = []

    def watch(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        seen.append((before[0, 0, 0], after[0, 0, 0]))
        return before

    smoothness([_flat(index) for index in range(8)], watch)
    assert seen == [(0, 2), (2, 4), (4, 6)]


def test_an_even_motion_is_smooth_for_who_follows_it_and_not_for_the_blend():
    """Between two frames 4 columns of 20 are half white in the blend: each off by 127 or 128 (cut down: 127.5)."""
    frames = _moving_edge(7, 2)
    assert smoothness(frames, _follow_edge) == 1
    assert smooth_blend(frames) == pytest.approx(1 - (2 * 128 + 2 * 127) / 20 / 255)


def test_a_jerk_costs_who_follows():
    """The edge is at 4 6 10 8 12: drawn 7 and 11 px for true 6 and 8: 1 and 3 columns of 20 are off by 255."""
    frames = [_moving_edge(1, 0)[0] * 0 for _ in range(5)]
    for frame, width in zip(frames, (4, 6, 10, 8, 12), strict=True):
        frame[:, :width] = 255
    assert smoothness(frames, _follow_edge) == pytest.approx(1 - (1 + 3) / 20 / 2)


def test_the_last_frame_of_an_even_number_is_left_out():
    frames = [_flat(0)] * 5
    assert smooth_blend([*frames, _flat(255)]) == smooth_blend(frames) == 1


def test_frames_are_read_one_by_one():
    held = []

    def stream() -> Iterator[np.ndarray]:
        for index in range(9):
            held.append(index)
            yield _flat(index)

    def draw(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        assert held[-1] == after[0, 0, 0]
        return blend(before, after)

    assert smoothness(stream(), draw) == 1


def test_the_blend_does_not_overflow():
    assert blend(_flat(255), _flat(254))[0, 0, 0] == 254
    assert blend(_flat(255), _flat(255))[0, 0, 0] == 255


@pytest.mark.parametrize("num_frames", [0, 1, 2])
def test_short_videos_are_refused(num_frames):
    with pytest.raises(ValueError, match="at least 3 frames"):
        smooth_blend([_flat(0)] * num_frames)


def test_frames_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(5, 6, 3\) uint8 at 2"):
        smooth_blend([_flat(0), _flat(0), _flat(0, (5, 6))])
    with pytest.raises(ValueError, match="float64"):
        smooth_blend([np.zeros((4, 6, 3))] * 3)
    with pytest.raises(ValueError, match="drawn frame"):
        smoothness([_flat(0)] * 3, lambda before, after: before.astype(np.float32))


def test_without_weights_it_says_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(WeightsMissing, match=r"Smooth needs amt-s\.pth .*BY-NC"):
        motion_smoothness([_flat(0)] * 3)


def test_another_file_of_that_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "amt-s.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the published file"):
        motion_smoothness([_flat(0)] * 3)


def test_motion_smoothness_is_the_protocol_with_amt(random_amt):
    frames = _noise(5, 128)
    drawn = [halfway(random_amt, frames[i], frames[i + 2]) for i in (0, 2)]
    off = [np.abs(drawn[i].astype(float) - frames[2 * i + 1]).mean() for i in (0, 1)]
    assert motion_smoothness(frames) == pytest.approx((255 - np.mean(off)) / 255)
