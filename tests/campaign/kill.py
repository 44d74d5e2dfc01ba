"""Killed at any moment, the same command goes on: nothing is lost, doubled, or left half written under a final name.

    python -m tests.campaign.kill --count 100 --seed 0 --out DIR
    python -m tests.campaign.kill --out DIR --only prepare --count 5
    python -m tests.campaign.kill --out DIR --replay 2

Each command runs once unbroken. Then it is started in a new folder, killed by SIGKILL and run again to its end: after
a random share of the unbroken time, or right before or after a random one of its renamings (`hook/sitecustomize.py`),
where a moment as such would hardly ever fall. Half of the kills hit the parent alone, whose children must end too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.campaign.ledger import FAILURES, Ledger, table
from tests.campaign.material import Material
from tests.campaign.scenarios import SCENARIOS, ended_after, last_words, unlike
from tests.campaign.whole import flaws, leftovers, snapshot

NAME = "kill"
HOOK = Path(__file__).with_name("hook")
MARK = "CAMPAIGN_RUN"
EDGE_SHARE = 0.4
EARLY_SHARE = 0.1
"""Kills while everything is still being imported; the others come when there is work."""
ORPHAN_S = 20.0
"""Children may take so long to see that their parent is gone."""
NUM_TRIES = 4
"""A run may be faster than the unbroken one: then it has ended before it is killed, and is tried again, earlier."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An unbroken run."""

    folder: str
    first_s: float
    """Until something lay in its folder."""
    whole_s: float
    edges: int
    """Renamings in it."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """When and whom."""

    share: float = 0.0
    """Of the time between the first file and the end; below 0: of the time before."""
    edge: str = ""
    """N:before or N:after the Nth renaming; "": at a moment."""
    whom: str = "group"
    """group: all processes at once; parent: its children are left to see it."""

    def __str__(self) -> str:
        when = f"{self.edge.replace(':', ' ')} renaming" if self.edge else f"share {self.share:.3f}"
        return f"{self.whom}, {when}"


class Campaign:
    """One folder's kills."""

    def __init__(self, ledger: Ledger, seed: int, names: Sequence[str]) -> None:
        self.ledger, self.seed, self.names = ledger, seed, names
        self.material = Material(ledger.folder.parent / "material")
        self.work = ledger.folder / "work"

    def run(self, count: int) -> None:
        """So many kills in all, each scenario in turn."""
        for number in range(count):
            name = self.names[number % len(self.names)]
            key = f"{name}/{number // len(self.names)}"
            if not any(row["case"] == key and row["seed"] == self.seed for row in self.ledger.rows):
                self._one(name, key)
                self.ledger.write_summary(summary(self.ledger.rows))

    def _one(self, name: str, key: str) -> None:
        reference = self._reference(name)
        kill = drawn_kill(random.Random(f"{self.seed}/{key}"), reference)
        row = {"case": key, "seed": self.seed, "scenario": name, "kill": asdict(kill), "told": str(kill)}
        begun_s, folder = time.monotonic(), self.work / key.replace("/", "-")
        row["problems"] = killed_and_finished(name, folder, kill, reference, self.material)
        row["seconds"] = round(time.monotonic() - begun_s, 1)
        if row["problems"]:
            row["kept"] = int(self.ledger.keep(row | {"reference": asdict(reference)}, folder).name)
            print(f"{key} ({kill}): {'; '.join(row['problems'])[:600]}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        self.ledger.add(row)

    def _reference(self, name: str) -> Reference:
        """The unbroken run of a scenario, made once."""
        folder = self.ledger.folder / "references" / name
        facts = folder.with_suffix(".facts")
        if not facts.exists():
            shutil.rmtree(folder, ignore_errors=True)
            facts.write_text(json.dumps(asdict(unbroken(name, folder, self.material))))
        return Reference(**json.loads(facts.read_text()))


def unbroken(name: str, folder: Path, material: Material) -> Reference:
    """Run a scenario to its end, and measure it."""
    scenario = SCENARIOS[name]
    scenario.lay_out(folder, material)
    before, begun_s, first_s = set(snapshot(folder)), time.monotonic(), None
    edges = folder.with_suffix(".edges")
    edges.unlink(missing_ok=True)
    process = scenario.start(folder, hooked(edges))
    with ended_after(process):
        while process.poll() is None and not (name == "serve" and _jobs_are_done(folder)):
            if first_s is None and {n for n in snapshot(folder) if not n.endswith(".log")} - before:
                first_s = time.monotonic() - begun_s
            time.sleep(0.02)
        whole_s = time.monotonic() - begun_s
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{name} does not even run unbroken: {last_words(folder)}")
    num_edges = edges.read_bytes().count(b"\n") if edges.exists() else 0
    edges.unlink(missing_ok=True)
    return Reference(folder=str(folder), first_s=first_s or whole_s, whole_s=whole_s, edges=num_edges)


def drawn_kill(rng: random.Random, reference: Reference) -> Kill:
    """A moment or an edge, the group or the parent alone."""
    whom = rng.choice(["group", "parent"])
    if reference.edges and rng.random() < EDGE_SHARE:
        return Kill(edge=f"{rng.randint(1, reference.edges)}:{rng.choice(['before', 'after'])}")
    share = -rng.random() if rng.random() < EARLY_SHARE else rng.random()
    return Kill(share=round(share, 4), whom=whom)


def killed_and_finished(
    name: str, folder: Path, kill: Kill, reference: Reference, material: Material
) -> list[str]:
    """Everything that is wrong after a kill, and after the same command has been given again."""
    scenario = SCENARIOS[name]
    for attempt in range(NUM_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        scenario.lay_out(folder, material)
        before = snapshot(folder)
        was_killed, orphans = _killed(name, folder, kill, reference, speed_up=0.7**attempt)
        if was_killed:
            break
    else:
        return [f"never killed: it ended before, {NUM_TRIES} times"]
    new = sorted(set(snapshot(folder)) - set(before))
    problems = [f"orphan: {orphan}" for orphan in orphans]
    problems += [f"after the kill: {flaw}" for flaw in flaws(folder, _final(new))]
    problems += scenario.finish(folder)
    new = sorted(set(snapshot(folder)) - set(before))
    problems += [f"left over: {name}" for name in leftovers(new)]
    problems += [f"at the end: {flaw}" for flaw in flaws(folder, _final(new) + _lines(new))]
    if "Traceback" in (folder / "stderr.log").read_text("utf-8", "replace"):
        problems.append(f"traceback: {last_words(folder)}")
    return problems + [
        f"not as unbroken: {told}" for told in unlike(scenario, Path(reference.folder), folder)
    ]


def hooked(edges: Path, edge: str = "", mark: str = "") -> dict[str, str]:
    """An environment in which renamings are counted, and at one of them everything ends."""
    path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "CAMPAIGN_EDGES": str(edges), "CAMPAIGN_EDGE": edge, MARK: mark}


def _killed(
    name: str, folder: Path, kill: Kill, reference: Reference, speed_up: float
) -> tuple[bool, list[str]]:
    """Start it and kill it; whether it was still at work, and which children went on."""
    mark = uuid.uuid4().hex
    edges = folder.with_suffix(".edges")
    edges.unlink(missing_ok=True)
    begun_s = time.monotonic()
    process = SCENARIOS[name].start(folder, hooked(edges, kill.edge, mark))
    at_s = begun_s + speed_up * _moment_s(kill, reference)
    with ended_after(process):
        if kill.edge:
            _wait_for_end(name, folder, process)
        else:
            while process.poll() is None and time.monotonic() < at_s:
                time.sleep(0.002)
        was_at_work = process.poll() is None or process.returncode == -signal.SIGKILL
        if process.poll() is None:
            _kill(process.pid, kill.whom)
        process.wait()
        orphans = _orphans(mark)
    edges.unlink(missing_ok=True)
    return was_at_work, orphans


def _moment_s(kill: Kill, reference: Reference) -> float:
    if kill.share < 0:
        return -kill.share * reference.first_s
    return reference.first_s + kill.share * (reference.whole_s - reference.first_s)


def _wait_for_end(name: str, folder: Path, process: Any) -> None:
    """Of a command that ends itself at an edge; a service that did not come to it goes on until it is idle."""
    while process.poll() is None and not (name == "serve" and _jobs_are_done(folder)):
        time.sleep(0.05)


def _kill(pid: int, whom: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        if whom == "group":
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def _orphans(mark: str) -> list[str]:
    """Command lines of children that go on without their parent."""
    stop = time.monotonic() + ORPHAN_S
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                    found.append(" ".join(process.cmdline())[:120])
        if not found or time.monotonic() > stop:
            return found
        time.sleep(0.2)


def _jobs_are_done(folder: Path) -> bool:
    statuses = []
    for path in (folder / "jobs").glob("*/job.json"):
        with contextlib.suppress(OSError, ValueError):
            statuses.append(json.loads(path.read_text())["status"])
    accepted = folder / "accepted.log"
    expected = len(accepted.read_text().split()) if accepted.exists() else 0
    return expected > 0 and statuses.count("done") >= expected


def _final(names: list[str]) -> list[str]:
    """Logs that grow by lines may end in the middle of one, and a stream is what there is of it so far."""
    return [name for name in names if not name.endswith((".jsonl", ".npy", "stream.mp4"))]


def _lines(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".jsonl")]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Tables in Markdown: kills by command, and what was wrong."""
    lines = []
    for name in dict.fromkeys(row["scenario"] for row in rows):
        own = [row for row in rows if row["scenario"] == name]
        edges = sum(bool(row["kill"]["edge"]) for row in own)
        parents = sum(row["kill"]["whom"] == "parent" for row in own)
        lines.append([name, len(own), edges, parents, sum(bool(row["problems"]) for row in own)])
    lines.append(["all", *(sum(line[i] for line in lines) for i in range(1, 5))])
    text = table(["command", "kills", "at a renaming", "of the parent alone", "failed"], lines)
    wrong = [[row["case"], row["told"], "; ".join(row["problems"])[:300]] for row in rows if row["problems"]]
    return text + ("\n" + table(["case", "killed", "problems"], wrong) if wrong else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if anything was wrong after a kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100, help="kills in all, earlier runs included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="some of the commands")
    parser.add_argument("--replay", type=int, metavar="N", help="a kept failure, again")
    given = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with Ledger(given.out.resolve(), NAME) as ledger:
        campaign = Campaign(ledger, given.seed, given.only.split(","))
        if given.replay:
            return _replay(campaign, given.replay)
        campaign.run(given.count)
        text = summary(ledger.rows)
        ledger.write_summary(text)
        print(text)
        return int(any(row["problems"] for row in ledger.rows))


def _replay(campaign: Campaign, number: int) -> int:
    facts = json.loads((campaign.ledger.folder / FAILURES / str(number) / "case.json").read_text("utf-8"))
    reference = campaign._reference(facts["scenario"])
    with tempfile.TemporaryDirectory(dir=campaign.ledger.folder) as work:
        folder = Path(work) / "again"
        problems = killed_and_finished(
            facts["scenario"], folder, Kill(**facts["kill"]), reference, campaign.material
        )
    print("\n".join(problems) or "nothing wrong")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
