"""One process or many that train together: who they are, what they share, and how their networks are joined.

Alone, nothing is wrapped. Under `torchrun` (or `accelerate launch`) Accelerate joins the processes: "ddp" gives each
the whole network, "fsdp" (PyTorch's fully_shard) a part of every block. Each computes its piece of one batch, so that
the losses are those of a single process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, nn

Parallel = Literal["ddp", "fsdp"]
TIMEOUT = timedelta(minutes=45)
"""How long the others wait for a process that says nothing: longer than the main one takes for a preview video. One
that dies is noticed at once."""


@dataclass(frozen=True)
class Piece:
    """A piece of every batch: the samples that one pass through the network computes."""

    index: int = 0
    count: int = 1

    def samples(self, batch_size: int) -> range:
        """Which samples of a batch these are; an error where they cannot be equally many in all pieces."""
        if batch_size % self.count:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared equally by {self.count} (processes times "
                "loop.accumulation); set training.batch_size to a multiple"
            )
        size = batch_size // self.count
        return range(self.index * size, (self.index + 1) * size)


def is_distributed() -> bool:
    """Whether this process is one of several that a launcher started."""
    return rank_and_count()[1] > 1


def rank_and_count() -> tuple[int, int]:
    """This process's number among those that a launcher started, and how many they are; 0 and 1 alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return rank_and_count()[0] == 0


WHOLE = Piece()


class Processes:
    """A process alone; `Team` has the same methods for many."""

    index, count, is_sharded = 0, 1, False

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def join(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module and the optimizer as training calls them. `module` must do all its work in forward."""
        return module, optimizer

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def accumulating(self, module: nn.Module) -> AbstractContextManager:
        """Backward passes inside only add to the gradients of this process."""
        del module
        return nullcontext()

    def clip_gradients(self, parameters: list[nn.Parameter], max_norm: float) -> float:
        """Scale the gradients down to this norm; returns the norm that they had."""
        return float(nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over the processes."""
        return values

    def state(self, network: nn.Module) -> dict[str, Any]:
        """The network's state dict, whole; on the main process alone where it is sharded."""
        return network.state_dict()

    def load(self, network: nn.Module, state: dict[str, Any]) -> None:
        """The inverse of `state`; every process gives the same."""
        network.load_state_dict(state)

    def optimizer_state(self, network: nn.Module, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state dict with parameters' names for their numbers, whole as that of `state`."""
        return _renamed(_inner(optimizer).state_dict(), dict(enumerate(_names(network, optimizer))))

    def load_optimizer(self, network: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """The inverse of `optimizer_state`."""
        numbers = {name: i for i, name in enumerate(_names(network, optimizer))}
        _inner(optimizer).load_state_dict(_renamed(state, numbers))

    def wait(self) -> None:
        """Until all are here."""


class Team(Processes):
    """One of several processes, joined by Accelerate."""

    def __init__(self, device: str, parallel: Parallel, shards: tuple[str, ...]) -> None:
        """shards: names of the classes of modules that "fsdp" gathers one at a time."""
        from accelerate import Accelerator, InitProcessGroupKwargs
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = None
        if parallel == "fsdp":
            if not shards:
                raise ValueError("this step's network has no blocks to shard; use --set loop.parallel=ddp")
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=list(shards),
                reshard_after_forward=True,
                cpu_ram_efficient_loading=False,
            )
        handlers = [InitProcessGroupKwargs(timeout=TIMEOUT)]
        cpu = torch.device(device).type == "cpu"
        self._accelerator = Accelerator(cpu=cpu, fsdp_plugin=plugin, kwargs_handlers=handlers)
        super().__init__(str(self._accelerator.device))
        self.index, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.is_sharded = parallel == "fsdp"

    def join(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self._accelerator.prepare(module, optimizer)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def accumulating(self, module: nn.Module) -> AbstractContextManager:
        return self._accelerator.no_sync(module)

    def clip_gradients(self, parameters: list[nn.Parameter], max_norm: float) -> float:
        norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        if self.device.type == "mps":
            numbers = numbers.float()
        return dict(zip(values, self._accelerator.reduce(numbers, "mean").tolist(), strict=True))

    def state(self, network: nn.Module) -> dict[str, Any]:
        if not self.is_sharded:
            return super().state(network)
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        return get_model_state_dict(network, options=_whole_options())

    def load(self, network: nn.Module, state: dict[str, Any]) -> None:
        if not self.is_sharded:
            return super().load(network, state)
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        set_model_state_dict(network, state, options=_whole_options())

    def optimizer_state(self, network: nn.Module, optimizer: Any) -> dict[str, Any]:
        if not self.is_sharded:
            return super().optimizer_state(network, optimizer)
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return get_optimizer_state_dict(network, _inner(optimizer), options=_whole_options())

    def load_optimizer(self, network: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        if not self.is_sharded:
            return super().load_optimizer(network, optimizer, state)
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        named = _renamed(state, dict(enumerate(_names(network, optimizer))))
        set_optimizer_state_dict(network, _inner(optimizer), named, options=_whole_options())

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


@contextmanager
def lost_processes_reported(processes: Processes) -> Iterator[None]:
    """Errors of the connection between processes say what happened and what to do."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        text = str(error)
        signs = ("Connection closed by peer", "Connection reset", "NCCL", "gloo", "timed out", "Broken pipe")
        if processes.count > 1 and any(sign in text for sign in signs):
            raise RuntimeError(
                f"process {processes.index} of {processes.count} lost contact with another one, which has died or "
                f"hangs ({text.splitlines()[0][:160]}); all stop. The same command goes on from the last checkpoint"
            ) from error
        raise


def join_processes(device: str, parallel: Parallel, shards: tuple[str, ...]) -> Processes:
    """The team that a launcher started, or this process alone."""
    return Team(device, parallel, shards) if is_distributed() else Processes(device)


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """Without Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _names(network: nn.Module, optimizer: Any) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(p)] for group in _inner(optimizer).param_groups for p in group["params"]]


def _renamed(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    """An optimizer's state dict with other keys for its parameters; keys that are not in `names` stay."""
    groups = [
        group | {"params": [names.get(key, key) for key in group["params"]]}
        for group in state["param_groups"]
    ]
    return {"state": {names.get(k, k): v for k, v in state["state"].items()}, "param_groups": groups}


def _whole_options():
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)
