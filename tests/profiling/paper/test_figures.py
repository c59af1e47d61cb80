"""profiling.paper.command: both commands on a small bundle, and what their pictures show."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from profiling.paper import clusters
from profiling.paper.command import main
from profiling.paper.memory import ADABET, FORMULA, FULL, INFERENCE, MB, MEASURED, PUBLISHED_BAR, Bar, render
from profiling.paper.memory_picture import memory_picture
from profiling.pictures import drawing
from signatures.errors import CapabilityError, InputError
from signatures.graph import Array

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the memory figure leaves."""
    out = tmp_path_factory.mktemp("figures")
    assert main(["memory", "--bundle", str(bundle), "--data", str(data), "--out", str(out)]) == 0
    return out


def bars_of(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    document = json.loads((folder / "memory.json").read_text())
    assert (document["format"], document["version"]) == ("adabet-figure-memory", 1)
    assert {"machine", "runtime", "commit"} <= document["environment"].keys()
    return {(bar["kind"], bar["source"]): bar for bar in document["bars"]}


def run_with(folder: Path, out: Path, **settings: Any) -> Path:
    """A copy of the run of `folder`, with other settings, and another peak."""
    document = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    document["settings"] |= settings
    document["peak_bytes"] += 5 * MB
    out.mkdir()
    (out / "report.json").write_text(json.dumps(document))
    return out


# Figure 1 -------------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_run(folder: Path) -> None:
    bars = bars_of(folder)
    assert bars.keys() == {(INFERENCE, MEASURED), (ADABET, MEASURED)}, "the paper has no such network"
    report = json.loads((folder / "runs" / "tiny" / "report.json").read_text())
    assert report["settings"]["epochs"] == 1
    assert bars[ADABET, MEASURED]["peak_bytes"] == report["peak_bytes"]
    assert "ρ 0.1, batch 32" in bars[ADABET, MEASURED]["detail"]
    assert 20 * MB < bars[INFERENCE, MEASURED]["peak_bytes"] < 300 * MB, "Python, NumPy and an interpreter"
    with Image.open(folder / "memory.png") as picture:
        assert picture.size[0] >= 1200
        assert np.ptp(np.asarray(picture.convert("L"))) > 200
    assert (folder / "memory.svg").read_text().startswith("<?xml")


def test_what_is_measured_is_not_measured_again(
    folder: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    shutil.copytree(folder, out)
    full = run_with(folder, tmp_path / "full", criterion="all")
    assert main(["memory", "--bundle", str(bundle), "--run", str(full), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "adapting" not in captured.err
    before, after = bars_of(folder), bars_of(out)
    assert after[ADABET, MEASURED] == before[ADABET, MEASURED]
    assert after[FULL, MEASURED]["peak_bytes"] == before[ADABET, MEASURED]["peak_bytes"] + 5 * MB
    lines = [line.split() for line in captured.out.splitlines()]
    assert ["tiny", "full", "training", f"{after[FULL, MEASURED]['peak_bytes'] / MB:,.0f}"] in [x[:4] for x in lines]


def test_a_run_takes_the_place_of_measuring(folder: Path, bundle: Path, tmp_path: Path) -> None:
    run = run_with(folder, tmp_path / "run", rho=0.2)
    assert main(["memory", "--bundle", str(bundle), "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    bar = bars_of(tmp_path / "out")[ADABET, MEASURED]
    assert bar["peak_bytes"] == bars_of(folder)[ADABET, MEASURED]["peak_bytes"] + 5 * MB
    assert "ρ 0.2" in bar["detail"]
    assert not (tmp_path / "out" / "runs").exists()


def test_what_memory_refuses(folder: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str | Path) -> tuple[int, str]:
        code = main(["memory", *map(str, arguments), "--out", str(tmp_path / "out")])
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    here = ("--bundle", bundle)
    run = run_with(folder, tmp_path / "run")
    assert refused() == (2, "error: give a --bundle to measure, or --formula\n")
    assert refused(*here)[0] == 2, "no --data"
    assert "one bundle a network" in refused(*here, *here)[1]
    assert "a place for one" in refused(*here, "--run", run, "--run", run)[1]
    for settings in ({"criterion": "head"}, {"rho_channels": 0.5}):
        other = run_with(folder, tmp_path / next(iter(settings)), **settings)
        code, message = refused(*here, "--run", other)
        assert (code, "no run with the criterion" in message) == (2, True)
    document = json.loads((run / "report.json").read_text())
    for change, code, complaint in (
        ({"weights": "others"}, 2, "give its --bundle"),
        ({"settings": {}}, 3, "damaged"),
        ({"format": "other"}, 3, "format"),
    ):
        (run / "report.json").write_text(json.dumps(document | change))
        got, message = refused(*here, "--run", run)
        assert (got, complaint in message) == (code, True), message
    assert refused(*here, "--run", tmp_path / "none")[0] == 3
    code, message = refused(*here, "--data", tmp_path / "none")
    assert (code, "ondevice.adapt ended with 3" in message) == (3, True), "as the command that measures"


def test_the_picture_shows_every_bar() -> None:
    bars = [
        Bar("one", INFERENCE, MEASURED, 80 * MB, ""),
        Bar("one", ADABET, MEASURED, 140 * MB, ""),
        Bar("two", INFERENCE, FORMULA, 240 * MB, ""),
        Bar("two", INFERENCE, PUBLISHED_BAR, 250 * MB, ""),
        Bar("two", ADABET, PUBLISHED_BAR, 260 * MB, ""),
    ]
    with drawing():
        figure = memory_picture(bars)
    (axis,) = figure.axes
    places = {round(patch.get_height()): patch.get_x() + patch.get_width() / 2 for patch in axis.patches}
    assert places.keys() == {80, 140, 240}
    assert sorted(places, key=lambda height: places[height]) == [80, 140, 240]
    hatched = {round(patch.get_height()) for patch in axis.patches if patch.get_hatch()}
    assert hatched == {240}, "formulas are marked"
    lines = [line.get_segments()[0] for line in axis.collections]
    assert [line[0][1] for line in lines] == [250, 260]
    assert lines[0][:, 0].mean() == pytest.approx(places[240])
    assert lines[1][0][0] > lines[0][1][0]
    assert {text.get_text() for text in axis.texts} == {"80", "140", "240", "260"}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["one", "two"]
    table = render(bars).splitlines()
    assert table[1].split() == ["one", "inference", "80", "–", "–"]
    assert table[4].split() == ["two", "inference", "–", "240", "250"]


# Figure 3 -------------------------------------------------------------------------------------------------------------


class ScaledUmap:
    """Classical scaling to two axes in the place of UMAP: fast, and distances stay what they are."""

    def __init__(self, metric: str, random_state: int, n_jobs: int) -> None:
        assert metric == "precomputed"

    def fit_transform(self, distances: Array) -> Array:
        centre = np.eye(len(distances)) - 1 / len(distances)
        values, vectors = np.linalg.eigh(-centre @ distances**2 @ centre / 2)
        return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("umap")
    module.UMAP = ScaledUmap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr(clusters, "check_packages", lambda: None)


def squared_distances(points: Array) -> Array:
    return ((points[:, None] - points[None]) ** 2).sum(axis=-1)


def blobs(count: int, away: bool = False) -> Array:
    """Eight points close together around each of some distant places; and one more far from all."""
    random = np.random.default_rng(0)
    centres = np.array([(10 * i, 7 * (i % 2)) for i in range(count)], float)
    points = np.concatenate([centre + random.uniform(-0.2, 0.2, (8, 2)) for centre in centres])
    return np.concatenate([points, [[100.0, 50.0]]]) if away else points


@pytest.mark.usefixtures("scaled")
def test_clusters_are_counted_by_layer() -> None:
    pytest.importorskip("sklearn")
    layers = np.stack([squared_distances(blobs(3)), squared_distances(blobs(1).repeat(3, axis=0))])
    assert clusters.cluster_counts(layers).tolist() == [[3, 1]] * clusters.EMBEDDINGS
    alone = squared_distances(blobs(2, away=True))[None]
    assert clusters.cluster_counts(alone).tolist() == [[2]] * clusters.EMBEDDINGS, "a point of its own is no cluster"
    alone[0, 0, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        clusters.cluster_counts(alone)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "PACKAGES", {"no_such_module": "umap-learn", "json": "scikit-learn"})
    with pytest.raises(CapabilityError, match="clusters take umap-learn: pip install umap-learn"):
        clusters.check_packages()


@pytest.mark.usefixtures("scaled")
def test_b1_is_that_of_the_device(bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    settings = [str(bundle), "--data", str(data), "--rho", "0.4", "--batch", "8", "--seed", "3"]
    assert main(["b1", *settings, "--clusters", "--out", str(tmp_path)]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    picture = tmp_path / "tiny-pictures-b1.png"
    assert last == f"picture: {picture}"
    with Image.open(picture) as image:
        assert image.size[0] >= 1200
    command = [sys.executable, "-m", "ondevice.inspect", *settings, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    table = json.loads(done.stdout)["ranking"]["selection"]["table"][:-1]
    assert head.split() == ["layer", "b1", "range", "|a|", "b1/|a|", "picked", "clusters"]
    assert len(rows) == len(table) == 7
    for row, line in zip(table, rows, strict=True):
        name, b1, spread, size, score, *marks = line.split()
        batches = row["b1_by_batch"]
        assert (name, float(b1)) == (row["layer"], pytest.approx(np.mean(batches), abs=0.01))
        assert spread == f"{min(batches)}–{max(batches)}"
        assert int(size.replace(",", "")) == row["activation_size"]
        assert float(score) == pytest.approx(row["score"], rel=0.01)
        assert (marks[0] == "●") == row["picked"]
        assert float(marks[-1]) >= 0


def test_what_b1_refuses(bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [str(bundle), "--data", str(data), "--out", str(tmp_path)]
    for more, complaint in ((("--batch", "3"), "--batch"), (("--seed", "-1"), "--seed"), (("--rho", "2"), "rho")):
        assert main(["b1", *settings, *more]) == 2
        assert complaint in capsys.readouterr().err
