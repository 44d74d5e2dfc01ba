"""Weights made of integers alone: the same on every machine, for values that other implementations gave."""

import numpy as np
import torch
from torch import Tensor, nn


def pattern_weights(network: nn.Module) -> dict[str, Tensor]:
    """A state dict that keeps activations of a ReLU network in range; depends on names and shapes alone."""
    weights = {}
    for index, (name, value) in enumerate(sorted(network.state_dict().items())):
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros_like(value)
        else:
            weights[name] = torch.from_numpy(_noise(index, tuple(value.shape), name)).float()
    return weights


def pattern_pixels(*shape: int) -> Tensor:
    """Whole numbers 0..255, as floats."""
    n = np.arange(np.prod(shape), dtype=np.int64)
    return torch.from_numpy(((n * n % 10007) * 31 + n * 7919) % 256).float().reshape(shape)


def _noise(index: int, shape: tuple[int, ...], name: str) -> np.ndarray:
    n = np.arange(np.prod(shape), dtype=np.int64)
    uniform = (((n * n % 10007) * 31 + n * 7919 + index * 104729) % 10007 / 10007 - 0.5).reshape(shape)
    if len(shape) > 1:
        return uniform * np.sqrt(24 / np.prod(shape[1:]))  # He et al. 2015: variance 2 / inputs
    if name.endswith("running_var") or name.endswith("weight"):
        return 1 + uniform / 2
    return uniform / 5
