"""profiling.ranking.command: stability by hand and by scipy, the record, and the command on a small bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
from scipy.stats import kendalltau

from profiling.pictures import drawing
from profiling.ranking.command import main, summarise
from profiling.ranking.pictures import layers_picture
from profiling.ranking.record import RECORD, read_record, write_record
from profiling.ranking.stability import Spread, among, best, between, jaccard, shared
from signatures.errors import InputError
from tests.end_to_end import tiny

ROOT = Path(__file__).parents[3]
ALL = (True,) * 4
PICTURES = ("layers", "ranks", "against")


def test_picks_keep_model_order_in_ties_and_leave_out_what_cannot_train() -> None:
    scores = np.array([1.0, 3.0, 3.0, 2.0])
    assert best(scores, ALL, 1) == {1}
    assert best(scores, ALL, 3) == {1, 2, 3}
    assert best(scores, (True, False, True, True), 2) == {2, 3}


def test_what_picks_share() -> None:
    one, other = frozenset({1, 2, 3, 4}), frozenset({3, 4, 5, 6})
    assert (shared(one, other), jaccard(one, other)) == (2 / 4, 2 / 6)
    assert (shared(one, one), jaccard(one, one)) == (1.0, 1.0)


def test_agreement_by_hand() -> None:
    """Four layers: 1 2 3 4, its reverse, and 1 2 4 3, which has one of six pairs turned around."""
    up, down, swapped = np.array([4.0, 3, 2, 1]), np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 1, 2])
    found = among([up, down, swapped], ALL, 2)
    # τ: up–down −1, up–swapped (5 − 1)/6, down–swapped −(5 − 1)/6. Picks: {0, 1}, {2, 3}, {0, 1}.
    assert (found.tau.low, found.tau.high) == pytest.approx((-1.0, 4 / 6))
    assert found.tau.mean == pytest.approx((-1 + 4 / 6 - 4 / 6) / 3)
    assert found.shared == Spread(1 / 3, 0.0, 1.0)
    assert found.jaccard == Spread(1 / 3, 0.0, 1.0)


def test_ties_as_scipy_has_them() -> None:
    random = np.random.default_rng(0)
    rankings = [random.integers(0, 5, 12).astype(float) for _ in range(4)]
    taus = [kendalltau(a, b).statistic for a, b in combinations(rankings, 2)]
    found = among(rankings, (True,) * 12, 3).tau
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(taus), min(taus), max(taus)))


def test_nothing_to_compare() -> None:
    scores = np.array([1.0, 2, 3, 4])
    assert str(among([scores], ALL, 2).tau) == "–"
    assert between([(scores, np.zeros(4))], ALL, 2).tau == Spread(None, None, None)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three draws left."""
    out = tmp_path_factory.mktemp("out")
    assert main(arguments(bundle, data, out)) == 0
    return out


def arguments(bundle: Path, data: Path, out: Path, draws: int = 3, *more: str) -> list[str]:
    settings = ["--draws", str(draws), "--rho", "0.4", "--batch", "8", "--out", str(out)]
    return [str(bundle), "--data", str(data), *settings, *more]


def test_each_draw_ranks_as_inspect_does(folder: Path, bundle: Path, data: Path) -> None:
    (study,) = read_record(folder).studies
    assert [layer.name for layer in study.layers] == list(tiny.LAYERS[:-1])
    assert (study.criteria, study.batches, len(study.draws)) == (("betti", "fisher"), 4, 3)
    for criterion, draw in (("betti", study.draws[0]), ("betti", study.draws[2]), ("fisher", study.draws[1])):
        settings = ("--data", data, "--rho", "0.4", "--batch", "8", "--criterion", criterion, "--seed", draw.seed)
        command = [sys.executable, "-m", "ondevice.inspect", bundle, *settings, "--json"]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True)
        table = json.loads(done.stdout)["ranking"]["selection"]["table"][:-1]
        assert draw.scores[criterion] == pytest.approx([row["score"] for row in table], rel=1e-4)
        picks = best(np.array(draw.scores[criterion]), study.able, study.pick_count(0.4))
        assert picks == {i for i, row in enumerate(table) if row["picked"]}
        np.testing.assert_allclose(np.mean(draw.single[criterion], axis=0), draw.scores[criterion])
        if criterion == "betti":
            assert np.array(draw.b1).T.tolist() == [row["b1_by_batch"] for row in table]
    assert study.draws[0].b1 != study.draws[1].b1


def test_the_summary_is_of_all_pairs(folder: Path) -> None:
    (study,) = read_record(folder).studies
    summary = summarise(study, 0.4)
    assert (summary.picks, summary.layers, summary.draws) == (3, 7, 3)
    by_name = {row.criterion: row for row in summary.stability}
    for name, row in by_name.items():
        pairs = list(combinations(study.rankings(name), 2))
        assert row.draws.tau.mean == pytest.approx(np.mean([kendalltau(a, b).statistic for a, b in pairs]))
        single = [pair for draw in study.draws for pair in combinations(draw.single[name], 2)]
        if name == "fisher":  # of one batch
            assert row.batches.tau.mean is None
        else:
            assert len(single) == 3 * 6
            assert row.batches.tau.mean == pytest.approx(np.nanmean([kendalltau(a, b).statistic for a, b in single]))
        size = [kendalltau(scores, 1 / study.sizes).statistic for scores in study.rankings(name)]
        assert row.with_size.tau.mean == pytest.approx(np.mean(size))
        assert len(row.always) <= 3 <= row.ever
    both = [kendalltau(draw.scores["betti"], draw.scores["fisher"]).statistic for draw in study.draws]
    assert summary.between["betti and fisher"].tau.mean == pytest.approx(np.mean(both))


def test_pictures_are_written_large_enough(folder: Path) -> None:
    (study,) = read_record(folder).studies
    stem = f"tiny-pictures-{study.fingerprint[:6]}"
    names = {f"{stem}-{what}{suffix}" for what in PICTURES for suffix in (".png", ".svg")}
    assert {path.name for path in folder.iterdir()} == names | {RECORD}
    for what in PICTURES:
        with Image.open(folder / f"{stem}-{what}.png") as picture:
            assert picture.size[0] >= 1200
            assert np.ptp(np.asarray(picture.convert("L"))) > 200
        text = (folder / f"{stem}-{what}.svg").read_text()
        assert text.startswith("<?xml")


def test_what_the_pictures_show(folder: Path) -> None:
    (study,) = read_record(folder).studies
    b1 = np.array([draw.b1 for draw in study.draws], float)
    one = replace(study, draws=study.draws[:1])
    clusters = np.arange(4 * 7).reshape(4, 7)
    with drawing():
        figures = [layers_picture(study, 0.4), layers_picture(one, 0.4, clusters)]
    for figure, values in zip(figures, (b1.mean(axis=1), b1[0]), strict=True):  # of draws; of batches of the only draw
        (points,) = figure.axes[0].lines
        np.testing.assert_allclose(points.get_ydata(), values.mean(axis=0))
        bars = figure.axes[0].collections[-1].get_segments()
        np.testing.assert_allclose([bar[:, 1] for bar in bars], np.stack([values.min(axis=0), values.max(axis=0)], 1))
    (points,) = figures[1].axes[1].lines
    np.testing.assert_allclose(points.get_ydata(), clusters.mean(axis=0))


def test_the_same_command_goes_on(
    folder: Path, bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(folder)
    (study,) = record.studies
    write_record(replace(record, studies=(replace(study, draws=study.draws[:1]),)), tmp_path)
    assert main(arguments(bundle, data, tmp_path, 2)) == 0
    captured = capsys.readouterr()
    assert "draw 1 of 2" not in captured.err
    assert "draw 2 of 2" in captured.err
    (now,) = read_record(tmp_path).studies
    assert [draw.scores for draw in now.draws] == [draw.scores for draw in study.draws[:2]]
    pictures = [path.read_bytes() for path in sorted(tmp_path.glob("*.svg"))]
    assert main(arguments(bundle, data, tmp_path, 2, "--json")) == 0
    captured = capsys.readouterr()
    assert captured.err == "", "nothing is left to measure"
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.svg"))] == pictures
    found = json.loads(captured.out)
    assert found["record"] == str(tmp_path / RECORD)
    assert len(found["pictures"]) == 2 * len(PICTURES)
    assert [row["criterion"] for row in found["studies"][0]["stability"]] == ["betti", "fisher"]


def test_another_criterion_takes_nothing_away(
    folder: Path, bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(read_record(folder), tmp_path)
    assert main(arguments(bundle, data, tmp_path, 1, "--criteria", "b1")) == 0
    capsys.readouterr()
    (before,), (after,) = read_record(folder).studies, read_record(tmp_path).studies
    assert [sorted(draw.scores) for draw in after.draws] == [["b1", "betti", "fisher"], *[["betti", "fisher"]] * 2]
    assert after.draws[1:] == before.draws[1:]
    assert after.draws[0].scores["betti"] == before.draws[0].scores["betti"]


def test_the_record_says_where_it_comes_from(folder: Path) -> None:
    document = json.loads((folder / RECORD).read_text())
    assert (document["format"], document["version"]) == ("adabet-ranking", 1)
    assert {"machine", "python", "runtime", "numpy", "scipy", "commit"} == document["studies"][0]["draws"][0][
        "environment"
    ].keys()
    assert len(document["studies"][0]["model_sha256"]) == 64


def test_a_record_that_is_none_is_refused(bundle: Path, data: Path, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"format": "other", "version": 1}', '{"format": "adabet-ranking", "version": 1}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(InputError, match="no record of this program"):
            read_record(tmp_path)
    assert main(arguments(bundle, data, tmp_path, 1)) == 3
    assert (tmp_path / RECORD).read_text() == text, "it is not overwritten"


def test_in_a_process_of_its_own(folder: Path, bundle: Path, data: Path) -> None:
    command = [sys.executable, "-m", "profiling", "ranking", *arguments(bundle, data, folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    (study,) = read_record(folder).studies
    tau = summarise(study, 0.4).stability[0].draws.tau
    assert f"{tau.mean:.2f} ({tau.low:.2f} to {tau.high:.2f})" in lines[2]
    assert lines[0] == "tiny, pictures: 3 of 7 layers at ρ 0.4; 3 draws of 4 batches of 8"
    assert [lines[row].split()[0] for row in (2, 4)] == ["betti", "fisher"]
    assert lines[6].startswith("betti and fisher ")
    for more, complaint in ((("--batch", "3"), "--batch must be"), (("--draws", "0"), "--draws must be")):
        failed = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert complaint in failed.stderr
