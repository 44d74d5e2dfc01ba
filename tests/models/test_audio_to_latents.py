"""Audio-to-latents and the audio projection."""

import math

import pytest
import torch

from openloopy.models.audio_projection import AudioProjection, AudioProjectionConfig
from openloopy.models.audio_to_latents import (
    A2LConfig,
    AudioCondition,
    AudioToLatents,
    DrawnCondition,
    ExpressionVariance,
    HeadVariance,
    LandmarkCondition,
    relative_landmarks,
    scaled_log_variance,
)
from tests.models.tiny_nets import awake

BATCH, FRAMES, TOKENS, WIDTH, TIME = 4, 3, 5, 6, 10
Condition = AudioCondition | LandmarkCondition | HeadVariance | ExpressionVariance


def make_module() -> AudioToLatents:
    torch.manual_seed(0)
    config = A2LConfig(num_embeddings=7, width=8, num_heads=2)
    return awake(AudioToLatents(config, audio_width=TOKENS * WIDTH, time_dim=TIME))


def make_conditions(batch: int = BATCH):
    torch.manual_seed(1)
    return (
        AudioCondition(torch.randn(batch, FRAMES, TOKENS, WIDTH)),
        LandmarkCondition(torch.randn(batch, FRAMES, 136)),
        HeadVariance(torch.rand(batch) * 0.1),
        ExpressionVariance(torch.rand(batch) * 0.1),
    )


def test_starts_neutral():
    module = AudioToLatents(A2LConfig(width=8, num_heads=2), audio_width=TOKENS * WIDTH, time_dim=TIME)
    assert module(make_conditions()[0]).eq(0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_is_attention_to_the_embeddings(temperature):
    """Written out: the normalised query attends to the learnable embeddings, which are both keys and values."""
    module, condition = make_module(), make_conditions()[0]
    with torch.no_grad():
        module.log_temperature.fill_(math.log(temperature))
    query = module.audio_query(condition.tokens.flatten(2))
    query = torch.nn.functional.layer_norm(query, (8,), module.query_norm.weight, module.query_norm.bias)
    parts = []
    for head in range(2):
        q, keys = query[..., head * 4 : head * 4 + 4], module.embeddings[:, head * 4 : head * 4 + 4]
        parts.append((q @ keys.T / 2 / temperature).softmax(dim=-1) @ keys)
    assert torch.allclose(module(condition), module.out(torch.cat(parts, dim=-1)), atol=1e-5)


def test_each_head_has_a_temperature_of_its_own():
    module, condition = make_module(), make_conditions()[0]
    query = module.query(condition)
    before = module.attend_embeddings(query)
    with torch.no_grad():
        module.log_temperature[1] += 1
    changed = (module.attend_embeddings(query) - before).abs().amax((0, 1)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 4


def paper_size() -> AudioToLatents:
    torch.manual_seed(0)
    return AudioToLatents(A2LConfig(), audio_width=5 * 768, time_dim=1280)


def filmed_conditions(count: int = 200) -> dict[str, Condition]:
    """As they are in training, by size: tokens of LayerNorm, landmarks about 1, variances over two decades."""
    generator = torch.Generator().manual_seed(1)
    variances = torch.randn(count, generator=generator).exp() * 1e-3
    return {
        "sound": AudioCondition(torch.randn(count, 1, 5, 768, generator=generator)),
        "landmarks": LandmarkCondition(torch.randn(count, 1, 136, generator=generator)),
        "head": HeadVariance(variances),
        "expression": ExpressionVariance(variances / 5),
    }


@pytest.mark.parametrize("kind", ["sound", "landmarks", "head", "expression"])
def test_fresh_weights_of_the_paper_s_size_tell_conditions_apart(kind):
    """What varies between samples, rms: .0038 of .18 before the query was normalised and landmarks relative."""
    module = paper_size()
    latents = module.attend_embeddings(module.query(filmed_conditions()[kind]))[:, 0]
    varies = (latents - latents.mean(0)).pow(2).mean().sqrt()
    assert varies > 0.15 and varies > 0.5 * latents.mean(0).pow(2).mean().sqrt()


def test_landmarks_are_relative_to_the_portrait_in_eye_distances():
    portrait = torch.rand(2, 68, 2) * 100
    portrait[:, 36], portrait[:, 45] = torch.tensor([20.0, 30.0]), torch.tensor([60.0, 60.0])  # 50 apart
    still = relative_landmarks(portrait[:, None].expand(-1, 3, -1, -1), portrait)
    assert still.shape == (2, 3, 136) and not still.any()
    moved = portrait[:, None].clone()
    moved[:, 0, 30] += torch.tensor([3.5, -7.0])
    values = relative_landmarks(moved, portrait)[0, 0]
    # 3.5 of 50 is .07 eye distances, which is what counts as 1.
    assert values[60].item() == pytest.approx(1.0, abs=1e-4)
    assert values[61].item() == pytest.approx(-2.0, abs=1e-4)
    assert values.count_nonzero() == 2
    doubled = relative_landmarks(2 * moved, 2 * portrait)
    torch.testing.assert_close(doubled[0, 0], values, rtol=1e-4, atol=1e-5)


def test_variances_are_on_a_log_scale():
    scaled = scaled_log_variance(torch.tensor([0.0, 1e-4, 1e-3, 1e-2]), -7.5, 1.7)
    assert (scaled.diff() > 0.5).all() and scaled.abs().max() < 3
    # A decade more is always the same step, but near the floor.
    assert (scaled[3] - scaled[2]).item() == pytest.approx(math.log(10) / 1.7, rel=0.01)
    assert scaled[0].item() == pytest.approx((math.log(1e-5) + 7.5) / 1.7, rel=1e-5)


@pytest.mark.parametrize(("which", "frames"), [(0, FRAMES), (1, FRAMES), (2, 1), (3, 1)])
def test_every_kind_of_condition_has_its_own_query(which, frames):
    module, conditions = make_module(), make_conditions()
    out = module(conditions[which])
    assert out.shape == (BATCH, frames, TIME)
    others = [module(condition)[:, :1] for index, condition in enumerate(conditions) if index != which]
    assert min((out[:, :1] - other).abs().max() for other in others) > 1e-3


def test_a_drawn_condition_takes_each_samples_own():
    module, conditions = make_module(), make_conditions()
    drawn = module(DrawnCondition(conditions, torch.tensor([2, 0, 3, 1])))
    assert drawn.shape == (BATCH, FRAMES, TIME)
    for sample, choice in enumerate([2, 0, 3, 1]):
        alone = module(conditions[choice])[sample].expand(FRAMES, -1)
        assert torch.allclose(drawn[sample], alone, atol=1e-5)


def test_gradients_reach_every_parameter():
    module = make_module()
    module(DrawnCondition(make_conditions(), torch.arange(4))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_a_still_face_has_a_finite_latent():
    assert make_module()(HeadVariance(torch.zeros(2))).isfinite().all()


def test_something_else_is_an_error():
    with pytest.raises(ValueError, match="expected a motion condition"):
        make_module()(torch.zeros(2, 3, 4))


def test_projection_joins_each_frame_with_its_neighbours():
    torch.manual_seed(0)
    projection = AudioProjection(AudioProjectionConfig(num_layers=2, layer_width=3), context_dim=WIDTH)
    hidden = torch.randn(2, FRAMES + 4, 2, 3)
    tokens = projection(hidden)
    assert tokens.shape == (2, FRAMES, 5, WIDTH)
    changed = hidden.clone()
    changed[:, 3] += torch.randn(2, 3)
    moved = (projection(changed) - tokens).abs().amax(dim=(0, 3)) > 1e-6
    # Hidden state 3 is the frame 1 of the clip: one to the right of frame 0, in the middle of frame 1, and so on.
    assert moved.tolist() == [[i + j == 3 for j in range(5)] for i in range(FRAMES)]


def test_projection_of_one_frame_alone_equals_its_place_in_a_clip():
    projection = AudioProjection(AudioProjectionConfig(num_layers=2, layer_width=3), context_dim=WIDTH)
    hidden = torch.randn(1, FRAMES + 4, 2, 3)
    assert torch.allclose(projection(hidden)[:, 1], projection(hidden[:, 1:6])[:, 0], atol=1e-6)


def test_projection_names_the_shape_it_wants():
    projection = AudioProjection(AudioProjectionConfig(num_layers=2, layer_width=3), context_dim=WIDTH)
    with pytest.raises(ValueError, match="expected hidden states"):
        projection(torch.randn(1, 4, 2, 3))
    with pytest.raises(ValueError, match="odd number"):
        AudioProjectionConfig(window=4)
