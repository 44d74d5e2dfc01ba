"""Audio tokens, written out: normalised layers, a small network, neighbours oldest first, each with its place."""

import torch
import torch.nn.functional as F

from openloopy.models.audio_projection import AudioProjection, AudioProjectionConfig

BATCH, FRAMES, LAYERS, WIDTH, WINDOW, CONTEXT = 2, 4, 2, 3, 5, 6
MARGIN = 2


def make_projection() -> AudioProjection:
    torch.manual_seed(0)
    config = AudioProjectionConfig(num_layers=LAYERS, layer_width=WIDTH, window=WINDOW)
    return AudioProjection(config, context_dim=CONTEXT)


def random_states() -> torch.Tensor:
    """Far from normalised: `b (f + 2 margin) l w`."""
    torch.manual_seed(1)
    return torch.randn(BATCH, FRAMES + 2 * MARGIN, LAYERS, WIDTH) * 7 + 3


@torch.no_grad()
def test_a_token_is_one_neighbour_at_its_place():
    projection, states = make_projection(), random_states()
    tokens = projection(states)
    assert tokens.shape == (BATCH, FRAMES, WINDOW, CONTEXT)
    for frame in range(FRAMES):
        for place in range(WINDOW):
            # The clip's frame lies MARGIN further in, its oldest neighbour MARGIN further back: together 0.
            all_layers = states[:, frame + place].flatten(1)
            x = projection.linear_1(F.layer_norm(all_layers, (LAYERS * WIDTH,)))
            x = projection.linear_2(F.gelu(x)) + projection.window_embedding[place]
            torch.testing.assert_close(tokens[:, frame, place], F.layer_norm(x, (CONTEXT,)))


@torch.no_grad()
def test_loudness_of_the_hidden_states_does_not_matter():
    projection, states = make_projection(), random_states()
    torch.testing.assert_close(projection(10 * states), projection(states), atol=1e-4, rtol=1e-4)


def test_margin_is_what_the_window_needs_on_each_side():
    assert [AudioProjectionConfig(window=window).margin for window in (1, 3, 5)] == [0, 1, 2]
