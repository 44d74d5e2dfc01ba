"""Votes of a study: counted by hand, a published kappa, intervals of known width."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from openloopy.measures.votes import (
    DIMENSIONS,
    NO_VOTE,
    BootstrapConfig,
    StudyVotes,
    Vote,
    bootstrap_shares,
    choices,
    counts_per_case,
    fleiss_kappa,
    read_study,
    read_votes,
    study_table,
)

FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
"""Table 1 of Fleiss (1971): 30 patients, how many of 6 psychiatrists chose each of 5 diagnoses, a digit each."""


def _table(text: str) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in text.split()])


def _vote(rater: str, case: str, best: str | None, dimension: str = "identity") -> Vote:
    return Vote(rater, case, dimension, best)


def _study(*votes: Vote, categories: dict[str, str] | None = None) -> StudyVotes:
    categories = categories or {"one": "", "two": "", "three": ""}
    return StudyVotes(methods=("ours", "theirs"), categories=categories, votes=votes)


def test_the_dimensions_are_the_papers_six():
    assert list(DIMENSIONS.values()) == [
        "Identity consistency",
        "Video quality",
        "Audio-emotion matching",
        "Motion diversity",
        "Naturalness of motion",
        "Lip-sync accuracy",
    ]


def test_kappa_of_fleiss_own_example():
    """The paper's figures: shares .144 .144 .167 .306 .239, agreement .555, chance .220, kappa .430."""
    table = _table(FLEISS_1971)
    assert table.sum(axis=0).tolist() == [26, 26, 30, 55, 43]
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)


def test_kappa_by_hand_with_different_numbers_of_raters():
    """Items (2,0), (1,1), (2,1): agreement 1, 0, (4+1-3)/6 = 1/3, mean 4/9; chance (5/7)^2 + (2/7)^2 = 29/49."""
    expected = (4 / 9 - 29 / 49) / (1 - 29 / 49)
    assert fleiss_kappa(_table("20 11 21")) == pytest.approx(expected)


def test_kappa_at_its_limits():
    assert fleiss_kappa(_table("30 03 30")) == pytest.approx(1)
    assert fleiss_kappa(_table("11 11")) == pytest.approx(-1)
    assert fleiss_kappa(_table("30 30")) is None  # all for one: nothing to tell from chance
    assert fleiss_kappa(np.zeros((0, 2), int)) is None
    with pytest.raises(ValueError, match="at least two raters"):
        fleiss_kappa(_table("20 10"))


def test_shares_by_hand_ties_and_a_missing_vote():
    study = _study(
        _vote("anna", "one", "ours"),
        _vote("anna", "two", "ours"),
        _vote("anna", "three", None),
        _vote("ben", "one", "theirs"),
        _vote("ben", "two", "ours"),
    )
    _, facts = study_table(study)
    found = facts["groups"][0]["dimensions"]["identity"]
    assert (found["num_votes"], found["num_raters"], found["best"]) == (5, 2, ["ours"])
    assert found["methods"]["ours"]["share"] == pytest.approx(3 / 5)
    assert found["methods"]["theirs"]["share"] == pytest.approx(1 / 5)
    assert found["no_difference"]["share"] == pytest.approx(1 / 5)
    assert facts["num_ties"] == 1
    assert facts["raters"] == {
        "num": 2,
        "num_complete": 0,
        "votes_of_each": [3, 2],
        "votes_when_complete": 18,
    }


def test_agreement_is_of_cases_that_all_or_two_raters_judged():
    full = [
        _vote(rater, case, best)
        for case, bests in {"one": "ooo", "two": "oot"}.items()
        for rater, best in zip("abc", ({"o": "ours", "t": "theirs"}[key] for key in bests), strict=True)
    ]
    study = _study(*full, _vote("a", "three", "theirs"), _vote("b", "three", "theirs"))
    agreement = study_table(study)[1]["groups"][0]["dimensions"]["identity"]["agreement"]
    assert agreement["all_raters"] == {"kappa": pytest.approx(fleiss_kappa(_table("30 21"))), "num_items": 2}
    assert agreement["two_or_more"]["kappa"] == pytest.approx(fleiss_kappa(_table("30 21 02")))
    assert agreement["two_or_more"]["num_items"] == 3


def test_one_rater_agrees_with_nobody():
    agreement = study_table(_study(_vote("a", "one", "ours")))[1]["groups"][0]["dimensions"]["identity"][
        "agreement"
    ]
    assert agreement == {name: {"kappa": None, "num_items": 0} for name in ("all_raters", "two_or_more")}


def test_the_last_vote_counts_and_the_change_is_counted():
    study = _study(_vote("a", "one", "ours"), _vote("b", "one", "ours"), _vote("a", "one", "theirs"))
    _, facts = study_table(study)
    assert (facts["num_votes"], facts["num_changed"]) == (2, 1)
    assert facts["groups"][0]["dimensions"]["identity"]["best"] == ["ours", "theirs"]  # equal now


def test_a_complete_rater_is_counted_as_one():
    votes = [_vote("a", case, "ours", key) for case, key in product(("one", "two", "three"), DIMENSIONS)]
    facts = study_table(_study(*votes, _vote("b", "one", "ours")))[1]
    assert (facts["raters"]["num"], facts["raters"]["num_complete"]) == (2, 1)


def test_categories_are_counted_apart():
    categories = {"one": "speech", "two": "song", "three": "song"}
    study = _study(_vote("a", "one", "ours"), _vote("a", "two", "theirs"), categories=categories)
    groups = study_table(study)[1]["groups"]
    assert [group["category"] for group in groups] == [None, "song", "speech"]
    assert [group["num_cases"] for group in groups] == [3, 2, 1]
    best = [group["dimensions"]["identity"]["best"] for group in groups]
    assert best == [["ours", "theirs"], ["theirs"], ["ours"]]


def test_no_votes_are_no_shares_and_no_warnings(recwarn):
    markdown, facts = study_table(_study())
    option = facts["groups"][0]["dimensions"]["quality"]["methods"]["ours"]
    assert option == {"votes": 0, "share": None, "low": None, "high": None}
    json.dumps(facts, allow_nan=False)
    assert "| ours | - |" in markdown and not recwarn.list


def test_choices_are_by_rater_and_case():
    study = _study(_vote("b", "two", "theirs"), _vote("a", "one", None))
    chosen = choices(study, ["a", "b"], ["one", "two"], "identity")
    assert chosen.tolist() == [[2, NO_VOTE], [NO_VOTE, 1]]
    assert counts_per_case(chosen, 3).tolist() == [[0, 0, 1], [0, 1, 0]]


def test_interval_over_cases_is_as_wide_as_the_binomial_says():
    """One rater, independent cases: the standard error of a share is sqrt(p (1 - p) / n)."""
    chosen = np.arange(400)[None] % 4 // 3  # a quarter of the votes for option 1
    low, high = bootstrap_shares(chosen, 2, BootstrapConfig(replicates=4000))
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert low[1] == pytest.approx(0.25 - half, abs=0.005)
    assert high[1] == pytest.approx(0.25 + half, abs=0.005)
    assert low[0] == pytest.approx(1 - high[1])


def test_interval_knows_that_raters_differ():
    """Each of ten raters always says the same: a hundred cases are no more than one.

    Of ten raters drawn from halves, 2 to 8 are in one half in all but 2 x 1.1 per cent of the draws (binomial)."""
    chosen = np.repeat((np.arange(10) < 5).astype(int)[:, None], 100, axis=1)
    low, high = bootstrap_shares(chosen, 2, BootstrapConfig())
    assert (low[1], high[1]) == (pytest.approx(0.2), pytest.approx(0.8))
    only_cases = bootstrap_shares(chosen.reshape(1, -1), 2, BootstrapConfig())
    assert only_cases[1, 1] - only_cases[0, 1] < 0.1


def test_interval_is_seeded():
    chosen = np.random.default_rng(0).integers(-1, 3, (5, 20))
    first, same = (bootstrap_shares(chosen, 3, BootstrapConfig(replicates=200)) for _ in range(2))
    other = bootstrap_shares(chosen, 3, BootstrapConfig(replicates=200, seed=1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_interval_with_gaps_leaves_out_empty_replicates():
    chosen = np.array([[0, NO_VOTE], [NO_VOTE, 1]])
    low, high = bootstrap_shares(chosen, 2, BootstrapConfig(replicates=500))
    assert np.array_equal(low, [0, 0]) and np.array_equal(high, [1, 1])


def test_the_table_says_it_all():
    study = _study(_vote("secret name", "one", "ours"), _vote("ben", "one", None))
    markdown, facts = study_table(study)
    lines = markdown.splitlines()
    assert lines[0].startswith(
        "2 votes of 2 raters (0 complete: 18 votes) on 3 cases; 0 votes were changed, 1 say no"
    )
    assert "### Overall, 3 cases" in lines
    assert any(line.startswith("| ours | **50.0** [0, 100] | -") for line in lines)
    assert any(line.startswith("| kappa, two or more | -1.00 (1) |") for line in lines)
    assert "secret" not in markdown + json.dumps(facts)


def test_names_do_not_break_the_table():
    study = StudyVotes(methods=("a|b", "c"), categories={"one": ""}, votes=(_vote("r", "one", "a|b"),))
    assert "| a\\|b | **100.0**" in study_table(study)[0]


@pytest.mark.parametrize(
    "vote", [_vote("a", "four", "ours"), _vote("a", "one", "x"), _vote("a", "one", "ours", "y")]
)
def test_a_vote_from_elsewhere_is_an_error(vote):
    with pytest.raises(ValueError, match="not in this study"):
        _study(vote)


def _line(**facts) -> str:
    return json.dumps(
        {"rater": "a", "case": "one", "dimension": "identity", "best": "ours", "shown": []} | facts
    )


def test_reading_leaves_out_a_last_line_that_was_cut_off(tmp_path):
    path = tmp_path / "votes.jsonl"
    assert read_votes(path) == []
    path.write_text(f"{_line()}\n{_line(best=None)}\n{_line()[:20]}")
    assert [vote.best for vote in read_votes(path)] == ["ours", None]
    path.write_text(f"{_line()}\n{_line()}")  # whole, but for the line break
    assert len(read_votes(path)) == 2


def test_reading_names_a_line_that_is_no_vote(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text(f"{_line()}\n{{}}\n{_line()}\n")
    with pytest.raises(ValueError, match="line 2 is not a vote"):
        read_votes(path)


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no study.json"):
        read_study(tmp_path)


@pytest.mark.parametrize("facts", [{"replicates": 0}, {"level": 1.0}, {"level": 95}])
def test_bootstrap_settings_are_checked(facts):
    with pytest.raises(ValueError, match="replicate"):
        BootstrapConfig(**facts)
