"""Mutations, run in batches in forked children: what crashes, hangs, grows or raises what it should not is a finding.

The parent imports everything once and never runs native code that starts threads. A child does up to `BATCH` mutations
in a folder of its own, and says before each what it does; where it dies, the mutation is done once more, alone.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.meter import keep_large_blocks_apart
from signatures.errors import AdabetError
from tests.fuzz import edits, graphs
from tests.fuzz.edits import Edit
from tests.fuzz.targets import TARGETS

BATCH = 50
OF_GRAPHS = 0.4
"""Of the mutations of models: those of ops rather than bytes."""
SECONDS = 10.0
"""For one mutation."""
ADDRESS_BYTES = 3 << 30
"""Of address space, above what a child starts with."""
GROWTH_BYTES = 600 << 20
"""Of resident memory, likewise. An image may have 89 million pixels."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_NEVER = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "socket.connect", "pickle.find_class")


@dataclass(frozen=True)
class Recipe:
    """A mutation as data: which target, which of its files, what is done to it."""

    target: str
    file: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation: `accepted`, the name of an AdabetError, or what is wrong."""

    name: str
    is_finding: bool
    detail: str = ""


@dataclass
class Result:
    """What became of all of them."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By target and name of outcome."""
    findings: list[tuple[Recipe, Outcome]] = field(default_factory=list)
    seconds: float = 0.0


def recipe_of(seeds: Path, seed: int, number: int) -> Recipe:
    """Mutation `number` of a seed, the same every time."""
    random = np.random.default_rng([seed, number])
    shares = np.array([target.share for target in TARGETS.values()])
    name = list(TARGETS)[int(random.choice(len(shares), p=shares / shares.sum()))]
    files = TARGETS[name].files
    file = files[int(random.integers(len(files)))]
    content = (seeds / file).read_bytes()
    if file.endswith(".tflite") and random.random() < OF_GRAPHS:
        return Recipe(name, file, tuple(graphs.draw(random, content)))
    return Recipe(name, file, tuple(edits.draw(random, content, file.endswith(".json"))))


def spoilt(recipe: Recipe, content: bytes) -> bytes:
    """The file after its edits."""
    of_graphs = any(edit[0] in graphs.NAMES for edit in recipe.edits)
    return graphs.apply(content, recipe.edits) if of_graphs else edits.apply(content, recipe.edits)


def perform(recipe: Recipe, folder: Path) -> Outcome:
    """One mutation in `folder`, which holds the seeds, and holds them again afterwards."""
    target = TARGETS[recipe.target]
    work = folder / "work"
    work.mkdir()
    kept = {path: path.read_bytes() for path in (folder / recipe.file, folder / "bundle" / "manifest.json")}
    try:
        (folder / recipe.file).write_bytes(spoilt(recipe, kept[folder / recipe.file]))
        target.vouch(folder)
        target.run(folder)
        return Outcome("accepted", False)
    except AdabetError as error:
        name = type(error).__name__ if type(error).__name__ != "DocumentedExitError" else str(error)
        return Outcome("bug" if error.exit_code == AdabetError.exit_code else name, error.exit_code == 70, str(error))
    except BaseException as error:
        return Outcome(f"{type(error).__name__}", True, traceback.format_exc())
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
        shutil.rmtree(work)


def run(
    seeds: Path,
    recipes: Sequence[Recipe] | Callable[[int], Recipe],
    count: int,
    jobs: int = 1,
    seconds: float = float("inf"),
    told: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Perform `count` mutations, `jobs` children at a time; after `seconds` no further batch is begun."""
    recipe = recipes if callable(recipes) else recipes.__getitem__
    result, started = Result(), time.monotonic()
    waiting = [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)][::-1]
    running: list[_Child] = []
    while waiting or running:
        late = time.monotonic() - started > seconds
        while waiting and not late and len(running) < jobs:
            running.append(_Child(seeds, recipe, waiting.pop()))
        if not running:
            break
        select.select([child.pipe for child in running], [], [], 0.5)
        for child in list(running):
            for number, outcome in child.news():
                if outcome.name in ("crash", "hang") and len(child.numbers) > 1:
                    waiting.append(range(number, number + 1))  # alone, to be sure that it is this one
                    continue
                result.counts[recipe(number).target, outcome.name] += 1
                if outcome.is_finding:
                    result.findings.append((recipe(number), outcome))
            if child.ended:
                running.remove(child)
                if child.left:
                    waiting.append(child.left)
        result.seconds = time.monotonic() - started
        told(result)
    return result


class _Child:
    """A forked process that does some mutations."""

    def __init__(self, seeds: Path, recipe: Callable[[int], Recipe], numbers: range) -> None:
        self.numbers = numbers
        self.left = numbers
        """Those that nothing is known of yet."""
        self.ended = False
        self._text = b""
        self._since = time.monotonic()
        self._box = Path(tempfile.mkdtemp(prefix="adabet-fuzz-"))
        self.pipe, write = os.pipe()
        sys.stdout.flush()
        self._process = os.fork()
        if self._process == 0:
            os.close(self.pipe)
            try:
                _child(seeds, recipe, numbers, self._box, write)
            except BaseException:  # the harness itself
                os.write(write, traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(write)
        os.set_blocking(self.pipe, False)

    def news(self) -> Iterator[tuple[int, Outcome]]:
        """Mutations that ended since."""
        try:
            while piece := os.read(self.pipe, 1 << 16):
                self._text += piece
            closed = True
        except BlockingIOError:
            closed = False
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            number, *outcome = json.loads(line)
            self._since = time.monotonic()
            self.left = range(number + 1, self.numbers.stop)
            yield number, Outcome(*outcome)
        late = time.monotonic() - self._since > SECONDS + 2 * (self.left == self.numbers)  # the first has to copy
        if closed or late:
            yield from self._buried(late and not closed)

    def _buried(self, late: bool) -> Iterator[tuple[int, Outcome]]:
        if late:
            os.kill(self._process, signal.SIGKILL)
        _, status = os.waitpid(self._process, 0)
        os.close(self.pipe)
        said = self._text.decode() + "".join(p.read_text(errors="replace")[-2000:] for p in self._box.glob("said"))
        shutil.rmtree(self._box, ignore_errors=True)
        self.ended = True
        if self.left and not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == RESTART):
            number = self.left.start
            self.left = self.left[1:]
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
            yield number, Outcome("hang" if late else "crash", True, f"{how}: {said}")


RESTART = 3
"""How a child ends that wants to be followed by a fresh one."""


def _child(seeds: Path, recipe: Callable[[int], Recipe], numbers: range, box: Path, write: int) -> None:
    folder = box / "seeds"
    shutil.copytree(seeds, folder)
    for name in ("empty", "home", "tmp"):
        (box / name).mkdir()
    os.chdir(box / "empty")
    os.environ.update(HOME=str(box / "home"), XDG_CACHE_HOME=str(box / "home"), TMPDIR=str(box / "tmp"))
    tempfile.tempdir = str(box / "tmp")
    said = os.open(box / "said", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.fsync = lambda descriptor: None  # nothing here has to outlive a power cut, and disks are slow
    os.dup2(said, 1)
    os.dup2(said, 2)
    keep_large_blocks_apart()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _status("VmSize") + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = _status("VmHWM")
    changed = _watched(box)
    for number in numbers:
        os.ftruncate(said, 0)
        os.lseek(said, 0, os.SEEK_SET)
        outcome = perform(recipe(number), folder)
        sys.stdout.flush()
        if outcome.name == "AssertionError":
            outcome = Outcome("exit code 70", True, (box / "said").read_text(errors="replace")[-3000:])
        grown = _status("VmHWM") - before
        if changed:
            outcome = Outcome("changes", True, "; ".join(changed))
        elif any((box / "empty").iterdir()):
            outcome = Outcome("changes", True, str(sorted(box.glob("empty/*"))))
        elif grown > GROWTH_BYTES and not outcome.is_finding:
            outcome = Outcome("memory", True, f"{grown >> 20} MiB; {outcome.name}: {outcome.detail}")
        os.write(write, json.dumps([number, outcome.name, outcome.is_finding, outcome.detail[-4000:]]).encode() + b"\n")
        if outcome.is_finding:
            os._exit(RESTART)


def _watched(box: Path) -> list[str]:
    """What is done outside of `box` from now on, as far as Python does it."""
    found: list[str] = []

    def is_outside(path: Any) -> bool:
        if isinstance(path, int):
            return False
        name = str(Path(os.fsdecode(path)).absolute())
        return not name.startswith((f"{box}{os.sep}", "/dev/null", "/proc/self/")) or ".." in Path(name).parts

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NEVER:
            found.append(f"{event} {arguments!r}"[:300])
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and is_outside(path):
                found.append(f"opened {path!r}")
        elif (
            event in _CHANGES
            and not any(isinstance(a, int) and a > 0 for a in arguments[1:2])
            and is_outside(arguments[0])
        ):
            found.append(f"{event} {arguments!r}"[:300])

    sys.addaudithook(hook)
    return found


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:  # noqa: PTH123 (a Path per call is slower)
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{name}:"))
