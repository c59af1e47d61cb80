"""Planning: which micro-batches are taken for which memory, and what is added to what."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice import planning
from ondevice.outline import Outline, render
from ondevice.pace import Pace
from ondevice.planning import PREFIX_BATCHES, Cost, Planner
from ondevice.replay import Keeping
from ondevice.selection import Ranked, Selection
from signatures.cut import cut_before
from signatures.graph import Model
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import subset_of
from tests.signatures.branching import network

MIB = 1 << 20
BATCH, IMAGES, BASE = 12, 100, 50 * MIB
NETWORK = network(["strided", "strided", "residual"])
LAYERS = [layer.name for layer in find_layers(NETWORK)]
HEAD, BODY = LAYERS[-1], LAYERS[-2]
LAST = (BODY, HEAD)
"""What trains behind a cut, and behind none."""


@dataclass(frozen=True)
class Footprint:
    """In place of a prediction."""

    preparing_bytes: int
    running_bytes: int


@pytest.fixture(autouse=True)
def a_mebibyte_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict 10 MiB a model, and 1 MiB more for each image of its batch: round numbers to plan with."""

    def footprint(model: Model, signatures: list[str], runtime: str) -> Footprint:
        (signature,) = model.signatures
        assert signatures == [signature.name]
        assert runtime == "a runtime"
        first = next(iter(signature.outputs.values()))
        return Footprint(5 * MIB, (10 + first.shape[0]) * MIB)

    monkeypatch.setattr(planning, "footprint", footprint)


_ALL, _LAST = (sum(4 * layer.parameters for layer in find_layers(NETWORK) if layer.name in n) for n in (LAYERS, LAST))
OTHER_FILES = 2 * _ALL + _LAST + 4 * 2 * _LAST
"""The network as the prefix and suffix and as it is adapted, its weights, and of these and their momentum three
checkpoints and one that is being written."""


def planner(optimizer: Optimizer | None = None, room_bytes: int = 1 << 40, batch: int = BATCH) -> Planner:
    keeping = Keeping(IMAGES, "float32", mirrored=False, room_bytes=room_bytes)
    return Planner(NETWORK, batch, optimizer or Optimizer(), "a runtime", BASE, keeping)


def slack(cost: Cost) -> int:
    """What comes on top of the predictions: weights and their like, and copies of what goes in; far below a MiB."""
    return cost.train_bytes % MIB


def test_the_largest_micro_batch_that_fits_is_taken() -> None:
    """Of the divisors of the batch: 12, 6, 4, 3, 2, 1; single images where nothing fits."""
    expected = {90: 12, 72: 12, 71: 6, 66: 6, 65: 4, 63: 3, 62: 2, 61: 1, 20: 1}
    found = {mib: planner().cost(LAST, mib * MIB + MIB // 2).micro_batch for mib in expected}
    assert found == expected


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_micro_batches_divide_the_batch(batch: int) -> None:
    sizes = {planner(batch=batch).cost(LAST, mib * MIB).micro_batch for mib in range(55, 100)}
    assert sizes == {size for size in range(1, batch + 1) if batch % size == 0}


@given(st.integers(50, 100))
def test_a_plan_keeps_to_its_target_or_takes_single_images(mib: int) -> None:
    """Every phase by itself; and with a MiB more it takes no smaller parts."""
    cost = planner().cost(LAST, mib * MIB)
    assert cost.train_bytes <= mib * MIB or cost.micro_batch == 1
    assert cost.prefix_bytes <= mib * MIB or cost.prefix_batch == 1
    more = planner().cost(LAST, (mib + 1) * MIB)
    assert more.micro_batch >= cost.micro_batch
    assert more.prefix_batch >= cost.prefix_batch


def test_bytes_are_those_of_the_process() -> None:
    """With what it holds before, weights, gradients and state, and copies of what goes in."""
    cost = planner().cost(LAST, 1 << 40)
    assert (cost.micro_batch, cost.prefix_batch) == (BATCH, PREFIX_BATCHES[0])
    assert cost.train_bytes // MIB == 50 + 10 + BATCH
    assert cost.prefix_bytes // MIB == 50 + 10 + PREFIX_BATCHES[0]
    assert cost.evaluate_bytes // MIB == 50 + 10 + 1
    assert cost.peak_bytes == cost.train_bytes
    weights = sum(4 * layer.parameters for layer in subset_of(find_layers(NETWORK), LAST).layers)
    plain, adam = (planner(o).cost(LAST, 1 << 40) for o in (Optimizer(momentum=0.0), Optimizer("adam")))
    assert slack(cost) - slack(plain) == weights
    assert slack(adam) - slack(plain) == 2 * weights


def test_preparing_may_take_more_than_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak is the larger one."""
    monkeypatch.setattr(planning, "footprint", lambda *_: Footprint(40 * MIB, 10 * MIB))
    assert planner().cost(LAST, 1 << 40).prefix_bytes == BASE + 40 * MIB


def test_the_head_always_trains_and_layers_are_in_model_order() -> None:
    assert planner().cost(()).layers == (HEAD,)
    assert planner().cost([BODY, LAYERS[0]]).layers == (LAYERS[0], BODY, HEAD)


def test_nothing_lies_before_the_first_layer() -> None:
    cost = planner().cost(LAYERS)
    assert (cost.prefix_batch, cost.prefix_bytes, cost.prefix_macs, cost.kept_bytes) == (0, 0, 0, 0)


def test_rows_are_kept_of_all_images() -> None:
    cut = cut_before(NETWORK, LAST)
    assert not cut.at_input
    kept = planner().cost(LAST).kept_bytes
    assert kept == 4 * IMAGES * sum(tensor.size for tensor in cut.suffix.inputs)
    assert planner(room_bytes=kept + OTHER_FILES).cost(LAST).kept_bytes == kept
    assert planner(room_bytes=kept + OTHER_FILES - 1).cost(LAST).kept_bytes == 0


def test_checkpoints_of_an_optimizer_with_more_state_need_more_room() -> None:
    kept = planner().cost(LAST).kept_bytes
    assert planner(Optimizer("adam"), kept + OTHER_FILES).cost(LAST).kept_bytes == 0


def test_a_prefix_that_stays_loaded_counts_beside_the_rest() -> None:
    """Where its rows cannot be kept; so training gets what it leaves of the target."""
    target = 80 * MIB + MIB // 2
    kept, again = (planner(room_bytes=room).cost(LAST, target) for room in (1 << 40, 0))
    assert (kept.kept_bytes > 0, again.kept_bytes) == (True, 0)
    assert (kept.micro_batch, again.micro_batch) == (12, 6)
    assert again.train_bytes // MIB == 50 + (10 + 4) + (10 + 6)
    assert again.train_bytes <= target


def test_multiply_adds_are_counted_once_for_the_prefix_and_each_time_behind_it() -> None:
    """A trained pointwise layer takes its products again for its weights, and once more for what lies before it."""
    macs = {layer.name: layer.macs for layer in find_layers(NETWORK)}
    head, last, whole = (planner().cost(names) for names in ((HEAD,), LAST, LAYERS))
    assert head.prefix_macs == sum(macs.values()) - macs[HEAD]
    assert head.train_macs == 2 * macs[HEAD]
    again = macs[LAYERS[-3]]  # the residual's first layer is cheaper again and again than on the disk
    assert last.prefix_macs == head.prefix_macs - macs[BODY] - again
    assert last.train_macs == again + 2 * macs[BODY] + 3 * macs[HEAD]
    assert whole.prefix_macs == 0
    assert whole.train_macs > 2 * sum(macs.values())


# What follows from a plan --------------------------------------------------------------------------------------------

COST = Cost(("a", "head"), 4, 2, 60 * MIB, 90 * MIB, 55 * MIB, 3 * MIB, 2_000_000, 500_000)


def test_a_prefix_runs_once_for_each_row_or_in_each_epoch() -> None:
    """Seconds by hand: 100 images, 5 epochs, a million multiply-adds a second forward and a fifth of that training."""
    pace = Pace(forward=1e6, train=2e5)
    assert pace.seconds(COST, 100, 5, 1) == pytest.approx(100 * 2 + 100 * 5 * 2.5)
    assert pace.seconds(COST, 100, 5, 2) == pytest.approx(100 * 2 * 2 + 100 * 5 * 2.5)
    assert pace.seconds(replace(COST, kept_bytes=0), 100, 5, 2) == pytest.approx(100 * 5 * 2 + 100 * 5 * 2.5)


def test_the_peak_is_that_of_the_largest_phase() -> None:
    assert COST.peak_bytes == 90 * MIB
    assert replace(COST, prefix_bytes=91 * MIB).peak_bytes == 91 * MIB
    assert replace(COST, evaluate_bytes=99 * MIB).peak_bytes == 99 * MIB


def test_an_outline_in_words() -> None:
    table = (
        Ranked("a", 2.0, (2,), 10, 0.2, picked=True),
        Ranked("b", 1.0, (1,), 10, 0.1, picked=False, over_budget=True),
        Ranked("head", None, (), 3, None, picked=True),
    )
    outline = Outline(Selection("betti", 0.5, table), COST, ((0.1, COST), (1.0, COST)), 2000, 100 * MIB)
    _, pick, low, high, over, _, names = render(outline).splitlines()
    assert pick.split() == ["pick", "2", "90", "3", "4", "4", "1"]
    assert low.split()[:3] == ["ρ", "0.1", "2"]
    assert high.split()[:3] == ["ρ", "1", "2"]
    assert over == "passed over, for they do not fit the budget: b"
    assert names == "the pick: a, head"
    assert outline.document()["grid"][0][0] == 0.1
