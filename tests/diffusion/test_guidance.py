import pytest
import torch

from openloopy.diffusion.guidance import Guidance, branches_needed, combine


def numbers(*values):
    return [torch.tensor([value]) for value in values]


def test_paper_algebra_by_hand():
    # 5 * (10 - 4) + 3 * (4 - 1) + 1 = 40
    guided = combine(*numbers(10.0, 4.0, 1.0), Guidance(audio=5.0, reference=3.0))
    torch.testing.assert_close(guided, torch.tensor([40.0]))


@pytest.mark.parametrize(
    "audio, reference", [(5.0, 3.0), (1.0, 1.0), (0.0, 2.0), (2.5, 2.5), (3.0, 1.0), (0, 0)]
)
def test_equals_the_formula(audio, reference):
    e_audio, e_ref, e_base = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    formula = audio * (e_audio - e_ref) + reference * (e_ref - e_base) + e_base
    guided = combine(e_audio, e_ref, e_base, Guidance(audio=audio, reference=reference))
    torch.testing.assert_close(guided, formula)


@pytest.mark.parametrize(
    "audio, reference, needed",
    [
        (5.0, 3.0, ("audio", "reference", "base")),
        (1.0, 1.0, ("audio",)),
        (4.0, 1.0, ("audio", "reference")),
        (2.0, 2.0, ("audio", "base")),
        (0.0, 1.0, ("reference",)),
        (0.0, 0.0, ("base",)),
    ],
)
def test_only_branches_that_count_are_needed(audio, reference, needed):
    guidance = Guidance(audio=audio, reference=reference)
    assert branches_needed(guidance) == needed
    given = {name: torch.ones(2) if name in needed else None for name in ("audio", "reference", "base")}
    torch.testing.assert_close(combine(*given.values(), guidance), torch.ones(2))


def test_without_guidance_the_prediction_is_returned_bit_by_bit():
    e_audio = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(combine(e_audio, None, None, Guidance(audio=1.0, reference=1.0)), e_audio)


def test_a_missing_branch_is_named():
    with pytest.raises(ValueError, match="needs the 'base' branch"):
        combine(torch.ones(1), torch.ones(1), None, Guidance(audio=5.0, reference=3.0))
