"""Command lines that nobody should type: options of every command with values of every kind, files that are none."""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tests.campaign.case import Case
from tests.campaign.material import Material

ODD_NUMBERS = "0 -1 1 2 -0 3.5 1e3 1e18 1e999 nan inf -inf 9223372036854775808 0x10 1_0 +5".split()
ODD_TEXTS = (
    "",
    " ",
    "x",
    "auto",
    "none",
    "-",
    "--",
    "=",
    "a=b",
    "\N{ARABIC-INDIC DIGIT THREE}",
    "\N{GRINNING FACE}",
    "x" * 4000,
)
ODD_SETTINGS = (
    "size=0",
    "steps=nan",
    "=",
    "x=1",
    "size=",
    "size=64=64",
    "loop.num_steps=1e9",
    "loop=1",
    "min_face_px=nan",
)
MUCH_WORK = frozenset(
    {"--hours", "--kokoro-hours", "--num-clips", "--clip-s", "--drawn", "--puppet-frames", "--count"}
)
"""A number that is not absurd would keep these busy for long, as asked."""
ABSURD = "0 -1 -0 1e18 1e999 nan inf -inf 9223372036854775808 x".split()
INPUTS = "face.png speech.wav pairs.csv raw made recorded portraits states report one two weights.pth".split()

Base = tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[str, ...]]
BASES: dict[str, Base] = {
    "generate": (
        ("face.png", "speech.wav"),
        (("-o", "out.mp4"), ("--size", "64"), ("--steps", "1")),
        ("inputs",),
    ),
    "batch": (
        ("pairs.csv",),
        (("-o", "out/{number}.mp4"), ("--set", "size=64"), ("--set", "steps=1")),
        ("inputs",),
    ),
    "detect": (("signed.mp4",), (), ("signed",)),
    "app": ((), (("--folder", "jobs"), ("--port", "0")), ()),
    "serve": ((), (("--folder", "jobs"), ("--port", "0")), ()),
    "speech": (("spoken",), (("--recorded", "recorded"),), ("recorded",)),
    "puppet": (
        ("puppets",),
        (("--num-clips", "2"), ("--clip-s", "0.4"), ("--size", "32"), ("--states",)),
        (),
    ),
    "prepare": (("raw", "prepared"), (("--size", "32"),), ("raw",)),
    "label": (("portraits", "bank"), (("--drawn", "2"), ("--puppet-frames", "1")), ("portraits",)),
    "import": (("weights.pth", "imported"), (("--size", "64"),), ("weights",)),
    "train": (("tiny.codec",), (("--data", "states"), ("--run", "run")), ("states",)),
    "evaluate": (("made",), (("-o", "report"), ("--truth", "made")), ("made",)),
    "compare": (("report",), (), ("report",)),
    "study": (("one", "two"), (("--out", "votes"), ("--port", "0")), ("study",)),
    "doctor": ((), (), ()),
}
"""Of each command: arguments, options, and the good files that they name."""


def command_line(here: Path, rng: random.Random, material: Material) -> Case:
    """A good command with one to three things wrong."""
    name = rng.choice(sorted(BASES))
    arguments, options, needed = BASES[name]
    for what in needed:
        _lay_out(here, what, material)
    words, pairs = list(arguments), [list(option) for option in options]
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(WRONGS)(here, rng, name, words, pairs)
    given = [name, *words, *(word for pair in pairs for word in pair)]
    outputs = ("out.mp4", "out.json") if name == "generate" and "--live" not in given else ()
    return Case(
        arguments=tuple(word.replace("\0", "") for word in given),
        outputs=outputs,
        inputs=tuple(file for file in INPUTS if (here / file).is_file()),
        names_tell=name != "compare",
        stdin="speech.wav" if "--live" in given else "",
    )


def odd_path(here: Path, rng: random.Random, suffix: str = "") -> str:
    """A name below `here` of something that is no ordinary file, or no ordinary name."""
    kind = rng.choice(sorted(ODD_FILES))
    name = f"odd-{kind}{suffix}"
    path = here / name
    if not os.path.lexists(path):
        ODD_FILES[kind](path)
    return rng.choice([name, *(odd.format(suffix=suffix) for odd in rng.sample(ODD_NAMES, 1))])


@lru_cache(maxsize=1)
def _commands() -> dict[str, Any]:
    import typer.main

    from openloopy.apps.cli import app

    return typer.main.get_command(app).commands


def _lay_out(here: Path, what: str, material: Material) -> None:
    """Good files under the names that the base commands have."""
    if what == "inputs":
        for path in material.get("inputs").iterdir():
            (here / path.name).write_bytes(path.read_bytes())
        (here / "pairs.csv").write_text("portrait,audio\nface.png,speech.wav\n")
    elif what in ("raw", "made"):
        material.copy("footage", here / what)
    elif what == "weights":
        (here / "weights.pth").write_bytes((material.get("foreign") / "weights.pth").read_bytes())
    elif what in ("signed", "report", "study"):
        _copy_into(material.get(what), here)
    elif what == "portraits":
        (here / what).mkdir()
        (here / what / "face.png").write_bytes((material.get("inputs") / "face.png").read_bytes())
    else:
        material.copy({"recorded": "speech"}.get(what, what), here / what)


def _copy_into(source: Path, here: Path) -> None:
    shutil.copytree(source, here, dirs_exist_ok=True)


def _change_value(
    here: Path, rng: random.Random, name: str, words: list[str], pairs: list[list[str]]
) -> None:
    option = rng.choice(
        [p for p in _commands()[name].params if p.param_type_name == "option" and p.opts] or [None]
    )
    if option is None:
        words.append(rng.choice(ODD_TEXTS))
        return
    flag = max(option.opts, key=len)
    pairs[:] = [pair for pair in pairs if pair[0] not in option.opts or rng.random() < 0.2]
    kind = _kind_of(name, option.name) if option.name != "help" else bool
    is_video = flag == "--out" and name in ("generate", "batch")
    pairs.append([flag] if option.is_flag else [flag, _odd_value(here, rng, flag, kind, is_video=is_video)])


def _odd_value(here: Path, rng: random.Random, flag: str, kind: type, *, is_video: bool) -> str:
    if flag in MUCH_WORK:
        return rng.choice(ABSURD)
    if flag == "--set":
        return rng.choice(ODD_SETTINGS)
    if kind in (int, float) and rng.random() < 0.85:
        return rng.choice(ODD_NUMBERS)
    if issubclass(kind, Enum) and rng.random() < 0.7:
        return rng.choice([*(choice.value for choice in kind), "x"])
    if kind is Path or flag in ("--out", "--model") or rng.random() < 0.2:
        return odd_path(here, rng, ".mp4" if is_video and rng.random() < 0.8 else "")
    return rng.choice([*ODD_TEXTS, *ODD_NUMBERS])


def _kind_of(command: str, option: str) -> type:
    """Of an option's value, by the annotation of the command's function."""
    hint = get_type_hints(_commands()[command].callback)[option]
    while not isinstance(hint, type) or get_args(hint):
        hint = next(inner for inner in get_args(hint) if inner is not type(None))
    return hint


def _lose_option(here: Path, rng: random.Random, name: str, words: list[str], pairs: list[list[str]]) -> None:
    if pairs:
        pair = rng.choice(pairs)
        is_limit = pair[0] in MUCH_WORK or pair[0] == "--states"
        if len(pair) > 1 and rng.random() < 0.3 and not is_limit:
            del pair[1]
        elif not is_limit:
            pairs.remove(pair)


def _change_argument(
    here: Path, rng: random.Random, name: str, words: list[str], pairs: list[list[str]]
) -> None:
    if words:
        i = rng.randrange(len(words))
        words[i] = odd_path(here, rng, Path(words[i]).suffix)


def _lose_argument(
    here: Path, rng: random.Random, name: str, words: list[str], pairs: list[list[str]]
) -> None:
    if words:
        words.pop(rng.randrange(len(words)))


def _swap_arguments(
    here: Path, rng: random.Random, name: str, words: list[str], pairs: list[list[str]]
) -> None:
    words.reverse()


def _add_word(here: Path, rng: random.Random, name: str, words: list[str], pairs: list[list[str]]) -> None:
    words.insert(
        rng.randrange(len(words) + 1), rng.choice(["--", "--help", "-h", "--unknown", "-q", *ODD_TEXTS])
    )


WRONGS = (_change_value, _change_value, _change_value, _lose_option, _change_argument, _change_argument) + (
    *(_lose_argument, _swap_arguments, _add_word),
)
ODD_NAMES = (
    *(
        "",
        ".",
        "..",
        "~",
        "~nobody/x{suffix}",
        "missing{suffix}",
        "no/such/folder{suffix}",
        "face.png/x{suffix}",
    ),
    *(
        "a:b{suffix}",
        "-x{suffix}",
        "-",
        "file:face.png",
        "http://127.0.0.1:9/x{suffix}",
        "pipe:0",
        "a\nb{suffix}",
    ),
    *("\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 83 + "{suffix}", "x" * 251 + "{suffix}", "x" * 5000 + "{suffix}"),
    *(
        "\udcff{suffix}",
        " {suffix}",
        "{suffix}",
        "a%20b%d{suffix}",
        "*{suffix}",
        "$(x){suffix}",
        "a\tb{suffix}",
    ),
)
"""Nothing is at most of them, and none leads out of the case's own folder: commands may write to all of them."""


def _device(minor: int) -> Callable[[Path], None]:
    """A node of our own: a command that replaces its output must not replace the machine's."""

    def make(path: Path) -> None:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except PermissionError:  # only root may; a pipe is no file either
            os.mkfifo(path)

    return make


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as it, _inside(path.parent):
        it.bind(path.name)


class _inside:
    """Names of sockets may have 107 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, os.getcwd()

    def __enter__(self) -> None:
        os.chdir(self.folder)

    def __exit__(self, *error: object) -> None:
        os.chdir(self.before)


ODD_FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "text": lambda path: path.write_text("not what it is called\n"),
    "fifo": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere/at/all"),
    "link": lambda path: path.symlink_to("odd-target"),
    "socket": _socket,
    "null": _device(3),
    "zero": _device(5),
    "full": _device(7),
}
