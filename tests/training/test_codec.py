"""Losses and remedies of the autoencoder's training, on made-up pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openloopy.models.reference_decoder import Decoded
from openloopy.training.codec import (
    CodecTrainingConfig,
    PatchDiscriminator,
    PixelPair,
    codec_losses,
    cover_reference,
    critic_loss,
    draw_window,
    gradient_l1,
    jitter_colours,
    landmark_flow_error,
    sample_pairs,
)

SIDE = 32


class TwoClips:
    """A pixel cache of two clips of 20 frames; frame i is a 4x4 picture of brightness i."""

    frames = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    clip_offsets = np.array([0, 20, 40])
    arrays = {"points68": np.zeros((40, 68, 2), np.float32)}
    info = SimpleNamespace(size_px=4)

    def __len__(self) -> int:
        return 2


@pytest.fixture
def points() -> torch.Tensor:
    """Two faces of 68 points in [0, 1]: mouth low in the middle, eyes above."""
    face = torch.full((68, 2), 0.5)
    face[48:68] = torch.stack([torch.linspace(0.4, 0.6, 20), torch.full((20,), 0.7)], 1)
    face[36:42] = torch.stack([torch.linspace(0.3, 0.4, 6), torch.full((6,), 0.35)], 1)
    face[42:48] = torch.stack([torch.linspace(0.6, 0.7, 6), torch.full((6,), 0.35)], 1)
    return face.expand(2, 68, 2).clone()


def pair_of(points: torch.Tensor, shift: float = 0.0) -> PixelPair:
    target = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return PixelPair(target, target.clone(), points, points + shift, torch.zeros(2, 2))


def test_perfect_decoding_costs_nothing(points):
    pair = pair_of(points)
    decoded = Decoded(
        pair.target, pair.target, torch.ones(2, 1, SIDE, SIDE), *[torch.zeros(2, 2, SIDE, SIDE)] * 2
    )
    assert codec_losses(decoded, pair, CodecTrainingConfig())["loss"].item() == pytest.approx(0, abs=1e-6)


def test_an_error_in_the_mouth_costs_more_than_elsewhere(points):
    pair, config = pair_of(points), CodecTrainingConfig()

    def cost(row: int, column: int) -> float:
        wrong = pair.target.clone()
        wrong[:, :, row, column] += 1.0
        decoded = Decoded(
            wrong, pair.target, torch.ones(2, 1, SIDE, SIDE), *[torch.zeros(2, 2, SIDE, SIDE)] * 2
        )
        return codec_losses(decoded, pair, config)["pixel"].item()

    assert cost(int(0.7 * SIDE), SIDE // 2) == pytest.approx(config.mouth_weight * cost(2, 2), rel=1e-4)


def test_true_flow_has_no_error(points):
    pair = pair_of(points, shift=0.1)
    true = torch.full((2, 2, SIDE, SIDE), 0.2)
    assert landmark_flow_error(true, pair).item() == pytest.approx(0, abs=1e-5)
    assert landmark_flow_error(torch.zeros_like(true), pair).item() == pytest.approx(0.2, abs=1e-5)


def test_gradient_loss_ignores_brightness_and_sees_blur():
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    weights = torch.ones(1, 1, 8, 8)
    assert gradient_l1(edge + 0.3, edge, weights).item() == pytest.approx(0, abs=1e-6)
    blurred = torch.nn.functional.avg_pool2d(edge, 3, 1, 1, count_include_pad=False)
    assert gradient_l1(blurred, edge, weights).item() > 0.05


@pytest.mark.parametrize("region", ["mouth and eyes", "all"])
def test_covering_hides_what_it_says(points, region):
    picture = torch.rand(2, 3, SIDE, SIDE)
    shares = dict(hide_region_share=1.0, hide_all_share=0.0) if region != "all" else dict(hide_all_share=1.0)
    covered = cover_reference(
        picture, points, CodecTrainingConfig(**shares), torch.Generator().manual_seed(0)
    )
    mouth = covered[:, :, int(0.7 * SIDE), SIDE // 2 - 2 : SIDE // 2 + 2]
    assert (mouth.std(-1) < 1e-6).all()
    corner_kept = torch.equal(covered[:, :, :3, :3], picture[:, :, :3, :3])
    assert corner_kept == (region != "all")


def test_pairs_stay_in_their_clip_and_prefer_another_state():
    cache = TwoClips()
    states = np.stack([np.tile([0.0] * 19 + [5.0], 2)] * 2, 1)
    config = CodecTrainingConfig(batch_size=64, other_state_share=1.0, state_candidates=40, extreme_share=0.0)
    pairs = sample_pairs(cache, states, config, torch.Generator().manual_seed(1))
    target = ((pairs.target[:, 0, 0, 0] + 1) * 127.5).round().int()
    reference = ((pairs.reference[:, 0, 0, 0] + 1) * 127.5).round().int()
    assert torch.equal(target // 20, reference // 20)
    closed = target % 20 < 19
    assert (reference[closed] % 20 == 19).float().mean() > 0.8


def test_windows_lie_in_the_picture_and_mostly_on_the_face(points):
    config = CodecTrainingConfig(window_share=0.5, face_window_share=1.0)
    window = draw_window(points, 256, config, torch.Generator().manual_seed(0))
    assert window.side == 16 and all(0 <= place <= 16 for place in window.top + window.left)
    cut = window.cut(torch.arange(256.0)[None, None, :, None].expand(2, 1, 256, 256), 8)
    assert cut.shape == (2, 1, 128, 128)
    assert (cut[:, 0, 0, 0] == torch.tensor(window.top) * 8.0).all()
    whole = draw_window(points, 256, CodecTrainingConfig(window_share=1.0), torch.Generator())
    assert whole is None


def test_errors_at_the_border_of_a_window_are_not_judged(points):
    pair, config = pair_of(points), CodecTrainingConfig(window_margin_px=4)
    window = draw_window(
        points, SIDE, CodecTrainingConfig(window_share=0.5), torch.Generator().manual_seed(0)
    )
    target = window.cut(pair.target, 8)
    wrong = target.clone()
    wrong[..., :3, :] += 1
    flows = [torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 8, 8)]
    decoded = Decoded(wrong, target, torch.ones(2, 1, 16, 16), *flows)
    assert codec_losses(decoded, pair, config, window)["pixel"].item() == 0


def test_jitter_is_the_same_for_both_pictures(points):
    pair = pair_of(points)
    jittered = jitter_colours(pair, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(jittered.target, jittered.reference)
    assert (jittered.target - pair.target).abs().max() > 0.02


def test_the_decoder_learns_against_the_discriminator():
    torch.manual_seed(0)
    critic, true = PatchDiscriminator(8), torch.rand(2, 3, 16, 16)
    decoded = torch.rand(2, 3, 16, 16, requires_grad=True)
    critic_loss(critic, decoded, true, 0.5).backward()
    turned = decoded.grad.clone()
    decoded.grad = None
    torch.nn.functional.relu(1 + critic(decoded)).mean().backward()
    torch.testing.assert_close(turned, -0.5 * decoded.grad)
    assert all(p.grad is not None for p in critic.parameters())


def test_extreme_targets_have_shut_eyes_or_an_open_mouth():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, 2))
    config = CodecTrainingConfig(batch_size=64, extreme_share=1.0)
    pairs = sample_pairs(TwoClips(), states, config, torch.Generator().manual_seed(1))
    for target in ((pairs.target[:, 0, 0, 0] + 1) * 127.5).round().int().tolist():
        clip = states[target // 20 * 20 :][:20]
        lids, lips = (clip[:, 1] < states[target, 1]).sum(), (clip[:, 0] > states[target, 0]).sum()
        assert lids < 2 or lips < 4
