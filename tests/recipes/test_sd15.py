"""The paper's size at toy width: foreign weights -> import -> features -> both stages -> a video; alone and in two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import Wav2Vec2Config, Wav2Vec2Model

from openloopy.data.batch import sample_clip_batch
from openloopy.data.feature_shards import FeatureShards
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.models.importing import import_model
from openloopy.models.rig_codec import Portrait
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from openloopy.puppet.drawn import draw_face
from openloopy.recipes import run_recipe
from openloopy.recipes.sd15 import sd15
from openloopy.training.stats import read_stats

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {
    "loop.num_steps": "3",
    "loop.device": "cpu",
    "loop.precision": "float32",
    "loop.log_every": "1",
    "loop.checkpoint_every": "2",
    "loop.sample_every": "3",
    "training.batch_size": "2",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """shards/ of four clips, start/ out of random weights in their own layouts."""
    home = tmp_path_factory.mktemp("sd15")
    write_corpus(
        CorpusConfig(
            out=home / "shards", num_clips=4, clip_s=6.0, size_px=64, clips_per_shard=1, val_share=0.3
        )
    )
    torch.manual_seed(0)
    UNet2DConditionModel(
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(home / "sd" / "unet")
    AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
    ).save_pretrained(home / "sd" / "vae")
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    Wav2Vec2Model(Wav2Vec2Config(**small, conv_dim=(16,) * 7)).save_pretrained(home / "wav2vec2")
    import_model([home / "sd", home / "wav2vec2"], home / "start", size_px=64)
    return home


@pytest.fixture(scope="module")
def run(home) -> Path:
    """All steps, in one process."""
    run = home / "run"
    data = dict(data=home / "shards", run=run, start=home / "start")
    run_recipe("sd15.features", **data, settings={"device": "cpu"})
    for step in ("stage1", "stage2"):
        run_recipe(f"sd15.{step}", **data, settings=SMALL)
    return run


@pytest.mark.slow
def test_the_steps_lead_to_a_model_that_makes_a_video(run):
    for step, ending in (("stage1", "png"), ("stage2", "mp4")):
        assert [row["step"] for row in read_stats(run / step)] == [0, 1, 2]
        assert (run / step / f"sample-000003.{ending}").stat().st_size > 0
        metrics = json.loads((run / step / "sample-000003.json").read_text())
        assert metrics["split"] == "val" and 0 < metrics["val_loss"] < 10
    pipeline = LoopyPipeline.from_pretrained(run / "model")
    sound = (0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ // 2)).astype(np.float32)
    portrait = Portrait(draw_face(np.random.default_rng(3), size_px=64).rgb)
    frames = list(pipeline.generate(portrait, (sound, SAMPLE_RATE_HZ), options=GenerationOptions(steps=2)))
    assert len(frames) == 12 and frames[0].shape == (64, 64, 3)


@pytest.mark.slow
def test_features_are_webdataset_shards_that_both_stages_read_in_place(run):
    wds = pytest.importorskip("webdataset")
    shards = sorted((run / "features").glob("*.tar"))
    assert len(shards) == 4
    samples = list(wds.WebDataset([str(p) for p in shards], shardshuffle=False).decode())
    features = FeatureShards(run / "features")
    assert [s["__key__"] for s in samples] == [record.clip_id for record in features.records]
    for i, sample in enumerate(samples):
        assert sample["latents.npy"].dtype == sample["audio.npy"].dtype == np.float16
        for name in ("latents", "audio", "points68"):
            np.testing.assert_array_equal(features.rows(name, i), sample[f"{name}.npy"])
    batch = sample_clip_batch(features, seed=0, step=5, batch_size=3)
    again = sample_clip_batch(FeatureShards(run / "features"), seed=0, step=5, batch_size=3)
    assert torch.equal(batch.latents, again.latents) and batch.latents.shape == (3, 12, 4, 8, 8)


@pytest.mark.slow
def test_two_machines_share_features_and_steps(home, run, tmp_path):
    """Through runs/sd15_multinode.sh, as two calls that meet on this machine."""
    for step, settings in (("features", {"device": "cpu"}), ("stage1", SMALL)):
        options = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
        for node in launch_machines(home, tmp_path, step, options):
            _, errors = node.communicate(timeout=240)
            assert node.returncode == 0, errors[-2000:]
    shared, alone = FeatureShards(tmp_path / "features"), FeatureShards(run / "features")
    assert [record.clip_id for record in shared.records] == [record.clip_id for record in alone.records]
    for i in range(len(alone)):
        for name in ("latents", "audio", "points68"):
            # The number of threads changes the order of sums.
            theirs, ours = shared.rows(name, i), alone.rows(name, i)
            np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-3)
    ours, alone = ([row["loss"] for row in read_stats(r / "stage1")] for r in (tmp_path, run))
    assert ours == pytest.approx(alone, rel=2e-4)


def launch_machines(home: Path, run: Path, step: str, options: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "NODES": "2",
        "GPUS": "1",
        "MAIN": "127.0.0.1",
        "PORT": str(port),
        "STEP": step,
        "RESTARTS": "0",
    }
    shared |= {"SHARDS": str(home / "shards"), "START": str(home / "start"), "RUN": str(run)}
    # torchrun lies beside the interpreter.
    shared |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(REPOSITORY / "runs" / "sd15_multinode.sh"), *options]
    kinds = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=os.environ | shared | {"NODE": str(i)}, **kinds) for i in range(2)]


def test_the_paper_s_settings():
    line = sd15()
    for stage in (line.stage1, line.stage2):
        assert stage.training.batch_size == 24 and stage.loop.optim.learning_rate == 1e-5
        assert stage.training.loss_weight == "uniform" and stage.training.batch.mouth_weight == 1
    assert (line.stage2.training.batch.num_frames, line.stage2.training.batch.num_history) == (12, 124)
    dropout = line.stage2.training.dropout
    assert dropout.nothing + dropout.reference == pytest.approx(0.15) and dropout.motion_frames == 0.4
    assert (
        dropout.without_sound == dropout.nothing == 0.05
    )  # ours: the paper does not say how branches are drawn


def test_without_a_start_or_features_it_says_what_to_do(home, tmp_path):
    with pytest.raises(ValueError, match="openloopy import"):
        run_recipe("sd15.features", data=home / "shards", run=tmp_path / "a")
    with pytest.raises(ValueError, match="no finished features"):
        run_recipe("sd15.stage1", data=home / "shards", run=tmp_path / "b", start=home / "start")
    with pytest.raises(
        ValueError, match=r"no setting 'loop.stepz' in step 'stage1'; there are: .*loop.num_steps"
    ):
        run_recipe(
            "sd15.stage1",
            data=home / "shards",
            run=tmp_path / "b",
            start=home / "start",
            settings={"loop.stepz": "1"},
        )
    with pytest.raises(ValueError, match=r"recipe.stage1.loop.num_steps: expected int"):
        run_recipe(
            "sd15.stage1",
            data=home / "shards",
            run=tmp_path / "b",
            start=home / "start",
            settings={"loop.num_steps": "many"},
        )
