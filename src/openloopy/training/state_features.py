"""States and audio features of a corpus without pictures, computed once before the denoiser is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from openloopy.data.cache import (
    AUDIO_MARGIN,
    CACHE_NAME,
    LatentCache,
    clip_sound,
    latent_cache_writer,
    open_latent_cache,
    shards_sha256,
)
from openloopy.data.fitted_states import states_of
from openloopy.data.records import ClipRecord, Split
from openloopy.data.shards import Sample, read_shards
from openloopy.models.audio_encoder import AudioEncoder, AudioFeatureReader
from openloopy.models.rig_codec import RigCodec, about_middle, person_shape
from openloopy.training.features import networks_digest

SMALLEST_SCALE = 1e-3
"""Of a value that hardly varies in the corpus."""


def measure_scales(folders: Sequence[Path]) -> RigCodec:
    """A codec with the mean and standard deviation of the puppets' states and shapes, of those to train on."""
    states, shapes = [], []
    for sample in _samples(folders, "train"):
        if sample.record.is_footage:
            continue
        known = states_of(sample)
        states.append(about_middle(known.values))
        shapes.append(person_shape(known.points68))
    if not states:
        raise ValueError(
            f"no puppets speak in {', '.join(map(str, folders))}, and footage does not tell all face states; "
            "make a corpus with `openloopy puppet --states`"
        )
    codec = RigCodec()
    for name, values in (("state", np.concatenate(states)), ("shape", np.stack(shapes))):
        values = torch.from_numpy(values).double()
        getattr(codec, f"{name}_mean").copy_(values.mean(0))
        getattr(codec, f"{name}_scale").copy_(values.std(0, correction=0).clamp(min=SMALLEST_SCALE))
    return codec


def build_state_cache(
    folders: Sequence[Path],
    codec: RigCodec,
    audio_encoder: AudioEncoder,
    out: Path,
    *,
    split: Split,
    workers: int = 1,
) -> LatentCache:
    """Latents, audio features and landmarks of all clips of a split; continues an interrupted build, opens a finished
    one.

    The cache remembers a digest of the networks and the clips, so that it is never mixed up with another model's.
    """
    digest = networks_digest([shards_sha256(folders), split], codec, audio_encoder)
    if not (out / CACHE_NAME).exists():
        with (
            latent_cache_writer(out, size_px=1, source_sha256=digest, split=split) as writer,
            ThreadPoolExecutor(workers) as pool,
        ):
            todo = islice(_samples(folders, split), len(writer.records), None)
            waiting = []
            while some := list(islice(todo, 2 * workers)):
                waiting = [pool.submit(_clip_features, sample, codec, audio_encoder) for sample in some]
                for clip in waiting:
                    writer.add_clip(*clip.result())
    cache = open_latent_cache(out)
    if cache.info.source_sha256 != digest:
        raise ValueError(
            f"{out} holds states heard by other networks or of other clips; delete the folder to build it again"
        )
    return cache


def _samples(folders: Sequence[Path], split: Split) -> Iterator[Sample]:
    for folder in folders:
        yield from read_shards(folder, split)


@torch.inference_mode()
def _clip_features(
    sample: Sample, codec: RigCodec, audio_encoder: AudioEncoder
) -> tuple[ClipRecord, dict[str, np.ndarray]]:
    record = sample.record
    points = sample.arrays["points68"] / np.float32(record.size_px)
    heard = AudioFeatureReader(audio_encoder, clip_sound(sample)).window(
        -AUDIO_MARGIN, record.num_frames + 2 * AUDIO_MARGIN
    )
    known = states_of(sample)
    values = about_middle(known.values)
    # What is not known is as usual, not at rest: a past in which nothing strange shows.
    values[:, ~known.seen] = codec.state_mean.numpy()[~known.seen]
    latents = codec.encode_states(values, person_shape(known.points68))
    return record, {
        "latents": latents.astype(np.float16),
        "audio": heard.cpu().numpy().astype(np.float16),
        "points68": points,
        "lip_gap": sample.arrays["lip_gap"],
        "seen": codec.seen_slots(known.seen)[None],
    }
