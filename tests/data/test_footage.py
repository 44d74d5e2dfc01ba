"""Any file's pictures at a steady 25 fps; holes, turns, fields and promises are noticed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openloopy.data.cut import in_shots
from openloopy.data.footage import SteadyFrame, SteadyReader, _Clock, sound_start
from openloopy.media.audio import AudioError
from openloopy.media.video import VideoError
from tests.data.damaged import Talk, cut_off, write_talk


def shown_at(times_s: list[float]) -> list[tuple[int, int]]:
    """Instant and picture for pictures at these times."""
    clock, shown = _Clock(), []
    for i, (here, following) in enumerate(zip(times_s, times_s[1:], strict=False)):
        shown += [(number, i) for number in clock.until(here, following)]
    return shown + [(number, len(times_s) - 1) for number in clock.to_end(times_s[-1])]


def test_steady_and_unsteady_times() -> None:
    assert shown_at([i / 25 for i in range(75)]) == [(i, i) for i in range(75)]
    assert shown_at([i / 50 for i in range(60)]) == [(i, 2 * i) for i in range(30)]
    assert len(shown_at([i * 1001 / 30_000 for i in range(300)])) == 250
    assert shown_at([0, 0.04, 0.13, 0.17]) == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3)]
    assert shown_at([0.0]) == [(0, 0)]
    assert [number for number, _ in shown_at([0, 0.04, 0.08, 1.0, 1.04])] == [0, 1, 2, 25, 26]


def grey(levels, size=(48, 64)) -> np.ndarray:
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def write_pictures(
    path: Path, frames: np.ndarray, times: list[int], *, rate: int = 1000, sound: bool = True
) -> Path:
    """Pictures at times in 1/rate s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, rate)
        for rgb, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def test_a_variable_rate_is_noticed_and_levelled(tmp_path: Path) -> None:
    times = np.cumsum([0, *([40] * 20), *([80, 20] * 15)]).tolist()
    path = write_pictures(tmp_path / "a.mkv", grey(np.arange(len(times)) * 4), times)
    reader = SteadyReader(path)
    frames = list(reader)
    assert reader.info.has_variable_rate and [f.number for f in frames] == list(
        range(round((times[-1] + 40) / 40))
    )
    assert sum(f.is_repeated for f in frames) > 5
    assert not SteadyReader(
        write_pictures(tmp_path / "b.mkv", grey([0] * 9), list(range(0, 360, 40)))
    ).info.fps


def test_a_hole_steps_over_numbers_and_begins_a_shot(tmp_path: Path) -> None:
    times = [*range(0, 400, 40), *range(1400, 1800, 40)]
    reader = SteadyReader(write_pictures(tmp_path / "a.mkv", grey([90] * 20), times))
    shots = list(in_shots(reader))
    assert [f.number for f in shots if f.starts_shot] == [0, 35] and len(shots) == 20
    assert reader.info.num_pictures == 20 and reader.info.fps == pytest.approx(25)


def test_cuts_are_found_and_pictures_that_only_move_are_not_cut() -> None:
    rng = np.random.default_rng(0)
    first, second = (
        rng.integers(0, 255, (12, 16, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8) for _ in range(2)
    )
    frames = [np.roll(first, i, 1) for i in range(20)] + [np.roll(second, i, 1) for i in range(20)]
    shots = in_shots(SteadyFrame(i, rgb, False) for i, rgb in enumerate(frames))
    assert [f.number for f in shots if f.starts_shot] == [0, 20]


def test_interlaced_pictures_are_noticed(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.mpg", grey(range(40, 160, 6))
    frames[:, ::2, 20:40] = 255  # one field is ahead of the other
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "qscale": "2"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            graph = av.filter.Graph()
            source = graph.add_buffer(width=64, height=48, format="yuv420p", time_base=Fraction(1, 25))
            fields, sink = graph.add("setfield", "tff"), graph.add("buffersink")
            source.link_to(fields)
            fields.link_to(sink)
            graph.configure()
            graph.push(frame)
            container.mux(video.encode(graph.pull()))
        container.mux(video.encode(None))
    reader = SteadyReader(path)
    shown = list(reader)
    assert reader.info.is_interlaced and len(shown) == 20
    combed = np.abs(np.diff(shown[10].rgb[:, 20:40].astype(float), axis=0)).mean()
    assert combed < 0.5 * np.abs(np.diff(frames[10][:, 20:40].astype(float), axis=0)).mean()


def test_a_truncated_file_gives_what_is_there_and_says_what_was_promised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (50, 48, 64, 3)).astype(np.uint8)
    talk = Talk(frames, np.zeros(50 * 640, np.float32))
    reader = SteadyReader(cut_off(write_talk(tmp_path / "a.mp4", talk, faststart=True), 0.6))
    assert 20 < len(list(reader)) < 40 and reader.num_promised == 50
    whole = SteadyReader(write_talk(tmp_path / "b.mkv", talk))
    assert len(list(whole)) == 50 == whole.num_promised and whole.info.num_undecodable == 0


def test_what_is_no_footage_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="damaged or no video"):
        next(iter(SteadyReader(tmp_path / "a.mp4")))
    path = write_pictures(tmp_path / "b.mkv", grey([9] * 5), [0, 40, 80, 120, 160])
    with pytest.raises(AudioError, match="no sound in it"):
        sound_start(path)
