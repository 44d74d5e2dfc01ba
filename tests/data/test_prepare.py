"""Footage becomes clips, or is dropped with a reason; a drawn mesh stands in for the landmarker."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from openloopy.apps.cli import main
from openloopy.data import prepare, prepare_video
from openloopy.data.cache import build_pixel_cache
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.filters import Thresholds
from openloopy.data.prepare import IncompleteError, PrepareConfig, explain_clip, prepare_footage
from openloopy.data.prepare_video import failed_record
from openloopy.data.shards import ARRAY_SHAPES, read_index, read_shards
from openloopy.data.sources import Footage, list_footage
from openloopy.data.tracks import Track
from openloopy.data.verdicts import Span, from_line, to_line
from openloopy.face.landmarks import Face
from openloopy.face.mesh import MESH_TO_68, canonical_mesh
from openloopy.measures.lip_sync import LipSync
from openloopy.measures.syncnet import SyncNet
from openloopy.media.audio import SpooledWaveform
from openloopy.media.files import only_run_in
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.points import PuppetPoints
from tests.media.sounds import best_lag, speechlike

WIDTH, HEIGHT = 320, 240
SOUND_HZ = 16_000
SOUND = ("min_speech_share", "max_clipping_share", "min_snr_db", "max_music_score")
EASY = Thresholds(
    **dict.fromkeys((*SOUND, "min_movement", "max_repeated", "max_sync_offset", "min_sync_strength"), None)
)
"""A drawn mesh does not move, and its sound is not speech."""


class DrawnLandmarker:
    """Finds what `write_footage` drew: the position of a face is the blue level of the picture, 0: no face."""

    def detect(self, rgb: np.ndarray, known=()) -> list[Face]:
        faces = [face for face in (_face_in(rgb),) if face and not known]
        if rgb[..., 1].mean() > 200 and len(known) < 2:
            faces.append(_face_at(250.0))
        return faces

    def follow(self, face: Face):
        return FixedFollower(face) if face.box[0] > 190 else BlueFollower()


class BlueFollower:
    def follow(self, frames):
        found = [_face_in(rgb) for rgb in frames]
        return found[: found.index(None)] if None in found else found


class FixedFollower:
    def __init__(self, face: Face) -> None:
        self.face = face

    def follow(self, frames):
        return [self.face] * len(frames)


def _face_in(rgb: np.ndarray) -> Face | None:
    level = float(rgb[..., 2].mean())
    return _face_at(level) if level > 20 else None


def _face_at(x: float) -> Face:
    mesh = canonical_mesh().vertices
    scale = 90 / np.ptp(mesh[:, 1])
    return Face.from_mesh((mesh - mesh.mean(0)) * scale + [x, 125.0, 0.0])


def write_footage(
    path: Path, *, levels=None, fps: int = 25, sound_s: float | None = None, green=0, squeezed=False
) -> Path:
    """A video whose frames have these blue levels (120 for 1.2 s if not given); `sound_s` 0: without sound.

    `green`: the level of all frames, or one each. `squeezed`: stored with 3/4 of the width.
    """
    width = WIDTH * 3 // 4 if squeezed else WIDTH
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = [120] * round(1.2 * fps) if levels is None else levels
    sound_s = len(levels) / fps if sound_s is None else sound_s
    greens = np.broadcast_to(green, len(levels))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt = width, HEIGHT, "yuv420p"
        if squeezed:
            video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        codec = "mp2" if path.suffix == ".ts" else "pcm_s16le"
        sound = container.add_stream(codec, rate=SOUND_HZ, layout="mono") if sound_s else None
        for i, level in enumerate(levels):
            picture = np.full((HEIGHT, width, 3), (100, greens[i], level), np.uint8)
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
def drawn_landmarker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_video, "_landmarker", DrawnLandmarker)


def config_of(tmp_path: Path, **changes) -> PrepareConfig:
    settings = dict(raw=tmp_path / "raw", out=tmp_path / "out", size_px=64, workers=0, thresholds=EASY)
    return PrepareConfig(**{**settings, **changes})


def spans_of(out: Path) -> dict[str, list[tuple]]:
    """Of each video: start, stop, and what became of it."""
    records = [from_line(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return {
        r.name: [(s.start, s.stop, s.reasons[0].name if s.reasons else "kept") for s in r.spans]
        or [(0, r.num_frames, r.reasons[0].name)]
        for r in records
    }


def test_a_file_becomes_a_sample_of_the_shard_format(tmp_path: Path) -> None:
    write_footage(tmp_path / "raw" / "anna_1.mkv")
    report = prepare_footage(config_of(tmp_path, licence="CC0"))
    (sample,) = read_shards(tmp_path / "out")
    record = sample.record
    assert (record.clip_id, record.person_id, record.source, record.licence) == (
        "anna_1-000000", "anna_1", "anna_1.mkv", "CC0",
    )  # fmt: skip
    assert record.is_footage and record.num_frames == report.num_frames_in == 30
    assert decode_frames(sample.mp4).shape == (30, 64, 64, 3)
    assert len(decode_sound(sample.flac)) == 30 * 640
    assert set(sample.arrays) == set(ARRAY_SHAPES)
    assert (sample.arrays["visemes"] == -1).all() and len(sample.arrays["visemes"]) == 60
    points = sample.arrays["points68"]
    assert points.shape == (30, 68, 2) and 0 < points.min() and points.max() < 64
    assert np.abs(sample.arrays["pose"]).max() < 1
    assert not list((tmp_path / "out" / "videos").glob("*.tar"))


def test_every_frame_is_kept_or_has_a_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_footage(raw / "good.mkv")
    write_footage(raw / "lost.mkv", levels=[120] * 30 + [0] * 16 + [120] * 30)
    write_footage(raw / "cut.mkv", levels=[100] * 30 + [200] * 30)
    write_footage(raw / "two.mkv", green=250)
    write_footage(raw / "short.mkv", levels=[120] * 10)
    write_footage(raw / "mute.mkv", sound_s=0)
    write_footage(raw / "half_mute.mkv", sound_s=0.4)
    write_footage(raw / "long.mkv", levels=[120] * 60)
    (raw / "broken.mp4").write_bytes(b"no video")
    report = prepare_footage(config_of(tmp_path, max_clip_s=1.2))
    spans = spans_of(tmp_path / "out")
    assert spans["good.mkv"] == [(0, 30, "kept")]
    assert spans["lost.mkv"][0] == (0, 30, "kept") and spans["lost.mkv"][1][2] == "no face"
    assert spans["lost.mkv"][2][2] == "kept" and spans["lost.mkv"][2][1] == 76
    assert spans["cut.mkv"] == [(0, 30, "kept"), (30, 60, "kept")]
    assert spans["two.mkv"] == [(0, 30, "kept")] * 2
    assert spans["short.mkv"] == [(0, 10, "too short")]
    assert spans["mute.mkv"] == [(0, 30, "no sound")] and spans["half_mute.mkv"] == [(0, 30, "no sound")]
    assert [stop - start for start, stop, _ in spans["long.mkv"]] == [32, 28]
    assert spans["broken.mp4"] == [(0, 0, "unreadable")]
    assert sum(report.frames.values()) == report.num_frames_in == 30 + 76 + 60 + 30 + 10 + 30 + 30 + 60
    assert report.num_clips == len(list(read_shards(tmp_path / "out"))) == 9
    stored = "".join(
        (tmp_path / "out" / name).read_text() for name in ("report.json", "index.json", "report.html")
    )
    assert str(tmp_path) not in stored
    dropped = read_index(tmp_path / "out").shards["shard-00000.tar"].dropped
    assert any("broken.mp4" in item.source and "no video" in item.reason for item in dropped)


def test_explain_says_why(tmp_path: Path) -> None:
    write_footage(tmp_path / "raw" / "good.mkv")
    write_footage(tmp_path / "raw" / "short.mkv", levels=[120] * 10)
    prepare_footage(config_of(tmp_path))
    told = explain_clip(tmp_path / "out", "short-000000")
    assert "too short" in told and "0.4" in told and "duration_s" in told
    assert "kept" in explain_clip(tmp_path / "out", "good.mkv")
    with pytest.raises(ValueError, match="neither a clip nor a video 'nobody'"):
        explain_clip(tmp_path / "out", "nobody")
    with pytest.raises(ValueError, match="to the end first"):
        explain_clip(tmp_path, "good")


def test_other_rates_become_25_fps_with_the_sound_in_step(tmp_path: Path) -> None:
    greens = np.linspace(0, 180, 60).round().astype(int)
    write_footage(tmp_path / "raw" / "a.mkv", levels=[120] * 60, fps=50, sound_s=1.3, green=greens)
    prepare_footage(config_of(tmp_path))
    (sample,) = read_shards(tmp_path / "out")
    shown = decode_frames(sample.mp4)[..., 1].mean((1, 2))
    np.testing.assert_allclose(shown, greens[::2], atol=4.5)  # each frame adds 6
    expected = speechlike(1.3, SOUND_HZ)[0, : 30 * 640]
    np.testing.assert_allclose(decode_sound(sample.flac), expected, atol=2e-3)


def test_people_are_never_parted(tmp_path: Path) -> None:
    for name in ("s1_a.mkv", "s1_b.mkv", "s2_a.mkv", "s3_a.mkv"):
        write_footage(tmp_path / name)
    found = list_footage(str(tmp_path), person_pattern=r"(s\d+)_", held_out=("s2", "s1_b"))
    assert {item.video_id: (item.person_id, item.split) for item in found} == {
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
        ({"max_clip_s": 0.2}, "max_clip_s"),
        ({"raw": "nowhere"}, "does not exist"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mkv").write_bytes(b"not read")
    with pytest.raises(ValueError, match=message):
        prepare_footage(config_of(tmp_path, **changes))


def test_missing_files_are_refused_and_names_may_clash(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no video file"):
        prepare_footage(config_of(tmp_path, raw=tmp_path))
    (tmp_path / "a.mkv").write_bytes(b"")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="nothing of the 2 videos"):
        prepare_footage(config_of(tmp_path, raw=tmp_path))
    assert len(list((tmp_path / "out" / "videos").glob("a-*.json"))) == 2, "one name, two videos"


def test_footage_comes_from_lists_and_buckets(tmp_path: Path) -> None:
    path = write_footage(tmp_path / "raw" / "anna.mkv")
    (tmp_path / "list.txt").write_text("# one\nraw/anna.mkv\n")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/deep/anna.mkv", path.read_bytes())
    samples = []
    for i, raw in enumerate((tmp_path / "raw", tmp_path / "list.txt", "memory://bucket")):
        out = tmp_path / f"out{i}"
        prepare_footage(config_of(tmp_path, raw=raw, out=out))
        samples += read_shards(out)
        assert not [p for p in (out / "videos").iterdir() if p.name.startswith(".")]
    assert len(samples) == 3 and len({sample.mp4 for sample in samples}) == 1
    assert samples[2].record.clip_id == "deep_anna-000000" and samples[2].record.source == "anna.mkv"
    (tmp_path / "list.txt").write_text("raw/nobody.mkv\n")
    with pytest.raises(ValueError, match="nobody.mkv, which does not exist"):
        prepare_footage(config_of(tmp_path, raw=tmp_path / "list.txt", out=tmp_path / "out9"))


def test_an_interrupted_run_goes_on_and_leaves_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_footage(tmp_path / "raw" / f"{name}.mkv")
    settings = dict(clips_per_shard=1)
    prepare_footage(config_of(tmp_path, out=tmp_path / "whole", **settings))
    cut = config_of(tmp_path, out=tmp_path / "cut", **settings)
    with monkeypatch.context() as patch:
        interrupt_at(patch, prepare_video, "add_sample", "b-000000")
        with pytest.raises(KeyboardInterrupt):
            prepare_footage(cut)
    with monkeypatch.context() as patch:
        interrupt_at(patch, prepare, "write_shard", 1)
        with pytest.raises(KeyboardInterrupt):
            prepare_footage(cut)
    assert read_index(tmp_path / "cut").num_clips == 1
    prepare_footage(cut)
    assert read_index(tmp_path / "cut") == read_index(tmp_path / "whole")
    for name in ("records.jsonl", "shard-00000.tar", "shard-00002.tar"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in (tmp_path / "cut").rglob(".*")] in ([], [".lock"])
    write_footage(tmp_path / "raw" / "d.mkv")
    with pytest.raises(ValueError, match="other files"):
        prepare_footage(cut)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    write_footage(tmp_path / "raw" / "a.mkv")
    (tmp_path / "out").mkdir()
    with only_run_in(tmp_path / "out"):
        with pytest.raises(ValueError, match="another run is at work"):
            prepare_footage(config_of(tmp_path))


def interrupt_at(patch: pytest.MonkeyPatch, module, name: str, moment) -> None:
    """The function ends the run when it is called with a sample of this name, or with this number."""
    function = getattr(module, name)

    def interrupted(first, second, *rest):
        if moment in (second, getattr(getattr(second, "record", None), "clip_id", None)):
            raise KeyboardInterrupt
        return function(first, second, *rest)

    patch.setattr(module, name, interrupted)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_footage(tmp_path / "raw" / "a.mkv")

    def full(tar, sample):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(prepare_video, "add_sample", full)
        with pytest.raises(OSError, match="(?i)no space"):
            prepare_footage(config_of(tmp_path))
    assert not list((tmp_path / "out" / "videos").iterdir())
    assert prepare_footage(config_of(tmp_path)).num_clips == 1


def poison(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The first track that is described raises this."""
    whole, waiting = prepare_video.describe_track, [error]

    def poisoned(track):
        if waiting:
            raise waiting.pop()
        return whole(track)

    monkeypatch.setattr(prepare_video, "describe_track", poisoned)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("poison"),
        ValueError("poison"),
        MemoryError("poison"),
        ImportError("poison"),
        PermissionError(errno.EACCES, "poison"),
        av.error.MemoryError(errno.ENOMEM, "poison"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_faults_of_ours_are_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The others are finished, the run fails and names it, and the same command reads it."""
    for name in "abc":
        write_footage(tmp_path / "raw" / f"{name}.mkv")
    prepare_footage(config_of(tmp_path, out=tmp_path / "whole"))
    poison(monkeypatch, error)
    with pytest.raises(
        IncompleteError, match=f"1 of 3 videos .* a.mkv: {type(error).__name__}: .*poison"
    ) as told:
        prepare_footage(config_of(tmp_path))
    assert told.value.report.num_clips == 2 and set(spans_of(tmp_path / "out")) == {"b.mkv", "c.mkv"}
    assert read_index(tmp_path / "out").num_clips == 2
    assert "Traceback" in (tmp_path / "out" / "videos" / "a.failed").read_text()
    assert prepare_footage(config_of(tmp_path)).num_clips == 3
    assert not list((tmp_path / "out" / "videos").glob("*.failed"))
    again, whole = (
        sorted(read_shards(tmp_path / name), key=lambda sample: sample.record.clip_id)
        for name in ("out", "whole")
    )
    assert [(s.record, s.mp4, s.flac) for s in again] == [(s.record, s.mp4, s.flac) for s in whole]


def test_a_file_that_cannot_be_opened_now_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was away, a file that is locked: that says nothing about the video."""
    for name in "ab":
        write_footage(tmp_path / "raw" / f"{name}.mkv")
    whole, away = prepare_video._Preparation.run, tmp_path / "away.mkv"

    def without_file(preparation):
        path = Path(preparation.footage.address)
        if path.name == "b.mkv":
            path.rename(away)
        return whole(preparation)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_video._Preparation, "run", without_file)
        with pytest.raises(IncompleteError, match="b.mkv: FileNotFoundError"):
            prepare_footage(config_of(tmp_path))
    away.rename(tmp_path / "raw" / "b.mkv")
    assert prepare_footage(config_of(tmp_path)).num_clips == 2


def test_records_of_faults_that_earlier_versions_left_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_footage(tmp_path / "raw" / f"{name}.mkv")
    poison(monkeypatch, RuntimeError("poison"))
    with pytest.raises(IncompleteError):
        prepare_footage(config_of(tmp_path))
    first, _ = list_footage(str(tmp_path / "raw"), person_pattern=None, held_out=())
    record = failed_record(first, "ValueError: cannot read SyncNet: wrong.path does not exist", "error")
    (tmp_path / "out" / "videos" / "a.json").write_text(to_line(record))
    assert prepare_footage(config_of(tmp_path)).num_clips == 2
    assert spans_of(tmp_path / "out")["a.mkv"] == [(0, 30, "kept")]
    assert sorted(s.record.clip_id for s in read_shards(tmp_path / "out")) == ["a-000000", "b-000000"]


def test_the_command_line_ends_with_3_where_videos_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_footage(tmp_path / "raw" / "a.mkv")
    report = prepare_footage(config_of(tmp_path))

    def incomplete(config):
        raise IncompleteError("1 of 2 videos could not be prepared", report)

    monkeypatch.setattr(prepare, "prepare_footage", incomplete)
    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(tmp_path / "raw"), str(tmp_path / "out")])
    told = capsys.readouterr()
    assert ended.value.code == 3 and "error: 1 of 2 videos" in told.err
    assert "1 clips" in told.out


@pytest.mark.parametrize("tool", ["syncnet", "dwpose"])
def test_mistyped_weights_are_told_before_anything_is_written(tmp_path: Path, tool: str) -> None:
    write_footage(tmp_path / "raw" / "a.mkv")
    with pytest.raises((ValueError, FileNotFoundError, ImportError)):
        prepare_footage(config_of(tmp_path, **{tool: tmp_path / "nowhere"}))
    assert not (tmp_path / "out").exists()
    assert prepare_footage(config_of(tmp_path)).num_clips == 1


def test_a_killed_process_is_no_verdict_and_a_crash_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_footage(tmp_path / "raw" / f"{name}.mkv")
    outcomes = {"a.mkv": "killed", "b.mkv": "crashed", "c.mkv": "done"}

    def engine(config, work, todo):
        for item in todo:
            if outcomes[item.name] == "done":
                work(item)
            yield item, outcomes[item.name]

    monkeypatch.setattr(prepare, "_engine", engine)
    with pytest.raises(IncompleteError, match="a.mkv: the process that read it was killed twice"):
        prepare_footage(config_of(tmp_path))
    outcomes["a.mkv"] = "done"
    assert prepare_footage(config_of(tmp_path)).num_clips == 2
    assert spans_of(tmp_path / "out")["b.mkv"] == [(0, 0, "crash")]


def test_pictures_whose_clock_begins_anew_have_a_reason(tmp_path: Path) -> None:
    """Nobody can say which sound belongs to them."""
    part = write_footage(tmp_path / "one.ts", levels=[120] * 50)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.ts").write_bytes(part.read_bytes() * 2)
    report = prepare_footage(config_of(tmp_path))
    (first, lost) = spans_of(tmp_path / "out")["a.ts"]
    assert first == (0, 50, "kept") and lost[0] == 50 and lost[1] >= 80 and lost[2] == "damaged"
    assert sum(report.frames.values()) == report.num_frames_in
    assert "two recordings in one file" in (tmp_path / "out" / "records.jsonl").read_text()


def test_a_squeezed_face_gets_its_shape_back(tmp_path: Path) -> None:
    """Stored with 3/4 of its width and pixels of 4:3, it becomes the very clip that the plain file becomes."""
    levels = [120] * 30
    write_footage(tmp_path / "raw" / "plain.mkv", levels=levels)
    write_footage(tmp_path / "raw" / "squeezed.mkv", levels=levels, squeezed=True)
    prepare_footage(config_of(tmp_path))
    plain, squeezed = read_shards(tmp_path / "out")
    np.testing.assert_allclose(squeezed.arrays["points68"], plain.arrays["points68"], atol=0.1)
    assert '"pixel_aspect": "4/3"' in (tmp_path / "out" / "records.jsonl").read_text()


def test_other_landmarks_are_stored_where_they_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DWPose's instead of ours; where it does not find the person, ours stay."""

    class Shifted:
        calls = 0

        def relabel(self, rgb, points68):
            self.calls += 1
            return None if self.calls == 1 else points68 + np.float32([6, 0])

    write_footage(tmp_path / "raw" / "a.mkv")
    found = Shifted()
    monkeypatch.setattr(prepare_video, "_dwpose", lambda folder: found)
    prepare_footage(config_of(tmp_path))
    prepare_footage(config_of(tmp_path, out=tmp_path / "other", dwpose=tmp_path))
    (ours,), (theirs,) = read_shards(tmp_path / "out"), read_shards(tmp_path / "other")
    moved = theirs.arrays["points68"] - ours.arrays["points68"]
    assert found.calls == 30 and np.abs(moved[0]).max() < 1e-3
    assert moved[1:, :, 0].min() > 1 and np.abs(moved[1:, :, 1]).max() < 1e-3


def test_syncnet_judges_too_where_its_weights_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in SyncNet().state_dict().items()}, tmp_path / "net.safetensors")
    write_footage(tmp_path / "raw" / "a.mkv")
    weights = dict(syncnet=tmp_path / "net.safetensors")
    prepare_footage(config_of(tmp_path, **weights))
    (record,) = [from_line(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    measures = record.spans[0].measures
    assert measures["sync_d"] > 0 and measures["sync_c"] >= 0
    strict = replace(EASY, min_sync_c=measures["sync_c"] + 1)
    with pytest.raises(ValueError, match="'low lip sync': 30"):
        prepare_footage(config_of(tmp_path, out=tmp_path / "strict", thresholds=strict, **weights))


@pytest.fixture(scope="module")
def talk() -> tuple[Track, np.ndarray]:
    """A puppet's face through 5 s, and its sound with a second of the same voice's noise on either side."""
    rng = np.random.default_rng([7, 3])
    utterance = utter(rng, draw_speaker(rng, "val"), 5.0, "val")
    mesh = draw_face(rng, size_px=192).mesh
    faces = []
    for points in PuppetPoints(mesh).track(face_states(utterance, draw_style(rng), rng)):
        moved = mesh.copy()
        moved[MESH_TO_68, :2] = points
        faces.append(Face.from_mesh(moved))
    return Track(start=25, image_size=(192, 192), faces=faces), np.pad(utterance.waveform, (16_000, 16_000))


def trembling(track: Track, rms_px: float) -> Track:
    """The same face by a tracker that hardly sees it."""
    rng = np.random.default_rng(0)
    return replace(
        track, faces=[Face.from_mesh(f.mesh + rng.normal(0, rms_px, f.mesh.shape)) for f in track.faces]
    )


def judged(
    folder: Path, track: Track, sound: np.ndarray, *, late: float = 0.0, corrects_sound: bool = True
) -> tuple[Span, np.ndarray]:
    """The verdict of a track whose sound comes late by so many frames, and the sound of its clip."""
    spool = tempfile.TemporaryFile()
    spool.write(np.roll(sound, round(late * 640)).astype(np.float32).tobytes())
    framing = dict.fromkeys(("max_head_outside", "max_face_outside_crop", "max_head_speed"))
    thresholds = replace(Thresholds(), min_snr_db=None, min_sync_strength=None, **framing)
    config = prepare_video.VideoConfig(out=folder, thresholds=thresholds, corrects_sound=corrects_sound)
    footage = Footage(address="a.mkv", name="a.mkv", size_bytes=0, video_id="a", person_id="a", split="train")
    preparation = prepare_video._Preparation(config, footage, folder)
    span = preparation._judged("a-000025", track, SpooledWaveform(spool, len(sound)), 0)
    assert span.is_kept, span.reasons
    with np.load(preparation.clips[0].waiting) as stored:
        return span, decode_sound(stored["flac"].tobytes())


@pytest.mark.parametrize("late", [1.3, -1.3, 2.6, -6.4])
def test_sound_out_of_step_is_moved_to_a_fraction_of_a_frame(tmp_path: Path, talk, late: float) -> None:
    track, sound = talk
    whole = sound[16_000 : 16_000 + 640 * len(track.faces)]
    as_it_is, unmoved = judged(tmp_path, track, sound)
    assert "sound_was_late" not in as_it_is.measures and as_it_is.notes == ("",)
    np.testing.assert_allclose(unmoved, whole, atol=1e-4)
    span, moved = judged(tmp_path, track, sound, late=late)
    was_late = span.measures["sound_was_late"]
    assert was_late == pytest.approx(late + as_it_is.measures["sync_offset"], abs=0.15)
    assert span.notes[-1] == f"sound moved by {-was_late:.2f} frames"
    assert abs(span.measures["sync_offset"]) < 0.15
    assert abs(best_lag(whole, moved, 2000)) <= 0.35 * 640
    start = 16_000 + round(was_late * 640)
    expected = np.roll(sound, round(late * 640))[start : start + len(whole)]
    np.testing.assert_allclose(moved, expected, atol=1e-4)  # cut anew, to the sample


def test_sound_is_left_where_nobody_knows_or_where_it_is_wanted(tmp_path: Path, talk) -> None:
    track, sound = talk
    late = np.roll(sound, 832)[16_000 : 16_000 + 640 * len(track.faces)]
    span, left = judged(tmp_path, track, sound, late=1.3, corrects_sound=False)
    assert span.notes == ("",) and "sound_was_late" not in span.measures
    np.testing.assert_allclose(left, late, atol=1e-4)
    span, left = judged(tmp_path, trembling(track, 4.0), sound, late=1.3)
    assert "left as it is: it is not sure" in span.notes[-1] and "sound_was_late" not in span.measures
    assert span.measures["sync_score"] < 3 or span.measures["sync_error"] > 0.6
    np.testing.assert_allclose(left, late, atol=1e-4)


def test_a_move_that_does_not_help_is_undone(tmp_path: Path, talk, monkeypatch) -> None:
    track, sound = talk
    before = LipSync(4.0, 1.3, 4.2, 0.25, 2.0, in_step=3.0, chance=0.5)
    found = [before, before._replace(offset_frames=0.0, in_step=2.9)]
    monkeypatch.setattr(prepare_video, "describe_sync", lambda points, sound: found.pop(0))
    span, left = judged(tmp_path, track, sound)
    assert span.notes[-1] == "sound left as it is: moved by -1.30 frames it fits worse"
    assert span.measures["sync_offset"] == 1.3 and "sound_was_late" not in span.measures
    np.testing.assert_allclose(left, sound[16_000 : 16_000 + 640 * len(track.faces)], atol=1e-4)


def test_nothing_kept_is_an_error_but_reported(tmp_path: Path) -> None:
    write_footage(tmp_path / "raw" / "a.mkv", levels=[0] * 30)
    with pytest.raises(ValueError, match="'no face': 30"):
        prepare_footage(config_of(tmp_path))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["fates"]


def test_footage_joins_puppets_in_one_cache(tmp_path: Path, corpus: Path) -> None:
    write_footage(tmp_path / "raw" / "anna.mkv")
    prepare_footage(config_of(tmp_path, size_px=128))
    cache = build_pixel_cache([corpus, tmp_path / "out"], tmp_path / "cache", size_px=32)
    assert [record.is_footage for record in cache.records] == [False] * 5 + [True]
    assert cache.clip(5).frames.shape == (30, 32, 32, 3)
    assert (cache.clip(5).visemes == -1).all()
