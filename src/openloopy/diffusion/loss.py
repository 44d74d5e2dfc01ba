"""Weights of the denoising loss: per sample (by timestep) and per region (mouth, eyes).

Source: min-SNR: Hang et al. 2023 (arXiv:2303.09556), with its forms for epsilon and v. The paper's eq. 1 is
uniform.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from openloopy.diffusion.prediction import Prediction

LossWeight = Literal["uniform", "min_snr"]
MIN_SNR_GAMMA = 5.0
MIN_STEP_VARIANCE = 0.01
"""Of values of unit variance: what changes less is held to no more."""


def per_sample_weight(
    prediction: Prediction, alpha_bar: Tensor, kind: LossWeight, gamma: float = MIN_SNR_GAMMA
) -> Tensor:
    """Weight of each sample's mean squared error, in the space of what is predicted.

    `min_snr` amounts to min(SNR, gamma) on the error of x_0. For x0 and v it falls to 0 as the signal
    vanishes: with zero terminal SNR, train with `uniform` if sampling starts at the last timestep.

    Args:
        alpha_bar: cumulative signal power of each sample, `(b,)`.

    Returns:
        `(b,)` float32, at least 0.
    """
    alpha_bar = alpha_bar.float()
    if kind == "uniform":
        return torch.ones_like(alpha_bar)
    if kind != "min_snr":
        raise ValueError(f"loss weight must be 'uniform' or 'min_snr', got {kind!r}")
    # SNR = a / (1 - a); each form is arranged so that neither a = 0 nor a = 1 divides zero by zero.
    if prediction == "epsilon":
        return (gamma * (1 - alpha_bar) / alpha_bar).clamp(max=1.0)
    if prediction == "v":
        return torch.minimum(alpha_bar, gamma * (1 - alpha_bar))
    return (alpha_bar / (1 - alpha_bar)).clamp(max=gamma)


def denoising_loss(
    prediction: Tensor, target: Tensor, sample_weight: Tensor, region_weight: Tensor | None = None
) -> Tensor:
    """Mean over the batch of each sample's weighted mean squared error.

    Args:
        prediction, target: `b f c h w`, or any `b ...`.
        sample_weight: `(b,)`.
        region_weight: `b f 1 h w`, at least 0; only its shape within a sample counts, so that a uniform map
            changes nothing.

    Returns:
        Scalar, float32.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape"
        )
    if sample_weight.shape != prediction.shape[:1]:
        raise ValueError(
            f"expected one weight per sample {tuple(prediction.shape[:1])}, got {tuple(sample_weight.shape)}"
        )
    error = (prediction.float() - target.float()) ** 2
    if region_weight is not None:
        error = error * _normalised(region_weight)
    return (sample_weight * error.flatten(1).mean(dim=1)).mean()


def step_loss(
    error: Tensor, step_variance: Tensor, past_is_known: Tensor, region_weight: Tensor | None = None
) -> Tensor:
    """How wrongly x_0 changes from frame to frame, in units of how much it does change.

    Own design: a squared error hardly minds a head that trembles by a tenth of its range, or a jump from the past into
    the clip; between frames heads move by less than that. The expectation that minimises it is that of the squared
    error.

    Args:
        error: of x_0, `b f c h w`.
        step_variance: mean squared change of the data between frames, `c h w`; 0 where nothing changes.
        past_is_known: `b`, 1 where the model sees the frame before the clip: then the first frame's error counts as a
            step, since the past is true.
        region_weight: as in `denoising_loss`.

    Returns:
        Scalar, float32.
    """
    error = error.float()
    first = error[:, :1] * past_is_known.float().reshape(-1, *[1] * (error.ndim - 1))
    steps = torch.cat([first, error.diff(dim=1)], dim=1)
    weight = torch.where(step_variance > 0, 0.5 / step_variance.clamp(min=MIN_STEP_VARIANCE), 0.0)
    if region_weight is not None:
        weight = weight * _normalised(region_weight)
    return (steps**2 * weight).mean()


def _normalised(region_weight: Tensor) -> Tensor:
    """Mean 1 within each sample. `b f 1 h w` -> same."""
    return region_weight.float() / region_weight.float().mean(
        dim=tuple(range(1, region_weight.ndim)), keepdim=True
    )
