"""The mark comes through compression and scaling, changes little, and is not found where it is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from openloopy.media import mark
from openloopy.media.files import MediaError
from openloopy.media.image import write_image
from openloopy.media.mark import THRESHOLD, Marker, find_mark, score_frames
from openloopy.media.video import VideoWriter, read_frames

NUM_FRAMES = 25
NUM_OTHERS = 3000
GOLDEN_DEGREES = (-174.39483917, -94.68301021, -24.67537402)
GOLDEN_PATTERN = (1.97411, 1.052843, 1.887824)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return data.astronaut()


@pytest.fixture(scope="module")
def frames(astronaut) -> list[np.ndarray]:
    """A head that sways before a background that stands still."""
    across = np.arange(512, dtype=np.float32)[None]
    x, y = np.broadcast_to(across, (512, 512)), np.broadcast_to(across.T, (512, 512))
    near_head = np.exp(-(((x - 225) / 110) ** 2) - ((y - 120) / 110) ** 2).astype(np.float32)
    shifts_px = (5 * np.sin(np.arange(NUM_FRAMES) / 4)).astype(np.float32)
    return [cv2.remap(astronaut, x + near_head * shift, y, cv2.INTER_CUBIC) for shift in shifts_px]


@pytest.fixture(scope="module")
def written(frames, tmp_path_factory):
    """The same video with and without the mark, as generated videos are written."""
    folder, marker = tmp_path_factory.mktemp("mark"), Marker(frames[0])
    for name, added in (("marked", marker), ("plain", np.array)):
        with VideoWriter(folder / f"{name}.mp4", size=(512, 512)) as video:
            for frame in frames:
                video.write(added(frame))
    return folder


def _scaled(across: float, down: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda frame: cv2.resize(frame, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)


def _toned(contrast: float, brightness: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda frame: cv2.convertScaleAbs(frame, alpha=contrast, beta=brightness)


def _recode(source, target, change, crf, preset):
    """By x264 with its own defaults, which `VideoWriter` does not use."""
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": preset})
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 25)
        for i, frame in enumerate(map(change, read_frames(source))):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if i == 0:
                stream.width, stream.height = picture.width, picture.height
            picture.pts, picture.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return target


def test_it_is_in_the_video_as_written_and_only_there(written):
    found, plain = find_mark(written / "marked.mp4"), find_mark(written / "plain.mp4")
    assert found.is_marked and found.score > 2 * THRESHOLD and found.num_frames == NUM_FRAMES
    assert not plain.is_marked and abs(plain.score) < 4


@pytest.mark.parametrize(
    ("change", "crf", "preset"),
    [
        pytest.param(_scaled(1, 1), 30, "medium", id="crf 30"),
        pytest.param(_scaled(0.5, 0.5), 30, "veryfast", id="half, crf 30, veryfast"),
        pytest.param(_scaled(0.5, 0.5), 30, "medium", id="half, crf 30, medium"),
        pytest.param(_scaled(0.625, 0.9375), 26, "veryfast", id="narrower"),
        pytest.param(_toned(1.25, -20), 26, "veryfast", id="contrast"),
        pytest.param(_toned(0.8, 40), 26, "veryfast", id="brighter"),
    ],
)
def test_it_comes_through(written, tmp_path, change, crf, preset):
    assert find_mark(_recode(written / "marked.mp4", tmp_path / "a.mp4", change, crf, preset)).is_marked
    assert not find_mark(_recode(written / "plain.mp4", tmp_path / "b.mp4", change, crf, preset)).is_marked


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_it_is_found_in_a_picture_of_the_video(astronaut, tmp_path, name):
    write_image(tmp_path / name, Marker(astronaut)(astronaut))
    write_image(tmp_path / f"plain_{name}", astronaut)
    found = find_mark(tmp_path / name)
    assert found.is_marked and found.num_frames == 1
    assert not find_mark(tmp_path / f"plain_{name}").is_marked


def test_it_is_found_in_a_poor_small_jpeg(astronaut):
    stream, picture = io.BytesIO(), Image.fromarray(Marker(astronaut)(astronaut))
    picture.resize((320, 320)).save(stream, "JPEG", quality=60)
    assert score_frames([np.asarray(Image.open(stream))]) > THRESHOLD


def test_pictures_are_turned_upright_first(astronaut, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    lying = np.rot90(Marker(astronaut)(astronaut))
    Image.fromarray(lying).save(tmp_path / "a.jpg", exif=exif, quality=90)
    assert find_mark(tmp_path / "a.jpg").is_marked and score_frames([lying]) < 4


@pytest.mark.parametrize("size", [(768, 768), (1280, 720), (640, 960)])
def test_every_size_and_shape(astronaut, size):
    frame = cv2.resize(astronaut, size)
    assert score_frames([Marker(frame)(frame)]) > 2 * THRESHOLD
    assert score_frames([frame]) < 4


def test_it_changes_little(frames):
    marker = Marker(frames[0])
    for frame in frames[::12]:
        assert peak_signal_noise_ratio(frame, marker(frame)) > 44
        assert structural_similarity(frame, marker(frame), channel_axis=2) > 0.98


def test_smooth_places_change_by_one_level_and_busy_ones_by_more():
    picture = np.full((512, 512, 3), 120, np.uint8)
    noise = np.random.default_rng(0).integers(-25, 26, (512, 256, 1))
    picture[:, 256:] = (picture[:, 256:] + noise).astype(np.uint8)
    change = Marker(picture)(picture).astype(int) - picture
    smooth, busy = change[:, :230], change[:, 290:]
    assert set(np.unique(smooth)) == {-1, 0, 1} and busy.std() > 1.3 * smooth.std()
    assert (change == change[..., :1]).all(), "colours must stay"
    assert max(mark.STRENGTHS) * mark.PEAK < 1.5, "rounds to 2"


def test_texture_hides_nothing_beside_it():
    grey = np.full((256, 256), 120, np.float32)
    grey[:, 128:] += np.random.default_rng(0).normal(0, 12, (256, 128))
    gain = mark._gain(grey)
    assert (gain[:, :118] == 1).all() and (gain[:, 132:] == mark.MAX_GAIN).all()


def test_the_trial_is_at_half_the_size_but_not_larger_than_need_be(astronaut):
    assert mark._coded_at_half(astronaut).shape == (256, 256)
    assert mark._coded_at_half(np.zeros((1200, 2400, 3), np.uint8)).shape == (480, 960)


def test_a_large_picture_needs_less_of_it(astronaut):
    """Its waves are longer, which compression keeps better: the trial on the first frame finds that out."""
    large = cv2.resize(astronaut, (1536, 1536), interpolation=cv2.INTER_CUBIC)
    assert Marker(large).strength < 0.7 < Marker(astronaut).strength


@pytest.mark.parametrize("level", [0, 255])
def test_black_stays_black_and_white_white(level):
    picture = np.full((256, 256, 3), level, np.uint8)
    marked = Marker(picture)(picture)
    assert np.abs(marked.astype(int) - level).max() == 1
    assert score_frames([marked]) > THRESHOLD
    assert abs(score_frames([picture])) < 4


def test_frames_add_up(astronaut):
    """Noise of each frame's own averages out, so more frames show the mark better."""
    marked, rng = Marker(astronaut)(astronaut), np.random.default_rng(0)
    noisy = [np.clip(marked + rng.normal(0, 60, (512, 512, 1)), 0, 255).astype(np.uint8) for _ in range(12)]
    assert score_frames(noisy) > 1.4 * score_frames(noisy[:1])


def test_noise_of_single_pixels_averages_out(astronaut):
    large = cv2.resize(astronaut, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, 40, (1024, 1024, 1))
    assert score_frames([np.clip(Marker(large)(large) + noise, 0, 255).astype(np.uint8)]) > THRESHOLD


def test_stripes_in_the_picture_do_not_drown_it(astronaut):
    """One wave of the band that is far stronger than all others counts no more than they do."""
    wave = 30 * np.sin(2 * np.pi * 28 * np.arange(512) / 512)[None, :, None]
    striped = (0.6 * astronaut + 40 + wave).astype(np.uint8)
    assert score_frames([Marker(striped)(striped)]) > THRESHOLD
    assert score_frames([striped]) < 4


def _others_in(picture: np.ndarray) -> np.ndarray:
    """Scores of other patterns, drawn as ours is, in an unmarked picture."""
    waves = mark.picture_waves(mark.picture_on_grid(picture))
    names = (b"other %d" % i for i in range(NUM_OTHERS))
    return np.array([mark.correlation(waves, mark.pattern_phasors(name)) for name in names])


def test_unmarked_pictures_score_a_standard_normal(astronaut):
    scores = _others_in(astronaut)
    assert abs(scores.mean()) < 0.06 and scores.std() == pytest.approx(1, abs=0.04)
    assert scores.max() < THRESHOLD == pytest.approx(4.75, abs=0.01)
    assert (scores > 2).mean() == pytest.approx(0.0228, abs=0.009)


def test_even_stripes_raise_no_more_alarms_than_stated():
    """A few waves hold all the power here: far from a normal distribution, but the bound holds for any picture."""
    x = np.arange(512)
    stripes = 128 + 60 * np.sin(2 * np.pi * 28 * x / 512) + 0 * x[:, None]
    scores = _others_in(np.repeat(stripes.astype(np.uint8)[..., None], 3, 2))
    for level in (1.0, 1.5, 2.0, 2.5):
        assert (scores > level).mean() <= np.exp(-(level**2) / 2)


def test_other_patterns_do_not_find_ours(astronaut):
    assert _others_in(Marker(astronaut)(astronaut)).max() < THRESHOLD


def test_the_pattern_stays_the_same_for_ever():
    """Videos that bear it are out there; a change of these numbers means that they are not found any more."""
    phasors = mark.pattern_phasors()
    assert len(phasors) == 907
    assert np.degrees(np.angle(phasors[[0, 1, -1]])) == pytest.approx(GOLDEN_DEGREES, abs=1e-6)
    assert mark._pattern()[[0, 100, 255], [0, 50, 255]] == pytest.approx(GOLDEN_PATTERN, abs=1e-5)


def test_long_videos_are_read_in_part(tmp_path):
    frame = np.full((64, 96, 3), 120, np.uint8)
    with VideoWriter(tmp_path / "a.mp4", size=(96, 64)) as video:
        for _ in range(mark.MAX_FRAMES + 20):
            video.write(frame)
    assert find_mark(tmp_path / "a.mp4").num_frames == mark.MAX_FRAMES


@pytest.mark.parametrize("shape", [(64, 64, 3), (2, 2, 3), (90, 70, 3)])
def test_tiny_frames_can_be_marked(shape):
    frame = np.full(shape, 120, np.uint8)
    marked = Marker(frame)(frame)
    assert marked.shape == shape and marked.dtype == np.uint8


def test_frames_of_the_wrong_kind_are_refused(astronaut):
    with pytest.raises(ValueError, match=r"uint8 frame of shape \(H, W, 3\), got float64"):
        Marker(astronaut / 255)
    with pytest.raises(ValueError, match=r"got uint8 \(512, 512\)"):
        Marker(astronaut[..., 0])
    marker = Marker(astronaut)
    with pytest.raises(ValueError, match=r"\(512, 512, 3\) like the first.*\(256, 256, 3\)"):
        marker(astronaut[::2, ::2])
    with pytest.raises(ValueError, match="at least one frame"):
        score_frames(iter([]))


@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_files_that_hold_no_pictures_are_refused(tmp_path, name):
    with pytest.raises(MediaError, match="does not exist"):
        find_mark(tmp_path / name)
    (tmp_path / name).write_text("hello")
    with pytest.raises(MediaError, match="not a (video|picture)"):
        find_mark(tmp_path / name)
