"""Training of the reference autoencoder (see `models.reference_decoder`).

Its trap: a mouth or an eye whose state differs from the reference stays as the reference had it. The remedies are
combined: shut eyes and open mouths are drawn as targets on purpose, and references of another state; the mouth and the
eyes of the reference are hidden part of the time; the boxes of mouth and eyes weigh more, also for what is drawn before
the reference joins; and lip gap and eye opening must be readable from the latents.

The fine levels are computed in a window of each picture, mostly around the face: a quarter of the work of the whole.
Texture comes from a small discriminator of patches (Isola et al. 2017) with the hinge loss (Lim and Ye 2017). It learns
in the same step through a reversed gradient (Ganin and Lempitsky 2015), so that one loss and one optimiser suffice.
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

from openloopy.data.cache import PixelCache, sampling_weights
from openloopy.data.regions import region_boxes, region_weights
from openloopy.models.reference_decoder import Decoded, ReferencePicture, Window
from openloopy.models.vae import ReferenceCodec, save_codec
from openloopy.training.face_reader import FaceReader, Placed, reader_losses
from openloopy.training.loop import step_generator
from openloopy.training.probe import StateProbe

READER_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class CodecTrainingConfig:
    """What the autoencoder is asked to do."""

    batch_size: int = 32
    seed: int = 0
    extreme_share: float = 0.5
    """Share of targets chosen for the most closed eyes or the most open mouth of their clip: a blink is rare."""
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
    window_share: float = 0.5
    """Side of the window in which the fine levels are trained, as a share of the picture's; 1: the whole picture."""
    face_window_share: float = 0.75
    """Share of windows around the face; the others lie anywhere."""
    window_margin_px: int = 8
    """Border of a window that is not judged: there the convolutions see less than in a whole picture."""
    colour_jitter: float = 0.15
    """Standard deviation of the gain and half that of the offset given to each colour channel of a pair."""
    footage_share: float = 0.15
    """Share of pairs from footage, where there is some."""
    trains_encoder: bool = True
    """False: the latents stay as they are, so that the decoder can go on learning beside the denoiser."""
    adversarial_weight: float = 0.0
    """Weight of the patch discriminator; 0: none."""
    adversarial_start: int = 500
    """Step from which it acts on the decoder."""
    state_weight: float = 0.3
    """Weight of reading lip gap and eye opening from the latents (`training.probe.StateProbe`)."""
    reading_weight: float = 0.0
    """Weight of what a reader of pixels sees in decoded mouths and eyes (`training.face_reader`); 0: none."""


class PatchDiscriminator(nn.Module):
    """Real or decoded, for overlapping patches of 30 px: `n 3 h w` -> `n 1 h/4 w/4`."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures.contiguous(memory_format=torch.channels_last))


class ReversedGradient(torch.autograd.Function):
    """The identity, whose gradient is turned round and scaled: who feeds it learns the opposite of who reads it."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grad, None


class CodecWithCritic(nn.Module):
    """What is trained: the codec, a reader of its latents, and where asked for a discriminator and a reader of its
    pictures; only the codec is exported."""

    def __init__(
        self,
        codec: ReferenceCodec,
        reader: StateProbe,
        critic: PatchDiscriminator | None,
        face_reader: FaceReader | None,
    ):
        super().__init__()
        self.codec, self.reader, self.critic, self.face_reader = codec, reader, critic, face_reader


@dataclass(frozen=True)
class PixelPair:
    """target, reference: `b 3 H W` in [-1, 1]; points: `b 68 2` in [0, 1] of each; states: the target's, `b 2`."""

    target: Tensor
    reference: Tensor
    target_points: Tensor
    reference_points: Tensor
    states: Tensor


class CodecTask:
    """`TrainTask` of the autoencoder."""

    def __init__(self, codec: ReferenceCodec, cache: PixelCache, config: CodecTrainingConfig):
        critic = PatchDiscriminator() if config.adversarial_weight else None
        codec.encoder.requires_grad_(config.trains_encoder)
        self.cache, self.config = cache, config
        states = np.stack([cache.arrays["lip_gap"], cache.arrays["eye_opening"]], 1)
        self.states = (states - states.mean(0)) / (states.std(0) + 1e-6)
        side = codec.config.size_px // codec.config.downsample
        reader = StateProbe(codec.config.latent_channels, READER_WIDTH, side)
        face_reader = FaceReader() if config.reading_weight else None
        self.network: nn.Module = CodecWithCritic(codec, reader, critic, face_reader)
        self.clip_weights = sampling_weights(cache.records, config.footage_share)

    def describe(self) -> dict:
        return {
            "stage": "codec",
            "config": asdict(self.config),
            "codec": asdict(self.network.codec.config),
            "data": asdict(self.cache.info),
        }

    def losses(self, network: nn.Module, step: int) -> dict[str, Tensor]:
        codec, critic = network.codec, network.critic
        device = next(codec.parameters()).device
        generator = step_generator(self.config.seed, step)
        pair = self._draw(generator)
        pair = PixelPair(*(x.to(device) for x in vars(pair).values()))
        # A frozen encoder must not move its running mean and variance either.
        codec.encoder.train(self.config.trains_encoder and codec.training)
        latents = codec.encode(pair.target)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        scale = torch.rand(len(latents), 1, 1, 1, generator=generator).to(device)
        window = draw_window(pair.target_points.cpu(), codec.config.size_px, self.config, generator)
        decoded = codec.decode_parts(
            latents + noise * scale * self.config.latent_noise_max,
            self._reference(codec, pair, generator),
            window,
        )
        losses = codec_losses(decoded, pair, self.config, window)
        state = F.smooth_l1_loss(network.reader(latents).float(), pair.states)
        losses |= {"loss": losses["loss"] + self.config.state_weight * state, "state": state}
        true = pair.target if window is None else window.cut(pair.target, 8)
        if network.face_reader is not None:
            read, look = reader_losses(
                network.face_reader,
                placed(decoded.image, window, pair.target.shape[-1]),
                placed(true, window, pair.target.shape[-1]),
                pair.target_points,
                pair.states,
            )
            total = losses["loss"] + read + self.config.reading_weight * look
            losses |= {"loss": total, "read": read, "look": look}
        if critic is None:
            return losses
        scale = self.config.adversarial_weight * (step >= self.config.adversarial_start)
        against = critic_loss(critic, decoded.image, true, scale)
        return losses | {"loss": losses["loss"] + against, "critic": against}

    def sample(self, network: nn.Module, path: Path) -> None:
        """Rows: reference, target, decoded, drawn before the reference joins, share taken from the reference."""
        codec = network.codec
        pair = self._draw(step_generator(self.config.seed, -1))
        device = next(codec.parameters()).device
        with torch.inference_mode():
            target, reference = pair.target[:8].to(device), pair.reference[:8].to(device)
            decoded = codec.decode_parts(codec.encode(target), codec.prepare_reference(reference))
            mask = decoded.mask.expand(-1, 3, -1, -1) * 2 - 1
            rows = torch.stack([reference, target, decoded.image, decoded.drawn, mask]).clamp(-1, 1)
        picture = rearrange((rows * 127.5 + 127.5).byte(), "r n c h w -> (r h) (n w) c").cpu().numpy()
        Image.fromarray(picture).save(path.with_suffix(".png"))

    def export(self, network: nn.Module, folder: Path) -> None:
        save_codec(folder / "vae", network.codec)

    def _draw(self, generator: torch.Generator) -> PixelPair:
        pair = sample_pairs(self.cache, self.states, self.config, generator, self.clip_weights)
        return jitter_colours(pair, self.config.colour_jitter, generator)

    def _reference(
        self, codec: ReferenceCodec, pair: PixelPair, generator: torch.Generator
    ) -> ReferencePicture:
        covered = cover_reference(pair.reference, pair.reference_points, self.config, generator)
        # The reference's own latents need no gradient: the encoder learns from the targets.
        with torch.no_grad():
            latents = codec.encode(pair.reference).detach()
        return ReferencePicture(covered, latents, codec.decoder.reference_features(covered))


def sample_pairs(
    cache: PixelCache,
    states: np.ndarray,
    config: CodecTrainingConfig,
    generator: torch.Generator,
    clip_weights: np.ndarray | None = None,
) -> PixelPair:
    """A batch of (target, reference) frames of the same clip, each from another randomly drawn clip.

    clip_weights: probability of each clip, `clips`; None: all alike.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    offsets = cache.clip_offsets
    clips = rng.choice(len(cache), size=config.batch_size, p=clip_weights)
    begins, lengths = offsets[clips], offsets[clips + 1] - offsets[clips]
    targets = begins + (rng.random(config.batch_size) * lengths).astype(int)
    for i in np.flatnonzero(rng.random(config.batch_size) < config.extreme_share):
        targets[i] = begins[i] + _extreme_frame(states[begins[i] : begins[i] + lengths[i]], rng)
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
        torch.from_numpy(states[targets]).float(),
    )


def _extreme_frame(states: np.ndarray, rng: np.random.Generator) -> int:
    """One of the two frames with the most closed eyes, or one of the four with the most open mouth; states `f 2`."""
    if rng.random() < 0.5:
        return int(rng.choice(np.argsort(states[:, 1])[:2]))
    return int(rng.choice(np.argsort(states[:, 0])[-4:]))


def _pixels(frames: np.ndarray, indices: np.ndarray) -> Tensor:
    picked = torch.from_numpy(np.stack([frames[i] for i in indices]))
    return rearrange(picked, "b h w c -> b c h w").float() / 127.5 - 1


def jitter_colours(pair: PixelPair, sd: float, generator: torch.Generator) -> PixelPair:
    """Other light on both pictures of each pair: a gain and an offset per channel, the greater part in common."""
    if sd == 0:
        return pair
    b = len(pair.target)
    common, own = (
        torch.randn(2, b, 1, 1, 1, generator=generator),
        torch.randn(2, b, 3, 1, 1, generator=generator),
    )
    gain, offset = sd * (0.8 * common + 0.6 * own) * torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1, 1)
    target, reference = ((x * gain.exp() + offset).clamp(-1, 1) for x in (pair.target, pair.reference))
    return PixelPair(target, reference, pair.target_points, pair.reference_points, pair.states)


def draw_window(
    points: Tensor, size_px: int, config: CodecTrainingConfig, generator: torch.Generator
) -> Window | None:
    """Windows around the faces `b 68 2` (in [0, 1]), or anywhere; None where the whole picture is wanted."""
    cells = size_px // 8
    side = round(config.window_share * cells)
    if side >= cells:
        return None
    b = len(points)
    middle = (points.amin(1) + points.amax(1)) / 2 * cells - side / 2
    near = middle + 0.15 * side * torch.randn(b, 2, generator=generator)
    anywhere = torch.rand(b, 2, generator=generator) * (cells - side)
    is_near = torch.rand(b, 1, generator=generator) < config.face_window_share
    place = torch.where(is_near, near, anywhere).round().clamp(0, cells - side).int()
    return Window(top=tuple(place[:, 1].tolist()), left=tuple(place[:, 0].tolist()), side=side)


def placed(pixels: Tensor, window: Window | None, size_px: int) -> Placed:
    """A window's pixels `b 3 h w` with their place in the whole picture of side `size_px`."""
    if window is None:
        return Placed(pixels, pixels.new_zeros(len(pixels), 2), 1.0)
    corners = torch.tensor([window.left, window.top], dtype=torch.float32, device=pixels.device).T
    return Placed(pixels, corners * 8 / size_px, window.side * 8 / size_px)


def critic_loss(critic: nn.Module, decoded: Tensor, true: Tensor, scale: float) -> Tensor:
    """Hinge loss of the discriminator; the decoder gets its gradient turned round and times `scale`."""
    turned = ReversedGradient.apply(decoded, scale)
    scores = critic(torch.cat([true, turned])).float()
    on_true, on_decoded = scores.chunk(2)
    return F.relu(1 - on_true).mean() + F.relu(1 + on_decoded).mean()


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


def codec_losses(
    decoded: Decoded, pair: PixelPair, config: CodecTrainingConfig, window: Window | None = None
) -> dict[str, Tensor]:
    """Weighted L1 on pixels and on their gradients, the same for what was drawn, and the flow at landmarks."""
    target = pair.target
    weights = region_weights(
        pair.target_points.cpu(), target.shape[-1], mouth=config.mouth_weight, eyes=config.eye_weight
    ).to(target.device)
    weights = weights / weights.mean()
    if window is not None:
        target, weights = window.cut(target, 8), _without_margin(window.cut(weights, 8), config)
    pixel = weighted_l1(decoded.image, target, weights)
    gradient = gradient_l1(decoded.image, target, weights)
    drawn = weighted_l1(decoded.drawn, target, weights) + gradient_l1(decoded.drawn, target, weights)
    flow = landmark_flow_error(decoded.coarse_flow, pair)
    total = (
        pixel + config.gradient_weight * gradient + config.drawn_weight * drawn + config.flow_weight * flow
    )
    return {"loss": total, "pixel": pixel, "gradient": gradient, "drawn": drawn, "flow": flow}


def _without_margin(weights: Tensor, config: CodecTrainingConfig) -> Tensor:
    margin = config.window_margin_px
    return F.pad(weights[..., margin:-margin, margin:-margin], (margin,) * 4) if margin else weights


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
