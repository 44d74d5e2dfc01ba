"""`mini`: the embedded model, 256x256, trained on puppets and a little footage.

Commands (see runs/mini.sh for the whole line, docs/training.md for what it gave). v1 goes on from v0, whose grid of
latents (16x16, 8 channels) it keeps; without --start every step begins from nothing, and needs several times as long:

    openloopy train mini.codec  --data SHARDS --run runs/mini --start V0
    openloopy train mini.audio  --data SHARDS --run runs/mini --start V0
    openloopy train mini.stage2 --data SHARDS --run runs/mini --start V0     # writes runs/mini/model

Hardware: two CPU cores (better with bfloat16), or any GPU (`--set loop.device=cuda`).
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
from openloopy.recipes.speech_bank import SpeechBankConfig
from openloopy.training.audio import AudioTrainingConfig
from openloopy.training.codec import CodecTrainingConfig
from openloopy.training.loop import LoopConfig
from openloopy.training.optim import OptimConfig
from openloopy.training.probe import ProbeConfig
from openloopy.training.stages import DropoutConfig, StageConfig

AUDIO_LAYERS, AUDIO_WIDTH = 4, 160


def mini() -> LineConfig:
    """The line that makes the embedded model."""
    return LineConfig(
        codec=CodecRecipe(
            model=ReferenceCodecConfig(),
            training=codec_training(),
            loop=_loop(700, learning_rate=6e-4, ema_decay=0.99),
        ),
        decoder=CodecRecipe(
            model=ReferenceCodecConfig(),
            training=replace(
                codec_training(), trains_encoder=False, adversarial_weight=0.01, reading_weight=0.3
            ),
            loop=_loop(800, learning_rate=5e-4, ema_decay=0.99),
        ),
        audio=AudioRecipe(
            model=audio_encoder_config(),
            bank=SpeechBankConfig(num_utterances=1600),
            held_out=SpeechBankConfig(num_utterances=48),
            training=AudioTrainingConfig(batch_size=12),
            loop=_loop(1100, learning_rate=5e-4, ema_decay=0.997),
        ),
        model=loopy_config(),
        stage1=DenoiseRecipe(
            training=StageConfig(number=1, batch_size=48, batch=BatchConfig()),
            loop=_loop(500, learning_rate=6e-4, ema_decay=0.99),
        ),
        stage2=DenoiseRecipe(
            training=StageConfig(
                number=2,
                batch_size=4,
                batch=BatchConfig(mouth_weight=6.0, eye_weight=6.0),
                # Without masks the past is read far better (docs/evaluation.md, `nomask`); noise stays against drift.
                # The embedded weights (v1.1) were trained with masks, rate 0.4: runs/mini.sh sets it.
                # Guidance by sound subtracts `e_ref`; guidance by reference is off by default (`loopy_config`).
                dropout=DropoutConfig(
                    without_sound=0.1, nothing=0.02, reference=0.03, motion_frames=0.0, motion_noise_max=0.25
                ),
                motion_gradient="none",
                state_weight=0.1,
            ),
            loop=_loop(700, learning_rate=4e-4, ema_decay=0.996),
        ),
        probe=ProbeRecipe(training=ProbeConfig(), loop=_loop(800, learning_rate=1e-3, ema_decay=0.99)),
    )


def codec_training() -> CodecTrainingConfig:
    """Mouth and eyes matter most, and most references are of another state or covered there."""
    return CodecTrainingConfig(
        batch_size=12,
        other_state_share=0.8,
        hide_region_share=0.5,
        mouth_weight=10.0,
        eye_weight=10.0,
        adversarial_start=200,
    )


def audio_encoder_config() -> AudioEncoderConfig:
    """A small wav2vec 2.0 whose layers are normalised per step: it hears chunks as it hears the whole."""
    return AudioEncoderConfig(
        wav2vec2=dict(
            hidden_size=AUDIO_WIDTH,
            num_hidden_layers=AUDIO_LAYERS,
            num_attention_heads=4,
            intermediate_size=384,
            conv_dim=[32, 32, 32, 48, 64, 64, 64],
            conv_bias=True,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            vocab_size=32,
        )
    )


def loopy_config() -> LoopyConfig:
    """The paper's model at small widths; three measured departures: reference at the input, v, zero terminal SNR."""
    unet = UNetConfig(
        in_channels=8,
        out_channels=8,
        block_channels=(64, 96, 128),
        layers_per_block=1,
        attention_levels=(True, True, True),
        num_heads=2,
        norm_groups=16,
        context_dim=96,
    )
    return LoopyConfig(
        name="mini",
        size_px=256,
        denoiser=DenoiserConfig(
            unet=unet,
            temporal=TemporalConfig(num_heads=2),
            audio=AudioProjectionConfig(num_layers=AUDIO_LAYERS, layer_width=AUDIO_WIDTH),
            reference_input="attention+concat",
        ),
        a2l=A2LConfig(num_embeddings=16, width=64, num_heads=4),
        schedule=ScheduleConfig(zero_terminal_snr=True),
        prediction="v",
        defaults=GenerationDefaults(
            steps=6, spacing="trailing", audio_guidance=3.0, reference_guidance=1.0, temperature=0.7
        ),
    )


def _loop(num_steps: int, *, learning_rate: float, ema_decay: float) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        optim=OptimConfig(learning_rate=learning_rate, ema_decay=ema_decay),
        checkpoint_every=100,
        sample_every=500,
    )
