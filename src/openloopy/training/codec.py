"""Training of the reference autoencoder (see `models.reference_decoder`).

Its trap: a mouth or an eye whose state differs from the reference stays as the reference had it. Three remedies are
combined: references of another state are drawn on purpose, the mouth and the eyes of the reference are hidden part of
the time, and the boxes of mouth and eyes weigh more, also for the picture drawn from the latents alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from openloopy.data.cache import PixelCache
from openloopy.data.regions import region_boxes, region_weights
from openloopy.models.reference_decoder import Decoded, ReferencePicture
from openloopy.models.vae import ReferenceCodec, save_codec
from openloopy.training.loop import step_generator


@dataclass(frozen=True, kw_only=True)
class CodecTrainingConfig:
    """What the autoencoder is asked to do."""

    batch_size: int = 32
    seed: int = 0
    other_state_share: float = 0.6
    """Share of references chosen for the most different mouth or eyes among `state_candidates` frames."""
    state_candidates: int = 8
    hide_region_share: float = 0.35
    """Chance that the reference's mouth (and, drawn apart, its eyes) is covered."""
    hide_all_share: float = 0.08
    """Chance that the whole reference picture is covered: the latents must then carry everything."""
    latent_noise_max: float = 0.25
    """Noise added to the latents, in standard deviations, drawn uniformly up to this: the denoiser is not exact."""
    mouth_weight: float = 6.0
    eye_weight: float = 6.0
    gradient_weight: float = 1.0
    drawn_weight: float = 0.5
    flow_weight: float = 2.0


@dataclass(frozen=True)
class PixelPair:
    """target, reference: `b 3 H W` in [-1, 1]; points: `b 68 2` in [0, 1] of each."""

    target: Tensor
    reference: Tensor
    target_points: Tensor
    reference_points: Tensor


class CodecTask:
    """`TrainTask` of the autoencoder."""

    def __init__(self, codec: ReferenceCodec, cache: PixelCache, config: CodecTrainingConfig):
        self.network: nn.Module = codec
        self.cache, self.config = cache, config
        self.states = np.stack([cache.arrays["lip_gap"], cache.arrays["eye_opening"]], 1)
        self.states = self.states / (self.states.std(0) + 1e-6)

    def describe(self) -> dict:
        return {
            "stage": "codec",
            "config": asdict(self.config),
            "codec": asdict(self.network.config),
            "data": asdict(self.cache.info),
        }

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        device = next(network.parameters()).device
        generator = step_generator(self.config.seed, step)
        pair = sample_pairs(self.cache, self.states, self.config, generator)
        pair = PixelPair(*(x.to(device) for x in vars(pair).values()))
        latents = network.encode(pair.target)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        scale = torch.rand(len(latents), 1, 1, 1, generator=generator).to(device)
        decoded = network.decode_parts(
            latents + noise * scale * self.config.latent_noise_max, self._reference(network, pair, generator)
        )
        return codec_losses(decoded, pair, self.config)

    def sample(self, network: nn.Module, path: Path) -> None:
        """Rows: reference, target, decoded, drawn from the latents alone, share taken from the reference."""
        pair = sample_pairs(self.cache, self.states, self.config, step_generator(self.config.seed, -1))
        device = next(network.parameters()).device
        with torch.inference_mode():
            target, reference = pair.target[:10].to(device), pair.reference[:10].to(device)
            decoded = network.decode_parts(network.encode(target), network.prepare_reference(reference))
            mask = decoded.mask.expand(-1, 3, -1, -1) * 2 - 1
            rows = torch.stack([reference, target, decoded.image, decoded.drawn, mask]).clamp(-1, 1)
        picture = rearrange((rows * 127.5 + 127.5).byte(), "r n c h w -> (r h) (n w) c").cpu().numpy()
        Image.fromarray(picture).save(path.with_suffix(".png"))

    def export(self, network: nn.Module, folder: Path) -> None:
        save_codec(folder / "vae", network)

    def _reference(
        self, network: ReferenceCodec, pair: PixelPair, generator: torch.Generator
    ) -> ReferencePicture:
        covered = cover_reference(pair.reference, pair.reference_points, self.config, generator)
        # The reference's own latents need no gradient: the encoder learns from the targets.
        with torch.no_grad():
            latents = network.encode(pair.reference).detach()
        return ReferencePicture(covered, latents, network.decoder.reference_features(covered))


def sample_pairs(
    cache: PixelCache, states: np.ndarray, config: CodecTrainingConfig, generator: torch.Generator
) -> PixelPair:
    """A batch of (target, reference) frames of the same clip, each from another randomly drawn clip."""
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    offsets = cache.clip_offsets
    clips = rng.integers(len(cache), size=config.batch_size)
    begins, lengths = offsets[clips], offsets[clips + 1] - offsets[clips]
    targets = begins + (rng.random(config.batch_size) * lengths).astype(int)
    shape = (config.batch_size, config.state_candidates)
    candidates = begins[:, None] + (rng.random(shape) * lengths[:, None]).astype(int)
    # Mouth or eyes, drawn per pair: the candidate that differs most in it.
    part = rng.integers(2, size=config.batch_size)
    difference = np.abs(states[candidates, part[:, None]] - states[targets, part][:, None])
    best = np.where(rng.random(config.batch_size) < config.other_state_share, difference.argmax(1), 0)
    references = candidates[np.arange(config.batch_size), best]
    points = cache.arrays["points68"]
    side = cache.info.size_px
    return PixelPair(
        _pixels(cache.frames, targets),
        _pixels(cache.frames, references),
        torch.from_numpy((points[targets] + 0.5) / side).float(),
        torch.from_numpy((points[references] + 0.5) / side).float(),
    )


def _pixels(frames: np.ndarray, indices: np.ndarray) -> Tensor:
    picked = torch.from_numpy(np.stack([frames[i] for i in indices]))
    return rearrange(picked, "b h w c -> b c h w").float() / 127.5 - 1


def cover_reference(
    picture: Tensor, points: Tensor, config: CodecTrainingConfig, generator: torch.Generator
) -> Tensor:
    """Cover mouth, eyes or everything of some references by the mean colour of what is covered.

    picture: `b 3 H W`; points: `b 68 2` in [0, 1]. Returns a new picture.
    """
    b, _, height, _ = picture.shape
    mouth, eyes = (box.to(picture.device) for box in region_boxes(points.cpu(), height))
    everything = torch.ones_like(mouth)
    chances = (config.hide_region_share, config.hide_region_share, config.hide_all_share)
    for region, chance in zip((mouth, eyes, everything), chances, strict=True):
        hidden = (torch.rand(b, generator=generator) < chance).to(picture.device)
        cover = region * hidden[:, None, None, None]
        mean = (picture * region).sum((2, 3), keepdim=True) / region.sum((2, 3), keepdim=True).clamp(min=1)
        picture = picture * (1 - cover) + mean * cover
    return picture


def codec_losses(decoded: Decoded, pair: PixelPair, config: CodecTrainingConfig) -> dict[str, Tensor]:
    """Weighted L1 on pixels and on their gradients, the same for the drawn picture, and the flow at landmarks."""
    weights = region_weights(
        pair.target_points.cpu(), decoded.image.shape[-1], mouth=config.mouth_weight, eyes=config.eye_weight
    ).to(decoded.image.device)
    weights = weights / weights.mean()
    pixel = weighted_l1(decoded.image, pair.target, weights)
    gradient = gradient_l1(decoded.image, pair.target, weights)
    drawn = weighted_l1(decoded.drawn, pair.target, weights) + gradient_l1(
        decoded.drawn, pair.target, weights
    )
    flow = landmark_flow_error(decoded.flow, pair)
    total = (
        pixel + config.gradient_weight * gradient + config.drawn_weight * drawn + config.flow_weight * flow
    )
    return {"loss": total, "pixel": pixel, "gradient": gradient, "drawn": drawn, "flow": flow}


def weighted_l1(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return ((x - y).abs() * weights).mean()


def gradient_l1(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """L1 of horizontal and vertical differences: keeps edges (lashes, teeth) that plain L1 blurs."""
    error = x - y
    across = (error[..., :, 1:] - error[..., :, :-1]).abs() * weights[..., :, 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weights[..., 1:, :]
    return across.mean() + down.mean()


def landmark_flow_error(flow: Tensor, pair: PixelPair) -> Tensor:
    """Mean distance, in half pictures, from where the flow leads at each landmark to its place in the reference."""
    places = pair.target_points * 2 - 1
    at_points = F.grid_sample(flow.float(), places[:, None], align_corners=False)
    led_to = places + rearrange(at_points, "b c 1 p -> b p c")
    return (led_to - (pair.reference_points * 2 - 1)).abs().mean()
