"""Training of denoiser and reference net: stage 1 on single frames, stage 2 on clips with sound and history.

Source: Loopy sec. 3.4; what is predicted and how samples are weighted is the configuration's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from openloopy.data.batch import ClipBatch, sample_clip_batch, sample_frame_batch
from openloopy.data.cache import LatentCache
from openloopy.data.feature_shards import FeatureShards
from openloopy.diffusion.loss import denoising_loss, per_sample_weight, step_loss
from openloopy.diffusion.prediction import add_noise, target, to_x_0
from openloopy.diffusion.schedule import alpha_bars
from openloopy.models.audio_to_latents import (
    AudioCondition,
    DrawnCondition,
    ExpressionVariance,
    HeadVariance,
    LandmarkCondition,
    relative_landmarks,
)
from openloopy.models.conditions import Conditions
from openloopy.models.config_json import to_json_dict
from openloopy.models.loopy import LoopyModel
from openloopy.models.precision import autocast
from openloopy.models.segments import gather_segments
from openloopy.models.weight_files import mismatch_report, save_weights
from openloopy.training.loop import step_generator
from openloopy.training.processes import WHOLE, Piece
from openloopy.training.stages import AUDIO_KEYS, PAST_KEYS, DropoutConfig, StageConfig, freeze_all_but

WEIGHTS_NAME = "loopy.safetensors"
STEP_VARIANCE_CLIPS = 64
NUM_MOTION_CONDITIONS = 4
"""Sound, landmarks, head variance, expression variance."""

Preview = Callable[[nn.Module, Path], None]
"""Writes what the network makes now; given by the recipe, since it needs the whole pipeline."""


class Draws:
    """The random numbers of a step: drawn for the whole batch, returned for some of its samples.

    So processes that share a batch draw what one process with all of it would have drawn.
    """

    def __init__(self, seed: int, step: int, batch_size: int, samples: range) -> None:
        self._generator = step_generator(seed, step)
        self._batch_size, self._samples = batch_size, slice(samples.start, samples.stop)

    def uniform(self, *shape: int) -> Tensor:
        """`b shape...` in [0, 1)."""
        return torch.rand(self._batch_size, *shape, generator=self._generator)[self._samples]

    def normal(self, *shape: int) -> Tensor:
        """`b shape...` of the standard normal distribution."""
        return torch.randn(self._batch_size, *shape, generator=self._generator)[self._samples]

    def integers(self, stop: int) -> Tensor:
        """`b` in 0 .. stop - 1."""
        return torch.randint(stop, (self._batch_size,), generator=self._generator)[self._samples]

    def timesteps(self, count: int, power: float) -> Tensor:
        """`b` in 0 .. count - 1; see `StageConfig.timestep_power`."""
        if power == 1.0:
            return self.integers(count)
        return (count * self.uniform().double() ** (1 / power)).long().clamp(max=count - 1)

    def keep(self, rate: float) -> Tensor:
        """1 for samples that keep a condition dropped at `rate`, `b`."""
        return (self.uniform() >= rate).float()


@dataclass(frozen=True)
class Kept:
    """What each sample of a batch keeps: `b` each, 1 or 0."""

    audio: Tensor
    motion_latents: Tensor
    reference: Tensor

    def to(self, device: torch.device) -> Kept:
        return Kept(self.audio.to(device), self.motion_latents.to(device), self.reference.to(device))


def draw_kept(rates: DropoutConfig, draws: Draws) -> Kept:
    """One case for each sample: everything, or one of the five of `DropoutConfig`."""
    cases = (rates.without_sound, rates.nothing, rates.audio, rates.motion_latents, rates.reference)
    edges = torch.tensor(cases).cumsum(0)
    without_sound, nothing, audio, motion_latents, reference, _ = F.one_hot(
        torch.bucketize(draws.uniform(), edges, right=True), len(cases) + 1
    ).unbind(1)
    return Kept(
        audio=1.0 - (without_sound + nothing + audio),
        motion_latents=1.0 - (without_sound + nothing + motion_latents),
        reference=1.0 - (nothing + reference),
    )


class DenoiseTask:
    """`TrainTask` of either stage; several processes can share its batch."""

    block_names = ("DownBlock", "MidBlock", "UpBlock")

    def __init__(
        self,
        loopy: LoopyModel,
        cache: LatentCache | FeatureShards,
        config: StageConfig,
        *,
        preview: Preview,
    ):
        self.network: nn.Module = loopy
        self.cache, self.config, self.preview = cache, config, preview
        self.batch_size = config.batch_size
        self.alpha_bars = alpha_bars(loopy.config.schedule)
        needs_steps = config.step_weight or config.dropout.motion_noise_max
        self.step_variance = _step_variance(cache) if needs_steps else None
        freeze_all_but(loopy, config.trainable)

    def describe(self) -> dict:
        model = to_json_dict(self.network.config)
        del model["defaults"]  # how it is sampled does not change what is trained
        return {
            "stage": f"stage{self.config.number}",
            "config": to_json_dict(self.config),
            "model": model,
            "data": asdict(self.cache.info),
        }

    def losses(self, network: nn.Module, step: int, piece: Piece = WHOLE) -> dict[str, Tensor]:
        config = self.config
        device = next(network.parameters()).device
        samples = piece.samples(config.batch_size)
        draws = Draws(config.seed, step, config.batch_size, samples)
        where = dict(seed=config.seed, step=step, batch_size=config.batch_size, samples=samples)
        if config.number == 1:
            frames = sample_frame_batch(self.cache, **where, config=config.batch).to(device)
            latents, region = frames.latents[:, None], frames.region_weight[:, None]
            conditions = picture_conditions(network, frames.reference, config, draws)
        else:
            clips = sample_clip_batch(self.cache, **where, config=config.batch).to(device)
            latents, region = clips.latents, clips.region_weight
            conditions = clip_conditions(network, clips, config, draws, self.step_variance)
        return self._denoising_losses(network, latents, region, conditions=conditions, draws=draws)

    def sample(self, network: nn.Module, path: Path) -> None:
        self.preview(network, path)

    def export(self, network: nn.Module, folder: Path) -> None:
        save_weights(network, folder / WEIGHTS_NAME)

    def _denoising_losses(
        self,
        network: LoopyModel,
        latents: Tensor,
        region: Tensor,
        *,
        conditions: Conditions,
        draws: Draws,
    ) -> dict[str, Tensor]:
        model = network.config
        t = draws.timesteps(model.schedule.num_timesteps, self.config.timestep_power)
        alpha_bar = self.alpha_bars[t].to(latents.device)
        noise = draws.normal(*latents.shape[1:]).to(latents.device)
        x_t = add_noise(latents, noise, alpha_bar)
        prediction = network.denoiser(x_t, t.to(latents.device), conditions)
        wanted = target(model.prediction, latents, noise, alpha_bar)
        weight = per_sample_weight(model.prediction, alpha_bar, self.config.loss_weight)
        loss = denoising_loss(prediction, wanted, weight, region)
        # How it does where little of the signal is left, which is what the conditions must supply.
        dark = (t > 0.8 * model.schedule.num_timesteps).to(latents.device)
        error = ((prediction.float() - wanted) ** 2).flatten(1).mean(1).detach()
        losses = {
            "loss": loss,
            "mse": error.mean(),
            "mse_noisy": (error * dark).sum() / dark.sum().clamp(min=1),
        }
        if not self.config.step_weight:
            return losses
        x_0 = to_x_0(model.prediction, prediction.float(), x_t, alpha_bar)
        past_is_known = conditions.keep_motion * conditions.reference.motion_mask[:, -1]
        steps = step_loss(x_0 - latents, self.step_variance.to(latents.device), past_is_known, region)
        return losses | {"loss": loss + self.config.step_weight * steps, "step": steps.detach()}


@torch.inference_mode()
def validation_loss(
    network: LoopyModel,
    cache: LatentCache | FeatureShards,
    config: StageConfig,
    *,
    batches: int,
    precision: str = "auto",
) -> dict[str, float]:
    """The losses of a stage on other clips, with draws that are the same at every call."""
    task = DenoiseTask(network, cache, config, preview=_no_preview)
    sums: dict[str, float] = {}
    with autocast(next(network.parameters()).device, precision):
        for step in range(batches):
            for name, value in task.losses(network, step).items():
                sums[name] = sums.get(name, 0.0) + value.item() / batches
    return {f"val_{name}": value for name, value in sums.items()}


def _step_variance(cache: LatentCache | FeatureShards) -> Tensor:
    """Mean squared change of the latents from frame to frame, `c h w`, over the first clips of a cache."""
    steps = [
        np.diff(cache.rows("latents", i).astype(np.float32), axis=0)
        for i in range(min(len(cache), STEP_VARIANCE_CLIPS))
    ]
    return torch.from_numpy((np.concatenate(steps) ** 2).mean(0))


def _no_preview(network: nn.Module, path: Path) -> None:
    raise RuntimeError(f"a validation makes no preview: {path}")


def picture_conditions(
    network: LoopyModel, reference: Tensor, config: StageConfig, draws: Draws
) -> Conditions:
    """Stage 1: the reference picture alone, `b c h w`."""
    b = len(reference)
    no_motion = reference.new_zeros(b, 0, *reference.shape[1:])
    features = network.reference_net(reference, no_motion, no_motion.new_zeros(b, 0))
    keep = draw_kept(config.dropout, draws).reference.to(reference.device)
    ones = torch.ones_like(keep)
    conditions = Conditions(
        reference=features,
        reference_latents=reference,
        audio_tokens=None,
        motion_latents=None,
        keep_reference=ones,
        keep_motion=ones,
    )
    return conditions.drop(keep_audio=ones, keep_motion_latents=ones, keep_reference=keep)


def clip_conditions(
    network: LoopyModel,
    batch: ClipBatch,
    config: StageConfig,
    draws: Draws,
    step_variance: Tensor | None = None,
) -> Conditions:
    """Stage 2: reference, motion frames, audio tokens and motion latents, with the paper's masks and dropout.

    step_variance: mean squared change between frames, `c h w`; needed for noise on the past.
    """
    b, device, dropout = len(batch.latents), batch.latents.device, config.dropout
    segments = network.config.segments
    present = batch.history_mask * draws.keep(dropout.motion_frames).to(device)[:, None]
    history = batch.history
    if dropout.motion_noise_max:
        scale = (
            draws.uniform(1, 1, 1, 1).to(device) * dropout.motion_noise_max * step_variance.to(device).sqrt()
        )
        history = history + draws.normal(*history.shape[1:]).to(device) * scale
    motion, mask = gather_segments(history, present, segments, draws.uniform(segments.num_kept))
    tokens = network.audio_projection(batch.audio)
    kept = draw_kept(dropout, draws).to(device)
    ones = torch.ones(b, device=device)
    conditions = Conditions(
        reference=_read_references(network, batch.reference, motion, mask=mask, config=config),
        reference_latents=batch.reference,
        audio_tokens=tokens,
        motion_latents=_motion_latents(network, batch, tokens, draws),
        keep_reference=ones,
        keep_motion=ones,
        last_frames=network.last_frames(batch.reference, history, present),
    )
    return conditions.drop(
        keep_audio=kept.audio, keep_motion_latents=kept.motion_latents, keep_reference=kept.reference
    )


def load_stage1(loopy: LoopyModel, path: Path) -> list[str]:
    """Start stage 2 from stage 1's weights; returns the names of the tensors that are new.

    Only temporal and audio parts may be new, and nothing of stage 1 may be left over: else an error lists the keys.
    """
    if not path.exists():
        raise ValueError(
            f"stage 2 starts from stage 1, but {path} is missing; train stage 1 in the same --run folder first"
        )
    state, wanted = load_file(path), loopy.state_dict()
    new = [name for name in wanted if name not in state]
    allowed = [name for name in new if any(key in f".{name}" for key in (*PAST_KEYS, *AUDIO_KEYS))]
    expected = {k: tuple(v.shape) for k, v in wanted.items() if k not in allowed}
    report = mismatch_report({k: tuple(v.shape) for k, v in state.items()}, expected)
    if report:
        raise ValueError(f"{path} is not a stage 1 of this model:\n{report}")
    loopy.load_state_dict(wanted | state)
    return new


def _read_references(
    network: LoopyModel, reference: Tensor, motion: Tensor, *, mask: Tensor, config: StageConfig
):
    if config.motion_gradient == "full":
        return network.reference_net(reference, motion, mask)
    with torch.no_grad():
        read = network.reference_net(reference, motion, mask)
    live = network.reference_net(reference, motion[:, :0], mask[:, :0])
    layers = tuple(
        type(a)(reference=a.reference, motion=b.motion) for a, b in zip(live.layers, read.layers, strict=True)
    )
    return type(read)(layers, mask)


def _motion_latents(network: LoopyModel, batch: ClipBatch, tokens: Tensor, draws: Draws) -> Tensor | None:
    """From one of the four motion conditions, drawn for each sample with equal probability (Loopy sec. 3.3)."""
    # Drawn in any case, so that models with and without audio-to-latents meet the same noise.
    choice = draws.integers(NUM_MOTION_CONDITIONS).to(tokens.device)
    if network.a2l is None:
        return None
    conditions = (
        AudioCondition(tokens),
        LandmarkCondition(relative_landmarks(batch.points68, batch.reference_points68)),
        HeadVariance(batch.head_motion_variance),
        ExpressionVariance(batch.expression_variance),
    )
    return network.a2l(DrawnCondition(conditions, choice))
