"""Weights a network begins with."""

from __future__ import annotations

import torch
from torch import nn


def normal_parameter(*shape: int, std: float) -> nn.Parameter:
    """A parameter that begins normally distributed; on the meta device, which holds no numbers, as it is: `normal_`
    would import torch's compiler there, for half a second."""
    tensor = torch.empty(shape)
    return nn.Parameter(tensor if tensor.is_meta else nn.init.normal_(tensor, std=std))
