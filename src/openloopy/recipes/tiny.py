"""`tiny`: every step of the line at a size that two CPU cores walk in a minute or two. It proves the plumbing, no more.

openloopy puppet OUT --num-clips 6 --clip-s 6     # drawn faces
openloopy train tiny --data OUT --run RUN         # all steps; writes RUN/model
"""

from __future__ import annotations

from dataclasses import replace

from openloopy.data.batch import BatchConfig
from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.audio_encoder import AudioEncoderConfig
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.audio_to_latents import A2LConfig
from openloopy.models.denoiser import DenoiserConfig
from openloopy.models.loopy import GenerationDefaults, LoopyConfig
from openloopy.models.reference_decoder import ReferenceCodecConfig
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig
from openloopy.recipes.line import AudioRecipe, CodecRecipe, DenoiseRecipe, LineConfig, ProbeRecipe
from openloopy.recipes.mini import audio_encoder_config
from openloopy.recipes.speech_bank import SpeechBankConfig
from openloopy.training.audio import AudioTrainingConfig
from openloopy.training.codec import CodecTrainingConfig
from openloopy.training.loop import LoopConfig
from openloopy.training.optim import OptimConfig
from openloopy.training.probe import ProbeConfig
from openloopy.training.stages import StageConfig


def tiny() -> LineConfig:
    """All steps, a few dozen iterations each."""
    codec = ReferenceCodecConfig(
        size_px=64,
        output_px=64,
        latent_channels=4,
        encoder_channels=(8, 12, 16),
        reference_channels=(8, 8, 8),
        decoder_channels=(8, 12, 16),
    )
    return LineConfig(
        codec=CodecRecipe(model=codec, training=CodecTrainingConfig(batch_size=8), loop=_loop(40)),
        decoder=CodecRecipe(
            model=codec,
            training=CodecTrainingConfig(
                batch_size=8, trains_encoder=False, adversarial_weight=0.01, adversarial_start=5
            ),
            loop=_loop(10),
        ),
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
            training=StageConfig(number=2, batch_size=2, batch=BatchConfig(), state_weight=0.05),
            loop=_loop(20),
        ),
        probe=ProbeRecipe(training=ProbeConfig(width=8, batch_size=16), loop=_loop(20)),
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
    small = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7
    )
    return replace(mini, wav2vec2=mini.wav2vec2 | small)


def _loop(num_steps: int) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=5, ema_decay=0.9),
        log_every=10,
        checkpoint_every=20,
        sample_every=num_steps,
        precision="float32",
    )
