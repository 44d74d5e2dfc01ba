from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.shards import Dropped, Sample, read_index, read_shards
from openloopy.face.crop import portrait_crop
from openloopy.face.landmarks import Face
from openloopy.face.movement import lip_gap
from openloopy.media.image import write_image
from openloopy.puppet import corpus
from openloopy.puppet.corpus import CorpusConfig, draw_crop, generator, plan_shards, write_corpus
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.portraits import MeshedPortrait, Portrait
from openloopy.puppet.speech import ESPEAK_VARIANTS, FLITE_VOICES

SMALL = {"num_clips": 2, "clip_s": 0.6, "size_px": 64, "clips_per_shard": 1, "val_share": 0.3}


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CorpusConfig:
    config = CorpusConfig(out=tmp_path_factory.mktemp("drawn"), **SMALL)
    write_corpus(config)
    return config


def test_samples_are_whole(drawn: CorpusConfig) -> None:
    samples = list(read_shards(drawn.out))
    assert [s.record.clip_id for s in samples] == ["val-000000", "train-000000"]
    for sample in samples:
        assert decode_frames(sample.mp4).shape == (15, 64, 64, 3)
        assert len(decode_sound(sample.flac)) == 0.6 * 16_000
        assert sample.arrays["pose"].shape == (15, 3)
        assert len(sample.arrays["visemes"]) == 30
        points = sample.arrays["points68"]
        assert (points > 0).all() and (points < 64).all()
        np.testing.assert_allclose(sample.arrays["lip_gap"], lip_gap(points), rtol=1e-5)


def test_frames_move(drawn: CorpusConfig) -> None:
    frames = decode_frames(next(read_shards(drawn.out)).mp4).astype(float)
    assert np.abs(frames[-1] - frames[0]).mean() > 0.5


def test_val_is_held_out_in_people_voices_and_sentences(drawn: CorpusConfig) -> None:
    val, train = ([s.record for s in read_shards(drawn.out, split)] for split in ("val", "train"))
    assert not {r.person_id for r in val} & {r.person_id for r in train}
    val_voices = {*ESPEAK_VARIANTS["val"], *FLITE_VOICES["val"]}
    assert all(r.speaker["voice"] in val_voices for r in val)
    assert not any(r.speaker["voice"] in val_voices for r in train)
    assert not {r.text for r in val} & {r.text for r in train}


def test_report_counts_what_is_there(drawn: CorpusConfig) -> None:
    report = json.loads((drawn.out / "report.json").read_text())
    assert (report["num_clips"], report["num_frames"]) == (2, 30)
    assert report["clips_per_split"] == {"val": 1, "train": 1}
    assert (drawn.out / "contact_sheet.jpg").stat().st_size > 0
    assert (drawn.out / "refused.csv").read_text().strip() == "source,reason"


def test_finished_corpus_is_left_alone(drawn: CorpusConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.out.glob("*.tar")}
    assert write_corpus(drawn).clips_this_run == 0
    assert before == {path: path.stat().st_mtime_ns for path in drawn.out.glob("*.tar")}


def test_other_settings_in_the_same_folder_are_refused(drawn: CorpusConfig) -> None:
    with pytest.raises(ValueError, match="seed"):
        write_corpus(replace(drawn, seed=1))


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bytes(drawn: CorpusConfig, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from openloopy.puppet.corpus import *; "
        f"write_corpus(CorpusConfig(out=Path({str(tmp_path)!r}), **{SMALL!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while not (tmp_path / "shard-00000.tar").exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(read_index(tmp_path).shards) < 2
    write_corpus(replace(drawn, out=tmp_path))
    assert shard_bytes(tmp_path) == shard_bytes(drawn.out)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_number_of_workers_changes_nothing(drawn: CorpusConfig, tmp_path: Path) -> None:
    write_corpus(replace(drawn, out=tmp_path, workers=2))
    assert shard_bytes(tmp_path) == shard_bytes(drawn.out)


def test_poisoned_portraits_are_refused_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = photo_corpus(tmp_path, monkeypatch)
    (config.portraits / "broken.png").write_bytes(b"not a picture")
    write_image(config.portraits / "tiny.png", np.zeros((8, 8, 3), np.uint8))
    report = write_corpus(config)
    assert (report.num_portraits, report.num_refused, report.num_clips) == (4, 2, 2)
    refused = (config.out / "refused.csv").read_text()
    assert "broken.png,ImageError: broken.png is not a picture" in refused
    assert "ImageError: tiny.png is 8x8" in refused


def test_portrait_that_breaks_the_rig_is_dropped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_once(rgb: np.ndarray, mesh: np.ndarray, mask: np.ndarray, **settings: object):
        if not broken:
            broken.append("once")
            raise np.linalg.LinAlgError("Singular matrix")
        return rig(rgb, mesh, mask, **settings)

    broken, rig = [], corpus.PortraitRig
    monkeypatch.setattr(corpus, "PortraitRig", break_once)
    config = photo_corpus(tmp_path, monkeypatch)
    report = write_corpus(config)
    assert (report.num_clips, report.num_refused) == (1, 1)
    dropped = [item for entry in read_index(config.out).shards.values() for item in entry.dropped]
    assert dropped[0].reason.endswith("LinAlgError: Singular matrix")
    assert "Singular matrix" in (config.out / "refused.csv").read_text()


def test_corpus_of_refused_portraits_only_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = photo_corpus(tmp_path, monkeypatch)
    for path in config.portraits.iterdir():
        path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="all portraits"):
        write_corpus(config)


def photo_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CorpusConfig:
    """Two drawn faces saved as pictures; a detector that knows their meshes stands in for the real one."""
    faces = {}
    (tmp_path / "portraits").mkdir()
    for name in ("a", "b"):
        face = draw_face(np.random.default_rng(ord(name)), 384)
        write_image(tmp_path / "portraits" / f"{name}.png", face.rgb)
        faces[name] = face

    class KnownFaces:
        def detect(self, rgb: np.ndarray) -> list[Face]:
            return [Face.from_mesh(f.mesh) for f in faces.values() if np.array_equal(f.rgb, rgb)]

    class NoSegmenter:
        def mask(self, rgb: np.ndarray) -> np.ndarray:
            return np.ones(rgb.shape[:2], np.float32)

    monkeypatch.setattr("openloopy.puppet.portraits._landmarker", KnownFaces)
    monkeypatch.setattr("openloopy.puppet.portraits.check_portrait", lambda face, rgb: None)
    monkeypatch.setattr("openloopy.puppet.corpus._segmenter", NoSegmenter)
    return CorpusConfig(out=tmp_path / "out", portraits=tmp_path / "portraits", **{**SMALL, "val_share": 0.0})


def people(num_train: int, num_val: int) -> list[MeshedPortrait]:
    splits = ["train"] * num_train + ["val"] * num_val
    portraits = [Portrait(file=f"{i}", person_id=f"{i}", split=split) for i, split in enumerate(splits)]
    return [MeshedPortrait(portrait=p, mesh=np.zeros((478, 3))) for p in portraits]


def test_plan_spreads_clips_over_people_and_keeps_splits_apart() -> None:
    config = CorpusConfig(out=Path("unused"), num_clips=105, clips_per_shard=10, val_share=0.05)
    shards = plan_shards(config, people(20, 3))
    clips = [clip for shard in shards for clip in shard]
    assert len({clip.clip_id for clip in clips}) == 105
    assert [{c.meshed.portrait.split for c in shard} for shard in shards] == [{"val"}] + [{"train"}] * 10
    per_person = np.unique([c.meshed.portrait.person_id for c in clips[5:]], return_counts=True)[1]
    assert per_person.tolist() == [5] * 20


@pytest.mark.parametrize(
    ("num_train", "num_val", "expected"), [(2, 0, (0, 7)), (0, 2, (7, 0)), (2, 2, (1, 6))]
)
def test_plan_uses_the_splits_that_have_people(num_train: int, num_val: int, expected: tuple) -> None:
    shards = plan_shards(CorpusConfig(out=Path("unused"), num_clips=7), people(num_train, num_val))
    splits = [clip.clip_id.split("-")[0] for shard in shards for clip in shard]
    assert (splits.count("val"), splits.count("train")) == expected


def test_hours_become_clips() -> None:
    assert CorpusConfig(out=Path("unused"), hours=2, clip_s=8).total_clips == 900
    assert CorpusConfig(out=Path("unused"), hours=2, clip_s=3, more_clip_s=(20, 1)).total_clips == 900


def test_clips_take_their_lengths_in_turn() -> None:
    config = CorpusConfig(out=Path("unused"), num_clips=5, clip_s=2, more_clip_s=(4,))
    (clips,) = plan_shards(config, people(3, 0))
    assert [clip.num_frames for clip in clips] == [50, 100, 50, 100, 50]


def test_a_name_sets_the_clips_of_two_corpora_apart() -> None:
    named = [
        [clip.clip_id for shard in plan_shards(config, people(4, 2)) for clip in shard]
        for config in (CorpusConfig(out=Path("unused"), num_clips=4, name=name) for name in ("one", "two"))
    ]
    assert named[0][0].startswith("one-val-") and not set(named[0]) & set(named[1])


def test_several_lengths_in_one_corpus_resume(tmp_path: Path) -> None:
    config = CorpusConfig(out=tmp_path, more_clip_s=(0.2,), **{**SMALL, "num_clips": 3})
    assert write_corpus(config).num_frames == 15 + 15 + 5
    assert write_corpus(config).clips_this_run == 0
    assert [s.arrays["lip_gap"].shape for s in read_shards(tmp_path, "train")] == [(15,), (5,)]


def test_photographs_get_new_backgrounds_at_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = photo_corpus(tmp_path, monkeypatch)
    plan = replace(
        plan_shards(config, people(1, 0))[0][0].meshed, mesh=draw_face(np.random.default_rng(97), 384).mesh
    )
    photo = replace(plan, portrait=replace(plan.portrait, file="a.png", kind="photo_color"))
    painting = replace(photo, portrait=replace(photo.portrait, kind="painting"))
    for meshed, low, high in ((photo, 1, 19), (painting, 0, 0)):
        scenes = [corpus.stage(config, meshed, corpus.Camera(), np.random.default_rng(i)) for i in range(20)]
        assert low <= sum(scene.background is not None for scene in scenes) <= high


@pytest.mark.parametrize("wrong", [{"hours": 1}, {"num_clips": None}, {"size_px": 63}, {"val_share": 1.0}])
def test_config_refuses_nonsense(wrong: dict) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        CorpusConfig(out=Path("unused"), **{**SMALL, **wrong})


def test_random_crops_zoom_and_stay_as_far_inside_as_the_standard_crop() -> None:
    drawn_face = draw_face(np.random.default_rng(0), 384)
    face, size = Face.from_mesh(drawn_face.mesh), (384, 384)
    base, rng = portrait_crop(face, size), np.random.default_rng(0)
    crops = [draw_crop(rng, face, size) for _ in range(50)]
    zooms = [crop.size / face.height_px for crop in crops]
    assert min(zooms) < 1.85 and max(zooms) > 1.95
    for crop in crops:
        assert min(crop.x0, crop.y0) >= min(base.x0, base.y0, 0) - 1e-6
        assert crop.size <= max(base.size, 384)


def test_generators_depend_on_their_keys_alone() -> None:
    assert generator(0, "a").random() == generator(0, "a").random()
    assert generator(0, "a").random() != generator(1, "a").random() != generator(0, "b").random()


def test_make_clip_returns_a_reason_for_a_missing_picture(tmp_path: Path) -> None:
    config = CorpusConfig(out=tmp_path, portraits=tmp_path, **SMALL)
    clip = corpus.make_clip(config, plan_shards(config, people(1, 0))[0][0])
    assert isinstance(clip, Dropped) and not isinstance(clip, Sample)
    assert "does not exist" in clip.reason
