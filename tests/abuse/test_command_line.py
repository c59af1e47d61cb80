"""Options that make no sense: exit code 2, one line that names the option, and no run folder."""

from __future__ import annotations

import pytest

from tests.abuse.conftest import Abused

OPTIONS: dict[str, tuple[str, str]] = {
    "--rho": ("0 -1 1.5 nan", "--rho must be greater than 0 and at most 1"),
    "--epochs": ("0 1.5", "--epochs"),
    "--batch": ("0 -8", "--batch"),
    "--lr": ("0 -1 nan inf 1e39", "--lr must be a positive number"),
    "--criterion": ("Betti", "--criterion: invalid choice"),
    "--optimizer": ("adagrad", "--optimizer: invalid choice"),
    "--seed": ("-1", "--seed"),
    "--threads": ("0", "--threads"),
    "--budget-mib": ("0 -64 1.5", "--budget-mib"),
    "--time-budget": ("0 -1 nan soon", "--time-budget"),
    "--replay": ("float64", "--replay: invalid choice"),
}
CASES = [(option, value) for option, (values, _) in OPTIONS.items() for value in values.split()]


@pytest.mark.parametrize(("option", "value"), CASES)
def test_a_value_out_of_range(abused: Abused, option: str, value: str) -> None:
    abused.refused(2, OPTIONS[option][1], by=lambda: abused.adapt(f"{option}={value}"))
    assert not abused.run.exists()


def test_batches_too_small_for_a_loop(abused: Abused) -> None:
    abused.refused(2, "--batch must be at least 4", by=lambda: abused.adapt("--batch", 3))
    abused.adapt("--batch", 3, "--criterion", "head").succeeded()


def test_an_option_that_does_not_exist(abused: Abused) -> None:
    abused.refused(2, "unrecognized arguments: --rate", by=lambda: abused.adapt("--rate", "1"))


def test_no_data_named(abused: Abused) -> None:
    abused.refused(2, "--data", by=lambda: abused.commands.adapt(abused.bundle))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rho", "0.1 x"), "--rho takes numbers"),
        (("--rho", "0.1 2"), "--rho must be"),
        (("--rho", "0.101 0.102"), "must differ"),
        (("--batch", "1"), "--batch must be at least 2"),
        (("--batch", "3", "--probe", "data"), "--batch must be at least 4"),
    ],
)
def test_export_checks_its_options_before_it_loads_tensorflow(
    abused: Abused, options: tuple[str, ...], said: str
) -> None:
    out = abused.commands.folder / "exported"
    export = lambda: abused.commands.converter("export", "mobilenetv2", "--out", out, *options)  # noqa: E731
    abused.refused(2, said, by=export)
    assert not out.exists()
