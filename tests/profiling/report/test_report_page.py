"""The page of a run: what it says, that it stands alone, and that no name of a user's gets out of its place."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

import profiling.report.page
from ondevice.ranking import CRITERIA, NAMED
from ondevice.selection import Ranked
from profiling.report.answers import Paired, Share, by_class, confused, confusion_matrix, same_images
from profiling.report.drawing import COLOURS, NARROW, WIDE, Picture, picture
from profiling.report.layers_picture import profile
from profiling.report.page import beside, main
from profiling.report.pictures import confused_pairs, confusion, learning, memory, timeline
from profiling.report.reading import FinishedRun, read_runs
from profiling.report.words import reasons, summary, verdict
from tests.profiling.report.finished_runs import MIB, PHASES, TABLE, events, report, write_run

EVIL = '</td></title><script>alert("1")</script>$x^{$ & \x07\ud800 猫'


def read(folder: Path) -> FinishedRun:
    return read_runs([folder])[0]


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words)).replace("\N{NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def svg_texts(address: str | None) -> list[str]:
    """Text of a picture, whose XML has to be well-formed."""
    assert address is not None
    kind, _, data = address.partition(",")
    assert kind == "data:image/svg+xml;base64"
    root = ElementTree.fromstring(base64.b64decode(data))
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


# Reading --------------------------------------------------------------------------------------------------------------


def test_phases_lie_where_the_events_say(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run"))
    assert [span.name for span in run.spans] == list(PHASES)
    assert [(span.start_s, span.seconds) for span in run.spans[:3]] == [(0.5, 1.0), (2.0, 2.0), (4.5, 3.0)]
    assert run.epoch_ends_s == (run.spans[7].start_s + 2,)
    assert run.on_the_clock


@pytest.mark.parametrize("logged", [[], events()[:-1], [*events(PHASES[:3])], [{"event": "end"}], [{"event": 3}, []]])
def test_phases_lie_end_to_end_without_events_of_this_run(tmp_path: Path, logged: list[Any]) -> None:
    run = read(write_run(tmp_path / "run", logged=logged))
    assert [(span.name, span.start_s) for span in run.spans[:3]] == [("open", 0.0), ("probe", 1.0), ("rank", 3.0)]
    assert not run.on_the_clock
    (run.folder / "events.jsonl").unlink()
    assert read(run.folder) == run


def damaged(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(changes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (damaged(peak_bytes="much"), r"Expected `int`, got `str` - at `\$.peak_bytes`"),
        (damaged(settings=None), "'NoneType' object"),
        (damaged(after=3), "'int' object"),
        (
            lambda d: d["selection"].update(table=d["selection"]["table"][:3] + d["selection"]["table"][:1]),
            "lacks a head",
        ),
        (lambda d: d["selection"].update(table=[]), "lacks a head"),
        (lambda d: d["after"].update(predicted=[3] * 30), "classes that do not exist"),
        (lambda d: d["before"].update(predicted=[-1] * 30), "classes that do not exist"),
        (lambda d: d["after"].update(predicted=[0] * 29), "29 answers to 30 of 30 images"),
        (lambda d: d["after"].update(accuracy=97.5), "after is no accuracy"),
        (lambda d: d["before"].update(images=0), "before is no accuracy"),
        (damaged(phases=[]), "no phase train"),
        (damaged(step_losses=[math.nan]), "a number is nan"),
        (damaged(version=2), "this program reads version 1"),
    ],
)
def test_damaged_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    path = write_run(tmp_path / "run") / "report.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}")
    assert re.search(complaint, said)
    assert not (tmp_path / "page").exists()


def test_names_are_as_short_as_they_can_be_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run"), write_run(tmp_path / "b" / "x")]
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run", "b/x"]
    assert [run.name for run in read_runs(folders[1:])] == ["run", "x"]


# What the answers say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "of"), [(79, 797), (777, 797), (0, 5), (5, 5), (1, 1)])
def test_intervals_are_wilsons(count: int, of: int) -> None:
    p, z = count / of, 1.959963984540054
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    assert Share(count, of).interval == pytest.approx((middle - half, middle + half), abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [(5, 1), (1, 5), (58, 4), (3, 3), (0, 1)])
def test_mcnemars_exact_test(first: int, second: int) -> None:
    n, fewer = first + second, min(first, second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert Paired(7, first, second, 3).p_value == pytest.approx(min(1.0, 2 * tail))


def test_runs_that_never_differ_do_not_differ() -> None:
    assert Paired(7, 0, 0, 3).p_value == 1.0


def test_confusion_is_counted_image_by_image(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    labels, answers = random.integers(0, 4, 200).tolist(), random.integers(0, 4, 200).tolist()
    made = report(classes="abcde", labels=labels, before=labels, after=answers)
    run = read(write_run(tmp_path / "run", made))
    matrix = confusion_matrix(run)
    pairs = list(zip(labels, answers, strict=True))
    assert matrix.tolist() == [[pairs.count((label, answer)) for answer in range(5)] for label in range(5)]
    assert by_class(matrix) == [Share(pairs.count((c, c)), labels.count(c)) for c in range(4)] + [None]
    found = confused(matrix)
    assert sum(pair.share.count for pair in found) == sum(label != answer for label, answer in pairs)
    assert [pair.share.count for pair in found] == sorted((pair.share.count for pair in found), reverse=True)
    assert all(pair.share == Share(pairs.count((pair.label, pair.answer)), labels.count(pair.label)) for pair in found)


def test_runs_are_paired_on_the_same_images_only(tmp_path: Path) -> None:
    one = report()
    others = [one, replace(one, dataset_fingerprint="00" * 32), replace(one, test_labels=(0,) * 30)]
    folders = [write_run(tmp_path / str(i), made) for i, made in enumerate([one, *others])]
    first, *rest = read_runs(folders)
    assert [same_images(first, other) for other in rest] == [True, False, False]
    labels = np.array([0, 1, 2, 0, 1])
    assert Paired.of(labels, np.array([0, 1, 2, 1, 0]), np.array([0, 0, 0, 0, 2])) == Paired(1, 2, 1, 1)


def test_verdicts() -> None:
    assert "betti is ahead by more than chance explains (p < 0.0001" in verdict("betti", "head", Paired(719, 58, 5, 15))
    assert "head is ahead, but chance alone may do that (p 0.22" in verdict("betti", "head", Paired(7, 1, 5, 0))
    assert "Equally many" in verdict("betti", "head", Paired(7, 2, 2, 0))


# Words and pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", [*CRITERIA, NAMED])
def test_every_criterion_is_explained_and_drawn(tmp_path: Path, criterion: str) -> None:
    table = [row if criterion in ("betti", "b1") else replace(row, b1=None, b1_by_batch=()) for row in TABLE]
    run = read(write_run(tmp_path / "run", report(table=table, criterion=criterion)))
    first, *_ = reasons(run)
    assert first.startswith(("A layer is", "Layers", "The layers", "Every layer", "Only the head", "Of every layer"))
    assert any("ρ = 0.25, the fraction of the layers to train, makes 1 of 4." in text for text in reasons(run)) == (
        criterion not in ("all", "head", "bias", NAMED)
    )
    titles = [axis.get_title() for axis in profile(run, wide=True).axes]
    assert ("b1: loops" in titles) == (criterion in ("betti", "b1"))
    assert len(titles) == 1 + (criterion in ("betti", "b1")) + (criterion in ("betti", "fisher", "inverse-size"))
    assert len(profile(run, wide=False).axes) == (2 if criterion in ("betti", "b1", "fisher", "inverse-size") else 1)


def test_the_summary_says_what_was_done(tmp_path: Path) -> None:
    def of(name: str, *picked: bool, **settings: Any) -> str:
        table = [replace(row, picked=flag) for row, flag in zip(TABLE, picked, strict=True)]
        return summary(read(write_run(tmp_path / name, report(table=table, **settings))))

    betti = of("betti", False, False, True, True)
    assert betti.startswith(
        "Of 4 layers, 1 was picked for having the most loops in their activations for their size, and "
    )
    assert "1,234 parameters" in betti
    assert "55 s and at most 112 MiB" in betti  # 1 + 2 + … + 10 seconds
    assert of("two", True, False, True, True).startswith("Of 4 layers, 2 were picked")
    assert of("head", False, False, False, True, criterion="head").startswith(
        "Of 4 layers, only the head was retrained"
    )
    assert of("all", True, True, True, True, criterion="all").startswith("All 4 layers were retrained")
    assert of("bias", True, True, True, True, criterion="bias").startswith("Of all 4 layers the biases were retrained")


def test_what_kept_layers_from_training_is_told(tmp_path: Path) -> None:
    table = (
        replace(TABLE[0], obstacle="no gradient for FLOOR"),
        replace(TABLE[1], over_budget=True),
        replace(TABLE[2], channels=(1, 4)),
        TABLE[3],
    )
    run = read(write_run(tmp_path / "run", report(table=table, rho_channels=0.5, budget_bytes=100 * MIB)))
    texts = " ".join(reasons(run))
    assert "do not fit the budget with better ones: expand." in texts
    assert "1 of 4 layers cannot train (no gradient for FLOOR)" in texts
    assert "only a fraction 0.5 of the channels" in texts
    legend = [text.get_text() for text in profile(run, wide=True).legends[0].get_texts()]
    assert legend == ["trains", "stays as it was", "one batch", "cannot train", "over budget"]


def texts_of(figure: Figure) -> set[str]:
    return {text.get_text() for axis in figure.axes for text in axis.texts}


def test_pictures_hold_the_figures(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run"))
    assert {"40", "48", "88, predicted 70", "96, predicted 90", "112, predicted 50"} <= texts_of(memory(run, wide=True))
    assert {"1.0 s", "10 s"} <= texts_of(timeline(run, wide=False))
    assert {"0.88", "0.50", "33.3 %", "93.3 %"} <= texts_of(learning(run, wide=True))
    assert texts_of(confusion(run, confusion_matrix(run), wide=False)) == {"10", "8", "2"}


def test_pictures_without_what_the_system_does_not_tell(tmp_path: Path) -> None:
    phases = [replace(phase, anonymous_bytes=None, file_bytes=None) for phase in report().phases]
    run = read(write_run(tmp_path / "run", replace(report(), phases=tuple(phases), step_losses=())))
    legend = [text.get_text() for text in memory(run, wide=True).legends[0].get_texts()]
    assert legend == ["peak, measured", "peak, predicted"]
    assert "0.50" in texts_of(learning(run, wide=True))


def test_pictures_fit_their_widths_and_can_be_read(tmp_path: Path) -> None:
    classes = [f"a class with a long name {i}" for i in range(20)]
    labels = [*range(20)] * 30
    run = read(write_run(tmp_path / "run", report(classes, labels, labels, [i % 19 for i in labels])))
    matrix = confusion_matrix(run)
    many = [f"layer_{i}_of_a_deep_network" for i in range(30)]
    table = [*(Ranked(name, 3.0, (2, 4), 100 + i, 3.0 / (100 + i), i < 8) for i, name in enumerate(many)), TABLE[3]]
    deep = read(write_run(tmp_path / "deep", report(table=table)))
    drawn = [
        picture("confusion", "", lambda wide: confusion(run, matrix, wide)),
        picture("pairs", "", lambda wide: confused_pairs(run, confused(matrix), wide)),
        picture("profile", "", lambda wide: profile(deep, wide)),
        picture("memory", "", lambda wide: memory(run, wide)),
    ]
    for one in drawn:
        for address, most in ((one.wide, WIDE), (one.narrow, NARROW)):
            text = base64.b64decode(address.partition(",")[2]).decode()
            width = re.search(r'width="([\d.]+)" height="[\d.]+" viewBox', text)
            assert width is not None
            assert float(width[1]) <= most
            sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", text)]
            assert sizes
            assert min(sizes) >= 8
        assert one.png.startswith(b"\x89PNG")


def test_colours_follow_the_theme(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run"))
    text = base64.b64decode(picture("memory", "", lambda wide: memory(run, wide)).wide.partition(",")[2]).decode()
    drawing = text.partition("</style>")[2]
    assert not [light for light, _ in COLOURS.values() if light in drawing]
    assert "prefers-color-scheme:dark" in text
    used = set(re.findall(r"var\(--(\w+)\)", drawing))
    assert {"main", "soft", "ink", "mark"} <= used <= set(COLOURS)


# The page -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose every name is hostile."""
    folder = tmp_path_factory.mktemp("one")
    table = [replace(TABLE[0], layer=EVIL, obstacle=EVIL), *TABLE[1:]]
    made = report(classes=(EVIL, "dog", "bird"), table=table, data=EVIL)
    made = replace(made, network=EVIL, weights=EVIL, dataset=f"{EVIL}: images", adapted=EVIL)
    assert main([str(write_run(folder / "<b>run", made))]) == 0
    return folder / "<b>run-report"


def test_a_page_stands_alone(one: Path) -> None:
    page = Page(one / "report.html")
    pictures = [image["src"] for image in page.all("img")] + [source["srcset"] for source in page.all("source")]
    assert len(pictures) == 10
    assert all(address is not None and address.startswith("data:image/svg+xml;base64,") for address in pictures)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?:", "".join(page.words))
    assert {path.name for path in one.iterdir()} == {
        "report.html", "profile.png", "memory.png", "timeline.png", "learning.png", "confusion.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in one.glob("*.png"))


def test_pictures_have_words_in_their_place(one: Path) -> None:
    told = [image["alt"] for image in Page(one / "report.html").all("img")]
    assert all(told)
    assert any("train 96 MiB" in text and "Predicted: prefix 70 MiB, train 90 MiB" in text for text in told if text)
    assert any("Trained beside the head: project." in text for text in told if text)


def test_names_stay_text(one: Path) -> None:
    page = Page(one / "report.html")
    shown = EVIL.replace("\x07", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "\N{REPLACEMENT CHARACTER}")
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "b", "a", "code", "span",
        "dl", "dt", "dd", "div", "table", "tr", "th", "td", "figure", "figcaption", "picture", "source", "img",
        "details", "summary",
    }  # fmt: skip
    assert page.text.count(shown) >= 8
    assert not [b for tag, b in page.elements if tag == "b" and b]
    (matrix,) = (image["src"] for image in page.all("img") if "Most often" in str(image["alt"]))
    assert any(text.startswith("</td></") and "…" in text for text in svg_texts(matrix))


def test_the_page_says_what_cost_and_gain_were(one: Path) -> None:
    text = Page(one / "report.html").text
    assert "test accuracy 33.3 % → 93.3 %" in text
    assert "Training took 8.0 s of the 55 s, and 96 MiB at its peak; 90 MiB were predicted" in text
    assert "The most memory was taken by the phase “evaluate”, 112 MiB." in text
    assert "Of 30 test images, 10 were answered right before, as good as guessing, and 28 after." in text
    assert "turned 18 wrong answers right, and 0 right answers wrong" in text
    assert "bird answered as dog (2 of 10)" in text
    assert "8 of 10 80.0 %" in text
    assert "learning rate 0.01" in text
    assert "ai-edge-litert 2.3.0" in text


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Pictures by name as they are made for a desktop; nothing is drawn, which takes seconds a page."""
    made: dict[str, Figure] = {}

    def undrawn(name: str, alt: str, draw: Callable[[bool], Figure]) -> Picture:
        draw(False)
        made[name] = draw(True)
        return Picture(name, alt, "data:,", "data:,", b"")

    monkeypatch.setattr(profiling.report.page, "picture", undrawn)
    return made


def test_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str], figures: dict[str, Figure]) -> None:
    folders = [write_run(tmp_path / "betti"), write_run(tmp_path / "old", report(criterion="head", epochs=3))]
    path = folders[1] / "report.json"
    document = json.loads(path.read_text())
    del document["test_labels"], document["before"]["predicted"], document["after"]["predicted"]
    del document["settings"]["rho_channels"]
    path.write_text(json.dumps(document))
    assert main([*map(str, folders), "--out", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page' / 'report.html'}\n"
    page = Page(tmp_path / "page" / "report.html")
    assert "2 runs side by side: betti, old" in page.text
    assert "They also differ in epochs" in page.text
    assert "betti and old are not compared image by image: a report of an older version" in page.text
    assert "run the adaptation again" in page.text
    targets = [str(link["href"]) for link in page.all("a")]
    assert targets == [f"#{article['id']}" for article in page.all("article")] == ["#run-1", "#run-2"]
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"comparison.png", "1-betti-profile.png", "2-old-profile.png", "1-betti-confusion.png"} <= names
    assert "2-old-confusion.png" not in names
    assert texts_of(figures["comparison"]) == {"93.3 %", "112", "55 s"}


def test_runs_on_the_same_images_are_compared_one_by_one(tmp_path: Path) -> None:
    made = {"betti": report(), "head": report(after=(0, 1, 0) * 10), "other": report(labels=(0,) * 30)}
    betti, head, other = read_runs([write_run(tmp_path / name, one) for name, one in made.items()])
    text = beside(betti, head)
    assert "on the same 30 test images: 20 both right, 8 only betti, 0 only head, 2 neither" in text
    assert "betti is ahead by more than chance explains (p 0.0078, McNemar's exact test)" in text  # 2 / 2**8
    assert (
        beside(betti, other) == "betti and other were tested on other images, so they are not compared image by image."
    )


def test_many_classes_show_the_worst_pairs(tmp_path: Path, figures: dict[str, Figure]) -> None:
    classes, labels = [f"class {i}" for i in range(21)], [*range(21)] * 2
    answers = [*range(21), *range(20), 3]
    assert main([str(write_run(tmp_path / "some", report(classes, labels, labels, answers)))]) == 0
    (axis,) = figures.pop("confusion").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["class 20 → class 3"]
    assert [text.get_text() for text in axis.texts] == ["1 of 2"]
    assert main([str(write_run(tmp_path / "none", report(classes, labels, labels, labels)))]) == 0
    assert "Every test image was answered right." in Page(tmp_path / "none-report" / "report.html").text
    assert "confusion" not in figures


def test_what_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    for out, code, complaint in (
        (run, 2, "is a run folder"),
        (run / "report.json" / "page", 7, "choose another --out"),
    ):
        assert main([str(run), "--out", str(out)]) == code
        assert complaint in capsys.readouterr().err
    assert main([str(run), str(run)]) == 2
    assert "given twice" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["events.jsonl", "report.json"]
