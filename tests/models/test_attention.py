"""Attention: the CPU's own way equals PyTorch's, forward and backward, and shared keys are as good as copied ones."""

import pytest
import torch
import torch.nn.functional as F

from openloopy.models import attention
from openloopy.models.attention import (
    Attention,
    FeedForward,
    SharedKeys,
    attend,
    attend_blocked,
    attend_fused,
    attend_shared,
    runs,
    seen_by,
    to_map,
    to_tokens,
)


def random_qkv(dtype=torch.float32, lead=(3, 2), n=6, m=10, width=4):
    torch.manual_seed(0)
    shapes = [(*lead, n, width), (*lead, m, width), (*lead, m, width)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("block_logits", [1, 2 * 6 * 10, 2**20])
def test_blocked_equals_pytorch_forward_and_backward(monkeypatch, block_logits):
    monkeypatch.setattr(attention, "BLOCK_LOGITS", block_logits)
    q, k, v = random_qkv(torch.float64)
    ours, theirs = attend(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(ours, theirs, atol=1e-12)
    weight = torch.randn_like(ours)
    for got, wanted in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
        strict=True,
    ):
        assert wanted.abs().max() > 0.01 and torch.allclose(got, wanted, atol=1e-12)


def test_blocked_bfloat16_is_as_near_as_bfloat16_allows():
    q, k, v = random_qkv(torch.bfloat16, n=64, m=96, width=24)
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert (attend(q, k, v).float() - exact).abs().max() < 0.02


@pytest.mark.parametrize("lead", [(3, 2), (2, 3, 4)])
def test_fused_equals_blocked(monkeypatch, lead):
    monkeypatch.setattr(attention, "MAX_FUSED_BATCH", 2)
    q, k, v = random_qkv(lead=lead)
    assert torch.allclose(attend_fused(q, k, v), attend_blocked(q, k, v), atol=1e-6)


def test_shared_keys_equal_copied_keys():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 4, 5, 6) for _ in range(3))  # b heads f n dh
    shared_k, shared_v = torch.randn(2, 3, 7, 6), torch.randn(2, 3, 7, 6)
    out = attend_shared(q, k, v, SharedKeys(shared_k, shared_v, None))
    for frame in range(4):
        keys = torch.cat([k[:, :, frame], shared_k], dim=-2)
        values = torch.cat([v[:, :, frame], shared_v], dim=-2)
        alone = F.scaled_dot_product_attention(q[:, :, frame], keys, values)
        assert torch.allclose(out[:, :, frame], alone, atol=1e-6)


def test_hidden_keys_equal_absent_keys():
    torch.manual_seed(0)
    layer, x, keys = Attention(8, 2), torch.randn(6, 5, 8), torch.randn(2, 2, 7, 4)
    sees = seen_by(torch.tensor([0.0, 1.0]))
    out, seen, absent = (
        layer(x, SharedKeys(keys, keys, sees)),
        layer(x, SharedKeys(keys, keys, None)),
        layer(x),
    )
    assert torch.allclose(out[:3], absent[:3], atol=1e-6) and torch.allclose(out[3:], seen[3:], atol=1e-6)
    assert (seen - absent).abs().max() > 1e-2


def test_gradients_of_hidden_keys_are_zero_not_absent():
    q, k, v = (torch.randn(2, 2, 3, 5, 4, requires_grad=True) for _ in range(3))
    shared = torch.randn(2, 2, 6, 4, requires_grad=True)
    sees = seen_by(torch.tensor([0.0, 1.0]))
    attend_shared(q, k, v, SharedKeys(shared, shared, sees)).square().sum().backward()
    assert q.grad.isfinite().all() and shared.grad[0].eq(0).all() and shared.grad[1].abs().max() > 1e-3


def test_runs_are_neighbours_that_agree():
    assert seen_by(torch.ones(3)) is None and runs(None, 3) == [(slice(0, 3), True)]
    seen = seen_by(torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert runs(seen, 4) == [(slice(0, 2), True), (slice(2, 3), False), (slice(3, 4), True)]


def test_zero_context_is_no_context():
    layer = Attention(8, 2, context_width=3)
    out = layer.cross(torch.randn(4, 5, 8), torch.zeros(4, 2, 3))
    assert torch.allclose(out, layer.to_out[0].bias.expand_as(out), atol=1e-6)


def test_cross_attention_equals_pytorch():
    torch.manual_seed(0)
    layer, x, context = Attention(8, 2, context_width=3), torch.randn(4, 5, 8), torch.randn(4, 6, 3)
    q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(context)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.allclose(layer.cross(x, context), layer.to_out[0](mixed), atol=1e-6)


def test_feed_forward_gates_with_the_second_half():
    layer, x = FeedForward(4), torch.randn(3, 4)
    value, gate = layer.net[0].proj(x).chunk(2, dim=-1)
    assert torch.allclose(layer(x), layer.net[2](value * F.gelu(gate)), atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tokens_and_maps_are_inverse(layout):
    x = torch.randn(2, 5, 3, 4).contiguous(memory_format=layout)
    tokens = to_tokens(x)
    assert torch.equal(tokens[1, 2 * 4 + 3], x[1, :, 2, 3])
    assert torch.equal(to_map(tokens, (3, 4)), x)


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="not a multiple of its 3 heads"):
        Attention(8, 3)


def test_few_logits_without_gradient_take_the_fused_kernel(monkeypatch):
    q, k, v = random_qkv()
    wanted = attend(q, k, v)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "attend_blocked", None)
        torch.testing.assert_close(attend(q, k, v), wanted.detach(), atol=1e-6, rtol=1e-5)
    monkeypatch.setattr(attention, "BLOCK_LOGITS", 3 * 2 * 6 * 10 - 1)
    monkeypatch.setattr(attention, "attend_fused", None)
    with torch.no_grad():  # too many
        torch.testing.assert_close(attend(q, k, v), wanted.detach())
