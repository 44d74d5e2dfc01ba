"""What a campaign has found so far: one JSON object a line, so that the same command goes on; and what failed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

RESULTS, FAILURES, SUMMARY, LOCK = "results.jsonl", "failures", "summary.md", ".lock"
FILES = "files"
"""Of a kept failure: the folder that its command ran in, as it was before."""


class Ledger:
    """The results of one campaign in one folder; a context manager, which nobody else may hold meanwhile."""

    def __init__(self, out: Path, name: str) -> None:
        """name: of the campaign; several may use one folder."""
        self.out, self.name = out, name
        self.folder = out / name
        self._lock = FileLock(self.folder / LOCK, timeout=0)
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Ledger:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(
                f"another campaign writes to {self.folder}; wait for it, or give another --out"
            ) from None
        self.rows = list(_whole_lines(self.folder / RESULTS))
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.release()

    @property
    def failures(self) -> Path:
        """Where failing cases are kept."""
        return self.folder / FAILURES

    def add(self, row: dict[str, Any]) -> None:
        """Keep one result; it is on disk when this returns."""
        self.rows.append(row)
        with open(self.folder / RESULTS, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")

    def keep(
        self, facts: dict[str, Any], files: Path | None = None, texts: dict[str, str] | None = None
    ) -> Path:
        """A folder failures/N for one failing case: what it was, the files it needs, what was printed."""
        self.failures.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in self.failures.iterdir()), default=0)
        folder = self.failures / str(number)
        folder.mkdir()
        if files is not None:
            shutil.copytree(files, folder / FILES, symlinks=True, copy_function=_copy)
        for name, text in (texts or {}).items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        (folder / "case.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return folder

    def write_summary(self, text: str) -> Path:
        """The table of this campaign, for docs/reliability.md."""
        path = self.folder / SUMMARY
        path.write_text(text, encoding="utf-8")
        return path


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows that are complete; a last one that was cut off is taken away."""
    if not path.exists():
        return
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        text = text[: text.rfind(b"\n") + 1]
        path.write_bytes(text)
    for line in text.splitlines():
        yield json.loads(line)


def _copy(source: str, target: str) -> None:
    """Files as they are; what is no file (a pipe, a device) is left out: the case makes it anew."""
    if Path(source).is_file():
        with contextlib.suppress(PermissionError):
            shutil.copy2(source, target)
