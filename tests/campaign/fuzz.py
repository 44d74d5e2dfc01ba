"""Whatever comes in: damaged files, folders and command lines, one after another, until the CPU hours are spent.

    python -m tests.campaign.fuzz --cpu-hours 4 --seed 0 --out DIR
    python -m tests.campaign.fuzz --out DIR --replay 3     # one kept failure again, in a fresh process
    python -m tests.campaign.fuzz --out DIR --targets sound,picture --cases 50

A case follows from (seed, target, number). It fails if it ends otherwise than well or in words: see `warm.judged`. What
fails is run again in a fresh process and kept in DIR/fuzz/failures; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.campaign.case import Case
from tests.campaign.command_lines import ODD_FILES
from tests.campaign.ledger import FAILURES, FILES, Ledger, table
from tests.campaign.targets import TARGETS
from tests.campaign.warm import Limits, Outcome, Warm

NAME = "fuzz"
KEPT_EACH = 3
"""Failures of one signature whose files are kept; more are counted."""
SUMMARY_EVERY = 200
MAX_TOLD = 300
"""Characters of a failure on the terminal."""
HEADER = ["target", "cases", "done", "refused in words", "failed", "CPU min", "longest, s", "most memory, MB"]
CANARIES = {
    "good": "",
    "traceback": "unexpected",
    "thread": "traceback",
    "hang": "hang",
    "memory": "memory",
    "crash": "died",
    "exit-code": "exit code",
    "leftover": "leftover",
    "output": "output",
    "wordless": "wordless",
    "input": "input",
}
"""What a campaign must be able to notice, and the kind of failure that it then says."""
CANARY_LIMITS = Limits(wall_s=10.0, memory_mb=1024.0)


class Campaign:
    """One folder's campaign: which case comes next, and what became of it."""

    def __init__(self, ledger: Ledger, seed: int, names: Sequence[str]) -> None:
        self.ledger, self.seed, self.names = ledger, seed, names
        self.work = ledger.folder / "work"
        self.material = ledger.folder / "material"
        self.rows: list[dict[str, Any]] = []
        self._spent_s: dict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()
        for row in ledger.rows:
            if row["seed"] == seed:
                self._count(row)

    def run(self, cpu_s: float, num_cases: int | None = None) -> None:
        """Go on until so many CPU seconds are spent in all, or so many cases are done in all."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        with self._warm("worker") as warm:
            while self.spent_s < cpu_s and (num_cases is None or len(self.rows) < num_cases):
                self._one(warm, self._next())
                if len(self.rows) % SUMMARY_EVERY == 0:
                    self.ledger.write_summary(summary(self.rows))
        shutil.rmtree(self.work, ignore_errors=True)

    @property
    def spent_s(self) -> float:
        """CPU seconds of all cases so far."""
        return sum(self._spent_s.values())

    def _count(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._spent_s[row["target"]] += row["cpu_s"]
        self._counts[row["target"]] += 1
        self._counts[row.get("signature", "")] += 1

    def _warm(self, name: str) -> Warm:
        return Warm(self.work / name, seed=self.seed, material=self.material)

    def _next(self) -> str:
        """The target that has had the least of its share."""
        return min(
            self.names,
            key=lambda name: (self._spent_s[name] + 0.01 * self._counts[name]) / TARGETS[name].weight,
        )

    def _one(self, warm: Warm, target: str) -> None:
        number = self._counts[target]
        outcome = warm.run_target(target, number)
        row = {"case": f"{target}/{number}", "seed": self.seed, "target": target, "number": number}
        row |= facts_of(outcome)
        if outcome.verdict == "failed":
            if self._counts[outcome.signature] < KEPT_EACH:
                row |= self._kept(target, number, outcome)
            print(f"{row['case']}: {outcome.signature}: {'; '.join(outcome.failures)[:MAX_TOLD]}", flush=True)
        self.ledger.add(row)
        self._count(row)

    def _kept(self, target: str, number: int, outcome: Outcome) -> dict[str, Any]:
        """Run it again in a fresh process, and keep its files and what both runs said."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder, self._warm("again") as again:
            second = again.run_target(target, number, keep=Path(folder) / FILES)
            facts = {"case": vars(outcome.case), "seed": self.seed, "target": target, "number": number}
            facts |= {"failures": outcome.failures, "again": second.failures, "command": outcome.case.command}
            texts = {"command.txt": outcome.case.command + "\n", "stderr.txt": outcome.stderr}
            texts |= {"trace.txt": outcome.facts.get("trace", "")}
            kept = self.ledger.keep(facts, Path(folder) / FILES, texts)
        return {
            "kept": int(kept.name),
            "again": second.failures,
            "cpu_s": round(outcome.cpu_s + second.cpu_s, 3),
        }


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """For the ledger."""
    told = {name: outcome.facts.get(name, "") for name in ("exit_code", "error", "words", "where")}
    row = told | {
        "verdict": outcome.verdict,
        "cpu_s": round(outcome.cpu_s, 3),
        "wall_s": round(outcome.wall_s, 3),
    }
    row["peak_mb"] = round(outcome.peak_mb)
    if outcome.case is None:
        row["reason"] = outcome.facts.get("reason", "")
    if outcome.failures:
        row |= {"failures": outcome.failures, "signature": outcome.signature}
    return row


def check_canaries(work: Path, names: Iterable[str] = CANARIES) -> list[str]:
    """Whether everything that must be noticed is; what was not."""
    missed = []
    with Warm(work / "canary", CANARY_LIMITS) as warm:
        for name, kind in ((name, CANARIES[name]) for name in names):
            files = work / f"canary-{name}"
            files.mkdir(parents=True)
            (files / "given").write_bytes(b"one")
            case = Case(call="canary", arguments=(name,), outputs=("out.mp4",), inputs=("given",))
            failures = warm.run_case(case, files).failures
            if not (any(f.startswith(kind) for f in failures) if kind else not failures):
                missed.append(f"{name}: expected {kind or 'nothing'}, got {failures}")
    return missed


def replay(folder: Path) -> Outcome:
    """A kept failure again, in a fresh process, on a copy of its files."""
    facts = json.loads((folder / "case.json").read_text("utf-8"))
    case = Case(**{name: tuple(v) if isinstance(v, list) else v for name, v in facts["case"].items()})
    with tempfile.TemporaryDirectory() as work:
        files = Path(shutil.copytree(folder / FILES, Path(work) / FILES, symlinks=True))
        _make_odd_files(case, files)
        with Warm(Path(work) / "worker") as warm:
            return warm.run_case(case, files)


def _make_odd_files(case: Case, files: Path) -> None:
    """Pipes and devices that a case names, which no copy keeps."""
    for name in case.arguments:
        kind = name.removeprefix("odd-").partition(".")[0]
        if name.startswith("odd-") and kind in ODD_FILES and not (files / name).is_symlink():
            if not (files / name).exists():
                ODD_FILES[kind](files / name)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Tables in Markdown: targets, failures, refusals in the words of others."""
    by_target = defaultdict(list)
    for row in rows:
        by_target[row["target"]].append(row)
    lines = [_target_row(name, own) for name, own in by_target.items()]
    lines.append(_target_row("all", rows))
    failed = Counter(row["signature"] for row in rows if row["verdict"] == "failed")
    others = Counter(f"{row['error']} in {row['where']}" for row in rows if row["words"] == "a library's")
    text = table(HEADER, lines)
    if failed:
        text += "\n" + table(
            ["failure", "cases", "kept"], [[n, c, _kept_numbers(rows, n)] for n, c in failed.most_common()]
        )
    if others:
        text += "\nRefused, but in a library's words:\n\n" + table(["error", "cases"], others.most_common(20))
    return text


def _target_row(name: str, rows: Sequence[dict[str, Any]]) -> list[Any]:
    verdicts = Counter(row["verdict"] for row in rows)
    counts = [verdicts[verdict] for verdict in ("good", "refused", "failed")]
    cpu_min = sum(row["cpu_s"] for row in rows) / 60
    most = [max((row[name] for row in rows), default=0) for name in ("wall_s", "peak_mb")]
    return [name, len(rows), *counts, f"{cpu_min:.1f}", f"{most[0]:.1f}", f"{most[1]:.0f}"]


def _kept_numbers(rows: Sequence[dict[str, Any]], signature: str) -> str:
    return ", ".join(str(row["kept"]) for row in rows if row.get("signature") == signature and "kept" in row)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu-hours", type=float, default=4.0, help="in all, earlier runs included")
    parser.add_argument("--cases", type=int, help="end after so many, earlier runs included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of the targets")
    parser.add_argument("--replay", type=int, nargs="+", metavar="N", help="kept failures, again")
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    given = parser.parse_args(arguments)
    if given.replay:
        return _replay_all(given.out, given.replay)
    with Ledger(given.out.resolve(), NAME) as ledger:
        campaign = Campaign(ledger, given.seed, given.targets.split(","))
        if not given.summary:
            _check_eyes(ledger)
            campaign.run(3600 * given.cpu_hours, given.cases)
        text = summary(campaign.rows)
        ledger.write_summary(text)
        print(text)
        return int(any(row["verdict"] == "failed" for row in campaign.rows))


def _check_eyes(ledger: Ledger) -> None:
    """A campaign that sees nothing finds nothing: once, before the first case."""
    if ledger.rows:
        return
    with tempfile.TemporaryDirectory(dir=ledger.folder) as work:
        missed = check_canaries(Path(work))
    if missed:
        raise SystemExit(f"the campaign does not notice: {missed}")


def _replay_all(out: Path, numbers: Sequence[int]) -> int:
    failed = 0
    for number in numbers:
        outcome = replay(out / NAME / FAILURES / str(number))
        print(f"{number}: {outcome.verdict}: {'; '.join(outcome.failures)}\n{outcome.stderr[-2000:]}")
        failed += outcome.verdict == "failed"
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
