"""Where a number comes from: commit, hardware, versions; and the dated file it is kept in."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from openloopy.media.files import sha256_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("openloopy", "torch", "transformers", "diffusers", "numpy", "opencv-python-headless", "mediapipe")


def provenance() -> dict[str, Any]:
    """Commit (with `-dirty` where files differ from it), date, hardware and versions."""
    return {
        "commit": _git("describe", "--always", "--dirty", "--abbrev=10", "--exclude=*") or "unknown",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
    }


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory."""
    flags = _first_value("/proc/cpuinfo", "flags").split()
    return {
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "bf16_units": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_first_value("/proc/meminfo", "MemTotal").split()[0]) / 1e6, 1),
    }


def folder_hash(folder: Path) -> str:
    """sha256 over names and contents of all files below a folder: which model was this?"""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def save_result(name: str, result: dict[str, Any]) -> Path:
    """Keep a result as `results/DATE_NAME_COMMIT.json`; a number is added where that is taken."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = f"{result['date'][:10]}_{name}_{result['commit']}"
    taken = len(list(RESULTS.glob(f"{stem}*.json")))
    path = RESULTS / (f"{stem}-{taken + 1}.json" if taken else f"{stem}.json")
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return path


def rounded(value: Any, digits: int = 4) -> Any:
    """Floats inside dicts and lists rounded, numpy's included; NaN, which JSON has not, becomes None."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, digits)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _first_value(path: str, key: str) -> str:
    """The first `key: value` of a /proc file; empty where there is none."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""
