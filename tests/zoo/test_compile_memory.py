"""Compiling the largest network of the zoo takes little memory: weights go from file to file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b16", "resnet50"])
def test_compiling_all_layers_takes_less_than_80_mib(name: str) -> None:
    command = [sys.executable, "-m", "tests.bench.compile_cost", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert int(done.stdout.split()[-1]) < 80, done.stdout
