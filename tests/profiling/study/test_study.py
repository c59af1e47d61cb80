"""profiling.study: what is picked, what is left to do, what the records say; the engine beside the device's own path;
and the command, on Dask workers, interrupted and taken up again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from ondevice.opening import open_together
from ondevice.packed import Split
from profiling.study.command import STANDARD
from profiling.study.data import bad_camera, prepare, splits
from profiling.study.design import NetworkDesign, read_design
from profiling.study.engine import Engine
from profiling.study.policies import Choice, choose, within_time
from profiling.study.records import Images, Pick, Records, Training
from profiling.study.running import cells, chosen_rates
from profiling.study.tables import Results
from signatures.build import inference_model
from signatures.errors import InputError, UsageError
from signatures.tflite_io import write_model
from tests.end_to_end import tiny
from tests.ondevice.test_selection import make_layers

DESIGN = """
policies = ["betti", "last", "head"]
rates = [0.01, 0.1]
seeds = [0, 1]
batch = 8
[network.small]
model = "MODEL"
image = 16
data = ["digits"]
rhos = [0.3]
train = 32
validation = 20
test = 20
epochs = 1
"""


# What is picked -------------------------------------------------------------------------------------------------------


def brute_force(important: np.ndarray, macs: np.ndarray, fraction: float) -> float:
    """The largest importance within the time, over all subsets."""
    n, best = len(important), 0.0
    total = 2 * macs.sum() - macs[0]
    for size in range(1, n + 1):
        for subset in combinations(range(n), size):
            time = macs[list(subset)].sum() + macs[-1] + macs[subset[0] + 1 :].sum()
            if time <= fraction * total + 1e-9:
                best = max(best, float(important[list(subset)].sum()))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_no_subset_within_the_time_is_more_important(seed: int) -> None:
    generator = np.random.default_rng(seed)
    important = generator.random(7) * generator.integers(0, 2, 7)
    macs = generator.integers(1, 50, 8).astype(float)
    fraction = float(generator.choice([0.1, 0.3, 0.5, 0.9]))
    picked = within_time(important, macs, fraction)
    assert important[picked].sum() == pytest.approx(brute_force(important, macs, fraction))
    if picked:
        time = macs[picked].sum() + macs[-1] + macs[min(picked) + 1 :].sum()
        assert time <= fraction * (2 * macs.sum() - macs[0]) + 1e-6


def test_policies_pick_what_they_say() -> None:
    layers = make_layers(10, 40, 5, 20, 3)  # a, b, c, d, and e, the head
    scores = {"betti": [0.1, 0.4, 0.2, 0.3], "last": [0, 1, 2, 3], "fisher": [0, 0, 0, 1.0]}
    able = [True, False, True, True]
    assert choose("betti", 0.4, layers, able, scores) == Choice(("c", "d", "e"))
    assert choose("last", 0.2, layers, able, scores) == Choice(("d", "e"))
    assert choose("full", 1.0, layers, able, scores) == Choice(("a", "c", "d", "e"))
    assert choose("bias", 1.0, layers, able, scores) == Choice(("a", "c", "d", "e"), bias_only=True)
    assert choose("head", 1.0, layers, able, scores) == Choice(("e",))


# The data -------------------------------------------------------------------------------------------------------------


def test_the_images_that_choose_and_those_that_measure_are_apart(tmp_path: Path) -> None:
    network = NetworkDesign("small", "", 16, ("digits",), (0.5,), train=200, validation=100, test=90, epochs=1)
    prepare("digits", network, {}, tmp_path / "digits")
    fit, validation, test, classes = splits(tmp_path / "digits")
    assert [len(fit), len(validation), len(test), len(classes)] == [200, 100, 90, 10]
    for split in (fit, validation, test):
        counts = np.bincount(split.labels, minlength=10)
        assert counts.max() - counts.min() <= 0.03 * len(split) + 2
    seen = [{image.tobytes() for image in split.images} for split in (fit, validation, test)]
    overlaps = [len(a & b) for a, b in combinations(seen, 2)]
    assert max(overlaps) <= 1  # two digits of the package are the same picture


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    network = NetworkDesign("small", "", 16, ("digits",), (0.5,), train=990, validation=100, test=90, epochs=1)
    with pytest.raises(InputError, match="1000 training images, fewer than 990"):
        prepare("digits", network, {}, tmp_path / "digits")
    assert not (tmp_path / "digits").exists()
    with pytest.raises(InputError, match="give it as --data photos=FOLDER"):
        prepare("photos", network, {}, tmp_path / "photos")


def test_a_bad_camera_is_dark_yellow_and_blurred() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 48, 48, 3)).astype(np.uint8)
    seen = bad_camera(images, 1)
    assert seen.shape == images.shape
    assert np.array_equal(seen, bad_camera(images, 1))
    assert not np.array_equal(seen, bad_camera(images, 2))
    red, green, blue = seen.mean(axis=(0, 1, 2))
    assert images.mean() / 2 > red > green > blue
    assert seen[..., 0].std() < images[..., 0].std() / 2


# What is left to do, and what the records say -------------------------------------------------------------------------


def training(
    layers: tuple[str, ...], rate: float, seed: int, validation: float, predicted: tuple[int, ...]
) -> Training:
    right = float(np.mean(np.array(predicted) == np.array(LABELS)))
    return Training(
        "small", "digits", layers, False, rate, seed, "", validation, right, 0.5, predicted, 1.0, 0.5, 10, 1.0, "test"
    )


LABELS = (0, 1) * 10
RIGHT, WRONG = LABELS, (1, 0) * 10
HALF = LABELS[:10] + WRONG[10:]


@pytest.fixture
def design_path(tmp_path: Path) -> Path:
    path = tmp_path / "design.toml"
    path.write_text(DESIGN)
    return path


@pytest.fixture
def results(tmp_path: Path, design_path: Path) -> Results:
    records = Records(tmp_path / "records.jsonl")
    records.add(Images("small", "digits", ("a", "b"), LABELS))
    for seed in (0, 1):
        records.add(Pick("small", "digits", seed, "betti", 0.3, ("x", f"y{seed}", "head"), False))
        records.add(Pick("small", "digits", seed, "last", 0.3, ("z", "head"), False))
    for rate, validation in ((0.01, 0.7), (0.1, 0.8)):
        records.add(training(("x", "y0", "head"), rate, 0, validation, RIGHT if rate == 0.1 else WRONG))
        records.add(training(("z", "head"), rate, 0, 0.6, HALF))
    records.add(training(("x", "y1", "head"), 0.1, 1, 0.9, RIGHT))
    records.add(training(("z", "head"), 0.01, 1, 0.9, HALF))
    return Results(read_design(design_path), Records(records.path))


def test_validation_images_choose_the_rate_and_the_smaller_of_equals(results: Results) -> None:
    rates = chosen_rates(results.records, results.design)
    assert rates == {("small", "digits", "betti", 0.3): 0.1, ("small", "digits", "last", 0.3): 0.01}


def test_cells_and_their_difference(results: Results) -> None:
    betti, last = results.cells
    assert (betti.policy, betti.accuracy, betti.spread) == ("betti", 1.0, 0.0)
    assert (last.policy, last.accuracy, last.rate) == ("last", 0.5, 0.01)
    difference = results.difference(betti, last)
    assert difference is not None
    assert (difference.mean, difference.seen) == (0.5, 1)
    assert 0 < difference.low < 0.5 < difference.high < 1
    same = results.difference(betti, betti)
    assert same is not None
    assert (same.mean, same.low, same.high, same.seen) == (0.0, 0.0, 0.0, 0)


def test_a_training_that_diverged_is_right_nowhere(results: Results) -> None:
    betti, last = results.cells
    stopped = tuple(replace(t, diverged="the loss became nan", predicted=()) for t in betti.trainings)
    difference = results.difference(replace(betti, trainings=stopped), last)
    assert difference is not None
    assert difference.mean == -0.5


def test_records_survive_a_cut_line_and_nothing_else(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.jsonl")
    pick = Pick("small", "digits", 0, "head", None, ("head",), False)
    records.add(pick)
    records.add(replace(pick, seed=1))
    with records.path.open("a") as file:
        file.write('{"kind": "pick", "netw')
    again = Records(records.path)
    assert again.of(Pick) == [pick, replace(pick, seed=1)]
    again.add(replace(pick, seed=2))
    assert [p.seed for p in Records(records.path).of(Pick)] == [0, 1, 2]
    lines = records.path.read_text().splitlines()
    records.path.write_text("\n".join([lines[0], lines[1].replace('"pick"', '"peck"'), *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=r"records\.jsonl, line 2, is no record"):
        Records(records.path)


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        ('"last"', '"lust"', InputError, "no policy is called 'lust'"),
        ("rhos = [0.3]", "rhos = [1.3]", UsageError, "at most 1"),
        ("epochs = 1", "epoch = 1", InputError, "epoch, epochs: missing, or not known"),
        ("batch = 8", 'batch = "8"', InputError, "batch is '8', expected int"),
        ("seeds = [0, 1]", "seeds = []", InputError, "takes a seed"),
        ("[network.small]", "[network", InputError, "no design"),
    ],
)
def test_a_wrong_design_is_told(
    design_path: Path, before: str, after: str, error: type[Exception], message: str
) -> None:
    design_path.write_text(DESIGN.replace(before, after))
    with pytest.raises(error, match=message):
        read_design(design_path)


def test_the_standard_design_asks_for_what_docs_study_says() -> None:
    design = read_design(STANDARD)
    mobilenet = design.networks[0]
    assert len(cells(design, mobilenet)) == 7 * 4 + 3
    assert len(design.seeds) == 3


# The engine and the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        Choice(("a_project", "b_expand", "b_depthwise", "head")),
        Choice(tiny.LAYERS),
        Choice(tiny.LAYERS, bias_only=True),
    ],
    ids=["late", "all", "biases"],
)
def test_the_engine_trains_as_the_device_does(bundle: Path, tmp_path: Path, choice: Choice) -> None:
    """The same losses step by step, and the same answers."""
    network = NetworkDesign("tiny", "", tiny.IMAGE, ("digits",), (0.5,), train=96, validation=40, test=60, epochs=2)
    prepare("digits", network, {}, tmp_path / "digits")
    fit, _, test, classes = splits(tmp_path / "digits")
    which = ["--criterion", "bias"] if choice.bias_only else ["--layers", ",".join(choice.layers[:-1])]
    command = [
        sys.executable, "-m", "ondevice.adapt", str(bundle), "--data", str(tmp_path / "digits" / "final"), *which,
        "--epochs", "4", "--batch", "16", "--lr", "0.3", "--json", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    opened = open_together(bundle, tmp_path / "digits" / "final", 16, tmp_path, 0)
    engine = Engine(opened.network, choice, opened.bundle.manifest.preprocessing, fit, (test,))
    done = engine.train(0.3, 0, 4, 16, len(classes))
    assert engine.parameters == report["trained_parameters"]
    assert np.allclose(done.losses, report["step_losses"], rtol=1e-4)
    assert min(done.losses) < done.losses[0] - 0.01
    (answers,) = done.answers
    assert answers.predicted == tuple(report["after"]["predicted"])
    assert answers.accuracy == pytest.approx(report["after"]["accuracy"])


@pytest.fixture
def study(tmp_path: Path, design_path: Path) -> list[str]:
    model = tmp_path / "tiny.tflite"
    write_model(inference_model(tiny.network()), model)
    design_path.write_text(DESIGN.replace("MODEL", str(model)))
    return [
        sys.executable, "-m", "profiling", "study", "--design", str(design_path), "--out", str(tmp_path / "study"),
        "--page", str(tmp_path / "docs"),
    ]  # fmt: skip


def test_the_command_goes_on_where_it_stopped(study: list[str], tmp_path: Path) -> None:
    first = subprocess.run([*study, "--minutes", "0"], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "the time is over" in first.stdout
    done = subprocess.run(study, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    records = Records(tmp_path / "study" / "records.jsonl")
    trainings = records.of(Training)
    keys = [(t.choice, t.rate, t.seed) for t in trainings]
    assert len(set(keys)) == len(keys)
    assert {p.seed for p in records.of(Pick)} == {0, 1}
    assert all(t.parameters > 0 and len(t.predicted) == 20 for t in trainings)
    page = (tmp_path / "docs" / "study.md").read_text()
    assert (tmp_path / "docs" / "study" / "small.png").read_bytes()[:4] == b"\x89PNG"
    for policy in ("betti", "last", "head"):
        assert f"| {policy} |" in page
    again = subprocess.run(study, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert len(Records(tmp_path / "study" / "records.jsonl").of(Training)) == len(trainings)


def test_other_images_are_another_study(study: list[str], tmp_path: Path) -> None:
    assert subprocess.run([*study, "--minutes", "0"], capture_output=True, check=False).returncode == 0
    Records(tmp_path / "study" / "records.jsonl").add(Pick("small", "digits", 0, "head", None, ("head",), False))
    path = tmp_path / "design.toml"
    path.write_text(path.read_text().replace("epochs = 1", "epochs = 2"))
    other = subprocess.run([*study, "--minutes", "0"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "choose another --out" in other.stderr


def test_split_is_what_it_was(tmp_path: Path) -> None:
    """The same images in each session: records of one study belong together."""
    network = NetworkDesign("small", "", 16, ("digits",), (0.5,), train=50, validation=20, test=20, epochs=1)
    made: list[Split] = []
    for name in ("a", "b"):
        prepare("digits", network, {}, tmp_path / name)
        made += splits(tmp_path / name)[:3]
    assert all(np.array_equal(a.images, b.images) for a, b in zip(made[:3], made[3:], strict=True))


def test_the_workers_of_a_cluster_do_the_same(study: list[str], tmp_path: Path) -> None:
    """Two workers behind a scheduler at an address, as on several machines; every training once, by either."""
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
    )
    with cluster:
        command = [*study, "--scheduler", cluster.scheduler_address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        [*study, "--out", str(tmp_path / "alone"), "--workers", "1"], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    by_cluster, by_one = (
        {(t.choice, t.rate, t.seed): t.predicted for t in Records(tmp_path / name / "records.jsonl").of(Training)}
        for name in ("study", "alone")
    )
    assert by_cluster == by_one
