"""Parsers of our own under a fuzzer that sees which lines ran (atheris): it keeps what reaches new ones, and goes on.

    python -m tests.campaign.guided --minutes 10 --out DIR
    python -m tests.campaign.guided --out DIR --only wav-header --minutes 1

Each parser runs in a process of its own for its share of the time, from good files and from what earlier runs have
found (DIR/guided/corpus, so the same command goes on). It may refuse with ValueError; anything else is kept in
DIR/guided/failures, once for each place. Needs atheris, which is for Linux and macOS and Python 3.11 to 3.13.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.ledger import Ledger, table
from tests.campaign.spoil import TEXTS

NAME = "guided"
MAX_INPUT_BYTES = 8192
STRUCTURED_SHARE = 0.5
RSS_LIMIT_MB, TIMEOUT_S = 4096, 60
EXPECTED = (ValueError, OSError)
NOT_INSTALLED = "atheris is not installed: pip install atheris (Linux or macOS, Python 3.11 to 3.13)"

Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Parser:
    """Something that reads a file of a name, the modules whose lines count, and good files of it."""

    read: Read
    modules: tuple[str, ...]
    file: str
    seeds: Callable[[Path], list[bytes]]


def parsers() -> dict[str, Parser]:
    """By name. Imports what they are made of."""
    made = {}
    for name, modules, file, read, seeds in _PARSERS:
        made[name] = Parser(read, tuple(f"openloopy.{module}" for module in modules), file, seeds)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if anything but a refusal was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="of computing, shared by the parsers")
    parser.add_argument("--only", default=",".join(parsers()), help="some of the parsers")
    parser.add_argument("--parser", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit(NOT_INSTALLED)
    if given.parser:
        _fuzz(given.parser, given.out.resolve(), 60 * given.minutes)
        return 0
    names = given.only.split(",")
    with Ledger(given.out.resolve(), NAME) as ledger:
        for name in names:
            ledger.add(_run(name, ledger, given.minutes / len(names)))
        text = summary(ledger.rows, ledger)
        ledger.write_summary(text)
        print(text)
        return int(any(row["failures"] for row in ledger.rows))


def summary(rows: Sequence[dict[str, Any]], ledger: Ledger) -> str:
    """Runs, inputs and failures by parser."""
    lines = []
    for name in dict.fromkeys(row["parser"] for row in rows):
        own = [row for row in rows if row["parser"] == name]
        minutes, runs = sum(row["minutes"] for row in own), sum(row["runs"] for row in own)
        lines.append([name, f"{minutes:.1f}", runs, own[-1]["corpus"], sum(row["failures"] for row in own)])
    return table(["parser", "minutes", "inputs tried", "inputs kept", "failures"], lines)


def _run(name: str, ledger: Ledger, minutes: float) -> dict[str, Any]:
    corpus, failures = ledger.folder / "corpus" / name, ledger.failures / name
    _seed(name, corpus)
    failures.mkdir(parents=True, exist_ok=True)
    before = len(list(failures.iterdir()))
    command = [sys.executable, "-m", "tests.campaign.guided", "--parser", name, "--out", str(ledger.folder)]
    done = subprocess.run(
        [*command, "--minutes", str(minutes)], capture_output=True, text=True, errors="replace"
    )
    (ledger.folder / f"{name}.log").write_text(done.stderr[-100_000:])
    found = len(list(failures.iterdir())) - before
    if done.returncode:  # out of memory, out of time, or a crash: libFuzzer has kept the input
        found = max(found, 1)
    runs = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("Done ")]
    return {
        "parser": name,
        "minutes": minutes,
        "runs": int(runs[-1]) if runs else 0,
        "corpus": len(list(corpus.iterdir())),
        "failures": found,
    }


def _seed(name: str, corpus: Path) -> None:
    if corpus.exists():
        return
    corpus.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(parsers()[name].seeds(Path(folder))):
            (corpus / f"seed-{i}").write_bytes(data[:MAX_INPUT_BYTES])


def _fuzz(name: str, folder: Path, seconds: float) -> None:
    """In a process of its own: libFuzzer ends it."""
    import atheris

    parser = parsers()[name]
    with atheris.instrument_imports(include=list(parser.modules)):
        for module in parser.modules:
            importlib.import_module(module)
    seen: set[str] = set()
    shared = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    work = Path(tempfile.mkdtemp(dir=shared))
    path = work / parser.file

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            parser.read(path)
        except EXPECTED:
            return
        except Exception as error:
            _keep(error, data, folder / "failures" / name, seen)

    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={TIMEOUT_S}",
    ]
    options += [
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-artifact_prefix={folder / 'failures' / name}/",
        "-verbosity=1",
    ]
    corpus = str(folder / "corpus" / name)
    atheris.Setup([sys.argv[0], *options, corpus], try_one, custom_mutator=_mutator(parser.file))
    atheris.Fuzz()


def _mutator(file: str) -> Callable[[bytes, int, int], bytes]:
    """Half of the inputs are changed by the structure that their ending says, half by libFuzzer."""
    import atheris

    suffix = Path(file).suffix.lower()

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if suffix in TEXTS and rng.random() < STRUCTURED_SHARE:
            return TEXTS[suffix](data.decode("utf-8", "replace"), rng)[:max_size]
        return atheris.Mutate(data, max_size)

    return mutated


def _keep(error: Exception, data: bytes, folder: Path, seen: set[str]) -> None:
    """One input and its trace for each place that an error comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}"
    if place in seen:
        return
    seen.add(place)
    kept = folder / place
    kept.mkdir(exist_ok=True)
    (kept / "input").write_bytes(data)
    (kept / "trace.txt").write_text("".join(traceback.format_exception(error)))


def _kind(path: Path) -> Any:
    from openloopy.media.kinds import kind_of

    return kind_of(path)


def _wav(path: Path) -> Any:
    from openloopy.media.sound_headers import wav_lengths

    return wav_lengths(path)


def _ogg(path: Path) -> Any:
    from openloopy.media.sound_headers import ogg_links

    return ogg_links(path)


def _picture_header(path: Path) -> Any:
    from openloopy.media import picture_headers

    content = path.read_bytes()
    for read in (picture_headers.png_codes, picture_headers.avif_codes, picture_headers.jpeg2000_profile):
        read(content)
    return picture_headers.jxl_size(content)


def _rows(path: Path) -> Any:
    from openloopy.apps.batch import BatchConfig, read_requests

    return list(read_requests(BatchConfig(pairs=path, out="{number}.mp4")))


def _model_config(path: Path) -> Any:
    from openloopy.models.foreign_files import read_settings
    from openloopy.models.loopy import LoopyConfig

    return LoopyConfig.from_dict(read_settings(path))


def _record(path: Path) -> Any:
    from openloopy.data.records import from_json

    return from_json(path.read_bytes())


def _video_record(path: Path) -> Any:
    from openloopy.data.verdicts import account, from_line
    from openloopy.media.text_file import read_text

    return account(from_line(read_text(path, "a record")))


def _recordings(path: Path) -> Any:
    from openloopy.puppet.recorded import read_recordings

    (path.parent / "three.wav").touch()
    return read_recordings(path.parent)


def _grid_words(path: Path) -> Any:
    from openloopy.measures.behaviour import bilabial_spans, read_grid_words

    return bilabial_spans(read_grid_words(path))


def _votes(path: Path) -> Any:
    from openloopy.measures.votes import read_votes

    return read_votes(path)


def _report(path: Path) -> Any:
    from openloopy.apps.compare import compare

    return compare([path])


def _texts(*texts: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [text.encode() for text in texts]


def _sounds(*suffixes: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        from tests.campaign.media import SOUNDS
        from tests.media.sounds import speechlike, write_sound

        made = [
            write_sound(folder / f"{codec}{suffix}", speechlike(0.1, 48_000), 48_000, codec).read_bytes()
            for suffix, codec in SOUNDS
            if suffix in suffixes and "amr" not in codec
        ]
        return made

    return seeds


def _pictures(folder: Path) -> list[bytes]:
    import io

    from PIL import Image, features

    kinds = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000"] + (
        ["AVIF"] if features.check("avif") else []
    )
    image = Image.new("RGB", (8, 8))
    made = []
    for kind in kinds:
        data = io.BytesIO()
        image.save(data, kind)
        made.append(data.getvalue())
    return [*made, b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl ", b"\xff\x0a\x10\x20\x30"]


def _model_configs(folder: Path) -> list[bytes]:
    from openloopy.models.folder import CONFIG_FILE, EMBEDDED_MINI

    return [(EMBEDDED_MINI / CONFIG_FILE).read_bytes()]


def _reports(folder: Path) -> list[bytes]:
    summary = {"mean": 1.0, "low": 0.5, "high": 1.5, "sd": 0.1, "num_videos": 2}
    numbers = {"glo": {"generated": summary, "real": summary}, "d_exp": {"pair": summary}}
    report = {
        "name": "x",
        "numbers": numbers,
        "outside": {"FID": "no weights"},
        "sets": {},
        "videos": [{"name": "a"}],
    }
    return [json.dumps(report | {"version": 2, "notes": [], "date": "", "protocol": {}}).encode()]


_CLIP = (
    '{"clip_id": "a", "fps": 25, "licence": "", "num_frames": 2, "person_id": "p", '
    '"phonemes": [[0.1, 0.2, "b", "ipa"]], "seed": 1, "size_px": 64, '
    '"source": "s", "speaker": {}, "split": "train", "text": ""}'
)
_VIDEO = (
    '{"name": "a.mp4", "person_id": "a", "num_frames": 20, "info": {"fps": 25}, "reasons": [], "spans": [{"start": 0, '
    '"stop": 20, "clip_id": "a-0", "reasons": [{"name": "low", "detail": "x"}], "measures": {"m": 1.5}, "notes": []}]}'
)
_TIMES = (
    '{"id": "three", "words": [{"word": "at", "phones": [{"phone": "AE", "start": 0.1, "duration": 0.2}]}]}\n'
)
_VOTE = (
    '{"rater": "ann", "case": "a", "dimension": "identity", "best": "x", "shown": ["x", "y"], "time": ""}\n'
)
_PARSERS: tuple[tuple[str, tuple[str, ...], str, Read, Callable[[Path], list[bytes]]], ...] = (
    ("file-kind", ("media.kinds",), "file", _kind, _pictures),
    ("picture-header", ("media.picture_headers",), "file", _picture_header, _pictures),
    ("wav-header", ("media.sound_headers",), "sound.wav", _wav, _sounds(".wav", ".w64")),
    ("ogg-header", ("media.sound_headers",), "sound.ogg", _ogg, _sounds(".ogg", ".opus")),
    ("csv-table", ("apps.batch", "apps.settings", "media.text_file"), "list.csv", _rows,
     _texts("portrait,audio,seed,size\na.png,a.wav,1,64\n", 'portrait,audio,out\n"a",b,c.mp4\n')),
    ("json-table", ("apps.batch", "apps.settings"), "list.jsonl", _rows,
     _texts('{"portrait": "a", "audio": "b", "steps": 3, "label": true}\n')),
    ("model-config", ("models.config_json", "models.loopy", "models.unet"), "config.json", _model_config,
     _model_configs),
    ("clip-record", ("data.records", "media.text_file"), "a.json", _record, _texts(_CLIP)),
    ("video-record", ("data.verdicts", "media.text_file"), "a.json", _video_record, _texts(_VIDEO)),
    ("word-times", ("puppet.recorded",), "times.jsonl", _recordings, _texts(_TIMES)),
    ("recordings", ("puppet.recorded", "media.text_file"), "list.csv", _recordings,
     _texts("file,use,speaker,language,transcript\nthree.wav,train,ann,en,at\n")),
    ("textgrid", ("puppet.recorded",), "three.TextGrid", _recordings, lambda folder: [_textgrid()]),
    ("grid-words", ("measures.behaviour",), "a.align", _grid_words, _texts("0 2500 sil\n2500 7500 bin\n")),
    ("votes", ("measures.votes", "media.text_file"), "votes.jsonl", _votes, _texts(_VOTE)),
    ("report", ("apps.compare",), "report.json", _report, _reports),
)  # fmt: skip


def _textgrid() -> bytes:
    from tests.campaign.material import TEXTGRID

    return TEXTGRID.encode()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        sys.exit(main())
