"""The report: JSON that reads back as what was written, and the lines for people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ondevice.evaluate import Evaluation
from ondevice.meter import PhaseMemory
from ondevice.planning import Cost
from ondevice.report import Report, Settings, TopologyNote, environment, render, write_report
from ondevice.selection import Ranked, Selection
from ondevice.training import Epoch

MIB = 1 << 20
REPORT = Report(
    settings=Settings(
        bundle="bundle",
        data="my data",
        criterion="betti",
        rho=0.1,
        rho_channels=0.25,
        epochs=2,
        batch=8,
        learning_rate=0.01,
        optimizer="sgd",
        weight_decay=0.0,
        seed=0,
        threads=2,
        mirror=True,
        replay="float16",
        budget_bytes=120 * MIB,
        budget_s=None,
    ),
    environment=environment("ai-edge-litert 2.3.0"),
    network="tiny",
    weights="random",
    dataset="my data: 48 training and 30 test images of 16×16, 3 classes",
    dataset_fingerprint="ab" * 32,
    classes=("kočka", "dog", "\U0001f426"),
    test_labels=(0, 1) * 15,
    selection=Selection(
        "betti",
        0.1,
        (
            Ranked("stem", 2.5, (2, 3), 2048, 2.5 / 2048, False),
            Ranked("project", 4.0, (4, 4), 512, 4.0 / 512, True, channels=(1, 4, 5)),
            Ranked("head", None, (), 3, None, True),
        ),
    ),
    topology=TopologyNote("numpy", 0.01, None, "two matrices"),
    plan=Cost(
        layers=("project", "head"),
        micro_batch=4,
        prefix_batch=2,
        prefix_bytes=70 * MIB,
        train_bytes=90 * MIB,
        evaluate_bytes=50 * MIB,
        kept_bytes=12345,
        prefix_macs=1000,
        train_macs=3000,
    ),
    train_source="compiled",
    compile_seconds=0.0625,
    trained_parameters=1234567,
    before=Evaluation(1 / 3, 1.0986, 30, (0, 1) * 15),
    after=Evaluation(0.9, 0.25, 30, (1, 0) * 15),
    epochs=(Epoch(1, 0.875, 1.5), Epoch(2, 0.5, 1.25)),
    step_losses=(1.0, 0.75, 0.5, 0.5),
    phases=(
        PhaseMemory("open", 0.5, 64 * MIB, 40 * MIB, 24 * MIB, True),
        PhaseMemory("train", 2.0, 96 * MIB, None, None, False),
    ),
    peak_bytes=96 * MIB,
    adapted="run/adapted.tflite",
    adapted_sha256="cd" * 32,
)


def test_the_file_is_the_document(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("an older one")
    write_report(REPORT, path)
    read = json.loads(path.read_text())
    assert read == json.loads(json.dumps(REPORT.document()))
    assert list(tmp_path.iterdir()) == [path]
    assert (read["format"], read["version"]) == ("adabet-report", 1)
    assert read["classes"] == list(REPORT.classes)
    assert read["selection"]["table"][1] == {
        "layer": "project",
        "b1": 4.0,
        "b1_by_batch": [4, 4],
        "activation_size": 512,
        "score": 4.0 / 512,
        "picked": True,
        "obstacle": None,
        "over_budget": False,
        "channels": [1, 4, 5],
    }
    assert read["selection"]["table"][2]["channels"] is None
    assert read["selection"]["table"][2]["score"] is None
    assert read["settings"]["learning_rate"] == 0.01
    assert (read["settings"]["budget_bytes"], read["settings"]["budget_s"]) == (120 * MIB, None)
    assert read["plan"]["layers"] == ["project", "head"]
    assert [read["plan"][f"{phase}_bytes"] for phase in ("prefix", "train", "evaluate", "kept")] == [
        70 * MIB, 90 * MIB, 50 * MIB, 12345,
    ]  # fmt: skip


def test_a_run_without_a_probe_has_no_topology(tmp_path: Path) -> None:
    write_report(replace(REPORT, topology=None), tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["topology"] is None


@given(st.floats(0, 1), st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.text(max_size=20))
def test_numbers_and_names_survive_exactly(accuracy: float, losses: list[float], name: str) -> None:
    after = Evaluation(accuracy, losses[0], 30, (0,) * 30)
    report = replace(REPORT, after=after, step_losses=tuple(losses), classes=(name, "b"))
    read = json.loads(json.dumps(report.document()))
    assert read["after"]["accuracy"] == accuracy
    assert read["step_losses"] == losses
    assert read["classes"] == [name, "b"]


def test_the_environment_is_this_machine() -> None:
    where = environment("some runtime")
    assert where.runtime == "some runtime"
    assert where.cpus >= 1
    assert all((where.machine, where.system, where.python, where.numpy))


def test_people_read_the_picks_the_phases_and_the_result() -> None:
    lines = render(REPORT).splitlines()
    assert not any(line.startswith("stem") for line in lines)
    project, head = (next(line.split() for line in lines if line.startswith(name)) for name in ("project", "head"))
    assert project == ["project", "4.00", "512", "7.81e-03", "3", "channels"]
    assert head == ["head", "3", "head"]
    text = "\n".join(lines)
    assert "compiled (0.06 s), 1,234,567 parameters, batches of 8 in 2 × 4" in text
    assert "0.875 → 0.500" in text
    assert "33.3% → 90.0% (30 images)" in text
    assert text.endswith("run/adapted.tflite")


def test_people_read_what_a_phase_took_beside_what_was_predicted() -> None:
    """Where something was: only the plan's phases have a prediction."""
    lines = render(REPORT).splitlines()
    header, opened, train = (
        next(line.split() for line in lines if line.startswith(name)) for name in ("phase ", "open ", "train ")
    )
    assert header == ["phase", "seconds", "predicted", "peak", "MiB", "anonymous", "file"]
    assert opened == ["open", "0.5", "64", "40", "24"]
    assert train == ["train", "2.0", "90", "96", "?", "?"]


def test_layers_that_the_budget_left_out_are_named() -> None:
    assert "passed over" not in render(REPORT)
    stem, *others = REPORT.selection.table
    table = (replace(stem, over_budget=True), *others)
    text = render(replace(REPORT, selection=replace(REPORT.selection, table=table)))
    assert "passed over, for they do not fit the budget: stem\n" in text
