"""Good folders to start from, made by the commands themselves: shards, prepared footage, runs, reports, studies, jobs.

    python -m tests.campaign.material NAME FOLDER

Each is made once, when the first case asks for it, in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.campaign.media import face, write_face, write_speech

LOG = "material.log"
OPENLOOPY = [sys.executable, "-m", "openloopy"]
TINY_STEPS = ("--set", "loop.num_steps=3", "--set", "loop.log_every=1", "--set", "loop.checkpoint_every=2")
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.5
<exists>
2
"IntervalTier"
"words"
0
0.5
2
0
0.3
"map"
0.3
0.5
""
"IntervalTier"
"phones"
0
0.5
3
0
0.1
"M"
0.1
0.2
"AE1"
0.2
0.5
"P"
"""


class Material:
    """A folder of good things by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> Path:
        """The folder of that name, made now if nobody has asked for it before."""
        made = self.folder / name
        if not made.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / LOG, "ab") as log:
                command = [sys.executable, "-m", "tests.campaign.material", name, str(self.folder)]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return made

    def copy(self, name: str, target: Path) -> Path:
        """The same, to be spoiled."""
        return Path(shutil.copytree(self.get(name), target))


def make_inputs(folder: Path, material: Material) -> None:
    """A portrait and a sound."""
    write_face(folder / "face.png")
    write_speech(folder / "speech.wav")


def make_model(folder: Path, material: Material) -> None:
    """The embedded model as a folder."""
    from openloopy.models.folder import EMBEDDED_MINI

    shutil.copytree(EMBEDDED_MINI, folder, dirs_exist_ok=True)


def make_shards(folder: Path, material: Material) -> None:
    """Two clips of drawn people, each in a shard."""
    _run("puppet", folder, "--num-clips", 2, "--clip-s", 3, "--size", 128, "--val-share", 0.5)


def make_states(folder: Path, material: Material) -> None:
    """Speech with face states."""
    _run("puppet", folder, "--num-clips", 3, "--clip-s", 1, "--size", 64, "--states", "--val-share", 0.4)


def make_footage(folder: Path, material: Material) -> None:
    """The clips as videos."""
    from openloopy.data.clips import decode_frames, decode_sound
    from openloopy.data.shards import read_shards
    from tests.data.damaged import Talk, write_talk

    for sample, suffix in zip(read_shards(material.get("shards")), (".mp4", ".mkv"), strict=True):
        talk = Talk(decode_frames(sample.mp4), decode_sound(sample.flac))
        write_talk(folder / f"{sample.record.clip_id}{suffix}", talk)


def make_prepared(folder: Path, material: Material) -> None:
    """What `prepare` makes of them, beside them: raw/ and out/."""
    material.copy("footage", folder / "raw")
    _run("prepare", folder / "raw", folder / "out", "--size", 64)


def make_report(folder: Path, material: Material) -> None:
    """What `evaluate` says of the clips against themselves: made/, real/, align/, report/."""
    for name in ("made", "real"):
        material.copy("footage", folder / name)
    (folder / "align").mkdir()
    for path in (folder / "made").iterdir():
        text = "0 12500 sil\n12500 25000 bin\n25000 50000 place\n50000 75000 sil\n"
        (folder / "align" / f"{path.stem}.align").write_text(text)
    _run(
        "evaluate",
        folder / "made",
        "--truth",
        folder / "real",
        "-o",
        folder / "report",
        "--align",
        folder / "align",
    )


def make_run(folder: Path, material: Material) -> None:
    """A line's run folder with all steps but the last, and the shards it learned from: data/, run/."""
    data, run = material.copy("shards", folder / "data"), folder / "run"
    _run("train", "tiny.codec", "--data", data, "--run", run)
    for step in ("audio", "stage1", "stage2"):
        _run("train", f"tiny.{step}", "--data", data, "--run", run, *TINY_STEPS)
    (run / "model" / "config.json").unlink()


def make_study(folder: Path, material: Material) -> None:
    """Two methods, votes on their videos, categories."""
    from openloopy.apps.study import StudyConfig, open_booth

    for name in ("one", "two"):
        (folder / name).mkdir()
        for path in material.get("footage").glob("*.mp4"):
            shutil.copy(path, folder / name)
    (folder / "categories.csv").write_text("case,category\n" + f"{path.stem},speech\n")
    booth = open_booth(StudyConfig(folders=(folder / "one", folder / "two"), out=folder / "votes"))
    for rater in ("ann", "bob"):
        for dimension in ("identity", "lip_sync"):
            booth.vote({"rater": rater, "case": 0, "dimension": dimension, "choice": "A"})


def make_speech(folder: Path, material: Material) -> None:
    """Recordings with a manifest, times of words and of phonemes."""
    from tests.media.sounds import speechlike, write_sound

    for name in ("one", "two", "three"):
        write_sound(folder / f"{name}.wav", speechlike(0.5, 16_000), 16_000)
    (folder / "list.csv").write_text(
        "file,use,speaker,language,transcript,licence\n"
        'one.wav,train,ann,en,"map it",CC0\ntwo.wav,test,bob,de,,MIT\nthree.wav,train,ann,en,at,CC0\n'
    )
    (folder / "one.TextGrid").write_text(TEXTGRID)
    (folder / "two.align").write_text("0 2500 sil\n2500 7500 bin\n7500 12500 sil\n")
    words = [{"word": "at", "start": 0.1, "duration": 0.2}]
    (folder / "times.jsonl").write_text(json.dumps({"id": "three", "words": words}) + "\n")


def make_bank(folder: Path, material: Material) -> None:
    """Labelled faces for the face networks."""
    from openloopy.puppet.drawn import draw_face
    from openloopy.recipes.face_bank import view_of
    from openloopy.training.face_bank import FaceBank

    paths = []
    for i, split in enumerate(("train", "train", "val")):
        drawn = draw_face(np.random.default_rng(i), 256)
        scene = {"size": (256, 256), "meshes": drawn.mesh[None], "split": split}
        scene["picture"], scene["mask"] = np.zeros((320, 320, 3), np.uint8), np.zeros((320, 320), np.uint8)
        scene["picture"][:256, :256], scene["mask"][:256, :256] = drawn.rgb, drawn.mask * 255
        view = view_of(drawn.rgb, drawn.mesh, split=split, kind="portrait", person=str(i))
        paths.append(folder / f"{i}.npz")
        with open(paths[-1], "wb") as file:
            FaceBank.write_part(file, [view], [scene], "")
    FaceBank.write(folder, paths)


def make_jobs(folder: Path, material: Material) -> None:
    """A service's folder with two jobs that wait, and one that is done."""
    from openloopy.apps.generate import Studio
    from openloopy.apps.jobs import JobQueue
    from openloopy.apps.settings import VideoSettings

    queue = JobQueue(folder, Studio())
    for seed in range(3):
        with queue.new_folder() as new:
            for name, source in (("image", "face.png"), ("audio", "speech.wav")):
                shutil.copy(material.get("inputs") / source, new / name)
            job = queue.add(new, VideoSettings(seed=seed, size=64, steps=1))
    path = folder / job.id / "job.json"
    done = json.loads(path.read_text()) | {"status": "done", "finished_s": job.created_s + 1}
    path.write_text(json.dumps(done))


def make_signed(folder: Path, material: Material) -> None:
    """A generated video with all its signs."""
    inputs = material.get("inputs")
    _run("generate", inputs / "face.png", inputs / "speech.wav", "-o", folder / "signed.mp4", "--size", 64)


def make_foreign(folder: Path, material: Material) -> None:
    """Other projects' weights in tiny: a U-Net, an autoencoder, a wav2vec 2.0."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        cross_attention_dim=24,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "sd15" / "unet")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(32,) * 4, layers_per_block=1, sample_size=64, **blocks)
    vae.save_pretrained(folder / "vae")
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    hearing = Wav2Vec2ForCTC(Wav2Vec2Config(**small, conv_dim=(16,) * 7))
    hearing.save_pretrained(folder / "wav2vec2")
    torch.save({"state_dict": hearing.state_dict()}, folder / "weights.pth")


MAKERS: dict[str, Callable[[Path, Material], None]] = {
    name.removeprefix("make_"): make for name, make in list(globals().items()) if name.startswith("make_")
}


def make(name: str, folder: Path) -> Path:
    """Make one of them; it appears under its name when it is whole."""
    partial = folder / f".{name}.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        MAKERS[name](partial, Material(folder))
        partial.rename(folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / name


def _run(*arguments: object) -> None:
    subprocess.run([*OPENLOOPY, *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    face()  # fails at once where nothing can be drawn
    make(sys.argv[1], Path(sys.argv[2]))
