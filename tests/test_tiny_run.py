"""The whole line at toy size: drawn faces -> shards -> codec -> audio -> stage 1 -> stage 2 -> a video with sound."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openloopy.data.batch import BatchConfig
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.prepare import PrepareConfig, prepare_footage
from openloopy.data.shards import read_shards
from openloopy.inference.pipeline import LoopyPipeline
from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.media.video import VideoWriter, probe_video
from openloopy.models.loopy import LoopyModel
from openloopy.models.rig_codec import Portrait
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from openloopy.puppet.drawn import draw_face
from openloopy.recipes import load_line, run_recipe
from openloopy.recipes.ablations import vary
from openloopy.recipes.line import DenoiseRecipe, Place, train_stage1
from openloopy.training.denoise import DenoiseTask, load_stage1
from openloopy.training.stats import read_stats
from tests.data.damaged import Talk, write_talk

STEPS = {"audio": 20, "stage1": 30, "stage2": 20}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("line")
    report = write_corpus(
        CorpusConfig(out=folder / "data", num_clips=4, clip_s=6.0, size_px=64, clips_per_shard=2)
    )
    assert report.num_clips == 4
    run_recipe("tiny", folder / "data", folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_every_step_ran_and_learned(run):
    for step, num_steps in STEPS.items():
        rows = read_stats(run / step)
        assert rows[-1]["step"] == num_steps - 1
        assert all(np.isfinite(row["loss"]) for row in rows)
        assert list((run / step).glob("sample-*")), step
    assert read_stats(run / "stage1")[-1]["loss"] < read_stats(run / "stage1")[0]["loss"]


@pytest.mark.slow
def test_the_model_folder_makes_a_video(run, tmp_path):
    pipeline = LoopyPipeline.from_pretrained(run / "model")
    portrait = Portrait(draw_face(np.random.default_rng(3), size_px=pipeline.size_px).rgb)
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal(SAMPLE_RATE_HZ)).astype(np.float32)
    frames = list(pipeline.generate(portrait, (sound, SAMPLE_RATE_HZ)))
    assert len(frames) == 25
    again = list(pipeline.generate(portrait, (sound, SAMPLE_RATE_HZ)))
    assert all(np.array_equal(a, b) for a, b in zip(frames, again, strict=True))
    with VideoWriter(tmp_path / "out.mp4", size=(pipeline.size_px,) * 2, sound=sound) as video:
        for frame in frames:
            video.write(frame)
    assert probe_video(tmp_path / "out.mp4").num_frames == 25
    assert abs(len(open_waveform(tmp_path / "out.mp4")) - SAMPLE_RATE_HZ) < 1700


@pytest.mark.slow
def test_the_same_command_finds_everything_done(run):
    before = {step: (run / step / "stats.jsonl").read_text() for step in STEPS}
    run_recipe("tiny", run.parent / "data", run)
    assert {step: (run / step / "stats.jsonl").read_text() for step in STEPS} == before


@pytest.mark.slow
def test_prepared_footage_trains_stage2_from_the_finished_model(run, tmp_path):
    write_corpus(CorpusConfig(out=tmp_path / "corpus", num_clips=2, clip_s=6.0, size_px=192, val_share=0.5))
    for sample in read_shards(tmp_path / "corpus"):
        talk = Talk(decode_frames(sample.mp4), decode_sound(sample.flac))
        write_talk(tmp_path / "raw" / f"{sample.record.clip_id}.mkv", talk)
    report = prepare_footage(
        PrepareConfig(
            raw=tmp_path / "raw", out=tmp_path / "shards", size_px=64, workers=0, held_out=("val-000000",)
        )
    )
    assert report.num_clips == 2 and report.num_frames_in == 300
    settings = {"loop.num_steps": "3", "loop.log_every": "1"}
    run_recipe("tiny.stage2", tmp_path / "shards", tmp_path / "run", settings, start=run / "model")
    rows = read_stats(tmp_path / "run" / "stage2")
    assert [row["step"] for row in rows] == [0, 1, 2] and all(np.isfinite(row["loss"]) for row in rows)


@pytest.mark.slow
def test_stage2_goes_on_with_another_audio_encoder(run, tmp_path, capsys):
    other = tmp_path / "run" / "audio" / "audio_encoder"
    shutil.copytree(run / "audio" / "audio_encoder", other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, other / "model.safetensors")
    settings = {"loop.num_steps": "1"}
    run_recipe("tiny.stage2", run.parent / "data", tmp_path / "run", settings, start=run / "model")
    assert "with another audio encoder" in capsys.readouterr().out
    before, after = (load_file(folder / "model" / "loopy.safetensors") for folder in (run, tmp_path / "run"))
    moved = {name: (after[name] - value).float().norm() for name, value in before.items()}
    largest = max(moved, key=lambda name: moved[name])
    assert largest.startswith("audio_projection.")


@pytest.mark.slow
def test_a_killed_stage2_repeats_the_unbroken_losses(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("stage2", "model"))
    every_five = {"loop.checkpoint_every": "5"}
    whole = DenoiseTask.losses

    def dies(task, network, step):
        if step == 13:
            raise KeyboardInterrupt
        return whole(task, network, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DenoiseTask, "losses", dies)
        run_recipe("tiny.stage2", run.parent / "data", tmp_path / "run", every_five)
    run_recipe("tiny.stage2", run.parent / "data", tmp_path / "run", every_five)
    unbroken, resumed = (read_stats(folder / "stage2") for folder in (run, tmp_path / "run"))
    assert [row["step"] for row in resumed] == [9, 19]
    for before, after in zip(unbroken, resumed, strict=True):
        assert after["loss"] == before["loss"] and after["grad_norm"] == before["grad_norm"]


@pytest.mark.slow
def test_two_processes_share_a_stage(run, tmp_path):
    """The same losses as one process has, to rounding, and the same model folder."""
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("stage2", "model"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "openloopy", "train", "tiny.stage2", "--data", run.parent / "data"]
    done = subprocess.run(
        [*map(str, command), "--run-folder", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("stage 2 starts from stage 1") == 1
    for before, after in zip(
        read_stats(run / "stage2"), read_stats(tmp_path / "run" / "stage2"), strict=True
    ):
        assert after["loss"] == pytest.approx(before["loss"], rel=2e-3)
    one, two = (load_file(folder / "model" / "loopy.safetensors") for folder in (run, tmp_path / "run"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=2e-2) for name in one)


@pytest.mark.slow
def test_a_variant_shares_everything_before_stage2(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("stage2", "model"))
    run_recipe("tiny-single4.stage2", run.parent / "data", tmp_path / "run", {"loop.num_steps": "2"})
    pipeline = LoopyPipeline.from_pretrained(tmp_path / "run" / "single4" / "model")
    assert pipeline.model.config.denoiser.temporal.kind == "single"
    assert pipeline.model.config.segments.span == 4
    portrait = Portrait(np.full((pipeline.size_px, pipeline.size_px, 3), 120, np.uint8))
    sound = np.zeros(SAMPLE_RATE_HZ // 2, np.float32)
    assert len(list(pipeline.generate(portrait, (sound, SAMPLE_RATE_HZ)))) == 12
    assert not (tmp_path / "run" / "stage2").exists()


@pytest.mark.slow
def test_a_stage1_that_hears_is_where_variants_start(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("stage*", "model"))
    place, line = Place((run.parent / "data",), tmp_path / "run"), load_line("tiny")
    hearing = replace(
        line.stage2.training, batch_size=3, batch=BatchConfig(num_frames=2, num_history=1), seed=1
    )
    loop = replace(line.stage1.loop, num_steps=4, sample_every=4, log_every=1)
    line = replace(line, stage1=DenoiseRecipe(training=hearing, loop=loop))
    train_stage1(line, place)
    rows = read_stats(place.run / "stage1")
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and all(np.isfinite(row["loss"]) for row in rows)
    weights = load_file(place.run / "stage1" / "loopy.safetensors")
    assert any(".attn2." in name for name in weights) and not any(".temporal." in name for name in weights)
    loopy = LoopyModel(vary(line, "noa2l").model)
    new = load_stage1(loopy, place.run / "stage1" / "loopy.safetensors")
    assert new and all(".temporal." in name for name in new)


@pytest.mark.slow
def test_a_run_goes_on_from_a_model_and_from_no_other(run, tmp_path):
    run_recipe("tiny.codec", run.parent / "data", tmp_path / "run", start=run / "model")
    file = "vae/diffusion_pytorch_model.safetensors"
    taken, given = load_file(tmp_path / "run" / "codec" / file), load_file(run / "model" / file)
    assert set(taken) == set(given)
    assert all(torch.equal(taken[name].half(), given[name]) for name in given)
    with pytest.raises(ValueError, match="was begun from model .*, now from nothing"):
        run_recipe("tiny.codec", run.parent / "data", tmp_path / "run")
    with pytest.raises(ValueError, match="no model folder to start from"):
        run_recipe("tiny.codec", run.parent / "data", tmp_path / "other", start=tmp_path)


def test_unknown_recipe_lists_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"unknown recipe 'huge'; there are: mini, .*tiny\.stage2"):
        run_recipe("huge", tmp_path, tmp_path)


def test_several_processes_share_single_stages_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("tiny", "tiny.audio", "sync"):
        with pytest.raises(ValueError, match=f"{name} trains in one process; .*stage1 or stage2 of mini"):
            run_recipe(name, tmp_path, tmp_path)


@pytest.mark.slow
def test_several_processes_do_not_make_the_cache(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "stage2", "model"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="is made on first use, by one process"):
        run_recipe("tiny.stage2", run.parent / "data", tmp_path / "run")


def test_unknown_setting_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no setting 'loop\.steps' in step 'audio'.*loop\.num_steps"):
        run_recipe("tiny.audio", tmp_path, tmp_path, {"loop.steps": "3"})


def test_setting_of_another_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="num_steps: expected int"):
        run_recipe("tiny.audio", tmp_path, tmp_path, {"loop.num_steps": "many"})


def test_a_step_that_lacks_its_forerunner_names_it(tmp_path):
    with pytest.raises(
        ValueError, match="codec/vae is missing: run the 'codec' step in the same --run folder"
    ):
        run_recipe("tiny.stage1", tmp_path, tmp_path)
