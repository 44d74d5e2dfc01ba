"""A log-mel spectrum and two convolutions: the beginning of a small audio encoder.

Source: the filters, Stevens, Volkmann & Newman 1937 in HTK's form; two convolutions from 100 to 50 steps a second after
Whisper (Radford et al. 2022, arXiv 2212.04356, sec. 2.2). After 1000 steps
from nothing it tells more visemes than narrow convolutions over the waveform, trained before, after 1000 more
(docs/log.md, entry 33).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE_HZ = 16_000
WINDOW, HOP, FFT = 400, 160, 512
"""25 ms every 10 ms."""
MARGIN = 80
"""Zeros at both ends: `640 n + 80` samples give 4 n windows, of which two belong to each step of wav2vec 2.0."""
LOWEST_HZ, HIGHEST_HZ = 20.0, 8000.0
FLOOR = 1e-6
"""Power below which all is silence."""
LOG_MIDDLE, LOG_SPREAD = -7.0, 4.0
"""About the middle and half of the range of log power from a quiet room to loud speech."""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Sizes of the spectrum and of the convolutions."""

    bands: int = 80
    channels: int = 160


class MelEncoder(nn.Module):
    """Sound -> features at 50 steps a second: `b samples` -> `b steps channels`."""

    def __init__(self, config: MelConfig):
        super().__init__()
        filters = torch.from_numpy(mel_filters(config.bands)).float()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.conv1 = nn.Conv1d(config.bands, config.channels, 3, padding=1)
        self.conv2 = nn.Conv1d(config.channels, config.channels, 3, stride=2, padding=1)

    def forward(self, waveform: Tensor) -> Tensor:
        x = self.log_mel(waveform).to(self.conv1.weight.dtype)
        x = F.gelu(self.conv1(x.transpose(1, 2)))
        return F.gelu(self.conv2(x)).transpose(1, 2)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """`b samples` -> `b windows bands`, 100 windows a second, in float32 whatever the network computes in."""
        with torch.autocast(waveform.device.type, enabled=False):
            windows = F.pad(waveform.float(), (MARGIN, MARGIN)).unfold(-1, WINDOW, HOP) * self.window
            power = torch.fft.rfft(windows, n=FFT).abs().square()
            bands = power @ self.filters.float().T
            return (torch.log(bands + FLOOR) - LOG_MIDDLE) / LOG_SPREAD


def mel_filters(bands: int) -> np.ndarray:
    """Triangles that overlap by half on the mel scale, each of sum 1: `bands frequencies`."""
    corners = _hz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), bands + 2))
    low, middle, high = (corners[i : i + bands, None] for i in range(3))
    frequencies = np.linspace(0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1)
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters = np.minimum(rising, falling).clip(0)
    return filters / filters.sum(1, keepdims=True).clip(1e-8)


def _mel(hz: float) -> float:
    return 2595 * np.log10(1 + hz / 700)


def _hz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
