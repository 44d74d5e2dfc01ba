"""Which agreement of lips and sound must `openloopy prepare` ask for? What is kept, by length and turn of the head.

    python benchmarks/sync_threshold.py --videos FOLDER --cache DIR [--copies NAME,NAME] [--each 20]

FOLDER holds videos of one speaker each and a MANIFEST.csv (`file`, `speaker`, `use`); rows whose `use` is neither
`train` nor `test` are left out. The default is chosen on people of `train` and checked on those of `test`. Files are
named CORPUS_PERSON__CLIP; clips of `grid` say sentences of one form that begin at one moment, so that a stranger's
sound half fits: such pairs are counted apart (`rhyming`). Tracks are kept in DIR. A pair counts as kept if the rule of
`prepare` keeps it, sound that is late or early moved first. The last line is one JSON object; a table comes before it.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance, rounded, save_result
from sync_pairs import GRID, Clip, Pair, clip_of, pairs, windows
from sync_tracks import follow

from openloopy.data.describe import sync_measures
from openloopy.data.filters import Thresholds, judge
from openloopy.data.in_step import Heard, put_in_step
from openloopy.measures.lip_sync import LipSync

LENGTHS_S = (2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
STRENGTHS = tuple(np.arange(2.0, 6.01, 0.25).tolist())
TURNS_DEG = ((0, 8), (8, 15), (15, 90))
Rule = Callable[[Pair], bool]


def main() -> None:
    options = _parse()
    clips = read_clips(options.videos, options.cache)
    copies = [frozenset(names.split(",")) for names in options.copies]
    rng, lengths = np.random.default_rng(0), {}
    for seconds in LENGTHS_S:
        found = list(pairs(windows(clips, seconds), options.each, copies, rng))
        lengths[f"{seconds:g} s"] = {
            "default": outcome(found, rule(Thresholds())),
            "score_3": outcome(found, rule(Thresholds(min_sync_strength=None, min_sync_score=3.0))),
            "curve": {
                f"{strength:.2f}": outcome(found, rule(Thresholds(min_sync_strength=strength)))
                for strength in STRENGTHS
            },
        }
    result = {
        "benchmark": "sync_threshold",
        "num_clips": len(clips),
        "people": {
            use: sorted({clip.person for clip in clips if clip.use == use}) for use in ("train", "test")
        },
        "lengths": lengths,
    }
    result = rounded({**result, **provenance()})
    print(table(lengths))
    save_result("sync_threshold", result)
    print(json.dumps(result))


def read_clips(videos: Path, cache: Path) -> list[Clip]:
    """Of the manifest, those whose sound is in step."""
    with open(videos / "MANIFEST.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["use"] in ("train", "test")]
    return [clip_of(follow(videos / row["file"], cache), row["speaker"], row["use"]) for row in rows]


def rule(limits: Thresholds) -> Rule:
    """Whether `prepare` keeps a pair, as far as synchrony goes."""

    def heard(sync: LipSync) -> Heard:
        measures = sync_measures(sync)
        return Heard(np.zeros(0), sync, measures, judge(measures, limits))

    return lambda pair: not put_in_step(heard(pair.as_is), lambda late: heard(pair.moved))[0].reasons


def outcome(found: Sequence[Pair], is_kept: Rule) -> dict[str, Any]:
    """Share of pairs that are kept, and how many there were, by group."""
    kept: dict[str, list[bool]] = {}
    for pair in found:
        was_kept = is_kept(pair)
        for group in groups(pair):
            kept.setdefault(group, []).append(was_kept)
    return {group: [float(np.mean(values)), len(values)] for group, values in sorted(kept.items())}


def groups(pair: Pair) -> list[str]:
    """What a pair counts among: false or genuine by use and, GRID apart, by the turn of the head; or rhyming."""
    if pair.kind == "rhyming":
        return ["rhyming"]
    kind, clip = "genuine" if pair.kind == "genuine" else "false", pair.lips.clip
    corpus = "grid" if clip.corpus == GRID else "others"
    turned = next(f"{low}-{high} deg" for low, high in TURNS_DEG if low <= pair.lips.yaw_deg < high)
    return [f"{kind} {clip.use}", f"{kind} {clip.use} {corpus}", f"{kind} {corpus} {turned}"]


def table(lengths: dict[str, Any]) -> str:
    """Markdown: false keeps and genuine ones kept, per cent, by threshold and length; all people."""
    lines = [f"| strength at least | {' | '.join(lengths)} |", "|---" * (len(lengths) + 1) + "|"]
    for strength in (f"{strength:.2f}" for strength in STRENGTHS):
        cells = [_cell(rows["curve"][strength]) for rows in lengths.values()]
        lines.append(f"| {strength} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(shares: dict[str, list[float]]) -> str:
    return " / ".join(_percent(shares, kind) for kind in ("false", "genuine"))


def _percent(shares: dict[str, list[float]], kind: str) -> str:
    """Of people of both uses."""
    found = [shares[name] for use in ("train", "test") if (name := f"{kind} {use}") in shares]
    kept, count = sum(share * number for share, number in found), sum(number for _, number in found)
    return f"{100 * kept / count:.1f}" if count else "-"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument(
        "--copies",
        action="append",
        default=[],
        metavar="NAME,NAME",
        help="files of one recording; repeatable",
    )
    parser.add_argument(
        "--each", type=int, default=20, help="strangers' sounds of each kind per window, at most"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
