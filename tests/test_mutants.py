"""The harness of the mutants can fail, and no mutant of ours survives."""

from pathlib import Path

import pytest

from tests import mutants as harness
from tests.mutant_list import MUTANTS, Mutant
from tests.mutants import OPENLOOPY, MutantError, Project, defects, main, run_mutants, select

TESTS = ("tests/test_sums.py",)


@pytest.fixture(name="toy")
def make_toy(tmp_path) -> Project:
    """A package of one function, and a test that sees only half of it."""
    files = {
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
        "src/toy/__init__.py": "",
        "src/toy/sums.py": "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a + 0\n",
        "tests/test_sums.py": "from toy.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Project(root=tmp_path, package="toy")


def mutant(name: str, old: str, new: str, tests: tuple[str, ...] = TESTS) -> Mutant:
    return Mutant(name, "sums.py", old, new, tests)


KILLED = mutant("minus", "a + b", "a - b")
SURVIVOR = mutant("triple", "2 * a", "3 * a")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_is_killed_one_survives_and_the_checkout_stays_as_it_was(toy):
    before = contents(toy.root)
    killed, survivor = run_mutants(toy, [KILLED, SURVIVOR], workers=2)
    assert (killed.verdict, killed.reason) == ("killed", "tests/test_sums.py::test_add")
    assert (survivor.verdict, survivor.mutant) == ("survived", SURVIVOR)
    assert contents(toy.root) == before


def test_what_is_no_failed_test_is_no_kill(toy, monkeypatch):
    (toy.root / "src/toy/__init__.py").write_text("TOTAL = 1\n")
    broken = Mutant("broken package", "__init__.py", "TOTAL = 1", "TOTAL = unknown", TESTS)
    unimportable = mutant("broken module", "def double(a)", "double(1)\n\n\ndef double(a)")
    package, module = run_mutants(toy, [broken, unimportable])
    assert package.verdict == "error" and "could not be imported" in package.reason
    assert module.verdict == "error" and "could not be collected" in module.reason
    monkeypatch.setattr(harness, "MUTANT_TIMEOUT_S", 2.0)
    endless = mutant("endless", "    return a + b", "    while True:\n        pass")
    (outcome,) = run_mutants(toy, [endless])
    assert outcome.verdict == "error" and "out of time" in outcome.reason


def test_another_copy_of_the_package_is_noticed(toy):
    """A package that stands in front of the copy, in the folder where pytest starts."""
    (toy.root / "toy").symlink_to(toy.root / "src/toy")
    with pytest.raises(MutantError, match="not imported from the copy"):
        list(run_mutants(toy, [KILLED]))


def test_a_list_that_is_out_of_date_is_refused(toy):
    wrong = [
        mutant("never", "a * b", "a - b"),
        mutant("twice", "return", "yield"),
        mutant("nothing", "a + b", "a + b"),
        mutant("same name", "a + b", "a - b"),
        mutant("same name", "2 * a", "3 * a"),
        mutant("no file", "a + b", "a - b", ("tests/test_differences.py",)),
        mutant("no test", "a + b", "a - b", ("tests/test_sums.py::test_subtract",)),
        mutant("no tests", "a + b", "a - b", ()),
    ]
    with pytest.raises(MutantError) as caught:
        list(run_mutants(toy, wrong))
    assert str(caught.value).splitlines() == [
        "same name: 2 mutants have this name",
        "never: expected its old text once in sums.py, found it 0 times; bring it up to date",
        "twice: expected its old text once in sums.py, found it 2 times; bring it up to date",
        "nothing: its old and new text are the same",
        "no file: there is no test file tests/test_differences.py",
        "no test: tests/test_sums.py has no test test_subtract",
        "no tests: it names no tests",
    ]


def test_tests_that_fail_without_a_mutant_prove_nothing(toy):
    (toy.root / "tests/test_sums.py").write_text("def test_add():\n    assert 2 + 2 == 5\n")
    with pytest.raises(MutantError, match=r"must pass without any mutant.*code 1(.|\n)*test_add"):
        list(run_mutants(toy, [KILLED]))


def test_the_command_line_counts_and_names_survivors(toy, monkeypatch, capsys):
    monkeypatch.setattr(harness, "OPENLOOPY", toy)
    monkeypatch.setattr(harness, "MUTANTS", (KILLED, SURVIVOR))
    assert main(["minus"]) == 0
    assert main([]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["2 mutants: 1 killed, 1 survived, 0 error", "not killed: triple"]
    assert main(["--list", "tri*"]) == 0
    assert capsys.readouterr().out.split() == ["triple", "sums.py"]
    assert main(["quadruple"]) == 2
    assert "no mutant is called 'quadruple'" in capsys.readouterr().err


def test_names_and_patterns_choose():
    assert select([KILLED, SURVIVOR], []) == (KILLED, SURVIVOR)
    assert select([KILLED, SURVIVOR], ["*i*e"]) == (SURVIVOR,)


def test_the_list_is_up_to_date():
    assert not defects(OPENLOOPY, MUTANTS)


@pytest.mark.nightly
@pytest.mark.slow
def test_no_mutant_survives():
    outcomes = list(run_mutants(OPENLOOPY, MUTANTS, workers=2))
    assert not [str(outcome) for outcome in outcomes if outcome.verdict != "killed"]
