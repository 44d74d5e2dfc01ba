"""The loop on a toy task: a resumed run is the unbroken one; checkpoints, averages and settings hold."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from openloopy.training.checkpoint import CHECKPOINT_NAME, load_checkpoint
from openloopy.training.loop import LoopConfig, step_generator, train
from openloopy.training.optim import MovingAverage, OptimConfig, learning_rate_at
from openloopy.training.stats import read_stats, write_numbers

CONFIG = LoopConfig(
    num_steps=12,
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2, ema_decay=0.5),
    log_every=1,
    checkpoint_every=4,
    sample_every=12,
    precision="float32",
)


class Interrupted(Exception):
    pass


class ToyTask:
    """Learns to double its input; can be told to die at a step."""

    def __init__(self, dies_at: int | None = None, scale: float = 1.0):
        torch.manual_seed(0)
        self.network: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 4))
        self.dies_at, self.scale = dies_at, scale

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        if step == self.dies_at:
            raise Interrupted
        x = torch.randn(16, 4, generator=step_generator(0, step))
        return {"loss": ((network(x) - 2 * self.scale * x) ** 2).mean()}

    def sample(self, network: nn.Module, path: Path) -> None:
        path.with_suffix(".txt").write_text("sampled")

    def export(self, network: nn.Module, folder: Path) -> None:
        torch.save(network.state_dict(), folder / "exported.pt")

    def describe(self) -> dict:
        return {"scale": self.scale}


def losses_of(run: Path) -> list[float]:
    return [row["loss"] for row in read_stats(run)]


def quiet(text: str) -> None:
    del text


@pytest.mark.parametrize("dies_at", [5, 8, 11])
def test_resumed_run_repeats_the_unbroken_one(tmp_path, dies_at):
    train(ToyTask(), CONFIG, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        train(ToyTask(dies_at), CONFIG, tmp_path / "broken", quiet)
    train(ToyTask(), CONFIG, tmp_path / "broken", quiet)
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole")
    assert [row["step"] for row in read_stats(tmp_path / "broken")] == list(range(12))
    whole, broken = (
        torch.load(tmp_path / run / "exported.pt", weights_only=True) for run in ("whole", "broken")
    )
    for name in whole:
        torch.testing.assert_close(broken[name], whole[name], rtol=0, atol=0)


def test_loss_falls_and_sample_is_written(tmp_path):
    train(ToyTask(), replace(CONFIG, num_steps=60), tmp_path, quiet)
    losses = losses_of(tmp_path)
    assert losses[-1] < 0.7 * losses[0]
    assert (tmp_path / "sample-000060.txt").exists()


def test_other_settings_do_not_continue_a_run(tmp_path):
    train(ToyTask(), CONFIG, tmp_path, quiet)
    with pytest.raises(ValueError, match="other settings"):
        train(ToyTask(scale=3.0), CONFIG, tmp_path, quiet)


def test_a_run_may_be_made_longer(tmp_path):
    train(ToyTask(), CONFIG, tmp_path, quiet)
    train(ToyTask(), replace(CONFIG, num_steps=16), tmp_path, quiet)
    assert load_checkpoint(tmp_path).step == 16


def test_damaged_checkpoint_is_a_readable_error(tmp_path):
    train(ToyTask(), CONFIG, tmp_path, quiet)
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        train(ToyTask(), CONFIG, tmp_path, quiet)


def test_older_checkpoints_are_pruned(tmp_path):
    train(ToyTask(), replace(CONFIG, keep_checkpoints=2), tmp_path, quiet)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "checkpoint-000008.pt",
        "checkpoint-000012.pt",
        CHECKPOINT_NAME,
        "exported.pt",
    ]
    (tmp_path / CHECKPOINT_NAME).unlink()
    (tmp_path / "checkpoint-000008.pt").rename(tmp_path / CHECKPOINT_NAME)
    train(ToyTask(), CONFIG, tmp_path, quiet)
    assert [row["step"] for row in read_stats(tmp_path)] == list(range(12))
    assert not list(tmp_path.glob("checkpoint-*.pt"))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    train(ToyTask(), replace(CONFIG, num_steps=4), tmp_path, quiet)
    good = (tmp_path / CHECKPOINT_NAME).read_bytes()

    def fills_up(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fills_up)
        with pytest.raises(
            OSError, match=r"step 8 could not be written .*No space left.*the last checkpoint is whole"
        ):
            train(ToyTask(), CONFIG, tmp_path, quiet)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == good
    assert not list(tmp_path.glob("*.tmp"))
    train(ToyTask(), CONFIG, tmp_path, quiet)
    assert load_checkpoint(tmp_path).step == 12


def test_accumulation_needs_a_task_that_can_share_its_batch(tmp_path):
    with pytest.raises(ValueError, match="without accumulation"):
        train(ToyTask(), replace(CONFIG, accumulation=2), tmp_path, quiet)


def test_infinite_loss_ends_the_run(tmp_path):
    with pytest.raises(RuntimeError, match="loss became"):
        train(ToyTask(scale=float("inf")), CONFIG, tmp_path, quiet)
    assert load_checkpoint(tmp_path) is None


def test_learning_rate_rises_holds_and_falls():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, decay_fraction=0.5)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[30] == 1.0
    assert rates[75] == pytest.approx(0.5)
    assert 0 < rates[99] <= 0.02


def test_moving_average_follows_with_its_decay():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = MovingAverage(network, decay=0.9)
    nn.init.ones_(network.weight)
    average.update(step=10_000)
    with average.in_place() as averaged:
        assert averaged.weight.item() == pytest.approx(0.1, abs=1e-6)
    assert network.weight.item() == 1


def test_measured_numbers_are_json_even_where_there_is_none(tmp_path):
    write_numbers(
        tmp_path / "a.json", {"found": 0.5, "place_error": float("nan"), "split": "val", "count": 3}
    )
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "found": 0.5,
        "place_error": None,
        "split": "val",
        "count": 3,
    }
