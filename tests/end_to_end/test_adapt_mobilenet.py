"""Export MobileNetV2, adapt it, use the result: every step in a process of its own, everything it leaves looked at."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tflite

from tests.end_to_end.commands import Commands, Finished
from tests.end_to_end.conftest import BATCH, IMAGE, read_report
from tests.oracles.other_runtime import RUNTIMES, TFLITE214, tflite214_python

EPOCHS = 2
SEED = 3
SETTINGS = (
    "--rho", 0.1, "--batch", BATCH, "--epochs", EPOCHS, "--lr", 0.002, "--seed", SEED, "--threads", 1,
)  # fmt: skip
PHASES = ["open", "probe", "rank", "plan", "compile", "before", "prefix", "train", "export", "evaluate"]
PLAIN = Path(__file__).with_name("plain_interpreter.py")


@dataclass(frozen=True)
class Run:
    """A finished run: what the process said, and what it left."""

    said: Finished
    folder: Path
    report: dict


def adapt(commands: Commands, bundle: Path, data: Path, out: str, *more: object) -> Run:
    folder = commands.folder / out
    said = commands.adapt(bundle, "--data", data, "--out", folder, *SETTINGS, *more).succeeded()
    return Run(said, folder, read_report(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, mobilenet: Path, few_digits: Path) -> Run:
    return adapt(Commands(tmp_path_factory.mktemp("run")), mobilenet, few_digits, "run", "--json")


def test_stdout_is_one_json_object_and_it_is_the_report(run: Run) -> None:
    assert run.said.stdout.count("\n") == 1
    assert json.loads(run.said.stdout) == run.report


def test_stderr_is_our_conversation_and_nothing_of_native_code(run: Run) -> None:
    spoken = [re.sub(r"\d+\.\d", "N", line) for line in run.said.stderr.splitlines()]
    assert spoken == [line for phase in PHASES for line in (f"{phase} …", f"{phase}: done after N s")]


def test_the_report_tells_what_was_done(run: Run, mobilenet: Path, few_digits: Path) -> None:
    report = run.report
    assert (report["format"], report["version"]) == ("adabet-report", 1)
    assert report["network"] == "mobilenetv2"
    assert report["weights"] == json.loads((mobilenet / "manifest.json").read_text())["weights"]
    assert report["classes"] == [str(digit) for digit in range(10)]
    assert report["dataset"] == f"few_digits: 128 training and 100 test images of {IMAGE}×{IMAGE}, 10 classes"
    settings = report["settings"]
    assert settings["data"] == str(few_digits)
    assert [settings[name] for name in ("criterion", "rho", "epochs", "batch", "learning_rate", "seed", "threads")] == [
        "betti", 0.1, EPOCHS, BATCH, 0.002, SEED, 1,
    ]  # fmt: skip
    table = report["selection"]["table"]
    assert len(table) == 53
    assert sum(row["picked"] for row in table) == 5 + 1
    assert table[-1]["picked"]
    assert table[-1]["score"] is None
    for row in table[:-1]:
        assert len(row["b1_by_batch"]) == 4
        assert row["b1"] == np.mean(row["b1_by_batch"])
        assert row["score"] == pytest.approx(row["b1"] / row["activation_size"], rel=1e-12)
    assert [phase["name"] for phase in report["phases"]] == PHASES
    assert report["peak_bytes"] == max(phase["peak_bytes"] for phase in report["phases"])
    assert report["compile_seconds"] >= 0
    assert report["before"]["images"] == report["after"]["images"] == 100


def test_losses_are_told_by_step_and_by_epoch(run: Run) -> None:
    losses, per_epoch = run.report["step_losses"], 128 // BATCH
    assert len(losses) == EPOCHS * per_epoch
    assert losses[0] == pytest.approx(math.log(10), rel=1e-5)  # the fresh head is all zeros
    for epoch in range(EPOCHS):
        told = run.report["epochs"][epoch]
        assert told["number"] == epoch + 1
        assert told["loss"] == pytest.approx(np.mean(losses[epoch * per_epoch : (epoch + 1) * per_epoch]), rel=1e-9)
    assert run.report["epochs"][-1]["loss"] < run.report["epochs"][0]["loss"]


def test_the_bundle_ranked_its_layers_alike_on_the_same_data_and_seed(run: Run, mobilenet: Path) -> None:
    manifest = json.loads((mobilenet / "manifest.json").read_text())
    (entry,) = (entry for entry in manifest["train"] if entry["rho"] == 0.1)
    assert entry["layers"] == [row["layer"] for row in run.report["selection"]["table"] if row["picked"]]


def test_what_trained_was_compiled_here_and_is_kept(run: Run) -> None:
    assert run.report["train_source"] == "compiled"
    (kept,) = (run.folder.parent / "cache").rglob("*.tflite")
    signatures = tflite.Model.GetRootAs(kept.read_bytes())
    assert signatures.SignatureDefsLength() == 1
    assert signatures.SignatureDefs(0).SignatureKey() == b"gradients"


def test_the_plan_is_of_what_trained(run: Run) -> None:
    """Sizes that follow from the network; predicted bytes are no more than plausible here."""
    plan = run.report["plan"]
    assert plan["layers"] == [row["layer"] for row in run.report["selection"]["table"] if row["picked"]]
    assert BATCH % plan["micro_batch"] == 0
    assert plan["prefix_batch"] > 0
    assert plan["kept_bytes"] > 0
    assert plan["kept_bytes"] % (4 * 128) == 0  # float32 rows of as many images as there are
    assert 0 < plan["prefix_macs"] < plan["prefix_macs"] + plan["train_macs"]
    for phase in ("prefix", "train", "evaluate"):
        assert 10 << 20 < plan[f"{phase}_bytes"] < 1 << 30


def test_the_bundle_verifies(commands: Commands, mobilenet: Path) -> None:
    said = commands.converter("verify", mobilenet).succeeded()
    assert said.stdout.splitlines()[-1].endswith("checks, 0 failed")
    assert said.stderr == ""


def test_events_tell_the_phases_as_they_went(run: Run) -> None:
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    times = [event["t_s"] for event in events]
    assert times == sorted(times)
    assert all(event["completed"] for event in events if event["event"] == "end")
    spans = [(event["event"], event["phase"]) for event in events if event["event"] in ("start", "end")]
    assert spans == [(kind, phase) for phase in PHASES for kind in ("start", "end")]
    told = [(event["event"], event["phase"]) for event in events if event["event"] not in ("start", "end")]
    assert told == [("picked", "plan"), ("compiled", "compile"), *[("epoch", "train")] * EPOCHS, ("done", None)]
    assert events[-1]["accuracy"] == run.report["after"]["accuracy"]


def test_a_run_leaves_its_results_and_nothing_else(run: Run) -> None:
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "adapted.tflite", "events.jsonl", "report.json", "weights.npz",
    ]  # fmt: skip
    digest = hashlib.sha256((run.folder / "adapted.tflite").read_bytes()).hexdigest()
    assert run.report["adapted_sha256"] == digest
    assert run.report["adapted"] == str(run.folder / "adapted.tflite")


def test_weights_are_those_of_the_picked_layers(run: Run) -> None:
    picked = [row["layer"] for row in run.report["selection"]["table"] if row["picked"]]
    with np.load(run.folder / "weights.npz") as weights:
        assert set(weights) == {f"{layer}/{part}" for layer in picked for part in ("weight", "bias")}
        assert sum(weights[name].size for name in weights) == run.report["trained_parameters"]
        assert weights["predictions/weight"].any()


def test_the_adapted_model_is_an_ordinary_inference_model(run: Run) -> None:
    """By the schema package alone: one graph, one signature, no variables, builtin ops only."""
    model = tflite.Model.GetRootAs((run.folder / "adapted.tflite").read_bytes())
    assert model.SubgraphsLength() == model.SignatureDefsLength() == 1
    assert model.SignatureDefs(0).SignatureKey() == b"infer"
    graph = model.Subgraphs(0)
    assert graph.InputsLength() == graph.OutputsLength() == 1
    assert not any(graph.Tensors(i).IsVariable() for i in range(graph.TensorsLength()))
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    assert not any(code.CustomCode() for code in codes)
    builtin = tflite.BuiltinOperator
    kinds = {value: name for name, value in vars(builtin).items() if isinstance(value, int)}
    used = Counter(kinds[codes[graph.Operators(i).OpcodeIndex()].BuiltinCode()] for i in range(graph.OperatorsLength()))
    assert used["CONV_2D"] + used["DEPTHWISE_CONV_2D"] + used["FULLY_CONNECTED"] == 53
    assert used.keys() <= {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "PAD", "MEAN"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_plain_interpreter_gets_as_many_images_right(
    run: Run, commands: Commands, mobilenet: Path, few_digits: Path, runtime: str
) -> None:
    script = commands.on(tflite214_python()) if runtime == TFLITE214 else commands
    said = script.run(PLAIN, run.folder / "adapted.tflite", few_digits, mobilenet / "manifest.json").succeeded()
    after = run.report["after"]
    assert int(said.stdout) == after["accuracy"] * after["images"]


def test_the_same_seed_gives_the_same_network(run: Run, commands: Commands, mobilenet: Path, few_digits: Path) -> None:
    again = adapt(commands, mobilenet, few_digits, "again")
    assert again.report["step_losses"] == run.report["step_losses"]
    assert again.report["adapted_sha256"] == run.report["adapted_sha256"]
    assert again.report["selection"] == run.report["selection"]


def test_without_json_stdout_is_the_result_in_words(
    run: Run, commands: Commands, mobilenet: Path, few_digits: Path
) -> None:
    said = adapt(commands, mobilenet, few_digits, "words").said
    for row in run.report["selection"]["table"]:
        assert (row["layer"] in said.stdout) == row["picked"]
    after = run.report["after"]["accuracy"]
    assert f"→ {after:.1%} (100 images)" in said.stdout
    assert "INFO" not in said.stdout + said.stderr


def test_tflite_runtime_214_adapts_too_and_picks_the_same_layers(
    run: Run, commands: Commands, mobilenet: Path, few_digits: Path
) -> None:
    other = adapt(commands.on(tflite214_python()), mobilenet, few_digits, "run214")
    assert other.report["environment"]["runtime"] == "tflite-runtime 2.14.0"
    assert other.report["environment"]["runtime"] != run.report["environment"]["runtime"]
    picked, expected = (
        [row["layer"] for row in report["selection"]["table"] if row["picked"]] for report in (other.report, run.report)
    )
    assert picked == expected
    assert other.report["train_source"] == "compiled"
    with np.load(other.folder / "weights.npz") as weights, np.load(run.folder / "weights.npz") as ours:
        assert set(weights) == set(ours)
    np.testing.assert_allclose(other.report["step_losses"][:3], run.report["step_losses"][:3], rtol=1e-4)
    assert other.report["epochs"][-1]["loss"] < other.report["epochs"][0]["loss"]
