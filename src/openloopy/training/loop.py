"""The one training loop: step, average, log, checkpoint, sample, export. Every stage is a `TrainTask`.

Random numbers derive from (seed, step), so that a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from openloopy.models.precision import autocast
from openloopy.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from openloopy.training.optim import MovingAverage, OptimConfig, build_optimizer, learning_rate_at
from openloopy.training.stats import StatsWriter


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how often, on what."""

    num_steps: int
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    sample_every: int = 500
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """"auto": bfloat16 where the device computes in it."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.num_steps, self.log_every, self.checkpoint_every, self.sample_every) < 1:
            raise ValueError(f"step counts must be at least 1, got {self}")


class TrainTask(Protocol):
    """One stage of training."""

    network: nn.Module

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        """Draw the batch of this step; the entry 'loss' is minimised, the others are logged."""

    def sample(self, network: nn.Module, path: Path) -> None:
        """Write what the averaged network makes now; `path` has no ending."""

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write the averaged network for the next stage and for use."""

    def describe(self) -> dict:
        """Settings that identify the run, as JSON."""


def train(
    task: TrainTask, config: LoopConfig, run_dir: Path, say: Callable[[str], None] = print
) -> nn.Module:
    """Train `task` to `config.num_steps` in `run_dir`, from its checkpoint if there is one.

    Returns the averaged network. The same call resumes; a finished run only exports again.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    _check_same_run(task, config, run_dir)
    task.network.to(config.device)
    optimizer = build_optimizer(task.network, config.optim)
    average = MovingAverage(task.network, config.optim.ema_decay)
    first_step = _restore(task.network, average, optimizer, run_dir)
    if first_step:
        say(f"resuming {run_dir} at step {first_step} of {config.num_steps}")
    stats = StatsWriter(run_dir, first_step)
    started, sums, count = time.perf_counter(), {}, 0
    for step in range(first_step, config.num_steps):
        values = _train_step(task, optimizer, config, step)
        average.update(task.network, step)
        sums, count = {k: sums.get(k, 0.0) + v for k, v in values.items()}, count + 1
        done = step + 1
        if done % config.log_every == 0 or done == config.num_steps:
            means = {k: v / count for k, v in sums.items()}
            means["steps_per_s"] = count / (time.perf_counter() - started)
            stats.write(step, means)
            say(_line(done, config.num_steps, means))
            started, sums, count = time.perf_counter(), {}, 0
        if done % config.checkpoint_every == 0 or done == config.num_steps:
            _save(task.network, average, optimizer, run_dir, done)
        if done % config.sample_every == 0 or done == config.num_steps:
            task.sample(average.network.eval(), run_dir / f"sample-{done:06d}")
            started = time.perf_counter() if not count else started
    stats.close()
    task.export(average.network.eval(), run_dir)
    return average.network


def step_generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """A CPU generator that depends on the step alone, so that a resumed run repeats it."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 101 + purpose)


def _train_step(
    task: TrainTask, optimizer: torch.optim.Optimizer, config: LoopConfig, step: int
) -> dict[str, float]:
    rate = learning_rate_at(step, config.num_steps, config.optim)
    for group in optimizer.param_groups:
        group["lr"] = rate
    task.network.train()
    # Dropout and the like inside networks use the global generator.
    torch.manual_seed(config.seed * 1_000_003 + step)
    with autocast(torch.device(config.device), config.precision):
        losses = task.losses(task.network, step)
    loss = losses["loss"]
    if not math.isfinite(loss.item()):
        raise RuntimeError(
            f"the loss became {loss.item()} at step {step}; lower the learning rate, or resume with precision float32"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, config.optim.max_grad_norm)
    optimizer.step()
    return {k: v.item() for k, v in losses.items()} | {"grad_norm": norm.item(), "learning_rate": rate}


def _restore(
    network: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, run_dir: Path
) -> int:
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        return 0
    network.load_state_dict(checkpoint.network)
    average.network.load_state_dict(checkpoint.average)
    optimizer.load_state_dict(checkpoint.optimizer)
    return checkpoint.step


def _save(
    network: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, run_dir: Path, step: int
) -> None:
    save_checkpoint(
        run_dir,
        Checkpoint(step, network.state_dict(), average.network.state_dict(), optimizer.state_dict()),
    )


def _check_same_run(task: TrainTask, config: LoopConfig, run_dir: Path) -> None:
    """A run folder belongs to one configuration; only the length and the device may change on resuming."""
    resolved = json.loads(json.dumps({"task": task.describe(), "loop": asdict(config)}))
    path = run_dir / "config.json"
    if path.exists() and _identity(json.loads(path.read_text())) != _identity(resolved):
        raise ValueError(
            f"{run_dir} holds a run with other settings (see its config.json); "
            "use another --run folder, or the settings of that run to resume it"
        )
    path.write_text(json.dumps(resolved, indent=1) + "\n")


def _identity(resolved: dict) -> dict:
    """What may not change between a run and its resumption."""
    free = ("num_steps", "device", "log_every", "checkpoint_every", "sample_every")
    return {"task": resolved["task"], "loop": {k: v for k, v in resolved["loop"].items() if k not in free}}


def _line(done: int, num_steps: int, means: dict[str, float]) -> str:
    left_s = (num_steps - done) / means["steps_per_s"]
    shown = " ".join(f"{k} {v:.4g}" for k, v in means.items() if k not in ("grad_norm", "learning_rate"))
    return f"step {done}/{num_steps} {shown} left {left_s / 60:.1f} min"
