"""The two training stages of the denoiser as data: what trains, what is dropped, what each sample weighs.

Source: Loopy sec. 3.4. Stage 1: single frames, no temporal layers, no audio. Stage 2: starts from stage 1, adds them
and trains everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import nn

from openloopy.data.batch import BatchConfig
from openloopy.diffusion.loss import LossWeight

Part = Literal["picture", "reference_net", "temporal", "audio"]
"""picture: the denoiser's convolutions and spatial attention; temporal: layers along time and the last frame's input;
audio: cross-attention, projection, audio-to-latents."""
ALL_PARTS: tuple[Part, ...] = get_args(Part)

AUDIO_KEYS = (".transformer_blocks.0.attn2.", ".transformer_blocks.0.norm2.", ".audio_projection.", ".a2l.")


PAST_KEYS = (".temporal.", ".last_frames_in.", ".last_frames_out.")


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """How often conditions are taken away in training (Loopy sec. 3.4).

    At most one of the first five cases is drawn for a sample. The first two are the branches that guidance subtracts.
    If sound, motion latents and reference were dropped independently, at .1, .1 and .15, `e_ref` would be trained on
    .85 % of the samples and `e_base` on .15 %; here it is 5 % each, and as many samples as there (.7) keep everything.
    """

    without_sound: float = 0.05
    """Audio and motion latents: `e_ref` of guidance (`Conditions.without_audio`)."""
    nothing: float = 0.05
    """Audio, motion latents, reference and motion frames: `e_base` (`Conditions.without_reference`)."""
    audio: float = 0.05
    """The audio tokens alone."""
    motion_latents: float = 0.05
    """The motion latents alone."""
    reference: float = 0.1
    """The reference, and with it the motion frames."""
    motion_frames: float = 0.4
    """Motion frames set to zero, independently: they are nearer than the reference, and the model leans on them."""
    motion_noise_max: float = 0.0
    """Noise on the past, drawn uniformly up to this share of what each value changes from frame to frame (rms); not in
    the paper."""

    def __post_init__(self) -> None:
        cases = (self.without_sound, self.nothing, self.audio, self.motion_latents, self.reference)
        if not all(0 <= rate <= 1 for rate in (*cases, self.motion_frames)) or self.motion_noise_max < 0:
            raise ValueError(f"dropout rates must lie in [0, 1] and noise be at least 0, got {self}")
        if sum(cases) > 1:
            raise ValueError(
                f"at most one case is drawn for a sample, but their rates sum to {sum(cases):g}: {self}"
            )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of the denoiser's training."""

    number: Literal[1, 2]
    batch_size: int
    seed: int = 0
    trainable: tuple[Part, ...] = ALL_PARTS
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    loss_weight: LossWeight = "uniform"
    timestep_power: float = 1.0
    """1: all timesteps alike (the paper's sources). Above 1: noisier ones more often, T u^(1 / power) with u in [0, 1);
    what conditions must supply, the head's place above all, is learnt where little of the signal is left."""
    step_weight: float = 0.0
    """Weight of the step loss (`diffusion.loss.step_loss`), which minds how x_0 changes from frame to frame, and from
    the past into the clip; stage 2 only, not in the paper."""
    motion_gradient: Literal["full", "none"] = "full"
    """'none': the reference net learns from the reference picture alone; motion frames pass it without a gradient,
    which saves a third of a step where training is slow."""

    def __post_init__(self) -> None:
        if not set(self.trainable) <= set(ALL_PARTS):
            raise ValueError(f"trainable parts are {sorted(ALL_PARTS)}, got {sorted(self.trainable)}")
        if self.timestep_power <= 0:
            raise ValueError(f"timestep_power must be above 0, got {self.timestep_power}")
        if self.step_weight < 0 or (self.step_weight and self.number == 1):
            raise ValueError(
                f"step_weight must be 0 in stage 1 and at least 0 in stage 2, got {self.step_weight}"
            )
        if self.number == 2 and "audio" not in self.trainable:
            raise ValueError(
                "stage 2 must train the 'audio' part: with it frozen the lips never learn to follow the sound; "
                f"got trainable={sorted(self.trainable)}"
            )


def part_of(name: str) -> Part:
    """The part that a parameter of `LoopyModel` belongs to, from its name."""
    if any(key in f".{name}" for key in AUDIO_KEYS) and not name.startswith("reference_net."):
        return "audio"
    if any(key in name for key in PAST_KEYS):
        return "temporal"
    return "reference_net" if name.startswith("reference_net.") else "picture"


def freeze_all_but(network: nn.Module, trainable: tuple[Part, ...]) -> None:
    """Let only the parameters of these parts require gradients."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(part_of(name) in trainable)
