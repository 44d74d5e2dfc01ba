"""Optimiser, learning-rate curve and moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up, a constant stretch and a linear fall to zero."""

    learning_rate: float = 3e-4
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    """The last part of the run over which the learning rate falls to zero."""
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    ema_device: Literal["same", "cpu"] = "same"
    """Where the moving average lies: beside the weights, or in main memory (a copy per step)."""
    kind: Literal["adamw", "adamw8bit"] = "adamw"
    """"adamw8bit": moments in 8 bits, a quarter of the memory (torchao or bitsandbytes must be installed)."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay_fraction <= 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"decay_fraction must lie in [0, 1] and ema_decay in [0, 1), got {self}")
        if not all(0 < value < math.inf for value in (self.learning_rate, self.max_grad_norm)):
            raise ValueError(f"learning_rate and max_grad_norm must be numbers above 0, got {self}")
        if not 0 <= self.weight_decay < math.inf or self.warmup_steps < 0:
            raise ValueError(f"weight_decay and warmup_steps must not be negative, got {self}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")


def learning_rate_at(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of step 0 .. num_steps - 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay_steps = max(config.decay_fraction * num_steps, 1e-9)
    return config.learning_rate * min(warmup, max((num_steps - step) / decay_steps, 0.0), 1.0)


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over everything that requires a gradient; biases, norms and embeddings are not decayed."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if config.kind == "adamw" else _eight_bit_adamw()
    return kind(groups, lr=config.learning_rate, betas=config.betas)


def _eight_bit_adamw() -> type[torch.optim.Optimizer]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ImportError(
                "the optimizer adamw8bit needs torchao or bitsandbytes: pip install torchao, "
                "or --set loop.optim.kind=adamw"
            ) from error
    return AdamW8bit


class MovingAverage:
    """Exponential moving average of a network's parameters. Of a sharded network each process averages its shards.

    Buffers are not averaged: whoever uses the average uses the network's own.
    """

    def __init__(self, network: nn.Module, decay: float, device: str | None = None, is_kept: bool = True):
        """device: where the average lies; None: beside the parameters. is_kept: False where another process has it."""
        self.network, self.decay = network, decay
        self._parameters = list(network.parameters()) if is_kept else []
        self.values = [_local(p).detach().to(device, copy=True) for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Early steps average over a shorter past, so that the random start is soon forgotten."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [_local(p).detach() for p in self._parameters]
        if self.values[0].device != current[0].device:
            current = [value.to(self.values[0].device) for value in current]
        torch._foreach_lerp_(self.values, current, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """The network with the average for its parameters; inside, it must not be trained."""
        self.swap()
        try:
            yield self.network
        finally:
            self.swap()

    @torch.no_grad()
    def load_from_network(self) -> None:
        """Take the network's parameters as the average."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.copy_(_local(parameter))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the network's parameters."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            mine, local = value.clone(), _local(parameter)
            value.copy_(local)
            local.copy_(mine)


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that this process holds."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
