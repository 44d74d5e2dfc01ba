"""What is fuzzed: each target makes a case of a number, by damaging something good in one of the ways in.

A case follows from (campaign seed, target, number) alone.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.campaign import media, packets
from tests.campaign.case import Case
from tests.campaign.command_lines import command_line
from tests.campaign.damage import damaged
from tests.campaign.damage_text import damaged_json, damaged_lines, damaged_table
from tests.campaign.material import Material
from tests.campaign.spoil import spoil_one_of

SMALL = ("--size", "64", "--steps", "1")
TRAINED = ("--set", "loop.num_steps=3", "--set", "loop.log_every=1", "--set", "loop.checkpoint_every=2")
Make = Callable[[Path, random.Random, Material], Case]


@dataclass(frozen=True)
class Target:
    """A way in, and how much of the budget it gets."""

    make: Make
    weight: float


def case_of(name: str, seed: int, number: int, here: Path, material: Material) -> Case:
    """Write the files of a case to a new folder `here`, and say what is to be run there."""
    here.mkdir(parents=True)
    return TARGETS[name].make(here, random.Random(f"{seed}/{name}/{number}"), material)


def picture(here: Path, rng: random.Random, material: Material) -> Case:
    """`generate` with a damaged portrait."""
    portrait = _write_picture(here, rng)
    media.write_speech(here / "speech.wav", 0.3)
    return _generate(portrait, "speech.wav", rng)


def picture_read(here: Path, rng: random.Random, material: Material) -> Case:
    """The reader of pictures alone: many more of them."""
    return Case(call="picture", arguments=(_write_picture(here, rng),))


def sound(here: Path, rng: random.Random, material: Material) -> Case:
    """`generate` with a damaged sound."""
    media.write_face(here / "face.png")
    return _generate("face.png", _write_sound(here, rng), rng)


def sound_read(here: Path, rng: random.Random, material: Material) -> Case:
    """The reader of sounds alone."""
    return Case(call="sound", arguments=(_write_sound(here, rng),))


def film_read(here: Path, rng: random.Random, material: Material) -> Case:
    """The readers of films: what `prepare` and `evaluate` see."""
    return Case(call="film", arguments=(_write_film(here, rng, material),))


def film(here: Path, rng: random.Random, material: Material) -> Case:
    """A damaged film where a film can go."""
    name = _write_film(here, rng, material)
    way = rng.randrange(6)
    if way == 0:
        media.write_face(here / "face.png")
        return _generate("face.png", name, rng)
    if way <= 2:
        (here / "raw").mkdir()
        shutil.move(here / name, here / "raw")
        return Case(arguments=("prepare", "raw", "out", "--size", "64"))
    if way <= 4:
        for folder in ("made", "real"):
            (here / folder).mkdir()
        good = next(material.get("footage").glob("*.mp4"))
        names = (
            {"made": here / name, "real": good} if rng.random() < 0.5 else {"made": good, "real": here / name}
        )
        for folder, path in names.items():
            shutil.copy(path, here / folder / f"case{path.suffix}")
        return Case(arguments=("evaluate", "made", "--truth", "real", "-o", "report"))
    return Case(arguments=("detect", name, *(["--json"] if rng.random() < 0.5 else [])))


def signed(here: Path, rng: random.Random, material: Material) -> Case:
    """`detect` of a generated video whose boxes, credentials and pictures were tampered with."""
    good = next(material.get("signed").glob("*.mp4")).read_bytes()
    (here / "signed.mp4").write_bytes(damaged(good, rng, rng.choice([1, 1, 3])))
    return Case(arguments=("detect", "signed.mp4"), inputs=("signed.mp4",))


def live(here: Path, rng: random.Random, material: Material) -> Case:
    """A sound that comes through a pipe and is not what it should be."""
    media.write_face(here / "face.png")
    name = _write_sound(here, rng)
    source = rng.choice(["-", "-", "-", "pcm:16000", f"pcm:{rng.choice([0, 1, -5, 10**9, 8000])}", "pcm:x"])
    out = rng.choice(["live.mp4", "live.mp4", "-", "y4m:live.y4m"])
    arguments = ("generate", "face.png", source, "--live", "-o", out, *SMALL)
    return Case(arguments=arguments, stdin=name, inputs=("face.png", name))


def model(here: Path, rng: random.Random, material: Material) -> Case:
    """`generate` with a model folder in which something is not as it was."""
    _spoiled(material, "model", here / "model", rng)
    media.write_face(here / "face.png")
    media.write_speech(here / "speech.wav", 0.3)
    case = _generate("face.png", "speech.wav", rng)
    return Case(arguments=(*case.arguments, "--model", "model"), outputs=case.outputs, inputs=case.inputs)


def table(here: Path, rng: random.Random, material: Material) -> Case:
    """`batch` with a table or a folder of pairs that is not as expected."""
    pairs = here / "pairs"
    pairs.mkdir()
    media.write_face(pairs / "face.png")
    media.write_speech(pairs / "face.wav", 0.2)
    rows = [
        {"portrait": "face.png", "audio": "face.wav", "seed": str(i), "steps": "1", "size": "64"}
        for i in (0, 1)
    ]
    name, text = rng.choice([("list.csv", _as_csv(rows)), ("list.jsonl", "\n".join(map(json.dumps, rows)))])
    damage = damaged_table if name.endswith("csv") else damaged_lines
    (pairs / name).write_bytes(damage(text, rng))
    if rng.random() < 0.2:
        spoil_one_of(pairs, rng, ("face.*",))
        name = ""
    out = rng.choice(
        ["out/{portrait}-{number}.mp4"] * 3 + ["out/x.mp4", "{seed}/{number}.mp4", "{audio}{.mp4", "o.mp4"]
    )
    return Case(arguments=("batch", f"pairs/{name}", "-o", out, "--set", "size=64", "--set", "steps=1"))


def shards(here: Path, rng: random.Random, material: Material) -> Case:
    """A corpus with a damaged shard or index, read by what reads it."""
    kind = rng.choice(["states", "shards"])
    folder = _spoiled(material, kind, here / "data", rng, ("*.tar", "*.tar", "index.json"))
    way = rng.randrange(4)
    if way <= 1:
        return Case(call="shards", arguments=(folder.name,))
    if way == 2 and kind == "states":
        return Case(arguments=("train", "mini.codec", "--data", "data", "--run", "run"))
    size = ("--size", "64", "--states", "--clip-s", "1", "--num-clips", "3", "--val-share", "0.4")
    if kind == "states":
        return Case(arguments=("puppet", "data", *size))
    return Case(
        arguments=("train", "tiny.audio", "--data", "data", "--run", "run", "--set", "loop.num_steps=1")
    )


def prepared(here: Path, rng: random.Random, material: Material) -> Case:
    """`prepare` that goes on in a folder whose records, index or settings were spoiled."""
    material.copy("prepared", here / "footage")
    patterns = ("*.json", "*.jsonl", "videos/*", "shard*.tar")
    spoil_one_of(here / "footage" / "out", rng, patterns)
    if rng.random() < 0.4:
        clip = rng.choice(["val-000000", "train-000000", "train-000000-000000", "x", ""])
        return Case(arguments=("prepare", "footage/raw", "footage/out", "--explain", clip))
    return Case(arguments=("prepare", "footage/raw", "footage/out", "--size", "64"))


def report(here: Path, rng: random.Random, material: Material) -> Case:
    """`compare` and `evaluate` on reports, measured numbers and word times that were spoiled."""
    _copy_into(material.get("report"), here)
    if rng.random() < 0.6:
        path = here / "report" / "report.json"
        path.write_bytes(damaged_json(path.read_text("utf-8"), rng, rng.choice([1, 1, 3])))
        return Case(
            arguments=("compare", "report", *(["report"] if rng.random() < 0.5 else []), "-o", "table.md")
        )
    spoil_one_of(here, rng, ("report/videos/*", "align/*"))
    return Case(arguments=("evaluate", "made", "--truth", "real", "-o", "report", "--align", "align"))


def study(here: Path, rng: random.Random, material: Material) -> Case:
    """`study` whose votes, settings, categories or videos were spoiled."""
    _copy_into(material.get("study"), here)
    spoil_one_of(here, rng, ("votes/*", "votes/*", "categories.csv", "one/*"))
    if rng.random() < 0.4:
        return Case(arguments=("study", "--results", "--out", "votes"))
    options = ("--categories", "categories.csv") if rng.random() < 0.5 else ()
    return Case(arguments=("study", "one", "two", "--out", "votes", "--port", "0", *options))


def run(here: Path, rng: random.Random, material: Material) -> Case:
    """`train` that goes on in a run folder with a spoiled checkpoint, cache, settings or log."""
    _copy_into(material.get("run"), here)
    step = rng.choice(["codec", "audio", "stage1", "stage2", "stage2"])
    patterns = (f"{step}/*.json*", f"{step}/*.pt", f"{step}/*.safetensors", "cache/**/*", "start.json")
    spoil_one_of(here / "run", rng, (*patterns, "codec/vae/*", "audio/audio_encoder/*", "audio/*.npz"))
    settings = () if step == "codec" else TRAINED
    return Case(arguments=("train", f"tiny.{step}", "--data", "data", "--run", "run", *settings))


def speech(here: Path, rng: random.Random, material: Material) -> Case:
    """`speech` of recordings with a spoiled manifest, text, time or sound."""
    _spoiled(material, "speech", here / "recorded", rng)
    held_out = ("--held-out", rng.choice(["ann", "nobody", ","])) if rng.random() < 0.3 else ()
    return Case(arguments=("speech", "spoken", "--recorded", "recorded", "--no-transcribe", *held_out))


def bank(here: Path, rng: random.Random, material: Material) -> Case:
    """`train face` on a bank of labels that was spoiled."""
    _spoiled(material, "bank", here / "bank", rng, ("index.json", "*.npy", "*.npz"))
    step = rng.choice(["mesh", "finder", "mask"])
    settings = ("--set", "loop.num_steps=1", "--set", "training.batch_size=2")
    return Case(arguments=("train", f"face.{step}", "--data", "bank", "--run", "run", *settings))


def jobs(here: Path, rng: random.Random, material: Material) -> Case:
    """A service that is started on a folder of jobs in which something was spoiled."""
    _spoiled(material, "jobs", here / "jobs", rng)
    return Case(call="jobs", arguments=("jobs",))


def foreign(here: Path, rng: random.Random, material: Material) -> Case:
    """`import` of weights that are not what they seem."""
    _copy_into(material.get("foreign"), here)
    spoil_one_of(here, rng)
    sources = (
        ("sd15", "vae", "wav2vec2")
        if rng.random() < 0.5
        else (rng.choice(["sd15", "vae", "wav2vec2", "weights.pth"]),)
    )
    return Case(arguments=("import", *sources, "imported", "--size", "64"))


TARGETS: dict[str, Target] = {
    "picture": Target(picture, 10),
    "picture-read": Target(picture_read, 8),
    "sound": Target(sound, 10),
    "sound-read": Target(sound_read, 8),
    "film": Target(film, 14),
    "film-read": Target(film_read, 8),
    "signed": Target(signed, 3),
    "live": Target(live, 4),
    "model": Target(model, 6),
    "table": Target(table, 5),
    "shards": Target(shards, 4),
    "prepared": Target(prepared, 4),
    "report": Target(report, 4),
    "study": Target(study, 2),
    "run": Target(run, 4),
    "speech": Target(speech, 3),
    "bank": Target(bank, 2),
    "jobs": Target(jobs, 2),
    "foreign": Target(foreign, 2),
    "command-line": Target(command_line, 14),
}


def _generate(portrait: str, audio: str, rng: random.Random) -> Case:
    options = SMALL if rng.random() < 0.85 else ("--frame", "full", "--steps", "1")
    unsigned = ("--unsigned",) if rng.random() < 0.7 else ()
    return Case(
        arguments=("generate", portrait, audio, "-o", "out.mp4", *options, *unsigned),
        outputs=("out.mp4", "out.json"),
        inputs=(portrait, audio),
    )


def _write_picture(here: Path, rng: random.Random) -> str:
    suffix, data = media.picture(rng)
    if rng.random() < 0.05:
        suffix = rng.choice(sorted(media.PICTURES))
    name = f"portrait{suffix}"
    (here / name).write_bytes(damaged(data, rng, rng.choice([0, 1, 1, 1, 2, 4])))
    return name


def _write_sound(here: Path, rng: random.Random) -> str:
    path = media.sound(rng, here)
    return _tampered(path, rng)


def _write_film(here: Path, rng: random.Random, material: Material) -> str:
    if rng.random() < 0.5:
        path = media.film(rng, here)
    else:
        good = rng.choice(sorted(material.get("footage").iterdir()))
        path = Path(shutil.copy(good, here / f"film{good.suffix}"))
    return _tampered(path, rng)


def _tampered(path: Path, rng: random.Random) -> str:
    """Its packets, or its bytes, or nothing."""
    if rng.random() < 0.3:
        copy = path.with_name(f"copy{path.suffix}")
        try:
            path = packets.remuxed(path, copy, rng)
        except (ValueError, OSError, LookupError):  # what is installed here cannot remux it: its bytes, then
            copy.unlink(missing_ok=True)
    if rng.random() < 0.7:
        path.write_bytes(damaged(path.read_bytes(), rng, rng.choice([1, 1, 2, 4])))
    return path.name


def _spoiled(
    material: Material, name: str, target: Path, rng: random.Random, patterns: tuple[str, ...] = ("*",)
) -> Path:
    material.copy(name, target)
    spoil_one_of(target, rng, patterns)
    return target


def _copy_into(source: Path, here: Path) -> None:
    shutil.copytree(source, here, dirs_exist_ok=True)


def _as_csv(rows: list[dict[str, str]]) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n"
