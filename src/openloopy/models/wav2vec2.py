"""wav2vec 2.0 in plain PyTorch: names, settings and numbers of transformers' `Wav2Vec2Model`, without its import.

Source: Baevski et al. 2020, arXiv 2006.11477. Importing transformers takes longer than all else that loads `mini`, and
its versions disagree on whether the last layer's hidden state is normalised; here it is not, as in transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from openloopy.models.config_json import check_num_layers, divides, from_json_dict

MODEL_TYPE = "wav2vec2"


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """Sizes, under transformers' names; the defaults are those of wav2vec2-base."""

    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: Literal["group", "layer"] = "group"
    """Normalised over time in the first convolution, or over channels in each."""
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    do_stable_layer_norm: bool = False
    """Normalised before attention and feed-forward instead of after them."""
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    feat_proj_dropout: float = 0.0
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = {len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}
        if len(lengths) > 1:
            raise ValueError(f"conv_dim, conv_kernel and conv_stride must be equally long, got {lengths}")
        check_num_layers(self.num_hidden_layers)
        if not divides(self.num_attention_heads, self.hidden_size):
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} attention heads"
            )

    @staticmethod
    def from_transformers(settings: Mapping[str, Any]) -> Wav2Vec2Config:
        """The settings of a transformers config.json; what does not change the hidden states is left out.

        Raises:
            ValueError: a network of another kind, or with parts that are not built here.
        """
        kind = settings.get("model_type")
        if kind != MODEL_TYPE:
            raise ValueError(f"a model of type {kind!r}, not {MODEL_TYPE!r}")
        for name, known in (
            ("hidden_act", "gelu"),
            ("feat_extract_activation", "gelu"),
            ("adapter_attn_dim", None),
        ):
            if settings.get(name, known) != known:
                raise ValueError(f"{name} is {settings[name]!r}; only {known!r} is built here")
        names = {field.name for field in fields(Wav2Vec2Config)}
        known = {name: value for name, value in settings.items() if name in names}
        return from_json_dict(Wav2Vec2Config, known, place=MODEL_TYPE)

    def to_transformers(self) -> dict[str, Any]:
        """A config.json from which transformers builds the same network."""
        return {
            "architectures": ["Wav2Vec2Model"],
            "model_type": MODEL_TYPE,
            **asdict(self),
            "num_feat_extract_layers": len(self.conv_dim),
            "layerdrop": 0.0,
            "apply_spec_augment": False,
            "mask_time_prob": 0.0,
        }


class Wav2Vec2(nn.Module):
    """Sound -> hidden states of all layers. Sound of n samples gives some n / 320 steps."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)
        self.apply(_initialise)

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """waveform: `b samples` -> what each layer gives, first layer first, each `b steps width`."""
        features = self.feature_extractor(waveform)
        return self.encoder(self.feature_projection(features))


class FeatureEncoder(nn.Module):
    """Convolutions over the waveform: `b samples` -> `b steps channels`."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.conv_layers = nn.ModuleList(ConvLayer(config, index) for index in range(len(config.conv_dim)))

    def forward(self, waveform: Tensor) -> Tensor:
        x = rearrange(waveform, "b s -> b 1 s")
        for layer in self.conv_layers:
            x = layer(x)
        return rearrange(x, "b c s -> b s c")


class ConvLayer(nn.Module):
    """A convolution, its norm if it has one, GELU."""

    def __init__(self, config: Wav2Vec2Config, index: int):
        super().__init__()
        channels = config.conv_dim[index]
        self.conv = nn.Conv1d(
            config.conv_dim[index - 1] if index else 1,
            channels,
            config.conv_kernel[index],
            stride=config.conv_stride[index],
            bias=config.conv_bias,
        )
        self.layer_norm: nn.Module = nn.Identity()
        if config.feat_extract_norm == "layer":
            self.layer_norm = ChannelNorm(channels)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer_norm(self.conv(x)))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `b c s`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class FeatureProjection(nn.Module):
    """From the convolutions' channels to the layers' width."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        channels = config.conv_dim[-1]
        self.layer_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.projection = nn.Linear(channels, config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.projection(self.layer_norm(features)))


class Encoder(nn.Module):
    """Positions by convolution, then the layers."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.is_stable = config.do_stable_layer_norm
        self.pos_conv_embed = PositionalConvEmbedding(config)
        # In the stable kind it follows the last layer, where only heads for other tasks read it.
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if self.is_stable else self.layer_norm(x))
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        return states


class PositionalConvEmbedding(nn.Module):
    """A wide grouped convolution whose output tells where a step lies."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        conv = nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=config.num_conv_pos_embedding_groups
        )
        nn.init.normal_(conv.weight, std=2 * (1 / (kernel * width)) ** 0.5)
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.conv(x.transpose(1, 2))[..., : x.shape[1]]
        return F.gelu(positions).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, normalised before (stable) or after each."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.is_stable = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_stable:
            x = x + self.dropout(self.attention(self.layer_norm(x)))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Attention(nn.Module):
    """Self-attention with several heads over all steps."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        width = config.hidden_size
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(project(x), "b s (h d) -> b h s d", h=self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(rearrange(attended, "b h s d -> b s (h d)"))


class FeedForward(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dropout(
            self.output_dense(self.intermediate_dropout(F.gelu(self.intermediate_dense(x))))
        )


def from_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint of transformers under the names of `Wav2Vec2`.

    Networks with a head keep theirs under `wav2vec2.`; weight norm has had two names in PyTorch.
    """
    renamed = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(f"{MODEL_TYPE}.")
        name = name.replace(".weight_g", ".parametrizations.weight.original0")
        renamed[name.replace(".weight_v", ".parametrizations.weight.original1")] = tensor
    return renamed


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Random weights as transformers begins with; the convolution of the positions has its own."""
    if isinstance(module, FeatureProjection):
        bound = module.projection.in_features**-0.5
        nn.init.uniform_(module.projection.weight, -bound, bound)
        nn.init.uniform_(module.projection.bias, -bound, bound)
    elif isinstance(module, ConvLayer):
        nn.init.kaiming_normal_(module.conv.weight)
        if module.conv.bias is not None:
            bound = (module.conv.in_channels * module.conv.kernel_size[0]) ** -0.5
            nn.init.uniform_(module.conv.bias, -bound, bound)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
