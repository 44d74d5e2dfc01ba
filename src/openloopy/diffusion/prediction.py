"""What the denoiser predicts, and the way between noise, velocity and clean latents.

Source: epsilon: Ho et al. 2020 (arXiv:2006.11239), as in the paper; v: Salimans & Ho 2022 (arXiv:2202.00512),
appendix D.

`alpha_bar` is the cumulative signal power, one number for all samples or one per sample, `(b,)`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Prediction = Literal["epsilon", "v", "x0"]


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noisy latents x_t (Ho et al. 2020, eq. 4), like `x_0`."""
    signal, noise = _signal_and_noise(alpha_bar, x_0)
    return signal * x_0 + noise * eps


def target(prediction: Prediction, x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the denoiser should say, like `x_0`."""
    _check(prediction)
    if prediction == "epsilon":
        return eps
    if prediction == "x0":
        return x_0
    signal, noise = _signal_and_noise(alpha_bar, x_0)
    return signal * eps - noise * x_0


def to_x_0(prediction: Prediction, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Clean latents from what the denoiser said. Epsilon needs `alpha_bar` > 0."""
    _check(prediction)
    if prediction == "x0":
        return output
    signal, noise = _signal_and_noise(alpha_bar, x_t)
    if prediction == "epsilon":
        return (x_t - noise * output) / signal
    return signal * x_t - noise * output


def to_eps(prediction: Prediction, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise from what the denoiser said. x0 needs `alpha_bar` < 1."""
    _check(prediction)
    if prediction == "epsilon":
        return output
    signal, noise = _signal_and_noise(alpha_bar, x_t)
    if prediction == "x0":
        return (x_t - signal * output) / noise
    return signal * output + noise * x_t


def _signal_and_noise(alpha_bar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes of signal and noise, shaped to multiply `x`: `(b,)` becomes `b 1 1 ..`."""
    if alpha_bar.ndim > 0:
        if alpha_bar.shape != x.shape[:1]:
            raise ValueError(
                f"expected one alpha_bar for all or one per sample {tuple(x.shape[:1])}, "
                f"got shape {tuple(alpha_bar.shape)}"
            )
        alpha_bar = alpha_bar.reshape(-1, *[1] * (x.ndim - 1))
    return alpha_bar.sqrt().to(x.dtype), (1 - alpha_bar).sqrt().to(x.dtype)


def _check(prediction: str) -> None:
    if prediction not in ("epsilon", "v", "x0"):
        raise ValueError(f"prediction must be 'epsilon', 'v' or 'x0', got {prediction!r}")
