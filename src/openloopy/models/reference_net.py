"""The reference net: a U-Net that reads the reference picture and the motion frames for the denoiser.

Source: Loopy (arXiv:2409.02634), sec. 3.1 and 3.2. Clean latents at timestep 0. At every attention layer it gives the
tokens that enter self-attention (for the reference picture) and the map that enters the layer (for the motion frames);
whatever comes after the last of them is absent from the net, and so is its timestep embedding: at one timestep it is a
constant, and part of the biases (`fold_timestep`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openloopy.models.attention import SpatialTransformer, TransformerEntry, enter_transformer, to_tokens
from openloopy.models.conditions import LayerFeatures, ReferenceFeatures
from openloopy.models.resnet import TimeEmbedding
from openloopy.models.temporal import TemporalLayers
from openloopy.models.unet import Anatomy, MidBlock, UNetConfig, down_blocks, run_blocks, up_blocks


class ReferenceNet(nn.Module):
    """Names as in SD 1.5's U-Net, without cross-attention and without what follows its last self-attention's entry."""

    def __init__(self, config: UNetConfig, relative_motion: bool = False) -> None:
        """relative_motion: see `TemporalConfig.relative_motion`."""
        super().__init__()
        self.relative_motion = relative_motion
        anatomy = Anatomy(unet=config, context_width=None, temporal=None, time_width=None)
        self.config = config
        self.conv_in = config.conv(config.in_channels, config.block_channels[0])
        self.down_blocks = down_blocks(anatomy)
        self.mid_block = MidBlock(anatomy)
        self.up_blocks = up_blocks(anatomy)
        self.up_blocks[-1].attentions[-1] = TransformerEntry(config.block_channels[0], config.norm_groups)

    def forward(self, reference: Tensor, motion: Tensor, motion_mask: Tensor) -> ReferenceFeatures:
        """Read the reference picture and the motion frames.

        Args:
            reference: latents, `b c h w`.
            motion: latents of the motion frames, `b s c h w`, oldest first; s may be 0.
            motion_mask: `b s`, 1 = present. Missing frames are not computed: their features are zero.
        """
        batch, num_motion = motion_mask.shape
        if motion.shape != (batch, num_motion, *reference.shape[1:]) or len(reference) != batch:
            raise ValueError(
                "expected reference `b c h w`, motion `b s c h w` and motion_mask `b s`, "
                f"got {tuple(reference.shape)}, {tuple(motion.shape)} and {tuple(motion_mask.shape)}"
            )
        present = motion_mask.flatten().nonzero().squeeze(1)
        frames = torch.cat([reference, motion.flatten(0, 1)[present]])
        portrait_of = present // max(num_motion, 1)
        layers = []
        for tokens, normed in self.read(frames):
            features = tokens.new_zeros(batch * num_motion, *tokens.shape[1:])
            seen = tokens[batch:]
            if self.relative_motion:
                even = F.layer_norm(tokens, tokens.shape[-1:])
                seen = even[batch:] - even[portrait_of]
            features = features.index_copy(0, present, seen)
            layers.append(LayerFeatures(normed[:batch], features.unflatten(0, (batch, num_motion))))
        return ReferenceFeatures(tuple(layers), motion_mask)

    def read(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Latents `b c h w` -> per attention layer the tokens that enter it, raw and as self-attention reads them."""
        features = []

        def step(
            x: Tensor, attention: SpatialTransformer | TransformerEntry, _: TemporalLayers | None
        ) -> Tensor:
            tokens, normed = enter_transformer(attention, x)
            features.append((to_tokens(x), normed))
            return x if isinstance(attention, TransformerEntry) else attention.finish(x, tokens, normed)

        run_blocks(self, self.conv_in(frames), None, step)
        return features


def fold_timestep(weights: dict[str, Tensor], t: int = 0) -> dict[str, Tensor]:
    """The weights of a U-Net that shall run at one timestep only: what the timestep adds becomes bias; exact.

    Args:
        weights: with diffusers' names, `time_embedding.*` and `*.time_emb_proj.*` among them.
        t: that timestep (the reference net's is 0).

    Returns:
        The same weights without these, `*.conv1.bias` changed.
    """
    width, in_width = weights["time_embedding.linear_1.weight"].shape
    embedding = TimeEmbedding(in_width, width)
    embedding.load_state_dict(
        {
            name.removeprefix("time_embedding."): w
            for name, w in weights.items()
            if name.startswith("time_embedding.")
        }
    )
    with torch.no_grad():
        features = F.silu(embedding.float()(torch.tensor([t])))[0]
    folded = {name: w for name, w in weights.items() if "time_emb" not in name}
    for name in [name for name in weights if name.endswith(".time_emb_proj.weight")]:
        block = name.removesuffix(".time_emb_proj.weight")
        added = weights[name].float() @ features + weights[f"{block}.time_emb_proj.bias"].float()
        bias = weights[f"{block}.conv1.bias"]
        folded[f"{block}.conv1.bias"] = (bias.float() + added).to(bias.dtype)
    return folded
