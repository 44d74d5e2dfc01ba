"""A worker that is kept warm, watched from outside: time, memory, whether it lives; and the verdict on what it did."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.campaign.case import Case
from tests.campaign.whole import Snapshot, changed, flaws, leftovers, snapshot

GOOD_EXIT_CODES = frozenset({0, 1, 2, 3, 130})
LOOK_EVERY_S, COUNT_EVERY_S = 0.1, 1.0
"""At the memory of the process; at its children and their time, which costs more."""
STILL_S = 10.0
"""Without any computing for so long, something waits for what does not come."""
MAX_SLOWNESS = 10
"""On a machine that others use too, a case may take so many times its time, as long as it computes."""
MAKING_S = 300.0
"""For a case's files: the first of a kind waits for good material."""
STARTING_S = 240.0
TIRED_AFTER_CASES, TIRED_MB = 400, 1500
HERE, OUTPUT_CHARACTERS = "here", 200_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one case may take."""

    wall_s: float = 60.0
    """Of computing, or of waiting; see `_Watch`."""
    memory_mb: float = 4096.0


class _Watch:
    """The time and the memory of a process and its children while a case runs."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._pid, self._limits = pid, limits
        self._begun_s = self._counted_s = self._moved_s = time.monotonic()
        self.peak_mb, self.first_cpu_s = _usage(pid)
        self.cpu_s = self.first_cpu_s

    def look(self) -> str:
        """Why it must end; "" if it need not."""
        now_s = time.monotonic()
        if now_s - self._counted_s >= COUNT_EVERY_S:
            memory_mb, cpu_s = _usage(self._pid)
            if cpu_s > self.cpu_s + 0.01:
                self._moved_s, self.cpu_s = now_s, cpu_s
            self._counted_s = now_s
        else:
            memory_mb = _memory_mb(self._pid)
        self.peak_mb = max(self.peak_mb, memory_mb)
        if self.peak_mb > self._limits.memory_mb:
            return f"memory: more than {self._limits.memory_mb:.0f} MB"
        wall_s, elapsed_s = self._limits.wall_s, now_s - self._begun_s
        is_still = elapsed_s > wall_s and now_s - self._moved_s > min(STILL_S, wall_s)
        is_busy = self.cpu_s - self.first_cpu_s > wall_s or elapsed_s > MAX_SLOWNESS * wall_s
        return f"hang: longer than {wall_s:.0f} s" if is_still or is_busy else ""


@dataclass(kw_only=True)
class Outcome:
    """What one case came to."""

    case: Case | None
    """None: it could not be made here."""
    facts: dict[str, Any] = field(default_factory=dict)
    """As the worker told it; empty if it was ended or died."""
    failures: list[str] = field(default_factory=list)
    """Kind: detail."""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mb: float = 0.0
    stderr: str = ""

    @property
    def verdict(self) -> str:
        """good, refused, failed, or not made."""
        if self.case is None:
            return "not made"
        if self.failures:
            return "failed"
        return "good" if self.facts["exit_code"] == 0 else "refused"

    @property
    def signature(self) -> str:
        """The same for failures that are probably the same."""
        kinds = "+".join(sorted({failure.split(":")[0] for failure in self.failures}))
        what = self.case.call or self.case.arguments[:1]
        error, where = self.facts.get("error", ""), self.facts.get("where", "")
        return f"{kinds} {error} {where}".strip() if where else f"{kinds} {what}"


class Warm:
    """A worker process; started when it is needed, ended when it is tired."""

    def __init__(
        self, home: Path, limits: Limits = Limits(), seed: int = 0, material: Path | None = None
    ) -> None:
        """
        Args:
            home: folder for the cases' files; each case finds it empty.
            limits: what one case may take.
            seed: of the campaign.
            material: folder of good things (`material.Material`).
        """
        self.home, self.limits, self.seed = home, limits, seed
        self.material = material or home.parent / "material"
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._num_cases, self._counted_s, self._cpu_s = 0, 0.0, 0.0
        self._is_lost = False

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *error: Any) -> None:
        self.end()

    def run_target(self, target: str, number: int, keep: Path | None = None) -> Outcome:
        """Make a case of a target and run it; keep: gets a copy of its files as they were before."""
        order = {"target": target, "seed": self.seed, "number": number, "material": str(self.material)}
        return self._run(order, keep)

    def run_case(self, case: Case, files: Path | None = None) -> Outcome:
        """Run a case whose files lie in a folder, or that has none."""
        shutil.rmtree(self.home, ignore_errors=True)
        if files is None:
            (self.home / HERE).mkdir(parents=True)
        else:
            shutil.copytree(files, self.home / HERE, symlinks=True)
        return self._run({"case": asdict(case)}, None)

    def end(self) -> None:
        """End the process and all that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _run(self, order: dict[str, Any], keep: Path | None) -> Outcome:
        if "target" in order:
            shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True, exist_ok=True)
        own_s = time.process_time()
        self._start_if_needed()
        self._num_cases += 1
        self._send(order | {"home": str(self.home)})
        made = self._wait(Limits(wall_s=MAKING_S, memory_mb=float("inf")))[0]
        if made is None or made["stage"] != "made":
            outcome = Outcome(case=None, facts=made or {"reason": "the process that made it died"})
        else:
            outcome = self._watched(_case_of(made["case"]), keep)
        outcome.cpu_s = self._spent_s() + time.process_time() - own_s
        self._rest()
        return outcome

    def _watched(self, case: Case, keep: Path | None) -> Outcome:
        here = self.home / HERE
        if keep is not None:
            shutil.copytree(here, keep, symlinks=True, copy_function=copy_file)
        before, begun_s = snapshot(here), time.monotonic()
        self._send({"go": True})
        facts, ended_because, peak_mb = self._wait(self.limits)
        outcome = Outcome(case=case, facts=facts or {}, wall_s=time.monotonic() - begun_s)
        outcome.peak_mb = max(peak_mb, outcome.facts.get("peak_mb", 0.0))
        outcome.stderr = _text_of(self.home / "stderr")
        outcome.failures = judged(case, here, before, outcome, ended_because, self.limits)
        return outcome

    def _start_if_needed(self) -> None:
        if self._process is not None:
            return
        command = [sys.executable, "-m", "tests.campaign.worker"]
        with open(self.home.parent / f"{self.home.name}.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=os.environ
                | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1"},
            )
        self._answers, self._is_lost = queue.Queue(), False
        self._num_cases, self._counted_s, self._cpu_s = 0, 0.0, 0.0
        threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()
        ready = self._wait(Limits(wall_s=STARTING_S, memory_mb=float("inf")))[0]
        if ready is None:
            raise RuntimeError(
                f"no worker could be started; see {self.home.parent / f'{self.home.name}.log'}"
            )

    def _send(self, order: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # that it is dead is seen when its answer does not come
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _wait(self, limits: Limits) -> tuple[dict[str, Any] | None, str, float]:
        """The next answer, or why there is none; and the most memory that was seen."""
        watch, why = _Watch(self._process.pid, limits), ""
        while not why:
            with contextlib.suppress(queue.Empty):
                answer = self._answers.get(timeout=LOOK_EVERY_S)
                if answer is not None:
                    return answer, "", watch.peak_mb
                why = f"died: {_how_it_died(self._process)}"
            why = why or watch.look()
            self._cpu_s = max(self._cpu_s, watch.cpu_s)
        self._is_lost = True
        return None, why, watch.peak_mb

    def _spent_s(self) -> float:
        """CPU seconds since this was asked last."""
        _, cpu_s = _usage(self._process.pid)
        cpu_s = max(cpu_s, self._cpu_s, self._counted_s)
        spent, self._counted_s = cpu_s - self._counted_s, cpu_s
        return spent

    def _rest(self) -> None:
        """A new process after many cases, after one that grew, and after one that did not answer."""
        is_lost = self._is_lost or self._process.poll() is not None
        if is_lost or self._num_cases >= TIRED_AFTER_CASES or _usage(self._process.pid)[0] > TIRED_MB:
            self.end()


def judged(
    case: Case, here: Path, before: Snapshot, outcome: Outcome, ended_because: str, limits: Limits
) -> list[str]:
    """Everything that a run must not do, each with its kind in front."""
    facts, found = outcome.facts, []
    if ended_because:
        found.append(ended_because)
    if outcome.peak_mb > limits.memory_mb and not ended_because.startswith("memory"):
        found.append(f"memory: {outcome.peak_mb:.0f} MB")
    if facts.get("words") == "none":
        found.append(f"unexpected: {facts['error']} in {facts['where']}")
    elif "Traceback (most recent call last)" in outcome.stderr or "(unexpected;" in outcome.stderr:
        found.append("traceback: in what was printed")
    code = facts.get("exit_code")
    if code is not None and code not in GOOD_EXIT_CODES:
        found.append(f"exit code: {code}")
    if code in (1, 2) and not outcome.stderr.strip():
        found.append("wordless: it failed and said nothing")
    return found + _judged_files(case, here, before, is_good=code == 0, is_ended=bool(ended_because))


def _judged_files(case: Case, here: Path, before: Snapshot, *, is_good: bool, is_ended: bool) -> list[str]:
    after = snapshot(here)
    new = changed(before, after)
    found = []
    if not is_ended:  # what was killed may leave unfinished files: the next run takes them away
        found += [f"leftover: {name}" for name in leftovers(new)]
    if case.names_tell:
        found += [f"not whole: {flaw}" for flaw in flaws(here, new)]
    if not is_good:
        found += [f"output: {name} after a failure" for name in case.outputs if name in new]
    found += [f"input: {name} was changed" for name in case.inputs if before.get(name) != after.get(name)]
    odd = {name: facts for name, facts in before.items() if name.startswith("odd-")}
    replaced = [name for name, facts in odd.items() if name in after and after[name][0] != facts[0]]
    return found + [f"replaced: {name} is something else now" for name in replaced]


def copy_file(source: str, target: str) -> None:
    """For `copytree`: files as they are; pipes and devices are not copied (`command_lines.ODD_FILES` makes them)."""
    if os.path.isfile(source):
        shutil.copy2(source, target)


def _case_of(facts: dict[str, Any]) -> Case:
    return Case(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})


def _listen(process: subprocess.Popen[str], answers: queue.Queue[dict[str, Any] | None]) -> None:
    for line in process.stdout:
        answers.put(json.loads(line))
    answers.put(None)


def _how_it_died(process: subprocess.Popen[str]) -> str:
    code = process.wait(30)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _usage(pid: int) -> tuple[float, float]:
    """Memory in MB and CPU seconds of a process and its children."""
    memory, cpu_s = 0.0, 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        times = process.cpu_times()
        cpu_s = times.user + times.system + times.children_user + times.children_system
        memory = process.memory_info().rss
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                memory += child.memory_info().rss
                cpu_s += sum(child.cpu_times()[:2])
    return memory / 2**20, cpu_s


def _memory_mb(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss / 2**20
    return 0.0


def _text_of(path: Path) -> str:
    return path.read_bytes()[-OUTPUT_CHARACTERS:].decode("utf-8", "backslashreplace") if path.exists() else ""
