"""Training of the audio encoder: every curve counts, warm starts keep the encoder and renew the heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.models.audio_encoder import load_audio_encoder, save_audio_encoder
from openloopy.training.audio import AudioTask, AudioTrainingConfig, SpeechBank, curve_spreads
from tests.tiny import tiny_audio_encoder


def small_bank(seed: int) -> SpeechBank:
    rng = np.random.default_rng(seed)
    waveforms = rng.integers(-9000, 9000, (4, 20 * 640)).astype(np.int16)
    visemes = rng.integers(0, 28, (4, 40)).astype(np.uint8)
    articulation = rng.standard_normal((4, 20, 3)) * np.array([0.4, 0.1, 0.2])
    return SpeechBank(waveforms, visemes, articulation.astype(np.float16))


def small_task(encoder) -> AudioTask:
    config = AudioTrainingConfig(batch_size=2, crop_frames=12)
    return AudioTask(
        encoder, small_bank(0), small_bank(1), config=config, augment=lambda sound, rng: sound.copy()
    )


def test_spreads_are_those_of_the_bank_and_never_zero() -> None:
    np.testing.assert_allclose(curve_spreads(small_bank(0).articulation), [0.4, 0.1, 0.2], rtol=0.3)
    assert curve_spreads(np.zeros((2, 5, 3))).min() > 0


def test_losses_are_a_function_of_seed_and_step_and_reach_all_heads() -> None:
    task = small_task(tiny_audio_encoder())
    first, second, other = (task.losses(task.network, step)["loss"] for step in (1, 1, 2))
    assert first.item() == pytest.approx(second.item()) and first.item() != pytest.approx(other.item())
    first.backward()
    for head in (task.network.viseme, task.network.viseme_middle, task.network.curves):
        assert head.weight.grad.abs().sum() > 0


def test_warm_start_keeps_the_encoder_and_renews_the_heads(tmp_path) -> None:
    old = small_task(tiny_audio_encoder())
    save_audio_encoder(tmp_path, old.network.encoder)
    torch.manual_seed(5)
    warm = small_task(load_audio_encoder(tmp_path))
    for name, value in old.network.encoder.state_dict().items():
        torch.testing.assert_close(warm.network.encoder.state_dict()[name], value)
    assert not torch.equal(warm.network.viseme.weight, old.network.viseme.weight)
