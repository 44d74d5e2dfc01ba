"""Channels in an order of their own, as in Apple's files, are read; a mistake here ends the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.media.sounds import speechlike, write_sound

READ = """
import sys
import numpy as np
from openloopy.media.audio import open_sound
from openloopy.media.sound_file import SoundReader
path, count = sys.argv[1], 0
for _ in range(3):
    for block in SoundReader(path):
        count += block.samples.shape[1]
sound = open_sound(path)
print(count // 3, block.samples.shape[0], len(sound.waveform), sound.notes)
"""


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".caf", "pcm_s16le"), (".aiff", "pcm_s16be"), (".mov", "pcm_s16le"), (".wav", "pcm_s16le")],
)
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_channels_in_any_order_are_read(tmp_path, suffix, codec, channels):
    path = write_sound(tmp_path / f"sound{suffix}", speechlike(0.3, 48_000, channels), 48_000, codec)
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split(" ", 3) == ["14400", str(channels), "4800", "()\n"]


def test_their_samples_stay_where_they_are(tmp_path):
    samples = speechlike(0.2, 16_000, 8)
    write_sound(tmp_path / "a.caf", samples, 16_000, "pcm_s16le")
    read = f"""
import numpy as np
from openloopy.media.sound_file import SoundReader
blocks = [block.samples for block in SoundReader({str(tmp_path / "a.caf")!r})]
np.save({str(tmp_path / "read.npy")!r}, np.concatenate(blocks, axis=1))
"""
    subprocess.run([sys.executable, "-c", read], check=True)
    found = np.load(tmp_path / "read.npy")
    # FFmpeg writes 7.1 to CAF with side and back swapped: the same channels, each once.
    order = [int(np.argmin([np.abs(row - own).max() for own in samples])) for row in found]
    assert sorted(order) == list(range(8)) and np.abs(found - samples[order]).max() < 1e-4
