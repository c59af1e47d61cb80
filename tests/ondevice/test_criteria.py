"""Criteria: what each ranks highest, and which layers come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ondevice.ranking import (
    CRITERIA,
    FROM_BETTI_NUMBERS,
    FROM_GRADIENTS,
    NAMED,
    SCORE_NAMES,
    WITHOUT_RHO,
    Evidence,
    scores,
)
from ondevice.selection import select
from signatures.errors import UsageError
from tests.ondevice.test_selection import make_layers

LAYERS = make_layers(10, 40, 5, 20, 3)
EVIDENCE = Evidence(
    b1=np.array([[1, 9, 2, 5], [2, 7, 0, 5]]),
    fisher=np.array([[1e-9, 5e-9, 2e-9, 3e-9], [1e-9, 1e-9, 9e-9, 3e-9]]),
)


def picked(criterion: str, rho: float = 0.4, seed: int = 0) -> str:
    return "".join(select(LAYERS, LAYERS[-1], EVIDENCE, criterion, rho, seed).picked)


@pytest.mark.parametrize(
    ("criterion", "two"),
    [
        ("betti", "bde"),  # 0.15, 0.2, 0.2, 0.25
        ("b1", "bde"),
        ("inverse-size", "ace"),
        ("last", "cde"),
        ("first", "abe"),
        ("fisher", "bce"),
        ("all", "abcde"),
        ("bias", "abcde"),
        ("head", "e"),
    ],
)
def test_what_each_criterion_picks(criterion: str, two: str) -> None:
    assert picked(criterion) == two


def test_betti_and_b1_differ_where_activations_do() -> None:
    assert (picked("betti", 0.2), picked("b1", 0.2)) == ("de", "be")


def test_random_layers_follow_from_the_seed_alone() -> None:
    drawn = [picked("random", 0.4, seed) for seed in range(30)]
    assert drawn == [picked("random", 0.4, seed) for seed in range(30)]
    assert set("".join(drawn)) == set("abcde")
    assert {len(one) for one in drawn} == {3}


def test_every_criterion_has_scores_of_all_layers() -> None:
    for criterion in CRITERIA:
        assert scores(criterion, LAYERS[:-1], EVIDENCE, 1).shape == (4,)
    for name in (*FROM_BETTI_NUMBERS, *FROM_GRADIENTS, *WITHOUT_RHO, *SCORE_NAMES):
        assert name in (*CRITERIA, NAMED)


@pytest.mark.parametrize("criterion", [*sorted(FROM_BETTI_NUMBERS), *sorted(FROM_GRADIENTS)])
def test_evidence_has_to_be_of_these_layers(criterion: str) -> None:
    with pytest.raises(ValueError, match="the evidence is of nothing, the network has 4 layers beside the head"):
        scores(criterion, LAYERS[:-1], Evidence(), 0)
    with pytest.raises(ValueError, match="the evidence is of 4 layers"):
        scores(criterion, LAYERS[:-2], EVIDENCE, 0)


def test_an_unknown_criterion_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'best' is not known"):
        scores("best", LAYERS[:-1], EVIDENCE, 0)


@pytest.mark.parametrize("criterion", ["all", "bias"])
def test_a_budget_keeps_the_layers_nearest_to_the_output(criterion: str) -> None:
    """They cost least: no gradient has to go further than to the first layer that trains."""

    def fits(names: Sequence[str]) -> bool:
        return not {"a", "b"}.intersection(names)

    selection = select(LAYERS, LAYERS[-1], Evidence(), criterion, 0.1, fits=fits)
    assert selection.picked == ("c", "d", "e")
    assert [row.layer for row in selection.table if row.over_budget] == ["a", "b"]


def test_layers_without_a_bias_cannot_train_theirs() -> None:
    layers = (replace(LAYERS[0], bias_slot=None, bias_shape=None), *LAYERS[1:])
    selection = select(layers, layers[-1], Evidence(), "bias", 0.1)
    assert selection.picked == ("b", "c", "d", "e")
    assert selection.obstacles == {"a": "it has no bias"}
    assert select(layers, layers[-1], Evidence(), "all", 0.1).picked == ("a", "b", "c", "d", "e")


def test_scores_are_told_where_they_decide() -> None:
    told = {name: select(LAYERS, LAYERS[-1], EVIDENCE, name, 0.4).table[1].score for name in CRITERIA}
    assert told["betti"] == 8 / 40
    assert told["b1"] == 8
    assert told["fisher"] == pytest.approx(3e-9)
    assert told["inverse-size"] == 1 / 40
    assert all(told[name] is None for name in WITHOUT_RHO - {NAMED})


def test_named_layers_train_in_model_order_whatever_rho() -> None:
    selection = select(LAYERS, LAYERS[-1], Evidence(), NAMED, 0.01, named=("d", "b"))
    assert selection.picked == ("b", "d", "e")
    assert select(LAYERS, LAYERS[-1], Evidence(), NAMED, 0.01, named=("e",)).picked == ("e",)


def test_named_layers_within_a_budget_are_those_nearest_to_the_output() -> None:
    selection = select(
        LAYERS, LAYERS[-1], Evidence(), NAMED, 1.0, fits=lambda names: len(names) < 3, named=("a", "b", "d")
    )
    assert selection.picked == ("b", "d", "e")
    assert [row.layer for row in selection.table if row.over_budget] == ["a"]


def test_named_layers_have_to_exist_and_to_train() -> None:
    with pytest.raises(UsageError, match="no layer 'z'"):
        select(LAYERS, LAYERS[-1], Evidence(), NAMED, 1.0, named=("b", "z"))
    with pytest.raises(UsageError, match="b cannot train: for want of a rule"):
        select(LAYERS, LAYERS[-1], Evidence(), NAMED, 1.0, obstacles={"b": "for want of a rule"}, named=("b",))
