"""Optimiser, learning-rate curve and moving average of the weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

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

    def __post_init__(self) -> None:
        if not 0 <= self.decay_fraction <= 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"decay_fraction must lie in [0, 1] and ema_decay in [0, 1), got {self}")


def learning_rate_at(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of step 0 .. num_steps - 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay_steps = max(config.decay_fraction * num_steps, 1e-9)
    return config.learning_rate * min(warmup, max((num_steps - step) / decay_steps, 0.0), 1.0)


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over everything that requires a gradient; biases, norms and embeddings are not decayed."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


class MovingAverage:
    """Exponential moving average of a network's weights; buffers are copied."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Early steps average over a shorter past, so that the random start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged, current = list(self.network.parameters()), [p.detach() for p in network.parameters()]
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
