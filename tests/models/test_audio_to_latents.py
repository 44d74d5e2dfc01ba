"""Audio-to-latents and the audio projection."""

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
)
from tests.models.tiny_nets import awake

BATCH, FRAMES, TOKENS, WIDTH, TIME = 4, 3, 5, 6, 10


def make_module() -> AudioToLatents:
    torch.manual_seed(0)
    config = A2LConfig(num_embeddings=7, width=8, num_heads=2)
    return awake(AudioToLatents(config, audio_width=TOKENS * WIDTH, time_dim=TIME))


def make_conditions(batch: int = BATCH):
    torch.manual_seed(1)
    return (
        AudioCondition(torch.randn(batch, FRAMES, TOKENS, WIDTH)),
        LandmarkCondition(torch.rand(batch, FRAMES, 136)),
        HeadVariance(torch.rand(batch) * 0.1),
        ExpressionVariance(torch.rand(batch) * 0.1),
    )


def test_starts_neutral():
    module = AudioToLatents(A2LConfig(width=8, num_heads=2), audio_width=TOKENS * WIDTH, time_dim=TIME)
    assert module(make_conditions()[0]).eq(0).all()


def test_is_attention_to_the_embeddings():
    """Written out: the query attends to the learnable embeddings, which are both keys and values."""
    module, condition = make_module(), make_conditions()[0]
    query = module.audio_query(condition.tokens.flatten(2))
    parts = []
    for head in range(2):
        q, keys = query[..., head * 4 : head * 4 + 4], module.embeddings[:, head * 4 : head * 4 + 4]
        parts.append((q @ keys.T / 2).softmax(dim=-1) @ keys)
    assert torch.allclose(module(condition), module.out(torch.cat(parts, dim=-1)), atol=1e-5)


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
