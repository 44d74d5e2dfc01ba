"""Proof that tests can fail: one plausible mistake at a time in a copy of the package, and some test must notice.

Source: ours; mutation testing as DeMillo, Lipton and Sayward 1978. The mistakes are in `tests/mutant_list.py`.

    python -m tests.mutants                      # all of them
    python -m tests.mutants 'ddim.*' --workers 2
    python -m tests.mutants --list

Copies lie in a temporary folder: the checkout is never changed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from tests.mutant_list import MUTANTS, Mutant

Verdict = Literal["killed", "survived", "error"]

MUTANT_TIMEOUT_S = 300.0
UNMUTATED_TIMEOUT_S = 1800.0
OUTPUT_CHARACTERS = 3000
"""How much of pytest's last words is shown where something is wrong with the tests themselves."""
NOT_COPIED = frozenset({".git", ".venv", "out", "build", "dist", "src", "tests", "pyproject.toml"})
"""What a copy of the checkout does without, or has a copy of; everything else in it is a link."""
LINKED_IN_PACKAGE = "weights"
PASSED, FAILED = 0, 1
WRONG_PACKAGE, CRASHED, TIMED_OUT = 90, 91, 92
RUNNER = f"""
import importlib, sys, traceback
from pathlib import Path
source, package, *arguments = sys.argv[1:]
try:
    import pytest
    # Before any test: what is imported now is what they test.
    if not Path(importlib.import_module(package).__file__).resolve().is_relative_to(source):
        sys.exit({WRONG_PACKAGE})
    code = pytest.main(arguments)
except Exception:
    # An uncaught exception would exit with 1, which means failed tests.
    traceback.print_exc()
    code = {CRASHED}
sys.exit(code)
"""


class MutantError(ValueError):
    """The list of mutants or the tests are not fit to prove anything."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A checkout with `src/<package>`, `tests` and `pyproject.toml`."""

    root: Path
    package: str

    def source_of(self, mutant: Mutant) -> Path:
        """The file that a mutant changes."""
        return self.root / "src" / self.package / mutant.file


OPENLOOPY = Project(root=Path(__file__).resolve().parents[1], package="openloopy")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    verdict: Verdict
    reason: str
    """The test that killed it, or what went wrong."""
    duration_s: float

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.mutant.name:45} {self.duration_s:5.1f} s  {self.reason}"


@dataclass(frozen=True)
class PytestRun:
    """One run of pytest: its exit code, or one of ours, and all that it printed."""

    code: int
    output: str


def select(mutants: Sequence[Mutant], patterns: Sequence[str]) -> tuple[Mutant, ...]:
    """The mutants whose names match one of the patterns; all of them where there are none."""
    for pattern in patterns:
        if not any(fnmatchcase(mutant.name, pattern) for mutant in mutants):
            raise MutantError(f"no mutant is called {pattern!r}; --list shows their names")
    is_chosen = [not patterns or any(fnmatchcase(m.name, p) for p in patterns) for m in mutants]
    return tuple(mutant for mutant, chosen in zip(mutants, is_chosen, strict=True) if chosen)


def defects(project: Project, mutants: Sequence[Mutant]) -> list[str]:
    """What is wrong with a list of mutants, each with the mutant's name; nothing if it can be run."""
    found = [
        f"{name}: {count} mutants have this name"
        for name, count in Counter(mutant.name for mutant in mutants).items()
        if count > 1
    ]
    for mutant in mutants:
        found += [f"{mutant.name}: {defect}" for defect in _defects_of(project, mutant)]
    return found


def _defects_of(project: Project, mutant: Mutant) -> Iterator[str]:
    source = project.source_of(mutant)
    if not source.is_file():
        yield f"there is no file {mutant.file}"
    elif (count := source.read_text().count(mutant.old)) != 1:
        yield f"expected its old text once in {mutant.file}, found it {count} times; bring it up to date"
    if mutant.old == mutant.new:
        yield "its old and new text are the same"
    if not mutant.tests:
        yield "it names no tests"
    for test in mutant.tests:
        path, _, name = test.partition("::")
        function = name.split("[")[0].split("::")[-1]
        if not (project.root / path).exists():
            yield f"there is no test file {path}"
        elif function and f"def {function}(" not in (project.root / path).read_text():
            yield f"{path} has no test {function}"


def run_mutants(project: Project, mutants: Sequence[Mutant], *, workers: int = 1) -> Iterator[Outcome]:
    """Every mutant against its tests, in the order of the list.

    Raises MutantError before the first of them if the list is not up to date, or if a test fails without any mutant.
    """
    if found := defects(project, mutants):
        raise MutantError("\n".join(found))
    _check_unmutated(project, mutants)
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda mutant: _judge(project, mutant), mutants)


def _check_unmutated(project: Project, mutants: Sequence[Mutant]) -> None:
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = copy_project(project, Path(folder))
        run = run_tests(copy, tests, timeout_s=UNMUTATED_TIMEOUT_S)
    if run.code != PASSED:
        raise MutantError(
            f"the tests must pass without any mutant, but they ended with code {run.code} ({_meaning(run.code)}):\n"
            f"{run.output[-OUTPUT_CHARACTERS:]}"
        )


def _judge(project: Project, mutant: Mutant) -> Outcome:
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = copy_project(project, Path(folder))
        apply(copy, mutant)
        run = run_tests(copy, mutant.tests, timeout_s=MUTANT_TIMEOUT_S)
    verdict, reason = _verdict(run)
    return Outcome(mutant=mutant, verdict=verdict, reason=reason, duration_s=time.monotonic() - start_s)


def _verdict(run: PytestRun) -> tuple[Verdict, str]:
    if run.code == PASSED:
        return "survived", "its tests passed"
    if run.code == FAILED:
        first = re.search(r"^(?:FAILED|ERROR) (\S+)", run.output, flags=re.MULTILINE)
        return "killed", first.group(1) if first else ""
    return "error", f"code {run.code}, {_meaning(run.code)}: {run.output.strip()[-OUTPUT_CHARACTERS:]}"


def _meaning(code: int) -> str:
    meanings = {
        FAILED: "tests failed",
        2: "tests could not be collected",
        3: "pytest broke down",
        4: "no such test, or a wrong option",
        5: "no test was collected",
        WRONG_PACKAGE: "the package was not imported from the copy",
        CRASHED: "the package could not be imported",
        TIMED_OUT: "out of time",
    }
    return meanings.get(code, "unknown")


def copy_project(project: Project, folder: Path) -> Project:
    """Package and tests as copies without bytecode, all else as links."""
    folder = folder.resolve()
    package = Path("src") / project.package
    for part in (package, Path("tests")):
        ignored = shutil.ignore_patterns("__pycache__", *([LINKED_IN_PACKAGE] if part == package else []))
        shutil.copytree(project.root / part, folder / part, ignore=ignored)
    shutil.copy(project.root / "pyproject.toml", folder)
    if (weights := project.root / package / LINKED_IN_PACKAGE).exists():
        (folder / package / LINKED_IN_PACKAGE).symlink_to(weights)
    for entry in project.root.iterdir():
        if entry.name not in NOT_COPIED:
            (folder / entry.name).symlink_to(entry)
    return Project(root=folder, package=project.package)


def apply(copy: Project, mutant: Mutant) -> None:
    """Make the mistake."""
    source = copy.source_of(mutant)
    source.write_text(source.read_text().replace(mutant.old, mutant.new))


def run_tests(copy: Project, tests: Sequence[str], *, timeout_s: float) -> PytestRun:
    """Pytest on a copy, up to the first failure, in a process of its own."""
    options = ["-x", "--tb=line", "-p", "no:cacheprovider"]
    arguments = [str(copy.root / "src"), copy.package, *options, *tests]
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments],
        cwd=copy.root,
        env=_environment(copy),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # The tests may have started processes: the session ends as a whole.
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return PytestRun(TIMED_OUT, output)
    return PytestRun(process.returncode, output)


def _environment(copy: Project) -> dict[str, str]:
    """Ours without what pytest (its workers too) or coverage left there, and with the copy before any other package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    return kept | {
        "PYTHONPATH": str(copy.root / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if every mutant was killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Can the tests fail?")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="names or patterns such as 'ddim.*'; all if none"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--workers", type=int, default=1, help="mutants at a time (default 1)")
    options = parser.parse_args(arguments)
    try:
        chosen = select(MUTANTS, options.names)
        if options.list:
            print(*(f"{mutant.name:45} {mutant.file}" for mutant in chosen), sep="\n")
            return 0
        return _report(OPENLOOPY, chosen, options.workers)
    except MutantError as error:
        print(error, file=sys.stderr)
        return 2


def _report(project: Project, mutants: Sequence[Mutant], workers: int) -> int:
    counts, left = Counter(), []
    for outcome in run_mutants(project, mutants, workers=workers):
        print(outcome, flush=True)
        counts[outcome.verdict] += 1
        left += [] if outcome.verdict == "killed" else [outcome.mutant.name]
    print(
        f"{len(mutants)} mutants: " + ", ".join(f"{counts[v]} {v}" for v in ("killed", "survived", "error"))
    )
    if left:
        print("not killed:", *left)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
