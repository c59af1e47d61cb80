"""Run our commands as a user does: in a fresh process, with stdout and stderr apart."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600


@dataclass(frozen=True)
class Finished:
    """What a process left."""

    code: int
    stdout: str
    stderr: str

    def succeeded(self) -> Finished:
        """Itself; fails the test with what the process said if it ended with an error."""
        assert self.code == 0, f"exit code {self.code}\n{self.stdout}\n{self.stderr}"
        return self


@dataclass(frozen=True)
class Commands:
    """Starts commands in `folder`, a directory outside of the repository; the cache they keep lies in it."""

    folder: Path
    python: Path = Path(sys.executable)
    search: tuple[Path, ...] = ()
    """Folders that Python searches for modules before all others."""

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "adabet"

    def adapt(self, *arguments: object) -> Finished:
        """`python -m ondevice.adapt …`."""
        return self.run("-m", "ondevice.adapt", *arguments)

    def converter(self, *arguments: object) -> Finished:
        """`python -m converter …`."""
        return self.run("-m", "converter", *arguments)

    def run(self, *arguments: object) -> Finished:
        """`python …`."""
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def on(self, python: Path) -> Commands:
        """The same on another Python."""
        return replace(self, python=python)

    def searching(self, folder: Path) -> Commands:
        """The same with `folder` before everything else that Python can import."""
        return replace(self, search=(folder, *self.search))

    def _environment(self) -> dict[str, str]:
        search = [*map(str, self.search), str(ROOT)]
        if self.python == Path(sys.executable) and "PYTHONPATH" in os.environ:
            search.append(os.environ["PYTHONPATH"])
        return {**os.environ, "PYTHONPATH": os.pathsep.join(search), "XDG_CACHE_HOME": str(self.folder / "cache")}
