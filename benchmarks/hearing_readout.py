"""What linear maps read from an audio encoder's features: curves by ridge regression, visemes by logistic
regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from openloopy.models.audio_encoder import AudioEncoder, AudioFeatureReader

CONTEXT_FRAMES = 2
RIDGE = 0.03
"""Penalty relative to the variance of a feature."""
LOGISTIC_ROUNDS, LOGISTIC_PENALTY = 60, 3e-3


@dataclass(frozen=True)
class Readout:
    """Linear map from stacked hidden states to curves, or to logits of classes."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """states `frames features` -> `frames curves`."""
        return (states - self.mean) / self.scale @ self.weight + self.bias


def fit_ridge(states: np.ndarray, curves: np.ndarray) -> Readout:
    """Least squares with a penalty on the weights of standardised features."""
    mean, scale = states.mean(0), states.std(0) + 1e-5
    x, bias = (states - mean) / scale, curves.mean(0)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1], dtype=x.dtype)
    return Readout(mean, scale, np.linalg.solve(gram, x.T @ (curves - bias)), bias)


def fit_classes(states: np.ndarray, labels: np.ndarray, num_classes: int) -> Readout:
    """Logistic regression on standardised features, by L-BFGS from nothing."""
    mean, scale = states.mean(0), states.std(0) + 1e-5
    x, y = torch.from_numpy((states - mean) / scale).float(), torch.from_numpy(labels).long()
    weight = torch.zeros(x.shape[1], num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=LOGISTIC_ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, y) + LOGISTIC_PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return Readout(mean, scale, weight.detach().numpy(), bias.detach().numpy())


def stacked_states(encoder: AudioEncoder, waveform: np.ndarray) -> np.ndarray:
    """Hidden states of all layers of each frame and its neighbours, `frames features`."""
    reader = AudioFeatureReader(encoder, waveform)
    states = reader.window(0, reader.num_frames).flatten(1).float().numpy()
    padded = np.pad(states, ((CONTEXT_FRAMES, CONTEXT_FRAMES), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(states)] for k in range(2 * CONTEXT_FRAMES + 1)], axis=1)
