"""Training hears what generation hears, beyond the ends of a sound as well."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.data.batch import BatchConfig, sample_clip_batch
from openloopy.data.cache import AUDIO_MARGIN, CacheInfo, latent_cache_writer, open_latent_cache
from openloopy.data.feature_shards import FeatureShards, finish_feature_shards, write_feature_shard
from openloopy.models.audio_encoder import AudioFeatureReader
from openloopy.training.features import encode_clip
from tests.data.synthetic import make_sample
from tests.tiny import tiny_audio_encoder, tiny_codec, tiny_sound

NUM_FRAMES = 14
CONFIG = BatchConfig(num_frames=12, num_history=4, start_share=0.0)


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return tiny_sound(NUM_FRAMES / 25)


@pytest.fixture(scope="module")
def features(sound) -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, 32, 32, 3), dtype=np.uint8)
    points = np.random.default_rng(1).uniform(8, 24, (NUM_FRAMES, 68, 2)).astype(np.float32)
    return encode_clip(frames, sound, tiny_codec(), tiny_audio_encoder()) | {"points68": points}


def test_features_reach_beyond_the_clip(features, sound):
    assert features["audio"].shape == (NUM_FRAMES + 2 * AUDIO_MARGIN, 2, 16)
    assert features["latents"].shape[0] == NUM_FRAMES
    reader = AudioFeatureReader(tiny_audio_encoder(), sound)
    expected = reader.window(-AUDIO_MARGIN, NUM_FRAMES + 2 * AUDIO_MARGIN).half().numpy()
    assert np.array_equal(features["audio"], expected)
    assert np.abs(features["audio"][:AUDIO_MARGIN]).mean() > 0.05  # silence, not zeros


@pytest.mark.parametrize("kind", ["cache", "shards"])
def test_a_batch_hears_silence_where_the_sound_has_ended(tmp_path, features, sound, kind):
    """Every clip of a batch hears what generation hears at the same place, the last frames of a video included."""
    record = make_sample("clip-0", num_frames=NUM_FRAMES).record
    if kind == "cache":
        with latent_cache_writer(tmp_path, size_px=32, source_sha256="") as writer:
            writer.add_clip(record, features | {"lip_gap": np.zeros(NUM_FRAMES, np.float32)})
        store = open_latent_cache(tmp_path)
    else:
        write_feature_shard(tmp_path / "one.tar", [(record, features)])
        info = CacheInfo(kind="features", size_px=32, source_sha256="")
        finish_feature_shards(tmp_path, info, ["one.tar"])
        store = FeatureShards(tmp_path)
    batch = sample_clip_batch(store, seed=0, step=0, batch_size=16, config=CONFIG)
    reader, starts = AudioFeatureReader(tiny_audio_encoder(), sound), set()
    latents = torch.from_numpy(features["latents"]).float()
    for clip, heard in zip(batch.latents, batch.audio, strict=True):
        start = next(i for i in range(3) if torch.equal(latents[i], clip[0]))
        starts.add(start)
        torch.testing.assert_close(heard, reader.window(start - 2, 16).half().float(), rtol=0, atol=0)
    assert starts == {0, 1, 2}  # from the first frame to the last
