"""From tracks and blocks to a table: every variant against the full model, with bootstrap intervals.

A measure gives each person's video some values: one per block of ten seconds, or one for the whole. What is compared
are the same people, seeds and blocks. The bootstrap draws people of seeds, then blocks within them, 2000 times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ablation_measures import BLOCK_FRAMES, Person

from openloopy.face.movement import lip_gap
from openloopy.measures.behaviour import blink_intervals, blink_rate, interval_distance, sway, sway_distance
from openloopy.measures.motion import exp, face_found, glo, per_frame
from openloopy.measures.sync import closures, false_closures, pearson
from openloopy.media.video import FPS
from openloopy.recipes.ablations import VARIANTS

DRAWS = 2000
REFERENCE = "full"


@dataclass(frozen=True)
class Video:
    """A measured video: landmarks `f 68 2` and numbers by block."""

    points: np.ndarray
    blocks: list[dict[str, Any]]

    @property
    def pieces(self) -> list[np.ndarray]:
        """Landmarks by block; a last one that is shorter than half a block belongs to none."""
        starts = range(0, len(self.points) - BLOCK_FRAMES // 2, BLOCK_FRAMES)
        return [self.points[start : start + BLOCK_FRAMES] for start in starts]


Values = Callable[[Person, Video, Video], list[float]]
"""(person, generated, true) -> a value per block, or one; NaN where there is nothing to measure."""


class Measure(NamedTuple):
    """A column of the table."""

    title: str
    better: str
    """higher, lower; "" where neither is better in itself."""
    values: Values


def summarise(
    out: Path, seeds: Sequence[int], variants: Sequence[str], people: Sequence[Person]
) -> dict[str, Any]:
    """Means of every variant, and its differences to the full model with intervals."""
    truth = {person.name: read_video(out / "truth", person.name) for person in people}
    samples: dict[str, dict[str, dict[tuple[int, str], np.ndarray]]] = {}
    for variant in variants:
        folders = {seed: out / f"seed{seed}" / variant / "measured" for seed in seeds}
        found = samples[variant] = {name: {} for name in MEASURES}
        for seed, folder in folders.items():
            for person in people:
                video = read_video(folder, person.name)
                for name, measure in MEASURES.items():
                    values = measure.values(person, video, truth[person.name])
                    found[name][seed, person.name] = np.array(values, np.float64)
            for name, values in json.loads((folder / "losses.json").read_text()).items():
                found.setdefault(f"error_{name}", {})[seed, "held out"] = np.array(values)
    return {
        "variants": {
            variant: {name: _row(cells, samples[REFERENCE][name]) for name, cells in found.items()}
            for variant, found in samples.items()
        },
        "truth": {
            name: _mean(
                {
                    (0, person.name): np.array(measure.values(person, truth[person.name], truth[person.name]))
                    for person in people
                }
            )
            for name, measure in MEASURES.items()
        },
    }


def read_video(folder: Path, name: str) -> Video:
    """What `ablation_measures.write_person` wrote."""
    with np.load(folder / f"{name}.npz") as stored:
        points = stored["points"]
    return Video(points, json.loads((folder / f"{name}.json").read_text())["blocks"])


def verdict(row: dict[str, Any], better: str) -> str:
    """ "better", "worse" or "undecided" against the full model; "" where neither direction is better.

    Decided is what the interval of the difference and every single seed say alike.
    """
    low, high = row["interval"]
    signs = {np.sign(value) for value in row["seeds"].values()}
    if not better or np.isnan([low, high]).any():
        return ""
    if low <= 0 <= high or len(signs) > 1:
        return "undecided"
    return "better" if (row["difference"] > 0) == (better == "higher") else "worse"


def _row(
    cells: dict[tuple[int, str], np.ndarray], reference: dict[tuple[int, str], np.ndarray]
) -> dict[str, Any]:
    """Mean of a variant's values; difference to the reference, its interval, and the difference in each seed."""
    differences = {key: values - reference[key] for key, values in cells.items()}
    seeds = sorted({seed for seed, _ in cells})
    return {
        "mean": _mean(cells),
        "difference": _mean(differences),
        "interval": list(bootstrap(list(differences.values()))),
        "seeds": {
            seed: _mean({key: values for key, values in differences.items() if key[0] == seed})
            for seed in seeds
        },
    }


def bootstrap(clusters: Sequence[np.ndarray], draws: int = DRAWS, share: float = 0.95) -> tuple[float, float]:
    """Interval of the mean over clusters of means of their values: clusters are drawn, then values within each.

    clusters: `n` arrays of values; NaN does not count, and a cluster of nothing else neither.
    """
    known = [values[np.isfinite(values)] for values in clusters]
    known = [values for values in known if len(values)]
    if not known:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    # The values of a cluster are drawn anew each time it comes up.
    drawn = np.stack(
        [
            values[rng.integers(len(values), size=(draws, len(known), len(values)))].mean(-1)
            for values in known
        ]
    )
    chosen = rng.integers(len(known), size=(draws, len(known)))
    means = drawn[chosen, np.arange(draws)[:, None], np.arange(len(known))].mean(-1)
    low, high = np.percentile(means, [50 * (1 - share), 50 * (1 + share)])
    return float(low), float(high)


def _mean(cells: dict[Any, np.ndarray]) -> float:
    """Mean over people and seeds of their means; NaN where nobody has a value."""
    means = [values[np.isfinite(values)].mean() for values in cells.values() if np.isfinite(values).any()]
    return float(np.mean(means)) if means else float("nan")


def _block_pairs(person: Person, ours: Video, true: Video) -> list[tuple[np.ndarray, np.ndarray]]:
    del true
    starts = range(0, len(person.points), BLOCK_FRAMES)
    return [
        (piece, person.points[start : start + len(piece)])
        for start, piece in zip(starts, ours.pieces, strict=False)
    ]


def _lip_correlation(person: Person, ours: Video, true: Video) -> list[float]:
    pairs = _block_pairs(person, ours, true)
    return [pearson(per_frame(lip_gap, a), per_frame(lip_gap, b)) for a, b in pairs]


def _closed(person: Person, ours: Video, count: Callable, when: np.ndarray) -> list[float]:
    found = count(per_frame(lip_gap, ours.points), per_frame(lip_gap, person.points), when)
    return [found.num_closed / found.num_intervals if found.num_intervals else np.nan]


def _of_blocks(name: str, against_truth: bool = False) -> Values:
    def values(person: Person, ours: Video, true: Video) -> list[float]:
        del person
        own = np.array([block[name] for block in ours.blocks])
        theirs = np.array([block[name] for block in true.blocks])
        return list(np.abs(own - theirs) if against_truth else own)

    return values


def _ratio(measure: Callable[[np.ndarray], float], distance: bool = False) -> Values:
    """A measure of the whole video over the truth's; or how far that is from 1, as |log2|."""

    def values(person: Person, ours: Video, true: Video) -> list[float]:
        del person
        ratio = max(measure(ours.points), 1e-3) / measure(true.points)
        return [abs(float(np.log2(ratio))) if distance else ratio]

    return values


def _intervals(points: np.ndarray) -> np.ndarray:
    """Blink intervals, s; a video with less than two has one as long as itself: longer than any that was seen."""
    found = blink_intervals(points, FPS)
    return found if len(found) else np.array([len(points) / FPS])


def _blink_distance(person: Person, ours: Video, true: Video) -> list[float]:
    del true
    return [interval_distance(_intervals(ours.points), _intervals(person.points))]


def _sway_distances(person: Person, ours: Video, true: Video) -> tuple[float, float]:
    pairs = _block_pairs(person, ours, true)
    return sway_distance([sway(a, FPS) for a, _ in pairs], [sway(b, FPS) for _, b in pairs])


def _drift(name: str) -> Values:
    """The last ten seconds against the first."""

    def values(person: Person, ours: Video, true: Video) -> list[float]:
        del person, true
        first, last = ours.blocks[0], ours.blocks[-1]
        if name == "lab":
            return [float(np.linalg.norm(np.subtract(last["lab"], first["lab"]))) / 100]
        return [first[name] - last[name]]

    return values


def _blinks(points: np.ndarray) -> float:
    return blink_rate(points, FPS)


MEASURES = {
    "lip_r": Measure("lip gap, correlation with the true one", "higher", _lip_correlation),
    "closures": Measure(
        "b, m, p closed", "higher", lambda p, ours, true: _closed(p, ours, closures, p.closures)
    ),
    "vowels_shut": Measure(
        "open vowels shut", "lower", lambda p, ours, true: _closed(p, ours, false_closures, p.vowels)
    ),
    "smooth": Measure("Smooth (blend)", "", _of_blocks("smooth")),
    "smooth_off": Measure("Smooth, off the truth", "lower", _of_blocks("smooth", True)),
    "flicker": Measure("flicker", "", _of_blocks("flicker")),
    "flicker_off": Measure("flicker, off the truth", "lower", _of_blocks("flicker", True)),
    "glo": Measure("Glo over the truth's", "", _ratio(glo)),
    "glo_off": Measure("Glo, off the truth (octaves)", "lower", _ratio(glo, True)),
    "exp": Measure("Exp over the truth's", "", _ratio(exp)),
    "exp_off": Measure("Exp, off the truth (octaves)", "lower", _ratio(exp, True)),
    "blinks": Measure("blinks over the truth's", "", _ratio(_blinks)),
    "blink_off": Measure("blink intervals, distance to the person's own (s)", "lower", _blink_distance),
    "sway_hz_off": Measure(
        "sway, distance of frequencies (Hz)", "lower", lambda *args: [_sway_distances(*args)[0]]
    ),
    "sway_size_off": Measure(
        "sway, distance of sizes (eye distances)", "lower", lambda *args: [_sway_distances(*args)[1]]
    ),
    "identity": Measure("likeness to the portrait", "higher", _of_blocks("identity")),
    "texture": Measure("texture like the portrait's", "higher", _of_blocks("texture")),
    "sharpness": Measure("sharpness of the face", "higher", _of_blocks("sharpness")),
    "colour_drift": Measure("colour drift over a minute", "lower", _drift("lab")),
    "identity_drift": Measure("likeness lost over a minute", "lower", _drift("identity")),
    "found": Measure("frames with a face", "higher", lambda p, ours, true: [face_found(ours.points)]),
}
ERRORS = {
    "error_all_0.9_true": "error of what comes next, whole picture",
    "error_eyes_0.9_true": "the same, eyes",
    "error_mouth_0.9_true": "the same, mouth",
}


def write_table(result: dict[str, Any], path: Path) -> None:
    """Two tables in Markdown: means of all variants, and what is decided of their differences to the full model."""
    titles = {name: measure.title for name, measure in MEASURES.items()} | ERRORS
    variants = result["variants"]
    lines = ["| measure | truth | " + " | ".join(variants) + " |", "|---|---|" + "---|" * len(variants)]
    for name, title in titles.items():
        cells = [_number(row[name]["mean"]) for row in variants.values()]
        lines.append(f"| {title} | {_number(result['truth'].get(name))} | " + " | ".join(cells) + " |")
    lines += ["", "| variant | the paper | better than full | worse than full |", "|---|---|---|---|"]
    for variant, row in variants.items():
        if variant != REFERENCE:
            lines.append(
                f"| {VARIANTS[variant].title} | {VARIANTS[variant].paper or '-'} | {_decided(row, titles)} |"
            )
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _decided(row: dict[str, Any], titles: dict[str, str]) -> str:
    found: dict[str, list[str]] = {"better": [], "worse": []}
    for name in titles:
        better = MEASURES[name].better if name in MEASURES else "lower"
        interval = [np.nan if end is None else end for end in row[name]["interval"]]
        said = verdict({**row[name], "interval": interval}, better)
        if said in found:
            low, high = interval
            found[said].append(f"{titles[name]} {row[name]['difference']:+.3g} ({low:.3g} to {high:.3g})")
    return " | ".join("; ".join(found[side]) or "-" for side in ("better", "worse"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
