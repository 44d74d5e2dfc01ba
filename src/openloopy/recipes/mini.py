"""`mini`: the embedded model, whose portrait itself moves: everything of the paper, on face states.

    openloopy speech SPEECH --recorded FOLDER --kokoro-hours 2
    openloopy puppet SHARDS --states --speech SPEECH --hours 23.6 --clip-s 20 --clip-s 32 --clip-s 45 --clip-s 60
    openloopy train mini --data SHARDS --data SPEECH --run runs/mini     # all steps; writes runs/mini/model

Steps: `codec` (mean and scale of the states), `audio` (the audio encoder), `stage1` (single frames), `stage2` (clips of
12 frames with the 124 before them). runs/mini.sh has the whole line, docs/training.md what it gave and what it cost.

Hardware: one CPU core, some twenty hours (better with bfloat16), or any GPU (`--set loop.device=cuda`).
"""

from __future__ import annotations

from openloopy.data.batch import BatchConfig
from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.audio_encoder import AudioEncoderConfig
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.audio_to_latents import A2LConfig
from openloopy.models.conformer import ConformerConfig
from openloopy.models.denoiser import DenoiserConfig
from openloopy.models.loopy import GenerationDefaults, LoopyConfig
from openloopy.models.temporal import TemporalConfig
from openloopy.models.unet import UNetConfig
from openloopy.recipes.line import AudioRecipe, CodecRecipe, DenoiseRecipe, LineConfig
from openloopy.recipes.speech_bank import SpeechBankConfig
from openloopy.rig.state import PARTS, TOKEN_WIDTH
from openloopy.training.audio import AudioTrainingConfig
from openloopy.training.loop import LoopConfig
from openloopy.training.optim import OptimConfig
from openloopy.training.stages import DropoutConfig, StageConfig

AUDIO_LAYERS, AUDIO_WIDTH = 4, 144


def mini() -> LineConfig:
    """The line that makes the embedded model."""
    # All parts of the face count alike: their values are normalised.
    batch = BatchConfig(mouth_weight=1.0, eye_weight=1.0)
    return LineConfig(
        codec=CodecRecipe(),
        audio=AudioRecipe(
            model=audio_encoder_config(),
            bank=SpeechBankConfig(num_utterances=1500),
            held_out=SpeechBankConfig(num_utterances=24),
            training=AudioTrainingConfig(),
            loop=_loop(4600, learning_rate=6e-4, ema_decay=0.998),
            begins_with="hama",
        ),
        model=loopy_config(),
        stage1=DenoiseRecipe(
            training=StageConfig(number=1, batch_size=256, batch=batch),
            loop=_loop(1000, learning_rate=1e-3, ema_decay=0.99),
        ),
        stage2=DenoiseRecipe(
            training=StageConfig(
                number=2,
                batch_size=32,
                batch=batch,
                dropout=DropoutConfig(motion_frames=0.05, motion_noise_max=0.25),
                step_weight=0.5,
            ),
            loop=_loop(60_000, learning_rate=1e-3, ema_decay=0.9995),
        ),
    )


def audio_encoder_config() -> AudioEncoderConfig:
    """A conformer as small as hama's, whose weights it begins with; it hears chunks as it hears the whole."""
    network = ConformerConfig(hidden_size=AUDIO_WIDTH, num_hidden_layers=AUDIO_LAYERS)
    return AudioEncoderConfig(loudness="levelled", network=network)


def loopy_config() -> LoopyConfig:
    """The paper's model on three tokens a frame; measured departures: reference and last frame at the input, v, zero
    terminal SNR."""
    unet = UNetConfig(
        in_channels=TOKEN_WIDTH,
        out_channels=TOKEN_WIDTH,
        block_channels=(96,),
        layers_per_block=2,
        attention_levels=(True,),
        num_heads=4,
        norm_groups=16,
        context_dim=128,
        kernel_size=(1, 3),
    )
    return LoopyConfig(
        name="mini",
        latent_size=(1, len(PARTS)),
        denoiser=DenoiserConfig(
            unet=unet,
            temporal=TemporalConfig(num_heads=4),
            audio=AudioProjectionConfig(num_layers=AUDIO_LAYERS, layer_width=AUDIO_WIDTH),
            reference_input="attention+concat",
            past_input="last_frames",
        ),
        a2l=A2LConfig(num_embeddings=32, width=128, num_heads=4),
        schedule=ScheduleConfig(zero_terminal_snr=True),
        prediction="v",
        defaults=GenerationDefaults(
            steps=5,
            spacing="angle",
            order=2,
            audio_guidance=1.5,
            reference_guidance=1.0,
            part_temperatures=(0.0, 1.15, 1.1),
        ),
    )


def _loop(num_steps: int, *, learning_rate: float, ema_decay: float) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        optim=OptimConfig(learning_rate=learning_rate, ema_decay=ema_decay),
        checkpoint_every=200,
        sample_every=1000,
    )
