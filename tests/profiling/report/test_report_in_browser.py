"""The page of a run in headless Chromium: nothing sticks out on phone and desktop, pictures load, nothing is amiss."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from profiling.report.page import main
from tests.profiling.report.finished_runs import TABLE, report, write_run

pytestmark = pytest.mark.slow  # `make test-browser`
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The page itself runs no scripts: a page around it looks into it.
PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
const frame = document.createElement("iframe");
frame.style = "border:0;width:WIDTHpx;height:900px";
frame.onload = () => {
  const inside = frame.contentDocument, root = inside.documentElement;
  for (const details of inside.querySelectorAll("details")) details.open = true;
  const pictures = [...inside.images];
  const found = {
    scroll: root.scrollWidth, client: root.clientWidth,
    pictures: pictures.map(one => ({
      loaded: one.complete && one.naturalWidth > 0,
      natural: one.naturalWidth, shown: one.getBoundingClientRect().width, right: one.getBoundingClientRect().right,
    })),
    text: parseFloat(frame.contentWindow.getComputedStyle(inside.body).fontSize),
  };
  const pre = document.createElement("pre");
  pre.textContent = JSON.stringify(found);
  document.body.append(pre);
  console.log("measured");
};
frame.src = "report.html";
document.body.append(frame);
</script>"""
LONG = "a_name_without_any_place_to_break_" * 3


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(f"none of {', '.join(BROWSERS)} is here: install Chromium")
    return found


@pytest.fixture(scope="module", params=["one run", "side by side", "long names, many classes"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a page."""
    made = tmp_path_factory.mktemp("page")
    if request.param == "one run":
        runs = [report()]
    elif request.param == "side by side":
        runs = [report(), report(criterion="head"), report(criterion="all")]
    else:
        labels = [*range(30)] * 2
        table = [replace(TABLE[0], layer=LONG, obstacle=LONG), *TABLE[1:]]
        runs = [report([f"{LONG}{i}" for i in range(30)], labels, labels, [i // 2 for i in labels], table, data=LONG)]
    folders = [write_run(made / f"run{i}", one) for i, one in enumerate(runs)]
    assert main([*map(str, folders), "--out", str(made / "page")]) == 0
    return made / "page"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Where the folder is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def measured(
    browser: str, folder: Path, address: str, width: int, probe: str = PROBE
) -> tuple[dict[str, Any], list[str]]:
    """What the probe found in the page at a width, and what stood on the console."""
    (folder / "probe.html").write_text(probe.replace("WIDTH", str(width)))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command += [
        f"--user-data-dir={folder.parent / 'profile'}",
        "--window-size=1400,1000",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", f"{address}/probe.html"], capture_output=True, text=True, timeout=300, check=True
    )
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    said = re.findall(r":CONSOLE[^\]]*\] \"(.*)\", source:", done.stderr)
    return json.loads(html.unescape(found[1])), said


@pytest.mark.parametrize("width", [360, 390, 640, 641, 1280])
def test_nothing_sticks_out(browser: str, folder: Path, address: str, width: int) -> None:
    found, said = measured(browser, folder, address, width)
    assert found["client"] == width
    assert found["scroll"] <= width
    assert found["pictures"]
    assert all(one["loaded"] for one in found["pictures"])
    assert all(one["right"] <= width for one in found["pictures"])
    assert all(one["shown"] >= 0.9 * one["natural"] for one in found["pictures"] if width != 641), "text gets small"
    assert max(one["natural"] for one in found["pictures"]) == (960 if width > 640 else 358)
    assert said == ["measured"]


def test_the_probe_sees_what_sticks_out_and_what_is_blocked(browser: str, folder: Path, address: str) -> None:
    page = folder / "report.html"
    good = page.read_text(encoding="utf-8")
    try:
        page.write_text(
            good.replace("<main>", '<main><script>1</script><div style="width:500px">x</div><img src="gone.png">'),
            encoding="utf-8",
        )
        found, said = measured(browser, folder, address, 390)
    finally:
        page.write_text(good, encoding="utf-8")
    assert found["scroll"] > 390
    assert [one["loaded"] for one in found["pictures"]].count(False) == 1
    assert any("Content Security Policy" in line for line in said)
