"""Three-branch guidance: how strongly the sound and the reference are followed.

Source: Loopy, inference (audio ratio 5, reference ratio 3):
`e = audio * (e_audio - e_ref) + reference * (e_ref - e_base) + e_base`.
It is linear with weights that sum to one, so it means the same for epsilon, v and x0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Branch = Literal["audio", "reference", "base"]
"""audio: all conditions. reference: without sound. base: without sound, reference and motion frames."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Scales of the guidance; 1 and 1 is the plain prediction under all conditions."""

    audio: float = 5.0
    reference: float = 3.0

    def weights(self) -> dict[Branch, float]:
        """The paper's algebra, collected by branch: the weights sum to one."""
        return {
            "audio": self.audio,
            "reference": self.reference - self.audio,
            "base": 1.0 - self.reference,
        }


def branches_needed(guidance: Guidance) -> tuple[Branch, ...]:
    """The branches whose weight is not zero: only these need a pass of the denoiser."""
    return tuple(branch for branch, weight in guidance.weights().items() if weight != 0.0)


def combine(
    e_audio: Tensor | None, e_ref: Tensor | None, e_base: Tensor | None, guidance: Guidance
) -> Tensor:
    """The guided prediction, like each branch. A branch that is not needed may be None."""
    predictions: dict[Branch, Tensor | None] = {"audio": e_audio, "reference": e_ref, "base": e_base}
    weights = guidance.weights()
    terms = []
    for branch in branches_needed(guidance):
        prediction = predictions[branch]
        if prediction is None:
            raise ValueError(f"{guidance} needs the {branch!r} branch, got None; see branches_needed")
        terms.append(prediction if weights[branch] == 1.0 else weights[branch] * prediction)
    guided = terms[0]
    for term in terms[1:]:
        guided = guided + term
    return guided
