"""Deterministic DDIM sampling, of first or second order.

Source: Song et al. 2021 (arXiv:2010.02502), eq. 12 with sigma = 0; spacing of the timesteps: Lin et al. 2024
(arXiv:2305.08891), table 2. Equal to diffusers' DDIMScheduler set up as SD 1.5 ships it (steps_offset 1,
set_alpha_to_one False, clip_sample False) for `leading`, and with set_alpha_to_one True for `trailing`.
We differ for `trailing` where the number of steps does not divide the schedule: each step goes to the next
timestep of the list, while diffusers' goes to one that lies a few off.

Second order: after DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095), but in the angle between picture and noise
(Salimans & Ho 2022, arXiv:2202.00512, appendix D), which stays finite where no signal is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from openloopy.diffusion.prediction import Prediction, to_eps, to_x_0
from openloopy.diffusion.schedule import ScheduleConfig, alpha_bars

Spacing = Literal["leading", "trailing", "angle"]
Order = Literal[1, 2]
LEADING_OFFSET = 1
"""SD 1.x counts its timesteps from 1 when sampling."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which timesteps are visited."""

    steps: int = 25
    spacing: Spacing = "leading"
    """`leading`: from timestep 1 upwards, as SD 1.5; `trailing`: from the last timestep downwards, which zero
    terminal SNR needs; `angle`: likewise, in steps of the same angle between picture and noise."""
    order: Order = 1
    """1: DDIM. 2: each step uses the prediction before it, too. In a few steps of DDIM what the conditions leave open
    shrinks: of unit variance, 5 `trailing` steps leave .55, 8 steps of `angle` and second order 1.0."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling needs at least 1 step, got {self.steps}")
        if self.spacing not in get_args(Spacing):
            raise ValueError(f"spacing must be one of {get_args(Spacing)}, got {self.spacing!r}")
        if self.order not in get_args(Order):
            raise ValueError(f"order must be 1 or 2, got {self.order!r}")


def timesteps(config: SamplerConfig, schedule: ScheduleConfig) -> list[int]:
    """The timesteps to visit, noisiest first: `steps` of them."""
    total = schedule.num_timesteps
    if config.spacing == "angle":
        visited = _equal_angles(config.steps, schedule)
    elif config.spacing == "trailing":
        visited = [round(total - i * total / config.steps) - 1 for i in range(config.steps)]
    else:
        stride = total // config.steps
        visited = [i * stride + LEADING_OFFSET for i in reversed(range(config.steps))]
    if len(set(visited)) < config.steps or visited[0] >= total:
        raise ValueError(
            f"{config.steps} steps with {config.spacing} spacing do not fit {total} timesteps; take fewer"
        )
    return visited


def _equal_angles(steps: int, schedule: ScheduleConfig) -> list[int]:
    """The timesteps nearest to equal parts of the angle at which the schedule starts."""
    angles = _angles(alpha_bars(schedule))
    wanted = angles[-1] * torch.arange(steps, 0, -1) / steps
    return (wanted[:, None] - angles).abs().argmin(dim=1).tolist()


def _angles(levels: Tensor) -> Tensor:
    """Between picture and noise, radians: 0 without noise, a right angle without picture."""
    return torch.atan2((1 - levels).sqrt(), levels.sqrt())


def ddim_step(x_0: Tensor, eps: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """One deterministic step to a cleaner timestep (Song et al. 2021, eq. 12 with sigma = 0).

    Args:
        x_0: predicted clean latents, `b ...`.
        eps: predicted noise, like `x_0`.
        alpha_bar_next: cumulative signal power at the cleaner timestep; a scalar in [0, 1].
    """
    return alpha_bar_next.sqrt() * x_0 + (1 - alpha_bar_next).sqrt() * eps


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    config: SamplerConfig,
    schedule: ScheduleConfig,
    prediction: Prediction,
) -> Tensor:
    """Clean latents from noise.

    Args:
        denoise: `(x_t b ..., t (b,) int64) -> prediction`, like x_t; any dtype, steps are taken in noise's.
        noise: `b ...`, standard normal.

    Returns:
        Latents, like `noise`.
    """
    _check_start(prediction, schedule)
    visited = timesteps(config, schedule)
    levels = alpha_bars(schedule).to(noise.device)
    # SD 1.5 ends at the signal power of timestep 0, not at 1 (set_alpha_to_one False).
    end = levels[0] if config.spacing == "leading" else torch.ones_like(levels[0])
    x_t, before = noise, None
    for t, t_next in zip(visited, [*visited[1:], None], strict=True):
        output = denoise(x_t, torch.full(noise.shape[:1], t, device=noise.device)).to(noise.dtype)
        x_0 = to_x_0(prediction, output, x_t, levels[t])
        eps = to_eps(prediction, output, x_t, levels[t])
        next_level = end if t_next is None else levels[t_next]
        if config.order == 2:
            here = _Prediction(x_0, levels[t])
            if before is not None:
                x_0 = _halfway(before, here, next_level)
                eps = (x_t - levels[t].sqrt() * x_0) / (1 - levels[t]).sqrt()
            before = here
        x_t = ddim_step(x_0, eps, next_level)
    return x_t


@dataclass(frozen=True)
class _Prediction:
    """Clean latents as predicted at a level of signal power."""

    x_0: Tensor
    level: Tensor


def _halfway(before: _Prediction, here: _Prediction, next_level: Tensor) -> Tensor:
    """The clean latents that would be predicted halfway to the next level, on the line through the last two."""
    last, now, then = (_angles(level) for level in (before.level, here.level, next_level))
    return here.x_0 + (here.x_0 - before.x_0) * (now - then) / (2 * (last - now))


def _check_start(prediction: Prediction, schedule: ScheduleConfig) -> None:
    if prediction == "epsilon" and schedule.zero_terminal_snr:
        raise ValueError(
            "epsilon says nothing about the picture at the last timestep of a zero-terminal-SNR schedule; "
            "use v or x0 prediction, or zero_terminal_snr=False"
        )
