"""Noise schedule: how much signal is left at each diffusion timestep.

Source: Stable Diffusion 1.x, which the paper starts from (betas .00085 to .012, `scaled_linear`, 1000 steps);
zero terminal SNR: Lin et al. 2024 (arXiv:2305.08891), algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The forward process."""

    kind: Literal["scaled_linear", "linear"] = "scaled_linear"
    """`scaled_linear`: the square roots of the betas are spaced evenly; `linear`: the betas themselves."""
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False
    """Shift and scale so that the last timestep is pure noise. Cannot be used with epsilon prediction."""

    def __post_init__(self) -> None:
        if self.kind not in ("scaled_linear", "linear"):
            raise ValueError(f"schedule kind must be 'scaled_linear' or 'linear', got {self.kind!r}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"expected 0 < beta_start <= beta_end < 1, got {self.beta_start}, {self.beta_end}"
            )
        if self.num_timesteps < 2:
            raise ValueError(f"a schedule needs at least 2 timesteps, got {self.num_timesteps}")


def alpha_bars(config: ScheduleConfig) -> Tensor:
    """Cumulative signal power of every timestep.

    Returns:
        `(num_timesteps,)` float32, falling; computed in float64 (the product of 1000 factors).
    """
    alpha_bar = torch.cumprod(1 - _betas(config), dim=0)
    if config.zero_terminal_snr:
        alpha_bar = _rescale_to_zero_terminal_snr(alpha_bar)
    return alpha_bar.float()


def _betas(config: ScheduleConfig) -> Tensor:
    start, end, num = config.beta_start, config.beta_end, config.num_timesteps
    if config.kind == "linear":
        return torch.linspace(start, end, num, dtype=torch.float64)
    return torch.linspace(start**0.5, end**0.5, num, dtype=torch.float64) ** 2


def _rescale_to_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Keep the first timestep, bring the last to zero (Lin et al. 2024, algorithm 1). `(T,)` -> same."""
    root = alpha_bar.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2
