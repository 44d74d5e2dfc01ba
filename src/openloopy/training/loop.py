"""The one training loop: step, average, log, checkpoint, sample, export. Every stage is a `TrainTask`.

Random numbers derive from (seed, step), so that a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from openloopy.media.duration import in_words
from openloopy.media.files import make_folder
from openloopy.models.foreign_files import read_settings
from openloopy.models.precision import autocast
from openloopy.models.recompute import set_recompute
from openloopy.models.weight_files import replacing
from openloopy.training.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint, save_checkpoint
from openloopy.training.optim import MovingAverage, OptimConfig, build_optimizer, learning_rate_at
from openloopy.training.processes import (
    Parallel,
    Piece,
    Processes,
    is_distributed,
    is_main,
    join_processes,
    lost_processes_reported,
)
from openloopy.training.stats import StatsWriter

FREE_SETTINGS = (
    *("num_steps", "device", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every"),
    *("accumulation", "parallel", "recompute", "compiles"),
)
"""What may change on resuming: it alters no number beyond rounding."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how often, on what."""

    num_steps: int
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    keep_checkpoints: int = 1
    """Older ones stay as checkpoint-STEP.pt, so that there are this many in all."""
    sample_every: int = 500
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """"auto": bfloat16 where the device computes in it."""
    device: str = "cpu"
    accumulation: int = 1
    """Pieces that each process cuts its part of the batch into, one after another: less memory, the same step."""
    parallel: Parallel = "ddp"
    """How several processes share the network (see `training.processes`); without a launcher it has no effect."""
    recompute: bool = False
    """Gradient checkpointing: less memory, a third more time, the same numbers."""
    compiles: bool = False
    """Compile the blocks of the network with torch.compile."""

    def __post_init__(self) -> None:
        counts = (self.num_steps, self.log_every, self.checkpoint_every, self.sample_every)
        if min(*counts, self.accumulation, self.keep_checkpoints) < 1:
            raise ValueError(f"step counts must be at least 1, got {self}")


class TrainTask(Protocol):
    """One stage of training.

    A task whose batch several processes can share also has `batch_size: int`, takes a third argument `piece: Piece` in
    `losses`, and names in `block_names` the classes of modules that are sharded and compiled one by one.
    """

    network: nn.Module

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        """Draw the batch of this step; the entry 'loss' is minimised, the others are logged."""

    def sample(self, network: nn.Module, path: Path) -> None:
        """Write what the averaged network makes now; `path` has no ending."""

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write the averaged network for the next stage and for use."""

    def describe(self) -> dict:
        """Settings that identify the run, as JSON."""


class Step(nn.Module):
    """One pass of a task as a module, which is what processes are joined by."""

    def __init__(self, task: TrainTask, config: LoopConfig) -> None:
        super().__init__()
        self.network = task.network
        self._task, self._config = task, config

    def forward(self, step: int, piece: Piece) -> dict[str, Tensor]:
        device = next(self.network.parameters()).device
        with autocast(device, self._config.precision):
            if piece.count == 1:
                return self._task.losses(self.network, step)
            return self._task.losses(self.network, step, piece)


def train(
    task: TrainTask, config: LoopConfig, run_dir: Path, say: Callable[[str], None] = print
) -> nn.Module:
    """Train `task` to `config.num_steps` in `run_dir`, from its checkpoint if there is one.

    Returns the averaged network, whole (of several processes the main one does; the others' is not for use). The same
    call resumes; a finished run only exports again. Files are written by the main process.
    """
    make_folder(run_dir)
    _check_pieces(task, config)
    _check_same_run(task, config, run_dir)
    processes = join_processes(config.device, config.parallel, getattr(task, "block_names", ()))
    with lost_processes_reported(processes):
        return _Run(task, config, run_dir, processes, say if processes.index == 0 else _silence).to_the_end()


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        task: TrainTask,
        config: LoopConfig,
        run_dir: Path,
        processes: Processes,
        say: Callable[[str], None],
    ) -> None:
        self.task, self.config, self.run_dir = task, config, run_dir
        self.processes, self.say, self.is_main = processes, say, processes.index == 0
        network = task.network
        set_recompute(network, config.recompute)
        compile_blocks(network, getattr(task, "block_names", ()) if config.compiles else ())
        # Of a sharded network nobody has the whole; what is sampled and exported is this copy.
        self.spare = copy.deepcopy(network) if processes.is_sharded and self.is_main else None
        network.to(processes.device)
        optimizer = build_optimizer(network, config.optim)
        self.step_module, self.optimizer = processes.join(Step(task, config), optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        device = "cpu" if config.optim.ema_device == "cpu" else None
        # Where all have the whole network, one average of it is enough.
        is_kept = self.is_main or processes.is_sharded
        self.average = MovingAverage(network, config.optim.ema_decay, device, is_kept)
        self.first_step = self._restore()

    def to_the_end(self) -> nn.Module:
        config, processes = self.config, self.processes
        if self.first_step:
            self.say(f"resuming {self.run_dir} at step {self.first_step} of {config.num_steps}")
        stats = StatsWriter(self.run_dir, self.first_step) if self.is_main else None
        started, sums, count = time.perf_counter(), {}, 0
        for step in range(self.first_step, config.num_steps):
            values = self._train_step(step)
            self.average.update(step)
            sums, count = {k: sums.get(k, 0.0) + v for k, v in values.items()}, count + 1
            done = step + 1
            if done % config.log_every == 0 or done == config.num_steps:
                means = processes.mean({k: v / count for k, v in sums.items()})
                means["steps_per_s"] = count / (time.perf_counter() - started)
                if stats is not None:
                    stats.write(step, means)
                self.say(_line(done, config.num_steps, means))
                started, sums, count = time.perf_counter(), {}, 0
            if done % config.checkpoint_every == 0 or done == config.num_steps:
                self._save(done)
            if done % config.sample_every == 0 or done == config.num_steps:
                self._with_average(lambda net, done=done: self.task.sample(net, self._sample_path(done)))
                started = time.perf_counter() if not count else started
        if stats is not None:
            stats.close()
        self._with_average(lambda net: self.task.export(net, self.run_dir))
        return self._averaged_for_good()

    def _sample_path(self, done: int) -> Path:
        return self.run_dir / f"sample-{done:06d}"

    def _train_step(self, step: int) -> dict[str, float]:
        config, processes = self.config, self.processes
        rate = learning_rate_at(step, config.num_steps, config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.task.network.train()
        # Dropout and the like inside networks use the global generator.
        torch.manual_seed(config.seed * 1_000_003 + step)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for number in range(config.accumulation):
            piece = Piece(
                processes.index * config.accumulation + number, processes.count * config.accumulation
            )
            is_last = number == config.accumulation - 1
            with nullcontext() if is_last else processes.accumulating(self.step_module):
                losses = self.step_module(step, piece)
                processes.backward(losses["loss"] / config.accumulation)
            sums = {k: sums.get(k, 0.0) + v.item() / config.accumulation for k, v in losses.items()}
        norm = processes.clip_gradients(self.parameters, config.optim.max_grad_norm)
        if not math.isfinite(sums["loss"]) or not math.isfinite(norm):
            raise RuntimeError(
                f"the loss became {sums['loss']} (norm of the gradients {norm}) at step {step}; lower the learning "
                "rate, or resume with precision float32"
            )
        self.optimizer.step()
        return sums | {"grad_norm": norm, "learning_rate": rate}

    def _restore(self) -> int:
        checkpoint = load_checkpoint(self.run_dir)
        if checkpoint is None:
            return 0
        network, processes = self.task.network, self.processes
        try:
            processes.load(network, checkpoint.average)
            self.average.load_from_network()
            processes.load(network, checkpoint.network)
            processes.load_optimizer(network, self.optimizer, checkpoint.optimizer)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.run_dir / CHECKPOINT_NAME} does not fit this run ({error}); move it away to start this "
                "stage anew"
            ) from error
        return checkpoint.step

    def _save(self, done: int) -> None:
        network, processes = self.task.network, self.processes
        with self.average.in_place():
            average = processes.state(network)
            if not processes.is_sharded:
                average = {name: value.to("cpu", copy=True) for name, value in average.items()}
        states = processes.state(network), processes.optimizer_state(network, self.optimizer)
        if self.is_main:
            checkpoint = Checkpoint(done, states[0], average, states[1])
            save_checkpoint(self.run_dir, checkpoint, keep=self.config.keep_checkpoints)
        processes.wait()

    def _with_average(self, use: Callable[[nn.Module], None]) -> None:
        """Let the main process use the averaged network, whole, while the others wait."""
        with self.average.in_place() as network:
            state = self.processes.state(network) if self.processes.is_sharded else None
            if self.is_main and self.spare is not None:
                self.spare.load_state_dict(state)
                use(self.spare.to(self.processes.device).eval())
                self.spare.cpu()
            elif self.is_main:
                use(network.eval())
            self.processes.wait()

    def _averaged_for_good(self) -> nn.Module:
        if self.spare is not None:
            return self.spare
        self.average.swap()
        return self.task.network.eval()


def _silence(text: str) -> None:
    """What processes other than the main one say."""
    del text


def compile_blocks(network: nn.Module, names: tuple[str, ...]) -> None:
    """Compile the modules of these classes, in place."""
    for module in network.modules():
        if type(module).__name__ in names:
            module.compile()


def _check_pieces(task: TrainTask, config: LoopConfig) -> None:
    if not is_distributed() and config.accumulation == 1:
        return
    if not hasattr(task, "batch_size"):
        raise ValueError(
            "this step trains in one process and without accumulation; start it without torchrun, "
            "and leave loop.accumulation at 1"
        )


def step_generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """A CPU generator that depends on the step alone, so that a resumed run repeats it."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 101 + purpose)


def _check_same_run(task: TrainTask, config: LoopConfig, run_dir: Path) -> None:
    """A run folder belongs to one configuration; only the length and the device may change on resuming."""
    resolved = json.loads(json.dumps({"task": task.describe(), "loop": asdict(config)}))
    path = run_dir / "config.json"
    if path.exists() and _identity(read_settings(path)) != _identity(resolved):
        raise ValueError(
            f"{run_dir} holds a run with other settings (see its config.json); "
            "use another --run folder, or the settings of that run to resume it"
        )
    text = json.dumps(resolved, indent=1) + "\n"
    # Unchanged, it is not written again: a second run that only reads this one may be reading it now.
    if is_main() and not (path.exists() and path.read_text() == text):
        with replacing(path) as partial:
            partial.write_text(text)


def _identity(resolved: dict) -> dict:
    """What may not change between a run and its resumption; of a file that is no such settings, the file itself."""
    loop = resolved.get("loop")
    if not isinstance(loop, dict) or not isinstance(loop.get("optim"), dict):
        return resolved
    loop = {k: v for k, v in loop.items() if k not in FREE_SETTINGS}
    optim = {k: v for k, v in loop["optim"].items() if k != "ema_device"}
    return {"task": resolved.get("task"), "loop": loop | {"optim": {"kind": "adamw"} | optim}}


def _line(done: int, num_steps: int, means: dict[str, float]) -> str:
    left = in_words(round((num_steps - done) / means["steps_per_s"]))
    shown = " ".join(f"{k} {v:.4g}" for k, v in means.items() if k not in ("grad_norm", "learning_rate"))
    return f"step {done}/{num_steps} {shown} left {left}"
