"""Frames as a player shows them, from files made here with pixels, colours, turns and covers of all kinds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openloopy.media.files import MediaError
from openloopy.media.screen import Look, StreamLook, film_of, shown, shown_size
from openloopy.media.video import VideoError, probe_video, read_frames
from tests.media.films import write_video

LUMA = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722), "BT.2020": (0.2627, 0.0593)}
CODES = {"BT.601": 5, "BT.709": 1, "BT.2020": 9, "untagged": 2}
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (255, 255, 255), (16, 16, 16))
LIMITED, FULL = 1, 2


def coded(rgb, matrix: str, color_range: int, form: str, size: tuple[int, int]) -> av.VideoFrame:
    """One colour by the formulas of BT.601, BT.709 or BT.2020, computed here."""
    kr, kb = LUMA[matrix]
    red, green, blue = np.array(rgb) / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    values = np.array([luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)])
    bits = 10 if "10" in form else 8
    if color_range == FULL:
        numbers = values * (2**bits - 1) + [0, 2 ** (bits - 1), 2 ** (bits - 1)]
    else:
        numbers = (values * [219, 224, 224] + [16, 128, 128]) * 2 ** (bits - 8)
    frame = av.VideoFrame(*size, form)
    for plane, number in zip(frame.planes, numbers, strict=True):
        kind = np.dtype(np.uint16 if bits > 8 else np.uint8)
        plane.update(np.full(plane.buffer_size // kind.itemsize, round(number), kind).tobytes())
    frame.color_range = color_range
    return frame


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "yuv422p", "yuv420p10le"])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", LUMA)
def test_matrix_and_range_are_those_of_the_frame(matrix, color_range, form):
    for rgb in COLOURS:
        frame = coded(rgb, matrix, color_range, form, (64, 48))
        frame.colorspace = CODES[matrix]
        assert shown(frame, Look())[20, 30].tolist() == pytest.approx(rgb, abs=4)


@pytest.mark.parametrize(
    ("size", "matrix"), [((640, 480), "BT.601"), ((1280, 720), "BT.709"), ((720, 608), "BT.709")]
)
def test_untagged_pictures_are_read_by_their_size(size, matrix):
    frame = coded((40, 200, 40), matrix, LIMITED, "yuv420p", size)
    assert shown(frame, Look())[20, 30].tolist() == pytest.approx((40, 200, 40), abs=4)


def test_large_pictures_that_state_their_matrix_are_believed():
    frame = coded((40, 200, 40), "BT.601", LIMITED, "yuv420p", (1280, 720))
    frame.colorspace = CODES["BT.601"]
    assert shown(frame, Look())[20, 30].tolist() == pytest.approx((40, 200, 40), abs=4)


def test_grey_and_transparent_frames_have_three_colours():
    for form in ("gray", "gray10le", "yuva420p", "rgba", "gbrp", "nv12"):
        assert shown(av.VideoFrame(64, 48, form), Look()).shape == (48, 64, 3)


def disc(width: int, height: int) -> np.ndarray:
    """A white disc that is round on a screen of 96x96, in a picture of any size."""
    y, x = np.mgrid[:height, :width]
    inside = ((x + 0.5) / width - 0.5) ** 2 + ((y + 0.5) / height - 0.5) ** 2 < 0.35**2
    return np.repeat(255 * inside[..., None], 3, 2).astype(np.uint8)


def extent(picture: np.ndarray) -> tuple[int, int]:
    """Width and height of what is white."""
    white = picture.mean(-1) > 128
    return int(white.any(0).sum()), int(white.any(1).sum())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mpg"])
@pytest.mark.parametrize("stored", [(72, 96), (96, 72)])
def test_pixels_that_are_not_square_become_square(tmp_path, suffix, stored):
    aspect = Fraction(stored[1], stored[0])
    codec = "mpeg2video" if suffix == ".mpg" else "libx264"
    if suffix == ".mpg":
        aspect = Fraction(4, 3) * Fraction(stored[1], stored[0])  # of a picture of 4:3; MPEG-2 has no other
    path = write_video(tmp_path / f"a{suffix}", [disc(*stored)] * 3, aspect=aspect, codec=codec)
    (first, *_) = list(read_frames(path))
    width, height = extent(first)
    shape = Fraction(4, 3) if suffix == ".mpg" else Fraction(1)
    assert first.shape[1] / first.shape[0] == pytest.approx(float(shape), abs=0.03)
    assert width / height == pytest.approx(float(shape), abs=0.05)
    assert first.shape[0] % 2 == first.shape[1] % 2 == 0
    assert (probe_video(path).width, probe_video(path).height) == first.shape[1::-1]


def test_sides_are_lengthened_never_shortened():
    assert Look(Fraction(4, 3)).stored_size(270, 288) == (360, 288)
    assert Look(Fraction(3, 4)).stored_size(360, 216) == (360, 288)
    assert Look(Fraction(1000, 1001)).stored_size(361, 289) == (361, 289)
    with pytest.raises(MediaError, match="5 times as wide as high; expected 1/4 to 4"):
        Look(Fraction(5)).stored_size(10, 10)


def test_a_turned_frame_is_turned_after_its_pixels_were_made_square():
    class Sideways:
        """What `shown_size` asks of a frame."""

        width, height, rotation = 270, 288, 90

    assert shown_size(Sideways(), Look(Fraction(4, 3))) == (288, 360)


def test_the_shape_of_pixels_may_change_on_the_way(tmp_path):
    """Recordings of television go from 4:3 to 16:9 and back."""
    parts = []
    for i, aspect in enumerate((Fraction(1), Fraction(4, 3))):
        part = write_video(tmp_path / f"{i}.ts", [disc(64, 48)] * 5, aspect=aspect, codec="mpeg2video")
        parts.append(part.read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    shapes = [frame.shape[1::-1] for frame in read_frames(tmp_path / "a.ts")]
    assert shapes[0] == (64, 48) and shapes[-1] == (86, 48) and len(shapes) == 10


def test_hlg_is_shown_as_a_screen_shows_it(tmp_path):
    """A grey of HLG's 38 %: an eighth of white, 100 of 255; read as it stands it would be 97 and without colour."""
    red_2020 = np.full((48, 64, 3), (150, 90, 70), np.uint8)
    tags = dict(color_primaries=9, color_trc=18, colorspace=1, color_range=1)
    plain = next(read_frames(write_video(tmp_path / "a.mp4", [red_2020] * 3)))[20, 30].astype(int)
    high = next(read_frames(write_video(tmp_path / "b.mp4", [red_2020] * 3, **tags)))[20, 30].astype(int)
    assert np.ptp(high) > np.ptp(plain) + 30 and high[0] > high[1] > high[2]
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = film_of(container)
        next(container.decode(stream))
        assert StreamLook(stream).now().colours == "HLG, BT.2020"


def write_with_cover(path: Path) -> Path:
    """A film whose cover comes before it: the box of tags at the beginning of the header."""
    film = write_video(path.with_name("film.mp4"), [disc(96, 96)] * 5)
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        cover = target.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        copy = target.add_stream_from_template(source.streams.video[0])
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        target.mux([*cover.encode(frame), *cover.encode(None)])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    content = path.read_bytes()
    at = content.index(b"moov") - 4
    boxes = dict(iterate_boxes(content[at + 8 :]))
    tags = boxes.pop(b"udta")
    path.write_bytes(content[: at + 8] + tags + b"".join(boxes.values()))
    return path


def iterate_boxes(content: bytes):
    """Name and whole of each box of an mp4 file's header."""
    while content:
        size = int.from_bytes(content[:4], "big")
        yield content[4:8], content[:size]
        content = content[size:]


def test_a_cover_is_not_the_film(tmp_path):
    path = write_with_cover(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["png", "h264"]
        assert film_of(container).codec_context.name == "h264"
    assert [frame.shape for frame in read_frames(path)] == [(96, 96, 3)] * 5


def test_music_with_a_cover_has_no_film(tmp_path):
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as target:
        cover = target.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = target.add_stream("aac", rate=16_000, layout="mono")
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        target.mux([*cover.encode(frame), *cover.encode(None)])
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16_000
        target.mux([*sound.encode(samples), *sound.encode(None)])
    with pytest.raises(VideoError, match="no pictures in it"):
        next(read_frames(path))
