"""Training of the audio encoder: every curve counts where it is known, levels, silence, warm starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.models.audio_encoder import (
    LEVEL_RMS,
    SAMPLES_PER_FRAME,
    load_audio_encoder,
    save_audio_encoder,
    speech_level,
)
from openloopy.training.audio import (
    UNKNOWN,
    AudioTask,
    AudioTrainingConfig,
    SpeechBank,
    curve_spreads,
    guessed,
    listening_losses,
)
from tests.tiny import tiny_audio_encoder

LENGTHS = (20, 8, 30)
REST = (0.0, 0.0, 1.0)


def small_bank(seed: int, lengths: tuple[int, ...] = LENGTHS, unknown: bool = False) -> SpeechBank:
    rng, frames = np.random.default_rng(seed), sum(lengths)
    waveforms = rng.integers(-9000, 9000, frames * 640).astype(np.int16)
    visemes = rng.integers(1, 28, frames * 2).astype(np.int8)
    curves = rng.standard_normal((frames, 3)) * np.array([0.4, 0.1, 0.2])
    if unknown:
        visemes[::2], curves[::2, 0] = UNKNOWN, np.nan
    starts = np.concatenate([[0], np.cumsum(lengths)])
    shares = np.full(len(lengths), 1 / len(lengths))
    return SpeechBank(waveforms, visemes, curves.astype(np.float16), starts, shares)


def small_task(encoder, bank: SpeechBank | None = None, augment=None, **settings) -> AudioTask:
    config = AudioTrainingConfig(**{"batch_size": 2, "crop_frames": 12, **settings})
    return AudioTask(
        encoder,
        bank or small_bank(0),
        small_bank(1),
        config=config,
        augment=augment or (lambda sound, rng: sound.copy()),
        background=lambda count, rng: rng.standard_normal(count),
        rest=REST,
    )


@pytest.fixture(scope="module")
def encoder():
    return tiny_audio_encoder()


def drawn(task: AudioTask, count: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    batches = [task.draw(rng) for _ in range(count)]
    return (torch.cat(part) for part in zip(*batches, strict=True))


def test_spreads_are_those_of_what_is_known_and_never_zero() -> None:
    bank = small_bank(0, (3000,), unknown=True)
    np.testing.assert_allclose(curve_spreads(bank.curves), [0.4, 0.1, 0.2], rtol=0.1)
    assert curve_spreads(np.zeros((5, 3))).min() > 0
    assert torch.isfinite(curve_spreads(np.full((5, 3), np.nan))).all()


def test_a_bank_that_does_not_fit_is_refused() -> None:
    bank = small_bank(0)
    with pytest.raises(ValueError, match="640 samples and 2 viseme steps per frame"):
        SpeechBank(bank.waveforms[:-1], bank.visemes, bank.curves, bank.starts, bank.shares)
    with pytest.raises(ValueError, match="a start for each of its 3 sounds and its end"):
        SpeechBank(bank.waveforms, bank.visemes, bank.curves, bank.starts[:-1], bank.shares)


def test_losses_are_a_function_of_seed_and_step_and_reach_all_heads(encoder) -> None:
    task = small_task(encoder)
    first, second, other = (task.losses(task.network, step)["loss"] for step in (1, 1, 2))
    assert first.item() == pytest.approx(second.item()) and first.item() != pytest.approx(other.item())
    first.backward()
    for head in (task.network.viseme, task.network.viseme_middle, task.network.curves):
        assert head.weight.grad.abs().sum() > 0


def test_what_is_unknown_does_not_count() -> None:
    config, rng = AudioTrainingConfig(), torch.Generator().manual_seed(0)
    last, middle = (torch.randn(1, 4, 28, generator=rng) for _ in range(2))
    moved, curves = torch.randn(1, 2, 3, generator=rng), torch.zeros(1, 2, 3)
    visemes = torch.tensor([[3, UNKNOWN, 5, UNKNOWN]])
    curves[0, 0, 0] = float("nan")
    before = listening_losses(last, middle, moved, curves, visemes, config=config)
    assert all(value.isfinite() for value in before.values())
    last[:, 1], middle[:, 3], moved[0, 0, 0] = 100, 100, 100
    after = listening_losses(last, middle, moved, curves, visemes, config=config)
    torch.testing.assert_close(after, before)
    known = torch.nn.functional.smooth_l1_loss(moved.flatten()[1:], torch.zeros(5))
    torch.testing.assert_close(after["curves"], known)
    nothing = listening_losses(last, middle, moved, curves * torch.nan, visemes * 0 + UNKNOWN, config=config)
    assert nothing["loss"] == 0


def test_a_crop_is_a_piece_of_a_sound_or_a_sound_among_silence(encoder) -> None:
    task = small_task(encoder, background_share=0, own_level_share=0, batch_size=30)
    _, _, visemes, curves = drawn(task, 3)
    padded = [k for k in range(len(visemes)) if (visemes[k] == 0).any()]
    # The short sound of 8 frames is a third of what is drawn.
    assert 0.2 < len(padded) / len(visemes) < 0.5
    for k in padded:
        silent = visemes[k].reshape(-1, 2)[:, 0] == 0
        assert silent.sum() == 4
        torch.testing.assert_close(curves[k][silent], torch.tensor(REST).expand(4, 3))
    whole = small_bank(0).visemes
    piece = visemes[next(k for k in range(len(visemes)) if k not in padded)].numpy()
    assert any(np.array_equal(whole[i : i + 24], piece) for i in range(0, len(whole), 2))


def test_sounds_are_drawn_by_their_share(encoder) -> None:
    bank = small_bank(0)
    bank.shares[:] = (0.0, 1.0, 0.0)
    _, _, visemes, _ = drawn(small_task(encoder, bank, background_share=0), 5)
    assert all((row == 0).sum() == 8 for row in visemes)


def test_nobody_speaks_in_background(encoder) -> None:
    sounds, _, visemes, curves = drawn(small_task(encoder, background_share=1), 10)
    assert (visemes == 0).all() and sounds.std() > 0
    torch.testing.assert_close(curves, torch.tensor(REST).expand_as(curves))


def test_levels_are_those_that_the_encoder_will_be_given(encoder) -> None:
    """By the whole sound and a little off, or by the crop itself."""
    bank = small_bank(0, (40,))
    bank.waveforms[: 20 * 640] //= 100
    for share, low, high in ((0.0, 0.5, 2.01), (1.0, 1.0, 1.0)):
        task = small_task(encoder, bank, background_share=0, own_level_share=share, crop_frames=40)
        sounds, *_ = drawn(task, 10)
        ratios = [speech_level([sound.numpy()]) / LEVEL_RMS for sound in sounds]
        assert min(ratios) >= low * 0.98 and max(ratios) <= high * 1.02
        assert share == 1 or max(ratios) / min(ratios) > 1.5


def test_augmentation_keeps_the_loudness_of_a_crop(encoder) -> None:
    louder = small_task(encoder, augment=lambda sound, rng: 7 * sound, augment_share=1, background_share=0)
    plain = small_task(encoder, augment_share=0, background_share=0)
    loud, soft = (next(iter(drawn(task, 4, seed=3))) for task in (louder, plain))
    ratio = loud.square().mean().sqrt() / soft.square().mean().sqrt()
    assert 0.5 < ratio < 2


def test_quiet_recordings_come_in_few_steps(encoder) -> None:
    """16 bits at -40 dB leave some hundred values."""
    task = small_task(encoder, background_share=0, own_level_share=1, batch_size=20, crop_frames=8)
    sounds, *_ = drawn(task, 2)
    assert len(sounds[0]) == 8 * SAMPLES_PER_FRAME
    counts = sorted(len(np.unique(sound)) for sound in sounds.numpy())
    assert counts[0] < 1000 and counts[-1] > 4000


def test_undistorted_sound_comes_along_at_its_own_level(encoder) -> None:
    bank = small_bank(0, (12,))
    task = small_task(
        encoder, bank, augment=lambda sound, rng: sound[::-1], augment_share=1, background_share=0
    )
    sounds, clean, _, _ = drawn(task, 1)
    whole = bank.piece(0, 12)[0]
    np.testing.assert_allclose(clean[0], whole * LEVEL_RMS / speech_level([whole]), rtol=1e-5)
    assert np.corrcoef(sounds[0], clean[0].flip(0))[0, 1] > 0.99


class Guesses(torch.nn.Module):
    """Sure of class 7 in the first half of a sound, unsure in the second; keeps what it was given."""

    def forward(self, sound):
        self.given, self.was_training = sound, self.training
        logits = torch.zeros(len(sound), 4, 28)
        logits[:, :2, 7] = 10
        return logits, None, None


def test_sure_guesses_stand_where_nobody_knows() -> None:
    network = Guesses().train()
    visemes = torch.tensor([[UNKNOWN, 3, UNKNOWN, 4], [5, 5, 5, 5]])
    clean = torch.arange(4.0).reshape(2, 2)
    assert guessed(network, clean, visemes, 0.85).tolist() == [[7, 3, UNKNOWN, 4], [5, 5, 5, 5]]
    torch.testing.assert_close(network.given, clean[:1])
    assert network.training and not network.was_training
    assert visemes[0, 0] == UNKNOWN
    network.given = None
    assert guessed(network, clean[1:], visemes[1:], 0.85).tolist() == [[5, 5, 5, 5]] and network.given is None


def test_held_out_scores_count_what_is_known(encoder, tmp_path) -> None:
    task = small_task(encoder)
    task.held_out = small_bank(1, unknown=True)
    scores, true, heard = task.evaluate(task.network.eval())
    assert set(scores) == {
        "viseme_accuracy",
        "curve_0_correlation",
        "curve_1_correlation",
        "curve_2_correlation",
    }
    assert all(np.isfinite(value) for value in scores.values())
    assert true.shape == heard.shape == (20, 3)
    task.sample(task.network, tmp_path / "sample")
    assert (tmp_path / "sample.json").exists() and (tmp_path / "sample.png").exists()


def test_warm_start_keeps_the_encoder_and_renews_the_heads(tmp_path) -> None:
    old = small_task(tiny_audio_encoder())
    save_audio_encoder(tmp_path, old.network.encoder)
    torch.manual_seed(5)
    warm = small_task(load_audio_encoder(tmp_path))
    for name, value in old.network.encoder.state_dict().items():
        torch.testing.assert_close(warm.network.encoder.state_dict()[name], value)
    assert not torch.equal(warm.network.viseme.weight, old.network.viseme.weight)
