"""A process that has everything imported and runs one case after another; what each came to is a line of JSON.

    python -m tests.campaign.worker            # asked by tests.campaign.warm
    python -m tests.campaign.worker --once CASE.json HERE

The parent watches its time and its memory, and ends it when there is too much of either.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.campaign.case import Case

MAX_DATA_BYTES = 8 << 30
"""Of the address space: what wants more sees an error before the machine suffers."""
MAX_FILM_FRAMES = 500
PACKAGE = os.sep + "openloopy" + os.sep


def run(case: Case, here: Path, home: Path) -> dict[str, Any]:
    """Run one case in `here`; its output goes to files in `home`.

    Returns:
        exit_code, error (the exception's class), words (whose they are), where (innermost frame of ours), trace,
        cpu_s, wall_s, peak_mb.
    """
    begun_s, cpu_s = time.monotonic(), _cpu_s()
    _forget_peak()
    found: dict[str, Any] = {"exit_code": 0, "error": "", "words": "", "where": "", "trace": ""}
    with _surroundings(case, here, home):
        try:
            found["exit_code"] = _call(case) if case.call else _command(case)
        except SystemExit as ended:
            found["exit_code"] = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except KeyboardInterrupt:
            found["exit_code"] = 130
        except BaseException as error:
            found |= _told(error)
    found |= {"cpu_s": _cpu_s() - cpu_s, "wall_s": time.monotonic() - begun_s, "peak_mb": _peak_mb()}
    return found


def _command(case: Case) -> int:
    from openloopy.apps import cli

    os.environ[cli.DEBUG_VARIABLE] = (
        "1"  # main then raises what it would have put into words: it is put below
    )
    cli.main(list(case.arguments))
    return 0


def _call(case: Case) -> int:
    READERS[case.call](*case.arguments)
    return 0


def _told(error: BaseException) -> dict[str, Any]:
    """An error as the command line tells it, and where it comes from."""
    from openloopy.apps import cli

    is_for_users = isinstance(error, cli.USER_ERRORS)
    if isinstance(error, Exception):
        print(cli._message(error), file=sys.stderr, flush=True)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if PACKAGE in frame.filename]
    is_own_words = bool(frames) and PACKAGE in frames[-1].filename and is_for_users
    return {
        "exit_code": 1,
        "error": type(error).__name__,
        "words": "ours" if is_own_words else "a library's" if is_for_users else "none",
        "where": f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "",
        "trace": "".join(traceback.format_exception(error)),
    }


@contextlib.contextmanager
def _surroundings(case: Case, here: Path, home: Path) -> Iterator[None]:
    """Folder, standard streams and home of the case."""
    kept = [os.dup(i) for i in range(3)]
    before, environment = os.getcwd(), dict(os.environ)
    stdin = here / case.stdin if case.stdin else Path(os.devnull)
    files = [
        (stdin, os.O_RDONLY),
        *((home / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")),
    ]
    try:
        for i, (path, flags) in enumerate(files):
            file = os.open(path, flags, 0o644)
            os.dup2(file, i)
            os.close(file)
        os.chdir(here)
        (home / "user").mkdir(exist_ok=True)
        os.environ |= {"HOME": str(home / "user"), "OPENLOOPY_WEIGHTS": str(home / "no-weights")}
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        for i, file in enumerate(kept):
            os.dup2(file, i)
            os.close(file)
        os.chdir(before)
        os.environ.clear()
        os.environ |= environment


def _cpu_s() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _forget_peak() -> None:
    """Linux: the highest mark begins anew at what is used now."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mb() -> float:
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_picture(path: str) -> None:
    from openloopy.media.image import read_image

    rgb = read_image(path)
    assert rgb.dtype == "uint8" and rgb.ndim == 3 and rgb.shape[2] == 3, rgb.shape


def read_sound(path: str) -> None:
    import numpy as np

    from openloopy.apps.generate import Sound
    from openloopy.media.video import VideoWriter

    sound = Sound.of(Path(path), lambda note: print(note, file=sys.stderr))
    assert sound.waveform.ndim == 1 and len(sound.waveform) and np.isfinite(sound.waveform).all()
    with VideoWriter("film.mp4", size=(16, 16), sound=sound.source) as film:
        for _ in range(min(round(25 * len(sound.waveform) / 16_000), MAX_FILM_FRAMES)):
            film.write(np.zeros((16, 16, 3), np.uint8))


def read_film(path: str) -> None:
    from openloopy.data.footage import SteadyReader
    from openloopy.media.audio import open_sound
    from openloopy.media.video import probe_video, read_frames

    numbers = [frame.number for frame in SteadyReader(Path(path))]
    assert numbers == sorted(set(numbers)), "frames in order, each once"
    for read in (open_sound, probe_video, lambda path: sum(1 for _ in read_frames(path))):
        try:
            read(Path(path))
        except ValueError as error:
            print(error, file=sys.stderr)


def read_shards(folder: str) -> None:
    from openloopy.data import shards

    for sample in shards.read_shards(Path(folder)):
        assert len(sample.flac)


def take_up_jobs(folder: str) -> None:
    """What a service does at its start, and nothing more."""
    from openloopy.apps.generate import Studio
    from openloopy.apps.jobs import JobQueue

    queue = JobQueue(Path(folder), Studio())
    assert sum(queue.counts.values()) <= 3
    queue._lock_file.close()


def canary(kind: str) -> None:
    """Each thing that a campaign must notice, done on purpose."""
    CANARIES[kind]()


def _stay() -> None:
    time.sleep(3600)


def _grow() -> None:
    kept = []
    while True:
        kept.append(b"x" * (64 << 20))


def _leave_partial() -> None:
    Path(".out.partial.mp4").write_bytes(b"half")


def _leave_output() -> None:
    Path("out.mp4").write_bytes(b"half")
    raise ValueError("refused, and yet there is something")


def _say_nothing() -> None:
    raise SystemExit(1)


def _fail_unexpectedly() -> None:
    raise KeyError("planted")


def _fail_in_a_thread() -> None:
    import threading

    thread = threading.Thread(target=_fail_unexpectedly)
    thread.start()
    thread.join()


def _change_input() -> None:
    Path("given").write_bytes(b"other")


CANARIES: dict[str, Callable[[], None]] = {
    "traceback": _fail_unexpectedly,
    "thread": _fail_in_a_thread,
    "hang": _stay,
    "memory": _grow,
    "crash": os.abort,
    "exit-code": lambda: sys.exit(9),
    "leftover": _leave_partial,
    "output": _leave_output,
    "wordless": _say_nothing,
    "input": _change_input,
    "good": lambda: None,
}
READERS: dict[str, Callable[..., None]] = {
    "picture": read_picture,
    "sound": read_sound,
    "film": read_film,
    "shards": read_shards,
    "jobs": take_up_jobs,
    "canary": canary,
}


def _make_cheap() -> None:
    """What would serve for ever begins and ends; what would start processes stays here."""
    import uvicorn

    from openloopy.apps import study_server
    from openloopy.data import engines, prepare

    def served(server: Any, *args: Any, **kwargs: Any) -> None:
        server.started = True

    uvicorn.Server.run = served
    study_server.StudyServer.wait = lambda self: None
    prepare.run_local = lambda function, tasks, workers: engines.run_here(function, tasks)


def _import_all() -> None:
    import openloopy.apps.evaluate
    import openloopy.apps.generate
    import openloopy.apps.live
    import openloopy.data.prepare
    import openloopy.recipes.line  # noqa: F401

    _make_cheap()


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))


def serve() -> None:
    """Answer cases until standard input ends."""
    from tests.campaign.material import Material
    from tests.campaign.media import NotMadeError
    from tests.campaign.targets import case_of

    asked, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _import_all()
    _limit_memory()

    def answer(facts: dict[str, Any]) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    answer({"stage": "ready", "cpu_s": _cpu_s()})
    for line in asked:
        order = json.loads(line)
        home = Path(order["home"])
        try:
            if "case" in order:
                case = Case(
                    **{key: tuple(v) if isinstance(v, list) else v for key, v in order["case"].items()}
                )
            else:
                material = Material(Path(order["material"]))
                case = case_of(order["target"], order["seed"], order["number"], home / "here", material)
        except NotMadeError as error:
            answer({"stage": "not made", "reason": str(error)})
            continue
        except Exception:  # the campaign's own mistake: it is told, and the next case goes on
            answer({"stage": "not made", "reason": traceback.format_exc()})
            continue
        answer({"stage": "made", "case": asdict(case)})
        if json.loads(asked.readline())["go"]:
            answer({"stage": "done"} | run(case, home / "here", home))


if __name__ == "__main__":
    serve()
