"""A good bundle and good data, copied for each test to spoil, and what a refusal has to look like."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end import tiny
from tests.end_to_end.commands import Commands, Finished

RESULTS = {"adapted.tflite", "weights.npz", "report.json"}
SETTINGS = ("--batch", tiny.BATCH, "--rho", tiny.RHOS[0], "--epochs", 1, "--threads", 1)


@dataclass(frozen=True)
class Abused:
    """A bundle and data of one test's own, and how to adapt the one to the other."""

    commands: Commands
    bundle: Path
    data: Path

    @property
    def run(self) -> Path:
        return self.commands.folder / "run"

    def adapt(self, *more: object, out: Path | None = None) -> Finished:
        """Adapt, with settings that work; `more` replaces them."""
        return self.commands.adapt(
            self.bundle, "--data", self.data, "--out", self.run if out is None else out, *SETTINGS, *more
        )

    def refused(self, code: int, *said: str, by: Callable[[], Finished] | None = None) -> str:
        """Adapt, and check that it ends with `code`, in one clear line, and that nothing changed but traces of the run.

        Returns the line. `by` runs the command where it is another.
        """
        before = snapshot(self.commands.folder)
        finished = (by or self.adapt)()
        line = check_refusal(finished, code, *said)
        after = snapshot(self.commands.folder)
        assert {path: before[path] for path in before if not is_trace(path)}.items() <= after.items()
        assert not [path for path in after.keys() - before.keys() if path.name in RESULTS and not is_trace(path)]
        return line


def check_refusal(finished: Finished, code: int, *said: str) -> str:
    """The one line of a refusal, after checking that there is no other and no traceback."""
    assert finished.code == code, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    assert "Warning" not in finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if "error:" in line]
    assert finished.stderr.endswith(f"{line}\n")
    for text in said:
        assert text in line
    return line


def is_trace(path: Path) -> bool:
    """Whether it is one of the files that tell about a run, which the next run may replace, or of the cache."""
    return path.name == "events.jsonl" or not {"work", "cache"}.isdisjoint(path.parts)


def snapshot(folder: Path) -> dict[Path, str]:
    """Every file below `folder`, by relative path, with its digest."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pictures(tmp_path_factory.mktemp("good") / "pictures")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    return tiny.write_bundle(tmp_path_factory.mktemp("good") / "bundle", own_head=True, probe=pictures)


@pytest.fixture
def abused(tmp_path: Path, bundle: Path, pictures: Path) -> Abused:
    """Copies of the bundle and of the data."""
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copytree(pictures, tmp_path / "pictures")
    return Abused(Commands(tmp_path), tmp_path / "bundle", tmp_path / "pictures")


def edit_manifest(bundle: Path, edit: Callable[[dict], None]) -> None:
    """Change the manifest in place."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def replace_file(bundle: Path, name: str, content: bytes) -> None:
    """Change a file of the bundle, and have the manifest vouch for it."""
    (bundle / name).write_bytes(content)

    def vouch(manifest: dict) -> None:
        (entry,) = (entry for entry in manifest["files"] if entry["name"] == name)
        entry.update(sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))

    edit_manifest(bundle, vouch)
