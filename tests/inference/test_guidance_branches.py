"""What each guidance branch is told, and that its answer gets the weight that is its own."""

import pytest
import torch
from torch import nn

from openloopy.diffusion.guidance import Guidance
from openloopy.inference.pipeline import denoise_batched, denoise_in_turn, guidance_branches
from openloopy.models.conditions import Conditions

PARTS = ("audio_tokens", "motion_latents", "reference_latents", "keep_reference", "keep_motion")
TOLD = {
    "audio": set(PARTS),
    "reference": {"reference_latents", "keep_reference", "keep_motion"},
    "base": set(),
}
"""Loopy's three branches: all conditions, those without sound, none (the motion frames go with the reference)."""
PAPER = Guidance(audio=5.0, reference=3.0)


def full_conditions() -> Conditions:
    generator = torch.Generator().manual_seed(0)
    return Conditions(
        reference=None,
        reference_latents=torch.randn(1, 2, 3, 3, generator=generator),
        audio_tokens=torch.randn(1, 4, 5, 6, generator=generator),
        motion_latents=torch.randn(1, 4, 7, generator=generator),
        keep_reference=torch.ones(1),
        keep_motion=torch.ones(1),
    )


@pytest.mark.parametrize("branch", TOLD)
def test_a_branch_is_told_its_conditions_and_zeros_for_the_others(branch):
    conditions = full_conditions()
    view = guidance_branches(conditions, PAPER)[branch]
    for part in PARTS:
        whole = getattr(conditions, part)
        expected = whole if part in TOLD[branch] else torch.zeros_like(whole)
        assert torch.equal(getattr(view, part), expected), part


class Listener:
    """In place of a denoiser: says 1, 20 more with sound, 300 more with motion latents, 4000 more with a reference."""

    conv_in = nn.Conv2d(1, 1, 1)

    def __call__(self, x_t, t, conditions):
        heard = [getattr(conditions, part).flatten(1).any(dim=1) for part in PARTS[:3]]
        answer = 1 + sum(amount * part for amount, part in zip((20.0, 300.0, 4000.0), heard, strict=True))
        assert t.shape == answer.shape
        return answer.view(-1, 1, 1, 1, 1).expand_as(x_t)


@pytest.mark.parametrize("denoise", [denoise_batched, denoise_in_turn])
@pytest.mark.parametrize(
    "guidance, expected",
    [
        # What is told is weighted by the scale that its branch brings: sound by 5, reference by 3.
        (PAPER, 1 + 5 * (20 + 300) + 3 * 4000),
        (Guidance(audio=1.0, reference=1.0), 1 + 20 + 300 + 4000),
        (Guidance(audio=0.0, reference=2.0), 1 + 2 * 4000),
        (Guidance(audio=2.0, reference=2.0), 1 + 2 * (20 + 300 + 4000)),
        (Guidance(audio=0.0, reference=0.0), 1),
    ],
)
def test_every_condition_counts_by_its_own_scale(denoise, guidance, expected):
    branches = guidance_branches(full_conditions(), guidance)
    guided = denoise(Listener(), branches, guidance)(torch.zeros(1, 4, 2, 3, 3), torch.tensor([500]))
    torch.testing.assert_close(guided, torch.full((1, 4, 2, 3, 3), float(expected)))
