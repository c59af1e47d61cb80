"""The frameworks that have an environment of their own against ours: two small networks, all of their layers.

`make test` has none of them and skips these. They run in .venv-bench with pytest, hypothesis and ai-edge-litert.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from profiling.peers.command import PEERS, measured_by, why_not
from profiling.peers.comparison import disagreement

ROUNDING = 1e-5


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "executorch"])
def test_all_layers_train_as_ours_do(peer: str, whole: Path) -> None:
    trains_as_ours(peer, whole)


def test_executorch_trains_as_ours_do(folder: Path) -> None:
    # Not all layers: no gradient passes zeros at one side alone (docs/decisions.md), which the tiny network has.
    trains_as_ours("executorch", folder)


def trains_as_ours(peer: str, folder: Path) -> None:
    if why := why_not(peer, Path(sys.executable)):
        pytest.skip(why)
    ours, theirs = (measured_by(sys.executable, framework, folder) for framework in ("ours", peer))
    assert disagreement(ours, theirs) < ROUNDING
    assert max(theirs.losses) - min(theirs.losses) > 100 * ROUNDING
    assert 0 < theirs.base_bytes < theirs.peak_bytes


def test_a_python_that_lacks_a_peer_is_told() -> None:
    assert "No such file" in why_not("mnn", Path("no/such/python"))
