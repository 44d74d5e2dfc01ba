"""Votes of a side-by-side study: how often each method is named the best, how sure that is, do raters agree.

Source: Loopy (arXiv:2409.02634), user study on the open set: in each of six dimensions a rater names the best of
the methods. The paper shows shares alone; the intervals and the agreement are ours. Legend: `r` raters, `c` cases,
`o` options, which are the methods and, last, no difference.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openloopy.media.text_file import expected, made_of, read_json

DIMENSIONS = {
    "identity": "Identity consistency",
    "quality": "Video quality",
    "emotion": "Audio-emotion matching",
    "diversity": "Motion diversity",
    "naturalness": "Naturalness of motion",
    "lip_sync": "Lip-sync accuracy",
}
"""The paper's six, in its order; key in files -> what it is called."""
STUDY_FILE, VOTES_FILE = "study.json", "votes.jsonl"
STUDY_EXPECTED = "a study of `openloopy study`; give another folder"
NO_VOTE = -1
"""In arrays of choices; others are positions among the options."""


@dataclass(frozen=True)
class Vote:
    """One line of votes.jsonl: which method a rater finds the best for one case in one dimension."""

    rater: str
    case: str
    dimension: str
    best: str | None
    """Name of a method; None: no difference."""
    shown: tuple[str, ...] = ()
    """The methods as they stood, from A on."""
    time: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyVotes:
    """A study and what was voted in it, oldest first; of several votes on the same thing the last counts."""

    methods: tuple[str, ...]
    categories: Mapping[str, str]
    """Every case, voted on or not, and its category; "" for none."""
    votes: tuple[Vote, ...]

    def __post_init__(self) -> None:
        for vote in self.votes:
            known = (self.categories, DIMENSIONS, {None, *self.methods})
            for name, names in zip((vote.case, vote.dimension, vote.best), known, strict=True):
                if name not in names:
                    raise ValueError(f"a vote names {name!r}, which is not in this study: {vote}")

    def counted(self) -> dict[tuple[str, str, str], Vote]:
        """The votes that count, by rater, case and dimension."""
        return {(vote.rater, vote.case, vote.dimension): vote for vote in self.votes}


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """Intervals: raters and cases are both drawn anew, with replacement, and every vote follows its two."""

    replicates: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replicates < 1 or not 0 < self.level < 1:
            raise ValueError(f"expected at least one replicate and a level within 0..1, got {self}")


def read_study(folder: Path | str) -> StudyVotes:
    """The study that `openloopy study` keeps in a folder."""
    path = Path(folder) / STUDY_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {STUDY_FILE}; expected the OUT folder of `openloopy study`")
    facts = read_json(path, STUDY_EXPECTED)
    votes = read_votes(Path(folder) / VOTES_FILE)
    with expected(path, STUDY_EXPECTED):
        about = {"methods": tuple(facts["methods"]), "categories": facts["categories"]}
        return made_of(StudyVotes, about | {"votes": tuple(votes)})


def read_votes(path: Path) -> list[Vote]:
    """All votes of a votes.jsonl, oldest first; none if there is no file. A last line that was cut off is left out."""
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    votes = [_parsed(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]
    if last and _is_json(last):
        votes.append(_parsed(last, f"{path}, last line"))
    return votes


def study_table(study: StudyVotes, config: BootstrapConfig | None = None) -> tuple[str, dict[str, Any]]:
    """The results as Markdown, and as facts for JSON. Raters are numbered there, not named."""
    facts = study_facts(study, config or BootstrapConfig())
    return _markdown(facts), facts


def study_facts(study: StudyVotes, config: BootstrapConfig) -> dict[str, Any]:
    """Everything that is counted, overall and by category; `study_table` says it in words."""
    counted = study.counted()
    raters = sorted({vote.rater for vote in study.votes})
    return {
        "methods": list(study.methods),
        "dimensions": DIMENSIONS,
        "num_cases": len(study.categories),
        "num_votes": len(counted),
        "num_changed": len(study.votes) - len(counted),
        "num_ties": sum(vote.best is None for vote in counted.values()),
        "raters": _raters(raters, counted, len(study.categories) * len(DIMENSIONS)),
        "bootstrap": {**asdict(config), "over": ["raters", "cases"]},
        "groups": [_group(study, raters, category, config) for category in _groups(study)],
    }


def choices(study: StudyVotes, raters: Sequence[str], cases: Sequence[str], dimension: str) -> np.ndarray:
    """Who chose what in one dimension: `r c` positions among the options, NO_VOTE where nobody voted."""
    positions: dict[str | None, int] = {method: i for i, method in enumerate(study.methods)}
    positions[None] = len(study.methods)
    chosen = np.full((len(raters), len(cases)), NO_VOTE)
    row, column = _positions(raters), _positions(cases)
    for vote in study.counted().values():
        if vote.dimension == dimension and vote.case in column:
            chosen[row[vote.rater], column[vote.case]] = positions[vote.best]
    return chosen


def counts_per_case(chosen: np.ndarray, num_options: int) -> np.ndarray:
    """Choices `r c` -> how many raters chose each option, `c o`."""
    return (chosen[:, :, None] == np.arange(num_options)).sum(axis=0)


def bootstrap_shares(chosen: np.ndarray, num_options: int, config: BootstrapConfig) -> np.ndarray:
    """Percentile interval of every option's share of the votes, over raters and cases at once.

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007): rows and columns of a crossed
    table are drawn independently; a vote weighs as often as its rater times as often as its case was drawn. That
    errs on the wide side. One rater, or one case, cannot tell how another would differ.

    Args:
        chosen: `r c` positions among the options, NO_VOTE where there is none.

    Returns:
        `2 o`: low and high; NaN without votes.
    """
    voted = chosen != NO_VOTE
    chosen = chosen[voted.any(axis=1)][:, voted.any(axis=0)]
    if chosen.size == 0:
        return np.full((2, num_options), np.nan)
    rng = np.random.default_rng(config.seed)
    times_rater, times_case = (_times_drawn(rng, num, config.replicates) for num in chosen.shape)
    per_option = [
        np.einsum("br,br->b", times_rater, times_case @ (chosen == i).T.astype(float))
        for i in range(num_options)
    ]
    votes = np.stack(per_option)
    drawn = votes.sum(axis=0) > 0  # with gaps in the table a replicate may hold no vote at all
    tail = (1 - config.level) / 2
    return np.quantile(votes[:, drawn] / votes[:, drawn].sum(axis=0), [tail, 1 - tail], axis=1)


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Agreement of raters beyond chance: 1 is full, 0 is chance.

    Source: Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76 (1971). It has the
    same number of raters for all items; where the numbers differ, we average the agreement over items all the same,
    and take chance from the pooled votes.

    Args:
        counts: `items options`, raters who chose each; at least two raters for each item.

    Returns:
        None where it is not defined: no items, or all votes for one option.
    """
    raters = counts.sum(axis=1)
    if (raters < 2).any():
        raise ValueError(f"expected at least two raters for every item, got {raters.min()}")
    if len(counts) == 0 or np.count_nonzero(counts.sum(axis=0)) == 1:
        return None
    agreement = ((counts**2).sum(axis=1) - raters) / (raters * (raters - 1))
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return float((agreement.mean() - chance) / (1 - chance))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(line: bytes, where: str) -> Vote:
    try:
        facts = json.loads(line)
        return made_of(Vote, facts | {"shown": tuple(facts["shown"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{where} is not a vote ({error}): {line[:200]!r}; correct or remove it") from error


def _positions(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


def _times_drawn(rng: np.random.Generator, num: int, replicates: int) -> np.ndarray:
    """How often each of `num` things comes up in as many draws with replacement: `replicates num`."""
    return rng.multinomial(num, np.full(num, 1 / num), replicates).astype(float)


def _raters(raters: Sequence[str], counted: Iterable[tuple[str, str, str]], whole: int) -> dict[str, Any]:
    votes = Counter(rater for rater, _, _ in counted)
    return {
        "num": len(raters),
        "num_complete": sum(votes[rater] == whole for rater in raters),
        "votes_of_each": [votes[rater] for rater in raters],
        "votes_when_complete": whole,
    }


def _groups(study: StudyVotes) -> list[str | None]:
    """None for all cases, then the categories, if there are several."""
    named = sorted(set(study.categories.values()))
    return [None, *named] if len(named) > 1 else [None]


def _group(
    study: StudyVotes, raters: Sequence[str], category: str | None, config: BootstrapConfig
) -> dict[str, Any]:
    cases = [case for case, of in study.categories.items() if category is None or of == category]
    found = {}
    for dimension in DIMENSIONS:
        chosen = choices(study, raters, cases, dimension)
        found[dimension] = _dimension(study.methods, chosen, config)
    return {"category": category, "num_cases": len(cases), "dimensions": found}


def _dimension(methods: Sequence[str], chosen: np.ndarray, config: BootstrapConfig) -> dict[str, Any]:
    num_options = len(methods) + 1
    counts = counts_per_case(chosen, num_options)
    votes, num_votes = counts.sum(axis=0), int(counts.sum())
    low, high = bootstrap_shares(chosen, num_options, config)
    options = [
        {"votes": int(votes[i]), "share": votes[i] / num_votes, "low": low[i], "high": high[i]}
        if num_votes
        else {"votes": 0, "share": None, "low": None, "high": None}
        for i in range(num_options)
    ]
    most = votes[:-1].max()
    return {
        "num_votes": num_votes,
        "num_raters": int((chosen != NO_VOTE).any(axis=1).sum()),
        "methods": dict(zip(methods, options, strict=False)),
        "no_difference": options[-1],
        "best": [methods[i] for i in np.flatnonzero(votes[:-1] == most)] if most else [],
        "agreement": _agreement(counts, len(chosen)),
    }


def _agreement(counts: np.ndarray, num_raters: int) -> dict[str, Any]:
    """Kappa on the items that all of the study's raters voted on, and on those that at least two did."""
    raters = counts.sum(axis=1)
    chosen = {"all_raters": raters == max(num_raters, 2), "two_or_more": raters >= 2}
    return {
        name: {"kappa": fleiss_kappa(counts[is_in]), "num_items": int(is_in.sum())}
        for name, is_in in chosen.items()
    }


def _markdown(facts: dict[str, Any]) -> str:
    raters, level = facts["raters"], facts["bootstrap"]["level"]
    lines = [
        f"{facts['num_votes']} votes of {raters['num']} raters ({raters['num_complete']} complete: "
        f"{raters['votes_when_complete']} votes) on {facts['num_cases']} cases; {facts['num_changed']} votes were "
        f"changed, {facts['num_ties']} say no difference. Share of votes as the best, per cent, with the "
        f"{100 * level:g} % interval over raters and cases; kappa: Fleiss', on cases that all raters voted on, "
        "and on those that two or more did.",
    ]
    for group in facts["groups"]:
        lines += ["", f"### {group_title(group)}, {group['num_cases']} cases", "", *_rows(facts, group)]
    return "\n".join(lines) + "\n"


def group_title(group: Mapping[str, Any]) -> str:
    """What a group of the facts is called."""
    return "Overall" if group["category"] is None else group["category"] or "no category"


def _rows(facts: dict[str, Any], group: dict[str, Any]) -> list[str]:
    found = [group["dimensions"][dimension] for dimension in facts["dimensions"]]
    rows = [["", *facts["dimensions"].values()], ["---", *["---:"] * len(found)]]
    for method in facts["methods"]:
        rows.append([method, *(_cell(one["methods"][method], one["best"] == [method]) for one in found)])
    if facts["num_ties"]:
        rows.append(["no difference", *(_cell(one["no_difference"], False) for one in found)])
    rows.append(["votes", *(str(one["num_votes"]) for one in found)])
    for name, title in (("all_raters", "kappa, all raters"), ("two_or_more", "kappa, two or more")):
        rows.append([title, *(kappa_text(one["agreement"][name]) for one in found)])
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _cell(option: dict[str, Any], is_best: bool) -> str:
    if option["share"] is None:
        return "-"
    share = f"{100 * option['share']:.1f}"
    interval = f"[{100 * option['low']:.0f}, {100 * option['high']:.0f}]"
    return f"**{share}** {interval}" if is_best else f"{share} {interval}"


def kappa_text(agreement: Mapping[str, Any]) -> str:
    """Kappa and on how many items; a dash where it is not defined."""
    kappa = "-" if agreement["kappa"] is None else f"{round(agreement['kappa'], 2) + 0.0:.2f}"  # no -0.00
    return f"{kappa} ({agreement['num_items']})"
