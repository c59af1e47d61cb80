"""A model is rewritten without its weights ever being in memory that only this process has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from signatures.builder import GraphBuilder
from signatures.graph import Graph, Model
from signatures.tflite_io import write_model

MATRICES, SIDE = 4, 2560
MODEL_BYTES = MATRICES * SIDE * SIDE * 4
ALLOWED_BYTES = 24 * 2**20
"""Private memory that the rewriting process may add: a quarter of the model, so that one copied weight breaks it."""

REWRITE = """
import resource, sys
from pathlib import Path
from signatures.tflite_io import model_bytes, read_model, write_model

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key + ":"))

way, source, target, allowed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
limit = status("VmData") + allowed
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # the kernel refuses private writable memory beyond it
before = status("RssAnon")
try:
    model = read_model(source)
    write_model(model, target) if way == "write" else model_bytes(model)
except MemoryError:
    raise SystemExit("out of memory")
print(status("RssAnon") - before)
"""


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four dense layers, 105 MB."""
    b = GraphBuilder("main")
    x = b.input("x", (1, SIDE))
    y = x
    for i in range(MATRICES):
        y = b.fully_connected(y, b.const(np.full((SIDE, SIDE), i, np.float32)))
    path = tmp_path_factory.mktemp("large") / "large.tflite"
    graph: Graph = b.graph([y])
    write_model(Model((graph,), ()), path)
    return path


def rewrite(way: str, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REWRITE, way, str(source), str(target), str(ALLOWED_BYTES)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.skipif(sys.platform != "linux", reason="limits private memory the way Linux does")
class TestPrivateMemory:
    def test_rewriting_needs_little(self, large_model: Path, tmp_path: Path) -> None:
        target = tmp_path / "again.tflite"
        done = rewrite("write", large_model, target)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < ALLOWED_BYTES
        assert target.stat().st_size == large_model.stat().st_size > MODEL_BYTES
        assert same_bytes(target, large_model)

    def test_the_limit_bites(self, large_model: Path, tmp_path: Path) -> None:
        """Making the same file in memory does not fit: the test above can fail."""
        done = rewrite("bytes", large_model, tmp_path / "never")
        assert done.returncode == 1
        assert "out of memory" in done.stderr


def same_bytes(left: Path, right: Path) -> bool:
    return bool(np.array_equal(np.memmap(left, np.uint8, "r"), np.memmap(right, np.uint8, "r")))
