"""A few hundred mutations, the ones that once found something, and the harness itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from signatures.errors import InputError
from tests.fuzz import engine
from tests.fuzz.engine import Recipe
from tests.fuzz.seeds import write_seeds
from tests.fuzz.targets import TARGETS, Target

MUTATIONS = 300
CORPUS = [
    Recipe(entry["target"], entry["file"], tuple(entry["edits"]))
    for entry in json.loads(Path(__file__).with_name("corpus.json").read_text())
]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeds(tmp_path_factory.mktemp("fuzz") / "seeds")


def test_every_target_takes_the_good_files(seeds: Path) -> None:
    """Else mutations would be refused for another reason."""
    result = engine.run(seeds, [Recipe(name, target.files[0], ()) for name, target in TARGETS.items()], len(TARGETS))
    assert result.counts == {(name, "accepted"): 1 for name in TARGETS}, result.findings


def test_what_once_was_found_stays_fixed(seeds: Path) -> None:
    result = engine.run(seeds, CORPUS, len(CORPUS))
    assert not result.findings
    assert result.counts.total() == len(CORPUS)


def test_mutations_end_in_clear_refusals(seeds: Path) -> None:
    result = engine.run(seeds, lambda number: engine.recipe_of(seeds, 0, number), MUTATIONS)
    assert not result.findings
    assert result.counts.total() == MUTATIONS
    assert {target for target, _ in result.counts} == set(TARGETS)
    assert any(outcome == "accepted" for _, outcome in result.counts)


def test_a_mutation_is_the_same_every_time(seeds: Path, tmp_path: Path) -> None:
    again = write_seeds(tmp_path / "again")
    for number in range(40):
        one, other = engine.recipe_of(seeds, 3, number), engine.recipe_of(again, 3, number)
        assert json.dumps(one.edits) == json.dumps(other.edits)
        assert engine.spoilt(one, (seeds / one.file).read_bytes()) == engine.spoilt(
            other, (again / other.file).read_bytes()
        )


# What the harness has to notice --------------------------------------------------------------------------------------


def crash(_folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(_folder: Path) -> None:
    time.sleep(100)


def grow(_folder: Path) -> None:
    bytes(bytearray(b"1") * (100 << 20))


def grow_without_end(_folder: Path) -> None:
    bytearray(1 << 40)


def bug(_folder: Path) -> None:
    raise ZeroDivisionError


def write_elsewhere(folder: Path) -> None:
    (folder.parents[1] / "elsewhere").mkdir()
    (folder.parents[1] / "elsewhere").rmdir()


def litter(_folder: Path) -> None:
    Path("left-over").write_text("here")


def refuse(_folder: Path) -> None:
    raise InputError("no")


MISBEHAVIOUR: dict[str, tuple[Callable[[Path], object], str]] = {
    "crash": (crash, "crash"),
    "hang": (hang, "hang"),
    "memory": (grow, "memory"),
    "memory without end": (grow_without_end, "MemoryError"),
    "a bug": (bug, "ZeroDivisionError"),
    "a file elsewhere": (write_elsewhere, "changes"),
    "a file left": (litter, "changes"),
}


@pytest.mark.parametrize("case", MISBEHAVIOUR)
def test_misbehaviour_is_found_where_it_is(seeds: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """One of five mutations misbehaves; the others are counted as what they are."""
    run, name = MISBEHAVIOUR[case]
    monkeypatch.setattr(engine, "SECONDS", 2.0)
    monkeypatch.setattr(engine, "GROWTH_BYTES", 80 << 20)
    monkeypatch.setitem(TARGETS, "good", Target(("foreign.tflite",), refuse, 1.0))
    monkeypatch.setitem(TARGETS, "bad", Target(("foreign.tflite",), run, 1.0))
    recipes = [Recipe("bad" if i == 2 else "good", "foreign.tflite", ()) for i in range(5)]
    result = engine.run(seeds, recipes, len(recipes))
    assert result.counts == {("good", "InputError"): 4, ("bad", name): 1}
    assert [(recipe.target, outcome.name) for recipe, outcome in result.findings] == [("bad", name)]
