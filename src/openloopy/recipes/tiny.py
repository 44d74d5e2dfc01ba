"""`tiny`: the pixel path, every step at a size that two CPU cores walk in a minute or two. It proves the plumbing.

Its latents are those of a small AutoencoderKL with fresh weights, so its pictures show nothing.

openloopy puppet OUT --num-clips 6 --clip-s 6     # drawn faces
openloopy train tiny --data OUT --run RUN         # all steps; writes RUN/model
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from openloopy.data.batch import BatchConfig
from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.audio_encoder import AudioEncoderConfig
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.audio_to_latents import A2LConfig
from openloopy.models.denoiser import DenoiserConfig
from openloopy.models.loopy import GenerationDefaults, LoopyConfig
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig
from openloopy.recipes.line import AudioRecipe, CodecRecipe, DenoiseRecipe, LineConfig
from openloopy.recipes.mini import audio_encoder_config
from openloopy.recipes.speech_bank import SpeechBankConfig
from openloopy.training.audio import AudioTrainingConfig
from openloopy.training.loop import LoopConfig
from openloopy.training.optim import OptimConfig
from openloopy.training.stages import StageConfig


def tiny() -> LineConfig:
    """All steps, a few dozen iterations each."""
    return LineConfig(
        codec=CodecRecipe(autoencoder=autoencoder_settings()),
        audio=AudioRecipe(
            model=_audio_encoder_config(),
            bank=SpeechBankConfig(num_utterances=8, utterance_s=4.0, workers=1),
            held_out=SpeechBankConfig(num_utterances=2, utterance_s=4.0, workers=1),
            training=AudioTrainingConfig(batch_size=4, crop_frames=25),
            loop=_loop(20),
        ),
        model=loopy_config(),
        stage1=DenoiseRecipe(training=StageConfig(number=1, batch_size=8), loop=_loop(30)),
        stage2=DenoiseRecipe(
            training=StageConfig(number=2, batch_size=2, batch=BatchConfig()),
            loop=_loop(20),
        ),
    )


def autoencoder_settings() -> dict[str, Any]:
    """diffusers' settings of an autoencoder that makes a latent of 8x8 pixels, as Stable Diffusion's does."""
    return dict(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[4, 4, 8, 8],
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )


def loopy_config() -> LoopyConfig:
    """Every part of the paper's model, a few channels wide."""
    return LoopyConfig(
        name="tiny",
        size_px=64,
        denoiser=DenoiserConfig(
            unet=UNetConfig(
                block_channels=(16, 24),
                layers_per_block=1,
                attention_levels=(True, True),
                num_heads=2,
                norm_groups=8,
                context_dim=32,
            ),
            temporal=TemporalConfig(num_heads=2),
            audio=AudioProjectionConfig(num_layers=2, layer_width=32),
            reference_input="attention+concat",
        ),
        a2l=A2LConfig(num_embeddings=8, width=32, num_heads=2),
        schedule=ScheduleConfig(zero_terminal_snr=True),
        prediction="v",
        defaults=GenerationDefaults(steps=2, spacing="trailing", audio_guidance=2.0, reference_guidance=1.5),
    )


def _audio_encoder_config() -> AudioEncoderConfig:
    mini = audio_encoder_config()
    small = replace(
        mini.network,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        bands=40,
        kernel=7,
        reach=8,
    )
    return replace(mini, network=small)


def _loop(num_steps: int) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=5, ema_decay=0.9),
        log_every=10,
        checkpoint_every=20,
        sample_every=num_steps,
        precision="float32",
    )
