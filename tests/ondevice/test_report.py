"""The report: JSON that reads back as what was written, and the lines for people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ondevice.evaluate import Evaluation
from ondevice.meter import PhaseMemory
from ondevice.report import Report, Settings, TopologyNote, environment, render, write_report
from ondevice.selection import Ranked, Selection
from ondevice.training import Epoch

MIB = 1 << 20
REPORT = Report(
    settings=Settings("bundle", "my data", "betti", 0.1, 2, 8, 0.01, "sgd", 0.0, 0, 2),
    environment=environment("ai-edge-litert 2.3.0"),
    network="tiny",
    weights="random",
    dataset="my data: 48 training and 30 test images of 16×16, 3 classes",
    dataset_fingerprint="ab" * 32,
    classes=("kočka", "dog", "\U0001f426"),
    selection=Selection(
        "betti",
        0.1,
        (
            Ranked("stem", 2.5, (2, 3), 2048, 2.5 / 2048, False),
            Ranked("project", 4.0, (4, 4), 512, 4.0 / 512, True),
            Ranked("head", None, (), 3, None, True),
        ),
    ),
    topology=TopologyNote("numpy", 0.01, None, "two matrices"),
    train_source="compiled",
    compile_seconds=0.0625,
    trained_parameters=1234567,
    before=Evaluation(1 / 3, 1.0986, 30),
    after=Evaluation(0.9, 0.25, 30),
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
    }
    assert read["selection"]["table"][2]["score"] is None
    assert read["settings"]["learning_rate"] == 0.01


def test_a_run_without_a_probe_has_no_topology(tmp_path: Path) -> None:
    write_report(replace(REPORT, topology=None), tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["topology"] is None


@given(st.floats(0, 1), st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.text(max_size=20))
def test_numbers_and_names_survive_exactly(accuracy: float, losses: list[float], name: str) -> None:
    report = replace(REPORT, after=Evaluation(accuracy, losses[0], 30), step_losses=tuple(losses), classes=(name, "b"))
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
    assert project == ["project", "4.00", "512", "7.81e-03"]
    assert head == ["head", "3", "head"]
    opened, train = (next(line.split() for line in lines if line.startswith(name)) for name in ("open ", "train "))
    assert opened == ["open", "0.5", "64", "40", "24"]
    assert train == ["train", "2.0", "96", "?", "?"]
    text = "\n".join(lines)
    assert "compiled (0.06 s), 1,234,567 parameters" in text
    assert "0.875 → 0.500" in text
    assert "33.3% → 90.0% (30 images)" in text
    assert text.endswith("run/adapted.tflite")
