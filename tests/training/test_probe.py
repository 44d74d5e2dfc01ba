"""The probe reads states that the latents hold, and its loss is zero exactly where they agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openloopy.training.probe import StateProbe, state_loss
from openloopy.training.stages import StageConfig


def latents_of(states: Tensor, generator: torch.Generator) -> Tensor:
    """`n 2` -> `n 4 8 8`: two channels hold the states, two are noise."""
    held = states[:, :, None, None].expand(-1, -1, 8, 8)
    return torch.cat([held, torch.randn(len(states), 2, 8, 8, generator=generator)], 1)


def trained_probe() -> StateProbe:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    probe = StateProbe(4, 8, 8)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2)
    for _ in range(150):
        states = torch.randn(32, 2, generator=generator)
        loss = (probe(latents_of(states, generator)) - states).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe.requires_grad_(False)


def test_the_probe_reads_and_its_loss_pulls_latents_to_the_true_state():
    probe, generator = trained_probe(), torch.Generator().manual_seed(2)
    true = torch.randn(2, 3, 2, generator=generator)
    right = latents_of(true.flatten(0, 1), generator).unflatten(0, (2, 3))
    wrong = latents_of(true.flatten(0, 1) + 1.5, generator).unflatten(0, (2, 3)).requires_grad_()
    assert (state_loss(probe, right, true) < 0.1).all()
    assert (state_loss(probe, wrong, true) > 0.5).all()
    state_loss(probe, wrong, true).sum().backward()
    # Down the gradient, both state channels fall towards the truth.
    assert (wrong.grad[:, :, :2].sum((3, 4)) > 0).float().mean() > 0.8


def test_standardised_states_use_the_data_s_units():
    probe = StateProbe(4, 8, 8)
    probe.mean.copy_(torch.tensor([1.0, 2.0]))
    probe.sd.copy_(torch.tensor([0.5, 2.0]))
    assert torch.equal(probe.standardised(torch.tensor([[1.5, 0.0]])), torch.tensor([[1.0, -1.0]]))


def test_single_frames_have_no_state_loss():
    with pytest.raises(ValueError, match="0 in stage 1"):
        StageConfig(number=1, batch_size=2, state_weight=0.1)
