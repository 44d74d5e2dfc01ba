"""Layers along time: identity at first, the clip's positions only, hidden motion equals absent motion."""

import pytest
import torch
import torch.nn.functional as F

from openloopy.models.attention import SharedKeys
from openloopy.models.temporal import TemporalConfig, TemporalLayers
from tests.models.tiny_nets import awake

BATCH, FRAMES, MOTION, WIDTH, SIZE = 2, 4, 3, 8, (3, 5)
POSITIONS = SIZE[0] * SIZE[1]


@pytest.fixture(params=["dual", "single"], name="layers")
def make_layers(request) -> TemporalLayers:
    torch.manual_seed(0)
    config = TemporalConfig(kind=request.param, num_heads=2, max_clip_frames=5, max_motion_frames=6)
    return awake(TemporalLayers(WIDTH, config, 4)).eval()


def random_clip() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(BATCH * FRAMES, WIDTH, *SIZE), torch.randn(BATCH, MOTION, POSITIONS, WIDTH)


def shared(layers: TemporalLayers, motion: torch.Tensor, seen: tuple[bool, ...] | None = None) -> SharedKeys:
    return SharedKeys(*layers.motion_keys(motion), seen)


@pytest.mark.parametrize("intra", ["attention", "transformer"])
def test_fresh_layers_are_the_identity(intra):
    x, motion = random_clip()
    layers = TemporalLayers(WIDTH, TemporalConfig(intra=intra, num_heads=2), 4)
    assert torch.equal(layers(x, FRAMES, shared(layers, motion)), x)


@torch.no_grad()
def test_inter_clip_is_attention_over_motion_and_clip(layers):
    """Written out for one position with PyTorch's own attention over the joined frames."""
    layers.intra = None
    x, motion = random_clip()
    out = layers(x, FRAMES, shared(layers, motion)).unflatten(0, (BATCH, FRAMES))
    inter, position = layers.inter, (1, 2)
    clip = x.unflatten(0, (BATCH, FRAMES))[..., position[0], position[1]]
    before = motion[:, :, position[0] * SIZE[1] + position[1]]
    embedding = torch.cat([layers.motion_embedding[-MOTION:], inter.frame_embedding[:FRAMES]])
    tokens = inter.norm(torch.cat([before, clip], dim=1)) + embedding
    linears = inter.attention.to_q, inter.attention.to_k, inter.attention.to_v
    q, k, v = (to(tokens).unflatten(-1, (2, -1)).transpose(1, 2) for to in linears)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    expected = clip + inter.attention.to_out[0](mixed)[:, MOTION:]
    assert torch.allclose(out[..., position[0], position[1]], expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("intra", ["attention", "transformer"])
def test_dual_is_inter_clip_with_motion_then_intra_clip_without(intra):
    torch.manual_seed(0)
    layers = awake(TemporalLayers(WIDTH, TemporalConfig(intra=intra, num_heads=2), 4)).eval()
    x, motion = random_clip()
    keys = shared(layers, motion)
    clip = x.unflatten(0, (BATCH, FRAMES)).flatten(3).permute(0, 1, 3, 2)  # b f n d
    clip = clip + layers.inter(clip, keys)
    clip = clip + layers.intra(clip)
    expected = clip.permute(0, 1, 3, 2).unflatten(3, SIZE).flatten(0, 1)
    assert torch.allclose(layers(x, FRAMES, keys), expected, atol=1e-5)


@torch.no_grad()
def test_hidden_motion_equals_absent_motion(layers):
    x, motion = random_clip()
    out = layers(x, FRAMES, shared(layers, motion, (False, True))).unflatten(0, (BATCH, FRAMES))
    seen = layers(x, FRAMES, shared(layers, motion)).unflatten(0, (BATCH, FRAMES))
    absent = layers(x, FRAMES, None).unflatten(0, (BATCH, FRAMES))
    assert torch.allclose(out[0], absent[0], atol=1e-5) and torch.allclose(out[1], seen[1], atol=1e-5)
    assert (seen - absent).abs().max() > 1e-2


@torch.no_grad()
def test_positions_do_not_mix_and_frames_do(layers):
    x, motion = random_clip()
    changed = x.clone()
    changed[1, :, 2, 1] += torch.randn(WIDTH)  # frame 1 of sample 0
    change = layers(changed, FRAMES, shared(layers, motion)) - layers(x, FRAMES, shared(layers, motion))
    moved = change.abs().amax(dim=1).unflatten(0, (BATCH, FRAMES)) > 1e-6
    expected = torch.zeros_like(moved)
    expected[0, :, 2, 1] = True
    assert torch.equal(moved, expected)


@torch.no_grad()
def test_no_motion_frames_at_all(layers):
    x, motion = random_clip()
    none = shared(layers, motion[:, :0])
    assert torch.allclose(layers(x, FRAMES, none), layers(x, FRAMES, None), atol=1e-6)


def test_single_is_the_inter_clip_layer_alone():
    single = TemporalLayers(WIDTH, TemporalConfig(kind="single", num_heads=2), 4).state_dict()
    dual = TemporalLayers(WIDTH, TemporalConfig(num_heads=2), 4).state_dict()
    assert set(dual) - set(single) == {name for name in dual if name.startswith("intra.")} != set()


def test_too_many_frames_are_an_error(layers):
    with pytest.raises(ValueError, match="clip of 6 frames"):
        layers(torch.randn(6, WIDTH, *SIZE), 6, None)
    with pytest.raises(ValueError, match="7 motion frames"):
        layers.motion_keys(torch.randn(1, 7, POSITIONS, WIDTH))


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="unknown temporal kind"):
        TemporalConfig(kind="triple")


@torch.no_grad()
def test_relative_motion_keeps_its_size():
    """Twice the difference is twice the value: it is not normalised away."""
    values = {}
    for relative in (False, True):
        torch.manual_seed(0)
        layers = TemporalLayers(WIDTH, TemporalConfig(num_heads=2, relative_motion=relative), 4)
        nothing, once, twice = (layers.motion_keys(n * random_clip()[1])[1] for n in (0, 1, 2))
        values[relative] = (twice - nothing), (once - nothing)
    assert torch.allclose(values[True][0], 2 * values[True][1], atol=1e-5)
    assert torch.allclose(values[False][0], values[False][1], atol=1e-3)
