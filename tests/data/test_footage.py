"""Any file's pictures at a steady 25 fps; holes, turns, fields and promises are noticed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openloopy.data.cut import in_shots
from openloopy.data.footage import SteadyFrame, SteadyReader, _Clock
from openloopy.media.video import VideoError
from tests.data.damaged import Talk, cut_off, write_talk
from tests.media.films import write_video

FAULTS = Path(__file__).resolve().parents[3] / "shared" / "faults" / "footage"


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
    path: Path, frames: np.ndarray, times: list[int], *, rate: int = 1000, codec: str = "libx264", bf: int = 0
) -> Path:
    """Pictures at times in 1/rate s. bf: frames in a row that are decoded after a later one."""
    with av.open(str(path), "w") as container:
        options = {"crf": "10", "bf": str(bf)} if codec == "libx264" else {}
        video = container.add_stream(codec, rate=25, options=options)
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


def write_fields(path: Path, frames: np.ndarray, first_interlaced: int, first_time: int = 0) -> Path:
    """MPEG-2 whose frames are marked as two fields from one on; the first is shown at first_time / 25 s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "qscale": "2"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = first_time + i, Fraction(1, 25)
            graph = av.filter.Graph()
            height, width = frames.shape[1:3]
            source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 25))
            fields = graph.add("setfield", "tff" if i >= first_interlaced else "prog")
            sink = graph.add("buffersink")
            source.link_to(fields)
            fields.link_to(sink)
            graph.configure()
            graph.push(frame)
            container.mux(video.encode(graph.pull()))
        container.mux(video.encode(None))
    return path


def combed(rgb: np.ndarray) -> float:
    """How much neighbouring lines differ where the fields do."""
    return float(np.abs(np.diff(rgb[:, 20:40].astype(float), axis=0)).mean())


@pytest.mark.parametrize("first_interlaced", [0, 3])
def test_interlaced_pictures_are_noticed_whenever_they_begin(tmp_path: Path, first_interlaced: int) -> None:
    frames = grey(range(40, 160, 6))
    frames[first_interlaced:, ::2, 20:40] = 255  # one field is ahead of the other
    reader = SteadyReader(write_fields(tmp_path / "a.mpg", frames, first_interlaced))
    shown = list(reader)
    assert reader.info.is_interlaced and len(shown) == 20
    assert combed(shown[10].rgb) < 0.5 * combed(frames[10])


def test_fields_of_another_size_are_drawn_anew_too(tmp_path: Path) -> None:
    """A recording whose pictures change their size on the way."""
    parts = []
    for i, size in enumerate(((48, 64), (64, 96))):
        frames = grey(range(40, 100, 6), size)
        frames[:, ::2, 20:40] = 255
        parts.append(write_fields(tmp_path / f"{i}.ts", frames, 0, 10 * i).read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    shown = [frame.rgb for frame in SteadyReader(tmp_path / "a.ts")]
    sizes = [rgb.shape[:2] for rgb in shown]
    assert sizes == sorted(sizes) and sizes[8] == (48, 64) and sizes[10] == (64, 96)
    assert combed(shown[3]) < 0.5 * combed(frames[3]) > combed(shown[13])


def test_a_truncated_file_gives_what_is_there_and_says_what_was_promised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (50, 48, 64, 3)).astype(np.uint8)
    talk = Talk(frames, np.zeros(50 * 640, np.float32))
    reader = SteadyReader(cut_off(write_talk(tmp_path / "a.mp4", talk, faststart=True), 0.6))
    assert 20 < len(list(reader)) < 40 and reader.num_promised == 50
    whole = SteadyReader(write_talk(tmp_path / "b.mkv", talk))
    assert len(list(whole)) == 50 == whole.num_promised and whole.info.num_undecodable == 0


def test_pixels_are_square_and_the_file_s_own_shape_is_noted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(grey([90] * 5, (96, 72))), aspect=Fraction(4, 3))
    reader = SteadyReader(path)
    assert {frame.rgb.shape for frame in reader} == {(96, 96, 3)}
    assert (reader.info.width, reader.info.height, reader.info.pixel_aspect) == (96, 96, "4/3")


def test_high_dynamic_range_is_shown_as_screens_show_it(tmp_path: Path) -> None:
    """HLG's white is white, and the record says what the file was."""
    tags = dict(color_primaries=9, color_trc=18, colorspace=1, color_range=1)
    reader = SteadyReader(write_video(tmp_path / "a.mp4", list(grey([191] * 5)), **tags))
    assert next(iter(reader)).rgb.mean() == pytest.approx(229, abs=4)
    assert reader.info.colours == "HLG, BT.2020"
    plain = SteadyReader(write_video(tmp_path / "b.mp4", list(grey([191] * 5))))
    assert next(iter(plain)).rgb.mean() == pytest.approx(191, abs=2) and plain.info.colours == ""


def test_filmed_hlg_looks_like_a_face() -> None:
    """Skin is red before green before blue, and not grey."""
    path = FAULTS / "hlg.mp4"
    if not path.exists():
        pytest.skip(f"no filmed HLG: {path} is not here")
    face = next(iter(SteadyReader(path))).rgb[110:200, 105:190].mean((0, 1))
    assert face[0] > 1.2 * face[1] > 1.2 * face[2]


def test_times_of_decoding_become_times_of_showing(tmp_path: Path) -> None:
    """AVI does not tell when frames are shown that are decoded in another order."""
    levels = np.arange(20) * 10 + 20
    for codec in ("libx264", "mpeg4"):
        path = tmp_path / f"{codec}.avi"
        write_pictures(path, grey(levels), list(range(20)), rate=25, codec=codec, bf=3)
        reader = SteadyReader(path)
        shown = [frame.rgb.mean() for frame in reader]
        assert shown == pytest.approx(levels, abs=4)


def test_a_clock_that_begins_anew_is_told(tmp_path: Path) -> None:
    """Two recordings one after the other in a file: nobody knows when the second one's pictures are to be shown."""
    times = list(range(50))
    one = write_pictures(tmp_path / "one.ts", grey([90] * 50), times, rate=25, codec="mpeg2video")
    (tmp_path / "a.ts").write_bytes(one.read_bytes() * 2)
    reader = SteadyReader(tmp_path / "a.ts")
    assert len(list(reader)) == 50 and 30 <= reader.info.num_misplaced <= 50


@pytest.mark.parametrize("first_ms", [-400, 0, 3_600_000])
def test_frames_count_from_the_first_picture(tmp_path: Path, first_ms: int) -> None:
    levels = np.arange(10) * 20 + 20
    times = [first_ms + 40 * i for i in range(10)]
    reader = SteadyReader(write_pictures(tmp_path / "a.mkv", grey(levels), times))
    assert [(f.number, round(f.rgb.mean() / 20)) for f in reader] == [(i, i + 1) for i in range(10)]


def test_what_is_no_footage_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="damaged or no video"):
        next(iter(SteadyReader(tmp_path / "a.mp4")))
