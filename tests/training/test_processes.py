"""Two processes on one machine are one process with the same batch; a killed one ends the job, and it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openloopy.data.cache import LatentCache
from openloopy.models.loopy import LoopyModel
from openloopy.recipes.tiny import loopy_config
from openloopy.training.denoise import DenoiseTask
from openloopy.training.loop import compile_blocks
from openloopy.training.optim import OptimConfig, build_optimizer
from openloopy.training.processes import Piece
from openloopy.training.stats import read_stats
from tests.training.tiny_stage import STEPS, run_stage, write_cache

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> LatentCache:
    return write_cache(tmp_path_factory.mktemp("tiny") / "cache")


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory) -> dict[int, Path]:
    """The unbroken run of one process, for each stage."""
    runs = {stage: tmp_path_factory.mktemp(f"alone{stage}") for stage in (1, 2)}
    for stage, run in runs.items():
        run_stage(cache, run, {"stage": stage})
    return runs


def launch(cache: LatentCache, run: Path, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = ["-m", "tests.training.tiny_stage", str(cache.folder), str(run), json.dumps(settings)]
    return subprocess.run([*command, *program], cwd=REPOSITORY, capture_output=True, text=True, timeout=240)


def losses(run: Path) -> list[float]:
    rows = read_stats(run)
    assert [row["step"] for row in rows] == list(range(STEPS))
    return [row["loss"] for row in rows]


def assert_same(run: Path, whole: Path) -> None:
    """Losses, gradient norms and averaged weights agree up to the order of sums."""
    assert losses(run) == pytest.approx(losses(whole), rel=2e-4)
    norms = [[row["grad_norm"] for row in read_stats(folder)] for folder in (run, whole)]
    assert norms[0] == pytest.approx(norms[1], rel=2e-3)
    ours, theirs = (load_file(folder / "loopy.safetensors") for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-3, rtol=1e-2, msg=name)


def test_pieces_cover_a_batch_once():
    assert [list(Piece(i, 3).samples(6)) for i in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match=r"a batch of 4 cannot be shared equally by 3 .*training.batch_size"):
        Piece(0, 3).samples(4)


@pytest.mark.parametrize("stage", [1, 2])
def test_accumulation_recomputation_and_memory_of_the_average_change_nothing(cache, alone, tmp_path, stage):
    run_stage(cache, tmp_path / "pieces", {"stage": stage, "accumulation": 2})
    assert_same(tmp_path / "pieces", alone[stage])
    run_stage(cache, tmp_path / "recomputed", {"stage": stage, "recompute": True})
    assert losses(tmp_path / "recomputed") == pytest.approx(losses(alone[stage]), rel=1e-6)


@pytest.mark.parametrize(
    ("stage", "parallel", "accumulation"), [(1, "ddp", 1), (2, "ddp", 2), (2, "fsdp", 1), (2, "fsdp", 2)]
)
def test_two_processes_are_one_with_the_same_batch(cache, alone, tmp_path, stage, parallel, accumulation):
    done = launch(cache, tmp_path, stage=stage, parallel=parallel, accumulation=accumulation)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(tmp_path, alone[stage])
    assert done.stdout.count(f"step {STEPS}/{STEPS}") == 1, "only one process speaks"
    assert len(list(tmp_path.glob("sample-*"))) == 1


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_process_ends_the_job_which_then_goes_on(cache, alone, tmp_path, parallel):
    broken = launch(cache, tmp_path, parallel=parallel, dies_at=[3, 1])
    assert broken.returncode != 0
    assert "Signal 9 (SIGKILL)" in broken.stderr
    assert len(read_stats(tmp_path)) < STEPS
    done = launch(cache, tmp_path, parallel=parallel)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "at step 2 of" in done.stdout
    assert_same(tmp_path, alone[2])


def test_a_run_may_change_its_number_of_processes(cache, alone, tmp_path):
    launch(cache, tmp_path, parallel="fsdp", dies_at=[3, 0], recompute=True)
    run_stage(cache, tmp_path, {})
    assert_same(tmp_path, alone[2])


def test_eight_bit_moments_are_close_and_resume(cache, alone, tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    settings = {"optim": OptimConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9, kind="adamw8bit")}
    run_stage(cache, tmp_path, {**settings, "num_steps": 2})
    run_stage(cache, tmp_path, settings)
    assert losses(tmp_path) == pytest.approx(losses(alone[2]), rel=0.02)


def test_eight_bit_moments_without_their_library_say_what_to_install(monkeypatch):
    for library in ("torchao.optim", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match="pip install torchao"):
        build_optimizer(torch.nn.Linear(2, 2), OptimConfig(kind="adamw8bit"))


def test_blocks_are_compiled_one_by_one():
    """That they are, not what comes out: the compiler takes minutes on a CPU."""
    network = LoopyModel(loopy_config())
    compile_blocks(network, DenoiseTask.block_names)
    compiled = [type(m).__name__ for m in network.modules() if m._compiled_call_impl is not None]
    assert sorted(set(compiled)) == sorted(DenoiseTask.block_names) and len(compiled) == 2 * 5
