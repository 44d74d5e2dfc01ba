"""`ablation`: a small model, 128x128, on which the paper's ablations can be trained side by side on two CPU cores.

    openloopy train ablation.codec  --data SHARDS --run RUN       # shared by all variants, like
    openloopy train ablation.stage1 --data SHARDS --run RUN       # stage 1
    openloopy train ablation-full.stage2    --data SHARDS --run RUN   # writes RUN/full/model
    openloopy train ablation-single4.stage2 --data SHARDS --run RUN   # writes RUN/single4/model

benchmarks/ablation.py does all of it and measures. Codec and hearing come from `mini` (the codec learns on, at half the
size); its latents are 8x8.

So that a variant can learn within minutes to use what it differs in, the line departs from the paper, alike for all:
stage 1 hears (single frames with sound, no layers along time, no audio-to-latents), so that every variant starts from
the same model that can move its lips; what is made out of noise is the difference to the portrait, and motion frames
are seen as what differs from it; noisy timesteps are drawn more often; and stage 2 leaves the reference net as it is
(at these rates its features grow without bound). What was measured of this is in `docs/log.md`, entry 27.
"""

from __future__ import annotations

from dataclasses import replace

from openloopy.data.batch import BatchConfig
from openloopy.models.audio_to_latents import A2LConfig
from openloopy.models.loopy import GenerationDefaults, LoopyConfig
from openloopy.models.unet import UNetConfig
from openloopy.recipes import mini
from openloopy.recipes.line import CodecRecipe, DenoiseRecipe, LineConfig, ProbeRecipe
from openloopy.training.loop import LoopConfig
from openloopy.training.optim import OptimConfig
from openloopy.training.probe import ProbeConfig
from openloopy.training.stages import ALL_PARTS, StageConfig

SIZE_PX = 128
RESIDUAL_SCALE = 2.7
"""One over the standard deviation of frames' latents less those of another frame of the clip (variance .136)."""


def ablation() -> LineConfig:
    """The line that all variants share, with the full model's stage 2."""
    whole = mini.mini()
    training = StageConfig(
        number=2,
        batch_size=4,
        trainable=("picture", "temporal", "audio"),
        timestep_power=3.0,
        batch=BatchConfig(mouth_weight=6.0, eye_weight=6.0),
        motion_gradient="none",
        state_weight=0.3,
    )
    hearing = replace(
        training,
        batch_size=24,
        trainable=ALL_PARTS,
        batch=replace(training.batch, num_frames=2, num_history=1),
    )
    return LineConfig(
        codec=CodecRecipe(
            model=replace(whole.codec.model, size_px=SIZE_PX, output_px=SIZE_PX),
            training=replace(whole.codec.training, window_share=1.0),
            loop=_loop(1100, learning_rate=5e-4, ema_decay=0.98),
        ),
        decoder=None,
        audio=None,
        model=loopy_config(),
        stage1=DenoiseRecipe(training=hearing, loop=_loop(800, learning_rate=6e-4, ema_decay=0.99)),
        stage2=DenoiseRecipe(training=training, loop=_loop(600, learning_rate=1.5e-3, ema_decay=0.98)),
        probe=ProbeRecipe(training=ProbeConfig(), loop=_loop(800, learning_rate=1e-3, ema_decay=0.99)),
        lender="mini",
    )


def loopy_config() -> LoopyConfig:
    """`mini`'s model with two levels instead of three, narrower, on an 8x8 grid."""
    base = mini.loopy_config()
    unet = UNetConfig(
        in_channels=8,
        out_channels=8,
        block_channels=(48, 96),
        layers_per_block=1,
        attention_levels=(True, True),
        num_heads=2,
        norm_groups=16,
        context_dim=64,
    )
    temporal = replace(base.denoiser.temporal, relative_motion=True)
    return replace(
        base,
        name="ablation",
        size_px=SIZE_PX,
        denoiser=replace(base.denoiser, unet=unet, temporal=temporal),
        residual_scale=RESIDUAL_SCALE,
        a2l=A2LConfig(num_embeddings=16, width=64, num_heads=4),
        defaults=GenerationDefaults(
            steps=4, spacing="trailing", audio_guidance=2.0, reference_guidance=1.0, temperature=1.0
        ),
    )


def _loop(num_steps: int, *, learning_rate: float, ema_decay: float) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        optim=OptimConfig(learning_rate=learning_rate, warmup_steps=30, ema_decay=ema_decay),
        checkpoint_every=100,
        sample_every=10_000,
        precision="float32",
    )
