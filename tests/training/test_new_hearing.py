"""A model that gets another audio encoder hears with it, as far as a linear map goes, what it heard before."""

import numpy as np
import pytest
import torch
from torch import nn

from openloopy.models.audio_encoder import AudioEncoder, AudioEncoderConfig, AudioFeatureReader
from openloopy.models.audio_projection import AudioProjection, AudioProjectionConfig
from openloopy.models.wav2vec2 import Wav2Vec2Config
from openloopy.training.new_hearing import hears_like, refit_projection

CONTEXT = 8


def make_encoder(seed: int, *, width: int = 16) -> AudioEncoder:
    torch.manual_seed(seed)
    network = Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        conv_dim=(16,) * 7,
        feat_extract_norm="layer",
    )
    return AudioEncoder(AudioEncoderConfig(network=network)).eval().requires_grad_(False)


def make_projection(seed: int, *, width: int = 16, context: int = CONTEXT) -> AudioProjection:
    torch.manual_seed(seed)
    projection = AudioProjection(AudioProjectionConfig(num_layers=2, layer_width=width), context)
    for norm in (projection.norm, projection.norm_out):
        nn.init.normal_(norm.weight, 1.0, 0.2)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    return projection


def sounds(seed: int, count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(48_000).astype(np.float32) * 0.1 for _ in range(count)]


def tokens(encoder: AudioEncoder, projection: AudioProjection, sound: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return projection(AudioFeatureReader(encoder, sound).window(0, 70)[None])


def refit(new: AudioProjection, old: AudioProjection, encoders: tuple[AudioEncoder, AudioEncoder]) -> float:
    return refit_projection(new, old, new_encoder=encoders[0], old_encoder=encoders[1], sounds=sounds(0))


def test_the_same_encoder_gives_the_same_tokens():
    encoder, old, new = make_encoder(0), make_projection(1), make_projection(2)
    unheard = sounds(9, 1)[0]
    wanted = tokens(encoder, old, unheard)
    before = (tokens(encoder, new, unheard) - wanted).abs().mean()
    assert refit(new, old, (encoder, encoder)) < 0.05
    after = (tokens(encoder, new, unheard) - wanted).abs().mean()
    assert after < 0.01 * before


def test_an_encoder_of_another_width_is_fitted_as_far_as_it_goes():
    encoders = make_encoder(3, width=20), make_encoder(0)
    old, new = make_projection(1), make_projection(2, width=20)
    unheard = sounds(9, 1)[0]
    wanted = tokens(encoders[1], old, unheard)
    before = (tokens(encoders[0], new, unheard) - wanted).abs().mean()
    unexplained = refit(new, old, encoders)
    assert 0 < unexplained < 1
    assert (tokens(encoders[0], new, unheard) - wanted).abs().mean() < before


def test_tokens_of_another_width_are_refused():
    encoder = make_encoder(0)
    with pytest.raises(ValueError, match="only the audio encoder may change"):
        refit(make_projection(2, context=12), make_projection(1), (encoder, encoder))


def test_without_sound_there_is_an_error():
    encoder, projection = make_encoder(0), make_projection(1)
    with pytest.raises(ValueError, match="no sound to fit"):
        refit_projection(projection, projection, new_encoder=encoder, old_encoder=encoder, sounds=[])


def test_encoders_are_told_apart_by_settings_and_weights():
    assert hears_like(make_encoder(0), make_encoder(0))
    assert hears_like(make_encoder(0), make_encoder(0).half().float())
    assert not hears_like(make_encoder(0), make_encoder(1))
    assert not hears_like(make_encoder(0), make_encoder(0, width=20))
