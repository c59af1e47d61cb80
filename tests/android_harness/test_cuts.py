"""The connection breaks again and again, anywhere in a push, a run and a pull: nothing is lost or left behind."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.android_harness.device import Device

ADAPT = ("--epochs", 2, "--batch", 8, "--threads", 1)
TRAFFIC = 700_000
"""Bytes that a run of the tiny network moves over the connection when nothing of it is on the device yet."""


@pytest.mark.parametrize(
    ("cuts", "seed"), [pytest.param(6, 0, id="6"), pytest.param(50, 1, id="50", marks=pytest.mark.slow)]
)
def test_broken_at_random_points(
    device: Device, bundle: Path, pictures: Path, tmp_path: Path, cuts: int, seed: int
) -> None:
    random_ = random.Random(seed)
    points = [random_.randrange(1000, TRAFFIC) for _ in range(cuts)]
    broken = failed = 0
    results = []
    with device.on(*points) as on:
        for number in range(2 * cuts):
            out = tmp_path / f"out{number}"
            given = ("--out", out, "--place", "adb", "--python", device.python, "--", *ADAPT)
            done = on.harness("run", bundle, pictures, *given)
            assert device.left() == []
            assert device.processes() == []
            if done.code == 10:  # it broke while the connection was made, before there was anything to come back to
                failed += 1
                assert "no adb daemon answers" in done.stderr
                continue
            done.succeeded()
            broken += json.loads((out / "profile.json").read_text())["reconnections"]
            with np.load(out / "run1" / "weights.npz") as weights:
                results.append({name: weights[name] for name in weights})
            if broken + failed >= cuts:
                break
            restored = on.harness("restore")
            assert restored.code in (0, 10), restored.stderr
            assert restored.code or not device.work.exists()
    assert broken >= cuts // 2
    for other in results[1:]:
        assert all(np.array_equal(other[name], results[0][name]) for name in results[0])
