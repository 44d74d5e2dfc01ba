"""Footage becomes clips, or is dropped with a reason; a drawn mesh stands in for the landmarker."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openloopy.data import ingest
from openloopy.data.cache import build_pixel_cache
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.ingest import PrepareConfig, fit_sound, nearest_frames, plan_footage, prepare_footage
from openloopy.data.shards import ARRAY_SHAPES, read_index, read_shards
from openloopy.face.landmarks import Face
from openloopy.face.mesh import canonical_mesh
from tests.media.sounds import speechlike

WIDTH, HEIGHT = 320, 240
SOUND_HZ = 16_000


class DrawnTracker:
    """Finds what `write_footage` drew: the position of a face is the blue level of the picture, 0: no face."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        others = [_face_at(250.0)] if rgb[..., 1].mean() > 200 else []
        return [*self.track(iter([rgb])), *others]

    def track(self, frames):
        levels = [float(rgb[..., 2].mean()) for rgb in frames]
        return [_face_at(level) if level > 20 else None for level in levels]


def _face_at(x: float) -> Face:
    mesh = canonical_mesh().vertices
    scale = 90 / np.ptp(mesh[:, 1])
    return Face.from_mesh((mesh - mesh.mean(0)) * scale + [x, 125.0, 0.0])


def write_footage(path: Path, *, levels=None, fps: int = 25, sound_s: float | None = None, green=0) -> Path:
    """A video whose frames have these blue levels (120 for 1.2 s if not given); `sound_s` 0: without sound.

    `green`: the level of all frames, or one each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = [120] * round(1.2 * fps) if levels is None else levels
    sound_s = len(levels) / fps if sound_s is None else sound_s
    greens = np.broadcast_to(green, len(levels))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=SOUND_HZ, layout="mono") if sound_s else None
        for i, level in enumerate(levels):
            picture = np.full((HEIGHT, WIDTH, 3), (100, greens[i], level), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            samples = (speechlike(sound_s, SOUND_HZ) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, 0, Fraction(1, SOUND_HZ)
            container.mux([*sound.encode(frame), *sound.encode(None)])
    return path


@pytest.fixture(autouse=True)
def drawn_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_tracker", DrawnTracker)


def test_a_file_becomes_a_sample_of_the_shard_format(tmp_path: Path) -> None:
    write_footage(tmp_path / "raw" / "anna_1.mkv")
    config = PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "out", size_px=64, licence="CC0")
    report = prepare_footage(config)
    (sample,) = read_shards(tmp_path / "out")
    record = sample.record
    assert (record.clip_id, record.person_id, record.source, record.licence) == (
        "anna_1", "anna_1", "anna_1.mkv", "CC0",
    )  # fmt: skip
    assert record.is_footage and record.num_frames == report.num_frames == 30
    assert decode_frames(sample.mp4).shape == (30, 64, 64, 3)
    assert len(decode_sound(sample.flac)) == 30 * 640
    assert set(sample.arrays) == set(ARRAY_SHAPES)
    assert (sample.arrays["visemes"] == -1).all() and len(sample.arrays["visemes"]) == 60
    points = sample.arrays["points68"]
    assert points.shape == (30, 68, 2) and 0 < points.min() and points.max() < 64
    assert np.abs(sample.arrays["pose"]).max() < 1


def test_files_are_kept_or_dropped_with_a_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_footage(raw / "good.mkv")
    write_footage(raw / "lost.mkv", levels=[120] * 20 + [0] * 3 + [120] * 7)
    write_footage(raw / "cut.mkv", levels=[100] * 15 + [200] * 15)
    write_footage(raw / "two.mkv", green=250)
    write_footage(raw / "short.mkv", levels=[120] * 10)
    write_footage(raw / "mute.mkv", sound_s=0)
    write_footage(raw / "half_mute.mkv", sound_s=0.4)
    (raw / "broken.mp4").write_bytes(b"no video")
    report = prepare_footage(PrepareConfig(raw=raw, out=tmp_path / "out", size_px=64))
    reasons = {item.source: item.reason for item in report.dropped}
    assert report.num_files == 8 == report.num_clips + report.num_dropped
    assert "no face in frame 20 (3 of 30" in reasons["lost.mkv"]
    assert "a cut" in reasons["cut.mkv"] and "after frame 14" in reasons["cut.mkv"]
    assert "several faces" in reasons["two.mkv"]
    assert "too short: 10 frames" in reasons["short.mkv"]
    assert "no sound in it" in reasons["mute.mkv"]
    assert "no sound for 0.80 s" in reasons["half_mute.mkv"]
    assert "broken.mp4" in reasons["broken.mp4"]
    stored = (tmp_path / "out" / "report.json").read_text() + (tmp_path / "out" / "index.json").read_text()
    assert str(tmp_path) not in stored
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["dropped"]) == 7


def test_other_rates_become_25_fps_with_the_sound_in_step(tmp_path: Path) -> None:
    greens = np.linspace(0, 180, 60).round().astype(int)
    write_footage(tmp_path / "raw" / "a.mkv", levels=[120] * 60, fps=50, sound_s=1.3, green=greens)
    report = prepare_footage(PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "out", size_px=64))
    (sample,) = read_shards(tmp_path / "out")
    shown = decode_frames(sample.mp4)[..., 1].mean((1, 2))
    np.testing.assert_allclose(shown, greens[::2], atol=4.5)  # each frame adds 6
    (note,) = report.notes
    assert (note.frames_skipped, note.frames_repeated) == (30, 0)
    assert note.sound_cut_s == pytest.approx(0.1, abs=0.002) and note.sound_padded_s == 0
    expected = speechlike(1.3, SOUND_HZ)[0, : 30 * 640]
    np.testing.assert_allclose(decode_sound(sample.flac), expected, atol=2e-3)


def test_people_are_never_parted(tmp_path: Path) -> None:
    for name in ("s1_a.mkv", "s1_b.mkv", "s2_a.mkv", "s3_a.mkv"):
        write_footage(tmp_path / name)
    config = PrepareConfig(
        raw=tmp_path, out=tmp_path / "out", person_pattern=r"(s\d+)_", held_out=("s2", "s1_b")
    )
    splits = {plan.clip_id: (plan.person_id, plan.split) for plan in plan_footage(config)}
    assert splits == {
        "s1_a": ("s1", "val"), "s1_b": ("s1", "val"), "s2_a": ("s2", "val"), "s3_a": ("s3", "train"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": ("nobody",)}, "nobody"),
        ({"person_pattern": "(x)"}, "finds no id in a.mkv"),
        ({"person_pattern": "a"}, "parentheses"),
        ({"person_pattern": "("}, "regular expression"),
        ({"size_px": 63}, "even"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "a.mkv").write_bytes(b"not read")
    with pytest.raises(ValueError, match=message):
        plan_footage(PrepareConfig(raw=tmp_path, out=tmp_path / "out", **changes))


def test_clashing_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no video file"):
        plan_footage(PrepareConfig(raw=tmp_path, out=tmp_path))
    (tmp_path / "a.mkv").write_bytes(b"")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="'a'"):
        plan_footage(PrepareConfig(raw=tmp_path, out=tmp_path))


def test_an_interrupted_run_goes_on_and_leaves_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_footage(tmp_path / "raw" / f"{name}.mkv")

    def config(out: str) -> PrepareConfig:
        return PrepareConfig(raw=tmp_path / "raw", out=tmp_path / out, size_px=64, clips_per_shard=1)

    whole = prepare_footage(config("whole"))
    with monkeypatch.context() as patch:
        prepare_clip = ingest.prepare_clip

        def interrupted(plan, *args, **kwargs):
            if plan.clip_id == "b":
                raise KeyboardInterrupt
            return prepare_clip(plan, *args, **kwargs)

        patch.setattr(ingest, "prepare_clip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_footage(config("cut"))
    assert read_index(tmp_path / "cut").num_clips == 1
    again = prepare_footage(config("cut"))
    assert read_index(tmp_path / "cut") == read_index(tmp_path / "whole")
    assert again.notes == whole.notes and not list((tmp_path / "cut").glob(".*"))
    write_footage(tmp_path / "raw" / "d.mkv")
    with pytest.raises(ValueError, match="other files"):
        prepare_footage(config("cut"))


def test_nothing_kept_is_an_error_but_reported(tmp_path: Path) -> None:
    write_footage(tmp_path / "raw" / "a.mkv", levels=[0] * 30)
    with pytest.raises(ValueError, match="no face in frame 0"):
        prepare_footage(PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_dropped"] == 1


def test_footage_joins_puppets_in_one_cache(tmp_path: Path, corpus: Path) -> None:
    write_footage(tmp_path / "raw" / "anna.mkv")
    prepare_footage(PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "out", size_px=128))
    cache = build_pixel_cache([corpus, tmp_path / "out"], tmp_path / "cache", size_px=32)
    assert [record.is_footage for record in cache.records] == [False] * 5 + [True]
    assert cache.clip(5).frames.shape == (30, 32, 32, 3)
    assert (cache.clip(5).visemes == -1).all()


def test_nearest_frames_of_steady_and_unsteady_times() -> None:
    np.testing.assert_array_equal(nearest_frames(3.7 + np.arange(75) / 25), np.arange(75))
    np.testing.assert_array_equal(nearest_frames(np.arange(60) / 50), np.arange(0, 60, 2))
    assert len(nearest_frames(np.arange(300) * 1001 / 30_000)) == 250
    np.testing.assert_array_equal(nearest_frames(np.array([0, 0.04, 0.13, 0.17])), [0, 1, 1, 2, 3])


@pytest.mark.parametrize(
    ("lead", "expected", "padded", "cut"),
    [
        (0, [1, 2, 3, 4], 0, 1),
        (2, [0, 0, 1, 2], 2, 3),
        (-2, [3, 4, 5, 0], 1, 2),
        (9, [0, 0, 0, 0], 4, 5),
        (-9, [0, 0, 0, 0], 4, 5),
    ],
)
def test_sound_is_fitted_to_the_pictures(lead: int, expected: list, padded: int, cut: int) -> None:
    sound = np.arange(1, 6, dtype=np.float32)
    fitted, num_padded, num_cut = fit_sound(sound, lead=lead, num_samples=4)
    assert (fitted.tolist(), num_padded, num_cut) == (expected, padded, cut)
