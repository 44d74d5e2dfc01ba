"""From landmarks to a table: every variant against the full model, with bootstrap intervals.

A measure gives each person's video some values: one per block of ten seconds, or one for the whole. What is compared
are the same people, seeds and blocks. The bootstrap draws people of seeds, then blocks within them, 2000 times. Two
seeds say little of what a third would give; so how far chance goes between seeds is judged over all variants together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ablation_measures import PASTS, Person, curves
from scipy.stats import f as f_distribution
from scipy.stats import t as student_t

from openloopy.measures.behaviour import interval_distance, slow_motion, sway_distance
from openloopy.measures.motion import VARIANCE_SCALE, blinks, exp
from openloopy.measures.sync import closures, false_closures, pearson
from openloopy.media.video import FPS
from openloopy.recipes.ablations import VARIANTS

BLOCK_FRAMES = 10 * FPS
"""Lips and sway are judged in blocks of ten seconds."""
DRAWS = 2000
CLIP_FRAMES = 12
REFERENCE = "full"
GAP, LIDS, NOSE_X, NOSE_Y = range(4)
"""Columns of `ablation_measures.curves`."""


@dataclass(frozen=True)
class Video:
    """The motion that was made, or the true one: landmarks of every frame, `f 68 2`."""

    points: np.ndarray

    @cached_property
    def states(self) -> np.ndarray:
        """Lip gap, lids and nose of every frame, `f 4`."""
        return curves(self.points)

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of frames by block; a last one that is shorter than half a block is left out."""
        starts = range(0, max(len(rows) - BLOCK_FRAMES // 2, 1), BLOCK_FRAMES)
        return [rows[start : start + BLOCK_FRAMES] for start in starts]

    def blocks(self, column: int) -> list[np.ndarray]:
        """A curve by block."""
        return self.parts(self.states[:, column])


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
    """Means of every variant, its differences to the full model with intervals, and how far chance alone goes."""
    truth = {person.name: Video(person.points) for person in people}
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
            for name, values in read_errors(folder).items():
                found.setdefault(name, {})[seed, "held out"] = values
    rows = {
        variant: {name: _row(cells, samples[REFERENCE][name]) for name, cells in found.items()}
        for variant, found in samples.items()
    }
    seed_means = {
        name: np.array([list(row[name]["seed_means"].values()) for row in rows.values()])
        for name in samples[REFERENCE]
    }
    chance = {name: chance_of_seeds(means) for name, means in seed_means.items()}
    for row in rows.values():
        for name, cell in row.items():
            cell["verdict"] = verdict(cell, better_of(name), chance[name])
    return {
        "variants": rows,
        "chance": chance,
        "p_alike": {name: p_alike(means) for name, means in seed_means.items()},
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


def read_errors(folder: Path) -> dict[str, np.ndarray]:
    """Errors of held-out clips by name, and what is gained by the past: the error without it less that with it."""
    stored = json.loads((folder / "losses.json").read_text())
    errors = {f"error_{name}": np.array(values) for name, values in stored.items()}
    whole = {past: errors.get(f"error_all_0.9_{past}") for past in PASTS}
    if any(values is None for values in whole.values()):
        return errors
    return errors | {
        "gain_far": whole["near"] - whole["true"],
        "gain_past": whole["none"] - whole["true"],
    }


def read_video(folder: Path, name: str) -> Video:
    """What `ablation_measures.write_points` wrote."""
    with np.load(folder / f"{name}.npz") as stored:
        return Video(stored["points"].astype(np.float64))


def verdict(row: dict[str, Any], better: str, chance: float) -> str:
    """ "better", "worse" or "undecided" against the full model; "" where neither direction is better.

    Decided is a difference whose interval (over people) does not hold 0, which every seed shows, and which is larger
    than `chance` (over seeds).
    """
    low, high = row["interval"]
    signs = {np.sign(value) for value in row["seeds"].values()}
    if not better or np.isnan([low, high]).any():
        return ""
    if low <= 0 <= high or len(signs) > 1 or abs(row["difference"]) <= chance:
        return "undecided"
    return "better" if (row["difference"] > 0) == (better == "higher") else "worse"


def chance_of_seeds(means: np.ndarray, share: float = 0.95) -> float:
    """How large a difference between two variants other seeds alone would make, at 95 %.

    means: `variants seeds`. A seed has effects of its own that are alike for all (its stage 1, its clips): they are
    taken out, what is left is pooled over all variants (two-way analysis of variance, t distribution). Infinite where
    there is only one seed or variant.
    """
    means = means[np.isfinite(means).all(1)]
    freedom, rest = _rest(means)
    if freedom < 1:
        return float("inf")
    deviation = np.sqrt(2 * rest / means.shape[1])
    return float(student_t.ppf(0.5 + share / 2, freedom) * deviation)


def p_alike(means: np.ndarray) -> float:
    """How likely variants that are all alike would differ as much as these: F test of the same analysis.

    means: `variants seeds`. One test for a whole measure, so that many comparisons do not find what is not there. NaN
    where there is only one seed or variant, or where nothing differs.
    """
    means = means[np.isfinite(means).all(1)]
    freedom, rest = _rest(means)
    if freedom < 1 or rest == 0:
        return float("nan")
    between = means.shape[1] * means.mean(1).var(ddof=1)
    return float(f_distribution.sf(between / rest, len(means) - 1, freedom))


def _rest(means: np.ndarray) -> tuple[int, float]:
    """Degrees of freedom and variance of what neither the variant nor the seed explains: `variants seeds`."""
    freedom = (means.shape[0] - 1) * (means.shape[1] - 1)
    if freedom < 1:
        return 0, float("nan")
    rest = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    return freedom, float((rest**2).sum() / freedom)


def _row(
    cells: dict[tuple[int, str], np.ndarray], reference: dict[tuple[int, str], np.ndarray]
) -> dict[str, Any]:
    """Mean of a variant's values, also by seed; difference to the reference, its interval, and that of each seed."""
    differences = {key: values - reference[key] for key, values in cells.items()}
    seeds = sorted({seed for seed, _ in cells})
    return {
        "mean": _mean(cells),
        "seed_means": {
            seed: _mean({key: values for key, values in cells.items() if key[0] == seed}) for seed in seeds
        },
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


def _lip_correlation(person: Person, ours: Video, true: Video) -> list[float]:
    del person
    return [pearson(a, b) for a, b in zip(ours.blocks(GAP), true.blocks(GAP), strict=True)]


def _closed(count: Callable, name: str) -> Values:
    def values(person: Person, ours: Video, true: Video) -> list[float]:
        found = count(ours.states[:, GAP], true.states[:, GAP], getattr(person, name))
        return [found.num_closed / found.num_intervals if found.num_intervals else np.nan]

    return values


def _glo(video: Video) -> list[float]:
    """Variance of the nose tip over the whole video, as `motion.glo`."""
    return [VARIANCE_SCALE * float(video.states[:, [NOSE_X, NOSE_Y]].var(0).sum())]


def _exp(video: Video) -> list[float]:
    return [exp(points) for points in video.parts(video.points)]


def _blink_rate(video: Video) -> list[float]:
    return [60 * FPS * len(blinks(video.states[:, LIDS], FPS)) / len(video.states)]


def _ratio(measure: Callable[[Video], list[float]], octaves: bool = False) -> Values:
    """A measure over the truth's; or how far that is from 1, as |log2|. Values below a thousandth count as that."""

    def values(person: Person, ours: Video, true: Video) -> list[float]:
        del person
        ratios = np.maximum(measure(ours), 1e-3) / np.maximum(measure(true), 1e-3)
        return list(np.abs(np.log2(ratios)) if octaves else ratios)

    return values


def _intervals(video: Video) -> np.ndarray:
    """Blink intervals, s; a video with less than two has one as long as itself: longer than any that was seen."""
    starts = np.array([start for start, _ in blinks(video.states[:, LIDS], FPS)])
    return np.diff(starts) / FPS if len(starts) > 1 else np.array([len(video.states) / FPS])


def _blink_distance(person: Person, ours: Video, true: Video) -> list[float]:
    del person
    return [interval_distance(_intervals(ours), _intervals(true))]


def _sway(name: str) -> Values:
    """Distance of the strongest slow oscillations of the nose from side to side, of all blocks."""

    def values(person: Person, ours: Video, true: Video) -> list[float]:
        del person
        sways = [[slow_motion(block, FPS) for block in video.blocks(NOSE_X)] for video in (ours, true)]
        return [getattr(sway_distance(*sways), name)]

    return values


def _head_steps(video: Video) -> list[tuple[float, float]]:
    """By block the mean way of the nose from one frame to the next: across the border of two clips, and within."""
    ways = np.linalg.norm(np.diff(video.states[:, [NOSE_X, NOSE_Y]], axis=0), axis=1)
    is_border = np.arange(1, len(video.states)) % CLIP_FRAMES == 0
    found = []
    for start in range(0, max(len(ways) - BLOCK_FRAMES // 2, 1), BLOCK_FRAMES):
        block, border = (values[start : start + BLOCK_FRAMES] for values in (ways, is_border))
        found.append((float(block[border].mean()), float(block[~border].mean())))
    return found


def _drift(person: Person, ours: Video, true: Video) -> list[float]:
    """How far the nose's mean place in the last block lies from that in the first, eye distances."""
    del person, true
    places = [block.mean(0) for block in ours.parts(ours.states[:, [NOSE_X, NOSE_Y]])]
    return [float(np.linalg.norm(places[-1] - places[0]))]


MEASURES = {
    "lip_r": Measure("lip gap, correlation with the true one", "higher", _lip_correlation),
    "closures": Measure("b, m, p closed", "higher", _closed(closures, "closures")),
    "vowels_shut": Measure("open vowels shut", "lower", _closed(false_closures, "vowels")),
    "glo": Measure("Glo over the truth's", "", _ratio(_glo)),
    "glo_off": Measure("Glo, off the truth (octaves)", "lower", _ratio(_glo, True)),
    "exp": Measure("Exp over the truth's", "", _ratio(_exp)),
    "exp_off": Measure("Exp, off the truth (octaves)", "lower", _ratio(_exp, True)),
    "border": Measure(
        "head's step from clip to clip over the truth's",
        "lower",
        _ratio(lambda video: [across for across, _ in _head_steps(video)]),
    ),
    "step_off": Measure(
        "head's steps within clips, off the truth (octaves)",
        "lower",
        _ratio(lambda video: [within for _, within in _head_steps(video)], True),
    ),
    "blinks": Measure("blinks over the truth's", "", _ratio(_blink_rate)),
    "blink_off": Measure("blink intervals, distance to the person's own (s)", "lower", _blink_distance),
    "sway_hz_off": Measure("sway, distance of frequencies (Hz)", "lower", _sway("frequency_hz")),
    "sway_size_off": Measure("sway, distance of sizes (eye distances)", "lower", _sway("amplitude")),
    "drift": Measure("head's drift from beginning to end (eye distances)", "lower", _drift),
}
ERRORS = {
    "error_all_0.9_true": "error of what comes next, all states",
    "error_mouth_0.9_true": "error of what comes next, mouth",
    "error_head_0.9_true": "error of what comes next, head",
    "error_eyes_0.9_true": "error of what comes next, eyes and brows",
}
GAINS = {
    "gain_past": "error that the past saves",
    "gain_far": "error that more than 12 frames save",
}
TITLES = {name: measure.title for name, measure in MEASURES.items()} | ERRORS | GAINS
GROUPS = {
    "Lips": ("lip_r", "closures", "vowels_shut"),
    "Motion": ("border", "step_off", "glo_off", "exp_off"),
    "The person's own habits, and drift": ("blink_off", "sway_hz_off", "sway_size_off", "drift"),
    "What comes next": (*ERRORS, *GAINS),
}


def write_table(result: dict[str, Any], path: Path) -> None:
    """Markdown: an overview, means of all variants, and their differences to the full model with intervals."""
    variants = result["variants"]
    others = [name for name in variants if name != REFERENCE]
    lines = [*_overview(result, others), "", *_means(result), ""]
    for group, names in GROUPS.items():
        names = [name for name in names if name in variants[REFERENCE]]
        lines += [f"**{group}**: difference to `{REFERENCE}` (95 % interval)", ""]
        lines += ["| variant | " + " | ".join(TITLES[name] for name in names) + " |"]
        lines += ["|---|" + "---|" * len(names)]
        chance = [f"{_number(result['chance'][name])}" for name in names]
        lines += ["| chance of seeds, up or down | " + " | ".join(chance) + " |"]
        for variant in others:
            cells = [_interval(variants[variant][name]) for name in names]
            lines += [f"| `{variant}` | " + " | ".join(cells) + " |"]
        lines += [""]
    path.write_text("\n".join(lines), "utf-8")


def _overview(result: dict[str, Any], others: Sequence[str]) -> list[str]:
    """Of every variant what the paper says, what is decided, and its cost."""
    lines = ["| variant | the paper | better than `full` in | worse in | time of a clip |"]
    lines += ["|---|---|---|---|---|"]
    for variant in others:
        row, cost = result["variants"][variant], result.get("cost", {}).get(variant, {})
        found = {
            side: "; ".join(TITLES[name] for name in TITLES if name in row and row[name]["verdict"] == side)
            for side in ("better", "worse")
        }
        cells = [
            f"`{variant}`: {VARIANTS[variant].title}",
            VARIANTS[variant].paper or "not in it",
            found["better"] or "-",
            found["worse"] or "-",
            _number(cost.get("against_full")),
        ]
        lines += ["| " + " | ".join(cells) + " |"]
    return lines


def _means(result: dict[str, Any]) -> list[str]:
    """A row per measure: the truth's, every variant's, and the full model's by seed."""
    variants = result["variants"]
    lines = ["| measure | truth | " + " | ".join(variants) + " | full, by seed | p, all alike |"]
    lines += ["|---|---|" + "---|" * (len(variants) + 2)]
    for name, title in TITLES.items():
        if name in variants[REFERENCE]:
            cells = [_number(row[name]["mean"]) for row in variants.values()]
            seeds = ", ".join(map(_number, variants[REFERENCE][name]["seed_means"].values()))
            cells = [_number(result["truth"].get(name)), *cells, seeds, _number(result["p_alike"][name])]
            lines += [f"| {title} | {' | '.join(cells)} |"]
    return lines


def better_of(name: str) -> str:
    """Which direction of a number is better; "" for neither."""
    if name in MEASURES:
        return MEASURES[name].better
    return "lower" if name.startswith("error_") else ""


def _interval(cell: dict[str, Any]) -> str:
    """The difference and its interval; bold and named where it is decided."""
    low, high = cell["interval"]
    text = f"{_number(cell['difference'])} ({_number(low)} to {_number(high)})"
    return f"**{text}** {cell['verdict']}" if cell["verdict"] in ("better", "worse") else text


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.3g}"
