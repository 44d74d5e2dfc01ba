"""`ablation`: `mini` narrower and shorter, on which the paper's ablations can be trained side by side on two CPU cores.

    openloopy puppet SHARDS --states --hours 20 ...                        # as for `mini`
    openloopy train ablation.codec  --data SHARDS --run RUN                # shared by all variants, like
    openloopy train ablation.audio  --data SHARDS --run RUN                # the hearing (or any trained mini's)
    openloopy train ablation.stage1 --data SHARDS --run RUN                # and stage 1
    openloopy train ablation-full.stage2    --data SHARDS --run RUN        # writes RUN/full/model
    openloopy train ablation-single4.stage2 --data SHARDS --run RUN        # writes RUN/single4/model

benchmarks/ablation.py does all of it and measures.

So that a variant can learn within minutes to use what it differs in, the line departs from the paper, alike for all:
stage 1 hears (single frames with sound, no layers along time, no audio-to-latents), so that every variant starts from
the same model that can move its lips; noisy timesteps are drawn more often; and motion frames are seen as what differs
from the portrait. Motion frames are dropped as often as in the paper and get no noise: both are variants.
"""

from __future__ import annotations

from dataclasses import replace

from openloopy.models.audio_to_latents import A2LConfig
from openloopy.models.loopy import LoopyConfig
from openloopy.recipes import mini
from openloopy.recipes.line import DenoiseRecipe, LineConfig
from openloopy.training.loop import LoopConfig
from openloopy.training.optim import OptimConfig
from openloopy.training.stages import DropoutConfig


def ablation() -> LineConfig:
    """The line that all variants share, with the full model's stage 2."""
    whole = mini.mini()
    training = replace(whole.stage2.training, dropout=DropoutConfig(), timestep_power=2.0)
    hearing = replace(
        training, batch_size=128, batch=replace(training.batch, num_frames=2, num_history=1, start_share=0.0)
    )
    return replace(
        whole,
        model=loopy_config(),
        stage1=DenoiseRecipe(training=hearing, loop=_loop(600)),
        stage2=DenoiseRecipe(training=training, loop=_loop(1000)),
    )


def loopy_config() -> LoopyConfig:
    """`mini`'s model with fewer channels and layers."""
    base = mini.loopy_config()
    unet = replace(base.denoiser.unet, block_channels=(64,), layers_per_block=1, context_dim=64)
    temporal = replace(base.denoiser.temporal, relative_motion=True)
    return replace(
        base,
        name="ablation",
        denoiser=replace(base.denoiser, unet=unet, temporal=temporal),
        a2l=A2LConfig(num_embeddings=16, width=64, num_heads=4),
    )


def _loop(num_steps: int) -> LoopConfig:
    return LoopConfig(
        num_steps=num_steps,
        optim=OptimConfig(
            learning_rate=1e-3, warmup_steps=50, decay_fraction=0.4, betas=(0.9, 0.98), ema_decay=0.99
        ),
        checkpoint_every=100,
        sample_every=10_000,
        precision="float32",
    )
