import pytest

from openloopy.inference.windows import clip_windows, num_frames


@pytest.mark.parametrize(
    "duration_s, frames",
    [(0.04, 1), (0.1, 2), (0.48, 12), (0.5, 12), (0.52, 13), (1.0, 25), (59.999, 1500), (3600.0, 90_000)],
)
def test_frame_counts(duration_s, frames):
    assert num_frames(duration_s) == frames


@pytest.mark.parametrize("duration_s", [0.0, 0.019])
def test_too_short_a_sound_is_an_error(duration_s):
    with pytest.raises(ValueError, match="less than half a video frame"):
        num_frames(duration_s)


@pytest.mark.parametrize("total", [1, 11, 12, 13, 24, 125])
def test_clips_cover_every_frame_once(total):
    windows = list(clip_windows(total, clip_frames=12))
    covered = [w.start_frame + i for w in windows for i in range(w.num_kept)]
    assert covered == list(range(total))
    assert [w.index for w in windows] == list(range(len(windows)))
    assert all(w.num_kept == 12 for w in windows[:-1])
