from __future__ import annotations

from pathlib import Path

import pytest

from openloopy.data.shards import ShardWriter
from tests.data.synthetic import make_sample


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips in three shards; clip 3 is of the val split."""
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, clips_per_shard=2) as writer:
        for i in range(5):
            writer.write(make_sample(f"clip-{i}", seed=i, split="val" if i == 3 else "train"))
    return folder
