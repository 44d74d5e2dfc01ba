"""Videos hold every frame and all of the sound, in time with each other, or do not exist."""

from __future__ import annotations

import wave

import av
import numpy as np
import pytest

from openloopy.media.audio import SAMPLE_RATE_HZ, AudioError, open_sound, open_waveform
from openloopy.media.sound_file import SoundReader
from openloopy.media.video import FPS, VideoError, VideoWriter, contact_sheet, probe_video, read_frames
from tests.media.films import write_video
from tests.media.sounds import best_lag, speechlike, write_damaged, write_sound

SIZE = (96, 64)


def _frame(i: int) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), (255 - 4 * i % 256, 5 * i % 256, 128), np.uint8)


def _write(path, num_frames, sound=None, tags=None):
    with VideoWriter(path, size=SIZE, sound=sound, tags=tags) as video:
        for i in range(num_frames):
            video.write(_frame(i))
    return path


def test_frames_come_back_in_order_and_in_colour(tmp_path):
    frames = list(read_frames(_write(tmp_path / "a.mp4", 40)))
    assert len(frames) == 40
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.astype(int), _frame(i).astype(int), atol=6)


def test_colours_are_those_of_bt709_in_limited_range(tmp_path):
    """As swscale converts them, and said so in the file: red, green, blue, white, black, a grey and skin."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3, (99,) * 3, (224, 172, 140)]
    with VideoWriter(tmp_path / "a.mp4", size=SIZE, crf=0) as video:
        for colour in colours:
            video.write(np.full((SIZE[1], SIZE[0], 3), colour, np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    for colour, frame in zip(colours, frames, strict=True):
        assert (frame.colorspace, frame.color_range) == (1, 1)
        flat = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0], 3), colour, np.uint8), format="rgb24")
        expected = flat.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1).to_ndarray()
        assert np.abs(frame.to_ndarray().astype(int) - expected).max() <= 1


def test_chroma_lies_between_its_four_pixels(tmp_path):
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    picture[:, ::2, 0] = 255  # red and black columns
    with VideoWriter(tmp_path / "a.mp4", size=SIZE, crf=0) as video:
        video.write(picture)
    with av.open(str(tmp_path / "a.mp4")) as container:
        planes = next(container.decode(video=0)).to_ndarray()
    luma, chroma = planes[: SIZE[1]], planes[SIZE[1] :].reshape(2, -1)
    assert abs(int(luma[:, ::2].mean()) - 63) <= 1 and abs(int(luma[:, 1::2].mean()) - 16) <= 1
    np.testing.assert_allclose(chroma.mean(1), [115, 184], atol=1)


def test_probe_counts(tmp_path):
    info = probe_video(_write(tmp_path / "a.mp4", 33, speechlike(1.32, 16_000)[0]))
    assert (info.width, info.height, info.fps, info.num_frames) == (*SIZE, FPS, 33)
    assert info.duration_s == pytest.approx(1.32) and info.has_audio
    assert not probe_video(_write(tmp_path / "b.mp4", 3)).has_audio


def test_a_file_that_does_not_tell_its_rate_has_the_usual_one(tmp_path):
    content = bytearray(write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)]).read_bytes())
    duration = content.index(b"stts") + 16
    content[duration : duration + 4] = bytes(4)
    (tmp_path / "b.mp4").write_bytes(content)
    assert probe_video(tmp_path / "b.mp4").fps == 25


@pytest.mark.parametrize(
    ("rate_hz", "written_hz"), [(8_000, 8_000), (22_050, 22_050), (37_000, 44_100), (96_000, 96_000)]
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_sound_keeps_rate_channels_time_and_length(tmp_path, rate_hz, written_hz, channels):
    duration_s = 1.2134
    source = write_sound(tmp_path / "a.wav", speechlike(duration_s, rate_hz, channels), rate_hz)
    target = _write(tmp_path / "a.mp4", round(duration_s * FPS), source)
    info, before, after = open_sound(target).info, open_waveform(source), open_waveform(target)
    assert (info.sample_rate_hz, info.channels) == (written_hz, channels)
    assert info.duration_s == pytest.approx(duration_s, abs=1.5 / written_hz)
    assert abs(best_lag(before, after, most=3000)) <= 1
    same = min(len(before), len(after))
    assert np.corrcoef(before[:same], after[:same])[0, 1] > 0.99


@pytest.mark.parametrize("channels", [2, 4, 8])
def test_channels_keep_their_places(tmp_path, channels):
    sound = speechlike(1, 48_000, channels)
    target = _write(tmp_path / "a.mp4", FPS, write_sound(tmp_path / "a.wav", sound, 48_000))
    after = np.concatenate([block.samples for block in SoundReader(target)], axis=1)
    likeness = np.corrcoef(sound, after)[:channels, channels:]
    if channels == 8:  # 7.1: the fourth is for bass only, and AAC keeps only that of it
        likeness = np.delete(np.delete(likeness, 3, 0), 3, 1)
    assert (np.diag(likeness) > 0.97).all() and np.abs(likeness - np.diag(np.diag(likeness))).max() < 0.5


def test_more_channels_than_aac_has_become_two(tmp_path):
    """The first to the left, the second to the right, and so on; those that are silent take nothing away."""
    sound = np.zeros((12, 8_000), np.float32)
    sound[[0, 3]] = speechlike(1, 8_000, 2)
    sound[0, :4_000] = 0  # whoever is silent at first has a side all the same
    source = tmp_path / "a.wav"
    with wave.open(str(source), "wb") as file:
        file.setparams((12, 2, 8_000, 0, "NONE", ""))
        file.writeframes((sound.T * 32767).astype("<i2").tobytes())
    target = _write(tmp_path / "a.mp4", FPS, source)
    after = np.concatenate([block.samples for block in SoundReader(target)], axis=1)
    assert after.shape == (2, 8_000)
    likeness = np.corrcoef(sound[[0, 3]], after)[:2, 2:]
    assert (np.diag(likeness) > 0.97).all() and np.abs(likeness[[0, 1], [1, 0]]).max() < 0.3
    assert np.std(after, axis=1) == pytest.approx(np.std(sound[[0, 3]], axis=1), rel=0.1)


def test_a_damaged_sound_is_written_as_it_is_heard(tmp_path):
    """With silence of the same length in the gap, and of the same length to the sample."""
    source = write_damaged(tmp_path / "a.m4a", speechlike(2.01234, 48_000), 48_000, "aac", range(40, 45))
    target = _write(tmp_path / "a.mp4", 2 * FPS, source)
    heard, written = open_sound(source), open_sound(target)
    (gap,) = heard.losses
    assert not written.losses and written.info.duration_s == heard.info.duration_s
    assert len(written.waveform) == len(heard.waveform)
    inside = slice(*(round((gap.at_s + s) * SAMPLE_RATE_HZ) for s in (0.025, gap.lost_s - 0.025)))
    for sound in (heard, written):
        assert np.abs(sound.waveform.whole()[inside]).max() < 1e-3
    assert np.corrcoef(heard.waveform.whole(), written.waveform.whole())[0, 1] > 0.99


@pytest.mark.parametrize("rate_hz", [1_000, 768_000])
def test_sound_of_an_odd_rate_keeps_its_length(tmp_path, rate_hz):
    source = write_sound(tmp_path / "a.wav", speechlike(1, rate_hz), rate_hz)
    target = _write(tmp_path / "a.mp4", FPS, source)
    assert open_sound(target).info.duration_s == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("extra_s", [-0.019, 0.0, 0.019])
def test_neither_picture_nor_sound_is_cut_when_they_differ_by_less_than_a_frame(tmp_path, extra_s):
    sound = speechlike(1 + extra_s, 16_000)[0]
    target = _write(tmp_path / "a.mp4", FPS, sound)
    assert len(list(read_frames(target))) == FPS
    assert len(open_waveform(target)) == len(sound)


def test_picture_and_sound_start_together_and_the_index_comes_first(tmp_path):
    target = _write(tmp_path / "a.mp4", FPS, speechlike(1, 44_100)[0][:16_000])
    with av.open(str(target)) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]
    content = target.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_sound_is_interleaved_with_the_picture(tmp_path):
    target = _write(tmp_path / "a.mp4", 10 * FPS, speechlike(10, 16_000)[0])
    with av.open(str(target)) as container:
        positions = {kind: [] for kind in ("video", "audio")}
        for packet in container.demux():
            if packet.size:
                positions[packet.stream.type].append((float(packet.pts * packet.time_base), packet.pos))
    middle = {kind: next(pos for time, pos in rows if time >= 5) for kind, rows in positions.items()}
    size = target.stat().st_size
    assert abs(middle["video"] - middle["audio"]) < 0.35 * size


def test_tags(tmp_path):
    tags = {"comment": "AI-generated", "title": "A portrait speaks"}
    with av.open(str(_write(tmp_path / "a.mp4", 2, tags=tags))) as container:
        assert tags.items() <= container.metadata.items()
    with av.open(str(_write(tmp_path / "b.mp4", 2, tags={**tags, "openloopy_seed": "7"}))) as container:
        assert container.metadata["openloopy_seed"] == "7" and container.metadata["comment"] == "AI-generated"


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_no_file(tmp_path, interruption):
    sound = write_sound(tmp_path / "a.wav", speechlike(2, 16_000), 16_000)
    with pytest.raises(interruption), VideoWriter(tmp_path / "a.mp4", size=SIZE, sound=sound) as video:
        video.write(_frame(0))
        raise interruption
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_failed_sound_leaves_no_file(tmp_path):
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(AudioError):
        _write(tmp_path / "a.mp4", 3, tmp_path / "a.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_wrong_use_is_refused(tmp_path):
    with pytest.raises(VideoError, match="end in .mp4"):
        VideoWriter(tmp_path / "a.avi", size=SIZE)
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "a.mp4", size=(65, 64))
    with pytest.raises(VideoError, match="no frame"):
        _write(tmp_path / "a.mp4", 0)
    with VideoWriter(tmp_path / "a.mp4", size=SIZE) as video:
        video.write(_frame(0))
        with pytest.raises(ValueError, match=r"\(64, 96, 3\).*float64"):
            video.write(_frame(0) / 255)


@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_a_phone_video_comes_upright(tmp_path, turn):
    """Stored as the phone's sensor saw it, with a note to turn it counter-clockwise by so much."""
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:48] = 255
    stored = np.rot90(upright, -turn // 90)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
        stream.set_display_rotation(turn)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    (picture,) = read_frames(tmp_path / "a.mp4")
    np.testing.assert_allclose(picture.astype(int), upright.astype(int), atol=24)
    assert probe_video(tmp_path / "a.mp4").height == 96


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(VideoError, match="not a video"):
        probe_video(tmp_path / "a.mp4")
    write_sound(tmp_path / "a.wav", speechlike(1, 8_000), 8_000)
    with pytest.raises(VideoError, match="no pictures"):
        next(read_frames(tmp_path / "a.wav"))


def test_contact_sheet_fills_rows_and_pads_with_white():
    sheet = contact_sheet([_frame(0), _frame(10), _frame(20)], columns=2)
    assert sheet.shape == (2 * SIZE[1], 2 * SIZE[0], 3)
    np.testing.assert_array_equal(sheet[: SIZE[1], SIZE[0] :], _frame(10))
    assert (sheet[SIZE[1] :, SIZE[0] :] == 255).all()
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([_frame(0), _frame(0)[:10]], columns=2)
