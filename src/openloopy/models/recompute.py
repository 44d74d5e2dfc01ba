"""Gradient checkpointing: activations of chosen modules are computed again in the backward pass instead of kept.

Source: Chen et al. 2016 (arXiv:1604.06174). A module takes part through `recomputable` on its forward; it must have no
effect besides its result, which would then happen twice (peers' reference nets write their features from within).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputable(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a forward: where the module's `recomputes` is set, its inner activations are not kept."""

    @wraps(forward)
    def run(self: nn.Module, *args: Any) -> Any:
        if getattr(self, "recomputes", False) and torch.is_grad_enabled():
            return checkpoint(partial(forward, self), *args, use_reentrant=False)
        return forward(self, *args)

    run.is_recomputable = True
    return run


def set_recompute(network: nn.Module, recomputes: bool) -> int:
    """Switch it on or off in all modules of a network that can; returns how many those are."""
    able = [m for m in network.modules() if getattr(type(m).forward, "is_recomputable", False)]
    for module in able:
        module.recomputes = recomputes
    return len(able)
