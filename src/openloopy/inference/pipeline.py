"""Portrait and sound become frames, clip by clip.

Source: Loopy (arXiv:2409.02634): autoregressive clips of 12 frames whose history is the latents of the last 124
frames; three-branch guidance; DDIM. Latents are carried over as latents, never decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from huggingface_hub import ModelCard
from torch import Tensor

from openloopy.diffusion.guidance import Branch, Guidance, branches_needed, combine
from openloopy.diffusion.sampler import SamplerConfig, sample
from openloopy.face.landmarks import FaceLandmarker, NetworkLandmarker
from openloopy.inference.hub import HubPipeline
from openloopy.inference.live import LiveFeatureReader, live_windows
from openloopy.inference.options import OWN_DEFAULTS, FrameKind, GenerationOptions, Say, check_frame_kind
from openloopy.inference.scene import Layout, Scene, choose_face
from openloopy.inference.windows import ClipWindow, clip_windows, num_frames
from openloopy.media.audio import SAMPLE_RATE_HZ, as_waveform
from openloopy.media.live_sound import LiveSound
from openloopy.models.audio_encoder import AudioFeatureReader
from openloopy.models.audio_to_latents import AudioCondition
from openloopy.models.codec import Prepared
from openloopy.models.conditions import Conditions
from openloopy.models.denoiser import Denoiser
from openloopy.models.folder import LoadedModel, find_model_folder, load_model, save_model
from openloopy.models.loopy import LoopyConfig
from openloopy.models.rig_codec import Portrait

T = TypeVar("T")
Denoise = Callable[[Tensor, Tensor], Tensor]
"""x_t `1 f c h w` and t `1` -> guided prediction `1 f c h w`."""
DECODED_AT_ONCE = 4
"""Frames per call of the picture decoder."""
MAPS_ALIVE = 64
"""Feature maps of the first level that one branch holds at its peak, roughly; decides "auto"."""
BATCHED_SHARE = 0.25
"""Share of a GPU's memory that batched branches may fill; the rest is for weights and other programs."""
BATCHED_BYTES_ELSEWHERE = 2**30
"""What they may fill of a memory that is shared with everything else."""


@dataclass(frozen=True)
class ClipPlan:
    """The options as they apply to one model: nothing left open."""

    seed: int
    sampler: SamplerConfig
    guidance: Guidance
    temperature: float
    part_temperatures: tuple[float, ...]
    is_batched: bool

    @property
    def noise_scale(self) -> Tensor:
        """What the noise is multiplied by: one number, or one for each column of the latents."""
        return self.temperature * torch.tensor(self.part_temperatures or 1.0)


class MotionHistory:
    """The latents of the last frames, oldest first; zero and masked before the video's beginning."""

    def __init__(self, length: int, frame_shape: tuple[int, ...], device: torch.device):
        self._latents = torch.zeros(length, *frame_shape, device=device)
        self._mask = torch.zeros(length, device=device)

    def append(self, latents: Tensor) -> None:
        """Add the frames of a clip, `f c h w`; the oldest ones fall off."""
        length = len(self._mask)
        self._latents = torch.cat([self._latents, latents])[-length:]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(latents))])[-length:]

    def as_batch(self) -> tuple[Tensor, Tensor]:
        """History `1 m c h w` and mask `1 m`, 1 = present."""
        return self._latents[None], self._mask[None]


class FeatureReader(Protocol):
    """Sound as the audio encoder hears it."""

    def window(self, start_frame: int, num_frames: int) -> Tensor:
        """Hidden states of these frames, `f layers width`."""


class LoopyPipeline(HubPipeline):
    """A loaded model as a function from portrait and sound to frames."""

    def __init__(
        self,
        model: LoadedModel,
        decoded_at_once: int = DECODED_AT_ONCE,
        landmarker: FaceLandmarker | None = None,
    ):
        """
        Args:
            model: all its parts.
            decoded_at_once: frames per call of the picture decoder.
            landmarker: finds faces; the package's own networks unless given.
        """
        self.model, self.decoded_at_once = model, decoded_at_once
        self._landmarker = landmarker

    @classmethod
    def from_pretrained(
        cls,
        name: Path | str = "mini",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **hub: Any,
    ) -> LoopyPipeline:
        """Open "mini", a model folder or a hub id; hub: what `find_model_folder` takes besides, such as revision."""
        return cls(load_model(find_model_folder(name, **hub), device=device, dtype=dtype))

    def _save_pretrained(self, save_directory: Path) -> None:
        model = self.model
        save_model(save_directory, model.loopy, model.codec, model.audio_encoder, model.config)

    def generate_model_card(self, **facts: Any) -> ModelCard:
        """The hub's page about this model; written once, and then the owner's."""
        config = self.model.config
        own = {
            "name": config.name,
            "size_px": config.size_px,
            "num_parameters": f"{sum(p.numel() for p in self.model.loopy.parameters()):,}",
        }
        return super().generate_model_card(**own | facts)

    @property
    def landmarker(self) -> FaceLandmarker:
        """What finds faces; its networks are loaded when they are first needed."""
        if self._landmarker is None:
            self._landmarker = NetworkLandmarker()
        return self._landmarker

    @property
    def size_px(self) -> int:
        """Side of the frames, unless the options ask for another."""
        return self.model.config.size_px

    def output_px(self, options: GenerationOptions) -> int:
        """Side of the frames with these options."""
        own = self.size_px
        if options.size_px in (None, own) or self.model.codec.makes_any_size:
            return options.size_px or own
        raise ValueError(
            f"{self.model.config.name} makes pictures of {own} px, not of {options.size_px}; leave the size out"
        )

    def source_px(self, options: GenerationOptions = OWN_DEFAULTS) -> int:
        """Side of the portrait that is wanted (see `face.crop.apply_crop`)."""
        return self.model.codec.source_px(self.output_px(options))

    def num_frames(self, waveform: np.ndarray) -> int:
        """Frames that `generate` gives for this sound."""
        return num_frames(len(waveform) / SAMPLE_RATE_HZ)

    def open_scene(
        self,
        portrait: Any,
        *,
        options: GenerationOptions = OWN_DEFAULTS,
        face: int | None = None,
        frame: FrameKind = "crop",
        say: Say | None = None,
        name: str | None = None,
    ) -> Scene:
        """A portrait, ready to be moved: `generate` does this itself; who makes several videos of it does it once.

        Args:
            portrait: a picture (`media.image.as_rgb`: path, PIL image, array), in which a face is looked for, or a
                `Portrait`, the square itself.
            face: which face, 0 the largest; None: the largest, said aloud if there are more.
            frame: what the video shows.
            name: what messages call the portrait.
        """
        check_frame_kind(frame)
        square_px = self.output_px(options)
        if isinstance(portrait, Portrait):
            chosen, layout = None, Layout.of_square(portrait, square_px)
            self._check_square(portrait, options)
        else:
            if frame == "full":
                self._check_full_frame(options)
            chosen = choose_face(portrait, self.landmarker, index=face, say=say, name=name)
            if frame == "full":
                layout = Layout.of_full_frame(chosen)
            else:
                # Image latents were trained on faces in a certain place; one that itself moves may lie anywhere.
                layout = Layout.of_crop(
                    chosen,
                    square_px=square_px,
                    source_px=self.source_px(options),
                    stays_inside=self.model.codec.makes_any_size,
                )
        with torch.inference_mode():
            prepared = self.model.codec.prepare(layout.portrait, layout.square_px)
        return Scene(layout, prepared, chosen)

    def generate(
        self,
        portrait: Any,
        audio: Any,
        *,
        options: GenerationOptions = OWN_DEFAULTS,
        face: int | None = None,
        frame: FrameKind = "crop",
        say: Say | None = None,
    ) -> Iterator[np.ndarray]:
        """Frames `H W 3` uint8 RGB, one clip after the other: memory does not grow with the sound's length.

        Args:
            portrait: what `open_scene` takes, or gives.
            audio: a sound's path, or `(samples, rate)` of numpy or torch (`media.audio.as_sound`).
            face, frame: as for `open_scene`.
            say: called with what a user should know of this portrait and sound, such as that its eyes are shut.

        Raises:
            ValueError: at once, not at the first frame: an input or an option that does not work.
        """
        waveform = as_waveform(audio, say)
        num_frames = self.num_frames(waveform)
        scene = self._scene(portrait, options, face, frame, say)
        plan = plan_clips(self.model.config, options, self.model.device)
        clips = self.clips(scene.prepared, waveform, num_frames, plan)
        return self._frames(scene, one_ahead(clips) if self.model.codec.computes_apart else clips)

    def generate_live(
        self,
        portrait: Any,
        listen: Callable[[], LiveSound],
        *,
        options: GenerationOptions = OWN_DEFAULTS,
        face: int | None = None,
        frame: FrameKind = "crop",
        say: Say | None = None,
    ) -> Iterator[np.ndarray]:
        """The same of a sound that is still coming; frames come as soon as the sound that they need is there.

        A clip needs its own sound and `inference.live.LOOK_AHEAD_FRAMES` more.

        Args:
            listen: opens the sound; called at the first frame that is asked for, when all is ready to draw it.
        """
        scene = self._scene(portrait, options, face, frame, say)
        plan = plan_clips(self.model.config, options, self.model.device)
        clips = self._live_clips(scene.prepared, listen, plan)
        if self.model.codec.computes_apart:
            clips = one_ahead(clips)
        return self._frames(scene, with_pauses(clips))

    def _live_clips(
        self, prepared: Prepared, listen: Callable[[], LiveSound], plan: ClipPlan
    ) -> Iterator[Tensor]:
        sound = listen()
        reader = LiveFeatureReader(self.model.audio_encoder, sound)
        windows = live_windows(sound, self.model.config.clip_frames)
        yield from self._clips(prepared, reader, windows, plan)

    def clips(
        self, prepared: Prepared, waveform: np.ndarray, num_frames: int, plan: ClipPlan
    ) -> Iterator[Tensor]:
        """The latents of one clip after the other, `f c h w`, num_frames in all: motion alone, nothing is drawn.

        waveform: `(samples,)`, floats in [-1, 1] at 16 kHz; checked.
        """
        waveform = as_waveform((waveform, SAMPLE_RATE_HZ))
        windows = clip_windows(num_frames, clip_frames=self.model.config.clip_frames)
        return self._clips(prepared, AudioFeatureReader(self.model.audio_encoder, waveform), windows, plan)

    def _scene(
        self, portrait: Any, options: GenerationOptions, face: int | None, frame: FrameKind, say: Say | None
    ) -> Scene:
        scene = portrait
        if not isinstance(portrait, Scene):
            scene = self.open_scene(portrait, options=options, face=face, frame=frame, say=say)
        elif options.size_px not in (None, scene.layout.square_px):
            raise ValueError(
                f"this scene is drawn with {scene.layout.square_px} px, asked for were {options.size_px}; open another"
            )
        for note in scene.prepared.notes if say else ():
            say(note)
        return scene

    def _check_square(self, portrait: Portrait, options: GenerationOptions) -> None:
        source_px = self.source_px(options)
        if len(portrait.rgb) != source_px and not self.model.codec.makes_any_size:
            raise ValueError(
                f"expected a portrait of shape {(source_px, source_px, 3)}, got {portrait.rgb.shape}; "
                "crop it with face.crop.portrait_crop and apply_crop, or give the whole picture"
            )

    def _check_full_frame(self, options: GenerationOptions) -> None:
        if options.size_px is not None:
            raise ValueError(
                "a size goes with frame crop; with frame full the video has the portrait's own size"
            )
        if not self.model.codec.makes_any_size:
            raise ValueError(
                f"frame full needs a model whose portrait itself moves, such as mini; "
                f"{self.model.config.name} draws squares of {self.size_px} px"
            )

    def _frames(self, scene: Scene, clips: Iterator[Tensor]) -> Iterator[np.ndarray]:
        frames = self.model.codec.decode(clips, scene.prepared, self.decoded_at_once)
        while True:
            # Entered frame by frame: between them, the mode is the caller's.
            with torch.inference_mode():
                frame = next(frames, None)
            if frame is None:
                return
            yield scene.layout.finish(frame)

    def _clips(
        self,
        prepared: Prepared,
        sound: FeatureReader,
        windows: Iterator[ClipWindow],
        plan: ClipPlan,
    ) -> Iterator[Tensor]:
        """The latents of one clip after the other, `f c h w`, as many frames as the windows keep."""
        config = self.model.config
        history = MotionHistory(config.segments.span, prepared.latents.shape[1:], self.model.device)
        for window in windows:
            # Entered clip by clip: inference mode belongs to a thread, and clips may be asked for by another.
            with torch.inference_mode(), one_thread(if_true=self.model.codec.computes_apart):
                latents = self._clip_latents(prepared, sound, history, window, plan)
                history.append(latents)
            yield latents[: window.num_kept]

    def _clip_latents(
        self,
        portrait: Prepared,
        sound: FeatureReader,
        history: MotionHistory,
        window: ClipWindow,
        plan: ClipPlan,
    ) -> Tensor:
        """One clip, `f c h w` float32."""
        config = self.model.config
        generator = clip_generator(plan.seed, window.index)
        noise = torch.randn(1, config.clip_frames, *portrait.latents.shape[1:], generator=generator)
        noise = noise * plan.noise_scale
        conditions = self._conditions(portrait, sound, history, window, generator)
        denoise = denoise_batched if plan.is_batched else denoise_in_turn
        made = sample(
            denoise(self.model.loopy.denoiser, guidance_branches(conditions, plan.guidance), plan.guidance),
            noise.to(self.model.device),
            config=plan.sampler,
            schedule=config.schedule,
            prediction=config.prediction,
        )
        return made[0]

    def _conditions(
        self,
        portrait: Prepared,
        sound: FeatureReader,
        history: MotionHistory,
        window: ClipWindow,
        generator: torch.Generator,
    ) -> Conditions:
        """All conditions of a clip; reference and audio are projected here, once for all steps and branches."""
        loopy, dtype = self.model.loopy, self.model.dtype
        latents = portrait.latents.to(dtype)
        past, past_mask = history.as_batch()
        features = loopy.read_reference(latents, past.to(dtype), past_mask, generator)
        audio_tokens, motion_latents = self._hear(sound, window)
        audio = None if audio_tokens is None else loopy.denoiser.cache_audio(audio_tokens)
        keep = torch.ones(1, device=self.model.device)
        return Conditions(
            reference=loopy.denoiser.cache_reference(features),
            reference_latents=latents,
            audio_tokens=audio,
            motion_latents=motion_latents,
            keep_reference=keep,
            keep_motion=keep,
            last_frames=loopy.last_frames(latents, past.to(dtype), past_mask),
        )

    def _hear(self, sound: FeatureReader, window: ClipWindow) -> tuple[Tensor | None, Tensor | None]:
        """Audio tokens `1 f k d` and motion latents `1 f d` of a clip; None for parts that the model lacks."""
        loopy, config = self.model.loopy, self.model.config
        if loopy.audio_projection is None:
            return None, None
        margin = loopy.audio_projection.config.margin
        states = sound.window(window.start_frame - margin, config.clip_frames + 2 * margin)
        tokens = loopy.audio_projection(states[None])
        return tokens, None if loopy.a2l is None else loopy.a2l(AudioCondition(tokens))


@contextmanager
def one_thread(*, if_true: bool) -> Iterator[None]:
    """torch computes in one thread of the CPU meanwhile: where frames are drawn beside it, a second one only waits."""
    before = torch.get_num_threads()
    if not if_true or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order; the next is made by a thread of its own while one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, items, None)
            yield item


def with_pauses(clips: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same clips, an empty one before the first and after each.

    So a codec gets ready before the sound begins, and gives all its frames before it waits for the next.
    """
    yield torch.empty(0)
    for latents in clips:
        yield latents
        yield latents[:0]


def plan_clips(config: LoopyConfig, options: GenerationOptions, device: torch.device) -> ClipPlan:
    """The options with the model's defaults filled in."""
    defaults = config.defaults
    sampler = defaults.sampler
    guidance = Guidance(audio=defaults.audio_guidance, reference=defaults.reference_guidance)
    if options.steps is not None:
        sampler = replace(sampler, steps=options.steps)
    if options.audio_guidance is not None:
        guidance = replace(guidance, audio=options.audio_guidance)
    if options.reference_guidance is not None:
        guidance = replace(guidance, reference=options.reference_guidance)
    temperature = defaults.temperature if options.temperature is None else options.temperature
    is_batched = options.branches == "batched"
    if options.branches == "auto":
        is_batched = fits_batched(config, len(branches_needed(guidance)), device)
    return ClipPlan(options.seed, sampler, guidance, temperature, defaults.part_temperatures, is_batched)


def fits_batched(config: LoopyConfig, num_branches: int, device: torch.device) -> bool:
    """Whether all branches of a clip may be computed at once.

    Fixed budgets, not the memory that is free now: the same machine always chooses the same, and so gives the same
    frames (one batch and several differ in the last bits).
    """
    needed = batched_bytes(config, num_branches)
    if device.type != "cuda":
        return needed < BATCHED_BYTES_ELSEWHERE
    return needed < BATCHED_SHARE * torch.cuda.get_device_properties(device).total_memory


def batched_bytes(config: LoopyConfig, num_branches: int) -> int:
    """Activations of a clip's branches in one batch at their peak, roughly, in 16 bits."""
    return num_branches * one_branch_bytes(config)


def one_branch_bytes(config: LoopyConfig) -> int:
    """Activations of one branch of a clip at their peak, roughly, in 16 bits."""
    positions = config.clip_frames * config.num_positions
    return positions * config.denoiser.unet.block_channels[0] * 2 * MAPS_ALIVE


def clip_generator(seed: int, clip_index: int) -> torch.Generator:
    """The randomness of one clip, on the CPU: the same on every device, whatever the other clips draw."""
    mixed = np.random.SeedSequence((seed, clip_index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def guidance_branches(conditions: Conditions, guidance: Guidance) -> dict[Branch, Conditions]:
    """What each branch that is needed gets to know; all share one reference cache."""
    views = {
        "audio": lambda: conditions,
        "reference": conditions.without_audio,
        "base": conditions.without_reference,
    }
    return {branch: views[branch]() for branch in branches_needed(guidance)}


def denoise_batched(denoiser: Denoiser, branches: dict[Branch, Conditions], guidance: Guidance) -> Denoise:
    """Guided prediction, all branches in one call, put together once for all steps."""
    num, together = len(branches), Conditions.cat(list(branches.values()))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        x_t = x_t.to(denoiser.conv_in.weight.dtype).repeat(num, 1, 1, 1, 1)
        output = denoiser(x_t, t.repeat(num), together).float()
        return _combine(dict(zip(branches, output.chunk(num), strict=True)), guidance)

    return denoise


def denoise_in_turn(denoiser: Denoiser, branches: dict[Branch, Conditions], guidance: Guidance) -> Denoise:
    """Guided prediction, one branch after the other."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        x_t = x_t.to(denoiser.conv_in.weight.dtype)
        outputs = {branch: denoiser(x_t, t, conditions).float() for branch, conditions in branches.items()}
        return _combine(outputs, guidance)

    return denoise


def _combine(outputs: dict[Branch, Tensor], guidance: Guidance) -> Tensor:
    return combine(outputs.get("audio"), outputs.get("reference"), outputs.get("base"), guidance)
