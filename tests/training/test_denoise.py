"""What the denoiser is told in training, and what its loss counts: every mask, drop and draw on its own.

The networks around `clip_conditions` are stand-ins that hand on what they are given, so that thousands of samples show
a rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from openloopy.data.batch import BatchConfig, ClipBatch, sample_frame_batch
from openloopy.data.cache import AUDIO_MARGIN, LatentCache, latent_cache_writer, open_latent_cache
from openloopy.models.audio_to_latents import DrawnCondition, relative_landmarks
from openloopy.models.conditions import Conditions, LayerFeatures, ReferenceFeatures
from openloopy.models.loopy import LoopyModel
from openloopy.models.segments import SegmentConfig
from openloopy.recipes.line import picture_model
from openloopy.recipes.tiny import loopy_config
from openloopy.training.denoise import (
    DenoiseTask,
    Draws,
    clip_conditions,
    draw_kept,
    picture_conditions,
    validation_loss,
)
from openloopy.training.stages import DropoutConfig, StageConfig
from tests.data.synthetic import make_sample
from tests.data.test_batch import face_points

MANY, FRAMES, HISTORY, CHANNELS = 4000, 2, 5, 2
SEGMENTS = SegmentConfig(stride=2, expand_ratio=2, num_segments=1)
"""The last two frames."""
NOTHING_DROPPED = DropoutConfig(
    without_sound=0.0, nothing=0.0, audio=0.0, motion_latents=0.0, reference=0.0, motion_frames=0.0
)


@dataclass
class StandIn:
    """Takes the place of a `LoopyModel`: features are what they are made from, motion latents are all ones."""

    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(segments=SEGMENTS))
    asked: list[DrawnCondition] = field(default_factory=list)

    def reference_net(self, reference: Tensor, motion: Tensor, mask: Tensor) -> ReferenceFeatures:
        return ReferenceFeatures((LayerFeatures(reference.flatten(1), motion),), mask)

    def audio_projection(self, audio: Tensor) -> Tensor:
        return audio[:, 2:-2].flatten(2)[:, :, None]

    def a2l(self, condition: DrawnCondition) -> Tensor:
        self.asked.append(condition)
        return torch.ones(len(condition.choice), FRAMES, 3)

    def last_frames(self, reference: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        return (past[:, -1] - reference) * mask[:, -1, None, None, None]


STEP_VARIANCE = torch.linspace(0.25, 1.0, CHANNELS * 2).reshape(CHANNELS, 1, 2)
"""Mean squared change between frames, `c h w`."""


def make_batch(count: int = MANY, **changes) -> ClipBatch:
    """Clips of random numbers, none of them zero, with all of their history."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) + 0.5

    batch = ClipBatch(
        latents=draw(FRAMES, CHANNELS, 1, 2),
        history=draw(HISTORY, CHANNELS, 1, 2),
        history_mask=torch.ones(count, HISTORY),
        reference=draw(CHANNELS, 1, 2),
        audio=draw(FRAMES + 4, 1, 3),
        points68=draw(FRAMES, 68, 2),
        reference_points68=draw(68, 2),
        head_motion_variance=draw(),
        expression_variance=draw(),
        region_weight=torch.ones(count, FRAMES, 1, 1, 2),
    )
    return replace(batch, **changes)


def told(
    dropout: DropoutConfig, batch: ClipBatch | None = None, *, seed: int = 0, samples: range | None = None
):
    """The conditions and the stand-in that they came through."""
    batch = make_batch() if batch is None else batch
    network = StandIn()
    config = StageConfig(number=2, batch_size=MANY, dropout=dropout)
    draws = Draws(seed, 0, MANY, range(len(batch.latents)) if samples is None else samples)
    return clip_conditions(network, batch, config, draws, STEP_VARIANCE), network


def is_zero(x: Tensor) -> Tensor:
    """Which samples are nothing but zeros, `b`; a sample that is zero in part only is an error."""
    zeros = x.flatten(1) == 0
    assert (zeros.all(1) == zeros.any(1)).all(), "a sample was dropped in part"
    return zeros.all(1)


def near(share: float) -> object:
    """The share of MANY independent draws, within four standard deviations."""
    return pytest.approx(share, abs=4 * (share * (1 - share) / MANY) ** 0.5)


def share(which: Tensor) -> float:
    return which.float().mean().item()


# Motion frames


def test_motion_frames_are_masked_at_their_rate_whole_samples_at_a_time():
    conditions, _ = told(replace(NOTHING_DROPPED, motion_frames=0.4))
    mask, motion = conditions.reference.motion_mask, conditions.reference.layers[0].motion
    assert mask.shape == (MANY, SEGMENTS.num_kept)
    masked = is_zero(mask)
    assert share(masked) == near(0.4)
    assert not motion[masked].any() and motion[~masked].all()
    # Masked frames are missing, not hidden: the layers see zeros.
    assert conditions.keep_motion.all() and conditions.keep_reference.all()


def test_without_a_mask_the_motion_frames_are_the_nearest_frames_oldest_first():
    batch = make_batch()
    conditions, _ = told(NOTHING_DROPPED, batch)
    torch.testing.assert_close(conditions.reference.layers[0].motion, batch.history[:, -2:])
    assert conditions.reference.motion_mask.all()


def test_history_that_does_not_exist_stays_missing_whatever_is_drawn():
    mask = torch.ones(MANY, HISTORY)
    mask[::2] = 0
    conditions, _ = told(replace(NOTHING_DROPPED, motion_frames=0.4), make_batch(history_mask=mask))
    given = conditions.reference.motion_mask
    assert not given[::2].any()
    assert share(is_zero(given[1::2])) == pytest.approx(0.4, abs=0.05)


def test_noise_on_motion_frames_is_drawn_up_to_its_maximum_for_each_sample():
    batch = make_batch()
    conditions, _ = told(replace(NOTHING_DROPPED, motion_noise_max=0.3), batch)
    noise = conditions.reference.layers[0].motion - batch.history[:, -2:]
    # It goes with what each value changes from frame to frame.
    spread = noise.pow(2).mean((0, 1)) / STEP_VARIANCE
    torch.testing.assert_close(spread, torch.full_like(spread, 0.3**2 / 3), rtol=0.1, atol=0)
    noise = (noise / STEP_VARIANCE.sqrt()).flatten(1)
    sizes = noise.pow(2).mean(1).sqrt()
    # Uniform in 0 .. .3: the mean square is .03; eight numbers a sample blur each size.
    assert noise.pow(2).mean().item() == pytest.approx(0.3**2 / 3, rel=0.05)
    assert share(sizes < 0.075) == pytest.approx(0.25, abs=0.05)
    assert share(sizes > 0.225) == pytest.approx(0.25, abs=0.05)
    assert noise.mean().abs() < 0.01
    # Every frame has noise of its own.
    first, second = noise.unflatten(1, (2, -1)).unbind(1)
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.05


# What is dropped

SINGLE = ("audio", "motion_latents", "reference")
JOINT = ("without_sound", "nothing")


def dropped(conditions: Conditions) -> dict[str, Tensor]:
    """Which samples lack what, `b` each."""
    return {
        "audio": is_zero(conditions.audio_tokens),
        "motion_latents": is_zero(conditions.motion_latents),
        "reference": conditions.keep_reference == 0,
    }


@pytest.mark.parametrize("name", SINGLE)
def test_one_condition_is_dropped_at_its_rate_and_no_other(name):
    batch = make_batch()
    conditions, _ = told(replace(NOTHING_DROPPED, **{name: 0.2}), batch)
    missing = dropped(conditions)
    assert share(missing[name]) == near(0.2)
    assert all(not missing[other].any() for other in SINGLE if other != name)
    kept = ~missing["audio"]
    tokens = StandIn().audio_projection(batch.audio)
    torch.testing.assert_close(conditions.audio_tokens[kept], tokens[kept])
    assert (conditions.motion_latents[~missing["motion_latents"]] == 1).all()


def test_without_the_reference_the_motion_frames_are_gone_as_well():
    batch = make_batch()
    conditions, _ = told(replace(NOTHING_DROPPED, reference=0.2), batch)
    gone = conditions.keep_reference == 0
    assert torch.equal(conditions.keep_motion == 0, gone)
    assert torch.equal(is_zero(conditions.reference_latents), gone)
    assert torch.equal(is_zero(conditions.last_frames), gone)
    torch.testing.assert_close(conditions.reference_latents[~gone], batch.reference[~gone])


@pytest.mark.parametrize(("name", "lost"), [("without_sound", SINGLE[:2]), ("nothing", SINGLE)])
def test_the_branches_of_guidance_are_drawn_whole(name, lost):
    """Exactly what `Conditions.without_audio` and `without_reference` take away, all of it or nothing."""
    conditions, _ = told(replace(NOTHING_DROPPED, **{name: 0.2}))
    missing = dropped(conditions)
    for part in SINGLE:
        expected = missing[lost[0]] if part in lost else torch.zeros(MANY, dtype=torch.bool)
        assert torch.equal(missing[part], expected)
    assert share(missing[lost[0]]) == near(0.2)


def test_the_shares_of_the_default_rates():
    """e_ref and e_base 5 % each, where independent draws gave .85 and .15 %; .7 keep everything."""
    conditions, _ = told(DropoutConfig())
    missing = dropped(conditions)
    audio, latents, reference = (missing[name] for name in SINGLE)
    assert share(audio & latents & ~reference) == near(0.05)
    assert share(audio & latents & reference) == near(0.05)
    assert share(~audio & ~latents & ~reference) == near(0.70)
    assert share(audio) == near(0.15) and share(latents) == near(0.15) and share(reference) == near(0.15)


def test_cases_can_fill_all_samples():
    kept = draw_kept(
        replace(NOTHING_DROPPED, without_sound=0.25, nothing=0.25, audio=0.25, reference=0.25),
        Draws(0, 0, MANY, range(MANY)),
    )
    assert not (kept.audio * kept.motion_latents * kept.reference).any()


def test_rates_of_more_than_all_samples_are_refused():
    with pytest.raises(ValueError, match=r"sum to 1\.2"):
        DropoutConfig(without_sound=0.5, nothing=0.5)


def test_stage_1_drops_the_reference_as_often_as_stage_2():
    network = SimpleNamespace(
        reference_net=lambda reference, motion, mask: ReferenceFeatures((), motion_mask=mask)
    )
    config = StageConfig(number=1, batch_size=MANY)
    reference = make_batch().reference
    conditions = picture_conditions(network, reference, config, Draws(0, 0, MANY, range(MANY)))
    gone = conditions.keep_reference == 0
    assert share(gone) == near(config.dropout.nothing + config.dropout.reference)
    assert torch.equal(is_zero(conditions.reference_latents), gone)
    assert conditions.audio_tokens is None and conditions.motion_latents is None


# Audio-to-latents


def test_each_sample_draws_one_of_four_motion_conditions_with_equal_chances():
    batch = make_batch()
    _, network = told(DropoutConfig(), batch)
    (asked,) = network.asked
    for index in range(4):
        assert share(asked.choice == index) == near(0.25)
    sound, landmarks, head, expression = asked.conditions
    torch.testing.assert_close(sound.tokens, network.audio_projection(batch.audio))
    torch.testing.assert_close(landmarks.points, relative_landmarks(batch.points68, batch.reference_points68))
    torch.testing.assert_close(head.variance, batch.head_motion_variance)
    torch.testing.assert_close(expression.variance, batch.expression_variance)


def test_what_is_drawn_does_not_depend_on_what_is_dropped():
    conditions, network = told(DropoutConfig())
    kept = conditions.keep_reference == 1
    for index in range(4):
        assert share(network.asked[0].choice[kept] == index) == pytest.approx(0.25, abs=0.04)


def test_models_without_audio_to_latents_meet_the_same_noise():
    config = StageConfig(number=2, batch_size=MANY)
    after = []
    for network in (StandIn(), StandIn()):
        if after:
            network.a2l = None
        draws = Draws(0, 0, MANY, range(MANY))
        clip_conditions(network, make_batch(), config, draws)
        after.append(draws.normal(3))
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=0)


# The last frame


def test_the_last_frame_is_masked_disturbed_and_missing_with_the_motion_frames():
    batch = make_batch()
    dropout = replace(NOTHING_DROPPED, motion_frames=0.4, motion_noise_max=0.3)
    conditions, _ = told(dropout, batch)
    newest = conditions.reference.layers[0].motion[:, -1]
    masked = is_zero(conditions.reference.motion_mask)
    assert not conditions.last_frames[masked].any()
    torch.testing.assert_close(conditions.last_frames[~masked], (newest - batch.reference)[~masked])
    assert (newest - batch.history[:, -1])[~masked].abs().mean() > 0.05


# Draws


def test_what_processes_draw_between_them_is_one_batch():
    dropout = replace(DropoutConfig(), motion_noise_max=0.3)
    whole, network = told(dropout)
    batch = make_batch()
    half = range(MANY // 2, MANY)
    rows = {name: value[half.start :] for name, value in vars(batch).items()}
    part, other = told(dropout, ClipBatch(**rows), samples=half)
    for name in ("audio_tokens", "motion_latents", "reference_latents", "keep_reference", "last_frames"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[half.start :]), name
    assert torch.equal(part.reference.motion_mask, whole.reference.motion_mask[half.start :])
    assert torch.equal(other.asked[0].choice, network.asked[0].choice[half.start :])


def test_another_seed_draws_other_samples():
    first, second = told(DropoutConfig())[0], told(DropoutConfig(), seed=1)[0]
    assert not torch.equal(first.keep_reference, second.keep_reference)
    assert not torch.equal(first.reference.motion_mask, second.reference.motion_mask)


# Gradients of the motion frames


@pytest.mark.parametrize("motion_gradient", ["full", "none"])
def test_motion_frames_send_gradients_only_where_they_are_asked_to(motion_gradient):
    torch.manual_seed(0)
    network = LoopyModel(loopy_config())
    count, config = 2, network.config
    batch = make_batch(
        count,
        history=torch.randn(count, config.segments.span, 4, 8, 8),
        history_mask=torch.ones(count, config.segments.span),
        reference=torch.randn(count, 4, 8, 8),
        audio=torch.randn(count, 16, 2, 32),
        points68=torch.rand(count, 12, 68, 2),
    )
    stage = StageConfig(number=2, batch_size=count, dropout=NOTHING_DROPPED, motion_gradient=motion_gradient)
    conditions = clip_conditions(network, batch, stage, Draws(0, 0, count, range(count)))
    for layer in conditions.reference.layers:
        assert layer.motion.requires_grad == (motion_gradient == "full")
        assert layer.reference.requires_grad
    motion = batch.history[:, [-i - 1 for i in reversed(OFFSETS)]]
    expected = network.reference_net(batch.reference, motion, torch.ones(count, len(OFFSETS)))
    for layer, wanted in zip(conditions.reference.layers, expected.layers, strict=True):
        torch.testing.assert_close(layer.motion, wanted.motion)
        torch.testing.assert_close(layer.reference, wanted.reference)


OFFSETS = (0, 1, 2, 3, 5, 7, 9, 11, 14, 18, 22, 26, 32, 40, 48, 56, 68, 84, 100, 116)
"""The paper's motion frames, back from the clip."""


# What the loss counts


@pytest.fixture
def cache(tmp_path) -> LatentCache:
    """One clip whose latents are 0 but for the cells of the mouth, which are 1."""
    num_frames = 40
    latents = np.zeros((num_frames, 4, 8, 8), np.float16)
    latents[:, :, 6, 3:5] = 1
    with latent_cache_writer(tmp_path, size_px=64, source_sha256="") as writer:
        arrays = {
            "latents": latents,
            "audio": np.zeros((num_frames + 2 * AUDIO_MARGIN, 2, 32), np.float16),
            "points68": face_points(num_frames),
            "lip_gap": np.zeros(num_frames, np.float32),
        }
        writer.add_clip(make_sample("clip-0", num_frames=num_frames).record, arrays)
    return open_latent_cache(tmp_path)


class Constant(nn.Module):
    """A denoiser that always says the same, and remembers what it was given."""

    last_frames_in = None

    def __init__(self, says: float) -> None:
        super().__init__()
        self.says = nn.Parameter(torch.tensor(says))
        self.given: list[tuple[Tensor, Tensor, Conditions]] = []

    def forward(self, x_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        self.given.append((x_t, t, conditions))
        return self.says.expand(x_t.shape)


def make_task(cache: LatentCache, stage: int, says: float, **settings) -> DenoiseTask:
    config = replace(loopy_config(), prediction="x0")
    network = LoopyModel(config if stage == 2 else picture_model(config))
    network.denoiser = Constant(says)
    training = StageConfig(number=stage, batch_size=4, **settings)
    return DenoiseTask(network, cache, training, preview=lambda net, path: path.touch())


@pytest.mark.parametrize("stage", [1, 2])
def test_regions_count_as_often_as_their_weights_say(cache, stage):
    """All of the error lies at the mouth: the loss is the plain error times the mouth's share of the weight."""
    batch = BatchConfig(mouth_weight=7.0, eye_weight=3.0)
    task = make_task(cache, stage, says=0.0, batch=batch)
    losses = task.losses(task.network, 0)
    is_mouth = torch.zeros(8, 8, dtype=torch.bool)
    is_mouth[6, 3:5] = True
    given = region_of(cache, batch)
    assert (given[is_mouth] == 7).all() and (given == 3).any() and (given == 1).any()
    expected = (given / given.mean())[is_mouth].sum() / 64
    assert losses["mse"].item() == pytest.approx(2 / 64)
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_step_loss_joins_with_its_weight_and_minds_the_past(cache):
    """The clip is still but for one cell that flashes; a prediction of zeros is wrong at each flash."""
    latents = np.lib.format.open_memmap(cache.folder / "latents.npy", mode="r+")
    latents[::2, 0, 0, 0] = 1
    latents.flush()
    del latents
    flashing = open_latent_cache(cache.folder)
    every_past = DropoutConfig(
        without_sound=0, nothing=0, audio=0, motion_latents=0, reference=0, motion_frames=0
    )
    no_past = replace(every_past, motion_frames=1.0)
    batch = BatchConfig(mouth_weight=1.0, eye_weight=1.0, start_share=0)
    found = {}
    for name, dropout in (("past", every_past), ("none", no_past)):
        task = make_task(flashing, 2, says=0.0, batch=batch, dropout=dropout, step_weight=0.5)
        assert (task.step_variance[0, 0, 0], task.step_variance.sum()) == (1, 1)
        losses = task.losses(task.network, 3)
        plain = make_task(flashing, 2, says=0.0, batch=batch, dropout=dropout).losses(task.network, 3)
        assert "step" not in plain
        torch.testing.assert_close(losses["loss"], plain["loss"] + 0.5 * losses["step"])
        found[name] = losses["step"].item()
    # eleven steps of one unit in one cell of 256, each counting half; and a first frame that may be one
    assert found["none"] == pytest.approx(11 * 0.5 / (12 * 256))
    assert found["past"] > found["none"]


def test_the_step_loss_is_for_clips():
    with pytest.raises(ValueError, match="step_weight must be 0 in stage 1"):
        StageConfig(number=1, batch_size=4, step_weight=0.1)


def region_of(cache: LatentCache, config: BatchConfig) -> Tensor:
    """The weights of a frame of the cache, `8 8`."""
    return sample_frame_batch(cache, seed=0, step=0, batch_size=1, config=config).region_weight[0, 0]


def test_the_denoiser_is_given_noisy_latents_and_its_timesteps(cache):
    """x_t at timestep 0 is nearly the clip; later it is mostly noise."""
    task = make_task(cache, 2, says=0.0)
    for step in range(6):
        task.losses(task.network, step)
    for x_t, t, conditions in task.network.denoiser.given:
        assert x_t.shape == (4, 12, 4, 8, 8) and conditions.audio_tokens.shape == (4, 12, 5, 32)
        for sample, timestep in zip(x_t, t, strict=True):
            expected = task.alpha_bars[timestep].sqrt() * torch.tensor(cache.rows("latents", 0)[0]).float()
            deviation = (sample - expected).std().item()
            assert deviation == pytest.approx((1 - task.alpha_bars[timestep]).sqrt().item(), rel=0.1)


def test_a_validation_repeats_itself(cache):
    network = make_task(cache, 2, says=0.0).network
    config = StageConfig(number=2, batch_size=4)
    first, second = (validation_loss(network, cache, config, batches=2) for _ in range(2))
    assert first == second and set(first) == {"val_loss", "val_mse", "val_mse_noisy"}
