"""Checkpoints: the safetensors library reads them, what was written comes back bit for bit, and nothing else does."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ondevice.checkpoint import DURABLE, LATEST, Checkpoints, read_checkpoint, write_checkpoint
from ondevice.optimizer import Trainee
from ondevice.training import Progress
from signatures.errors import InputError
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.subset import Subset
from tests.signatures.example_model import network

SUBSET = Subset(find_layers(network())[-2:])
PROGRESS = Progress((0.5, 0.25, 1 / 3), (1.5, 0.1))


def trainee(seed: int = 0, kind: str = "adam") -> Trainee:
    """In the middle of a training."""
    random = np.random.default_rng(seed)
    start = {p.name: random.normal(size=p.shape).astype(np.float32) for p in SUBSET.parameters()}
    made = Trainee(Optimizer(kind), start, SUBSET)
    for _ in range(3):
        made.add({name: random.normal(size=value.shape) for name, value in start.items()})
        made.step(0.1)
    return made


def same(one: Trainee, other: Trainee) -> bool:
    arrays = [(one.weights, other.weights), *((one.state[slot], other.state[slot]) for slot in one.state)]
    return one.powers == other.powers and all(
        np.array_equal(a[name].view(np.uint32), b[name].view(np.uint32)) for a, b in arrays for name in a
    )


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_comes_back(tmp_path: Path, kind: str, durable: bool) -> None:
    path, written, other = tmp_path / "c.safetensors", trainee(0, kind), trainee(1, kind)
    write_checkpoint(path, "run", written, PROGRESS, durable)
    assert not same(written, other)
    assert read_checkpoint(path, "run", other) == PROGRESS
    assert same(written, other)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_library_reads_it(tmp_path: Path, kind: str) -> None:
    path, written = tmp_path / "c.safetensors", trainee(0, kind)
    write_checkpoint(path, "run", written, PROGRESS)
    read = load_file(path)
    expected = {f"weight:{name}": value for name, value in written.weights.items()}
    for slot, values in written.state.items():
        expected |= {f"{slot}:{name}": value for name, value in values.items()}
    assert read.keys() == {*expected, "losses"}
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value)
    np.testing.assert_array_equal(read["losses"], PROGRESS.losses)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["steps"] == "3"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**9), change=st.integers(1, 255))
def test_one_changed_byte_is_found(tmp_path: Path, place: int, change: int) -> None:
    path, reader = tmp_path / "c.safetensors", trainee(1)
    write_checkpoint(path, "run", trainee(), PROGRESS)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with pytest.raises(InputError, match="no whole checkpoint of this run"):
        read_checkpoint(path, "run", reader)
    assert same(reader, trainee(1))


def with_header(edit: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def edited(content: bytes) -> bytes:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        edit(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return edited


def metadata(**fields: object) -> Callable[[bytes], bytes]:
    return with_header(lambda header: header["__metadata__"].update(fields))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-1],
    "too long": lambda content: content + b"\0",
    "a header of 2**63 bytes": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "no JSON": lambda content: content[:8] + b"[" * 100_000,
    "no metadata": with_header(lambda header: header.pop("__metadata__")),
    "another format": metadata(format="zip"),
    "a later version": metadata(version="2"),
    "of another run": metadata(run="other"),
    "a billion steps": metadata(steps="1000000000"),
    "steps below zero": metadata(steps="-1"),
    "steps that are no number": metadata(steps="3.5"),
    "seconds of 400 digits": metadata(epoch_seconds="[" + "9" * 400 + "]"),
    "seconds that are none": metadata(epoch_seconds="[NaN]"),
    "powers beyond float64": metadata(powers='{"beta1_power": "0x1p99999", "beta2_power": "0x1p0"}'),
    "powers of others": metadata(powers="{}"),
    "metadata that is no text": metadata(steps=3),
    "a tensor fewer": with_header(lambda header: header.pop("losses")),
    "a tensor more": with_header(lambda header: header.update(more=header["losses"])),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_anything_else_is_refused(tmp_path: Path, case: str) -> None:
    path, reader = tmp_path / "c.safetensors", trainee(1)
    write_checkpoint(path, "run", trainee(), PROGRESS)
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    with pytest.raises(InputError, match="no whole checkpoint of this run"):
        read_checkpoint(path, "run", reader)
    assert same(reader, trainee(1))


@pytest.mark.parametrize("latest", LATEST)
def test_the_newest_that_is_whole_is_read(tmp_path: Path, latest: str) -> None:
    older, newer, reader = trainee(2), trainee(3), trainee(1)
    write_checkpoint(tmp_path / DURABLE, "run", older, Progress((0.5,), (1.0,)))
    write_checkpoint(tmp_path / latest, "run", newer, PROGRESS)
    assert Checkpoints(tmp_path, "run").read(reader) == PROGRESS
    assert same(reader, newer)
    (tmp_path / latest).write_bytes(b"a power cut")
    assert Checkpoints(tmp_path, "run").read(reader) == Progress((0.5,), (1.0,))
    assert same(reader, older)
    (tmp_path / DURABLE).unlink()
    assert Checkpoints(tmp_path, "run").read(reader) == Progress()
    assert same(reader, older)


def test_the_last_checkpoint_is_never_the_one_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a process is killed while it writes the next, that of the step before is read."""
    monkeypatch.setattr("ondevice.checkpoint._SHARE", 1e-9)  # the first is durable, and no other
    checkpoints, one, reader = Checkpoints(tmp_path, "run"), trainee(), trainee(1)
    progress = Progress()
    for step in range(6):
        progress = progress.after_step(0.5, 0, 1.0)
        one.add({name: np.ones(value.shape) for name, value in one.weights.items()})
        one.step(0.1)
        checkpoints.write(one, progress)
        if step:
            spoilt = tmp_path / LATEST[(progress.steps + 1) % 2]
            spoilt.write_bytes(b"killed while it was written" + bytes(spoilt.stat().st_size if step > 1 else 0))
        assert Checkpoints(tmp_path, "run").read(reader) == progress
        assert same(reader, one)


def test_a_slow_disk_is_waited_for_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable checkpoints take a twentieth of the time; after every other step there is one all the same."""
    clock, durable = [0.0], []

    def write(path: Path, *others: object, **more: object) -> None:
        durable.append(path.name == DURABLE)
        clock[0] += 1.0 if path.name == DURABLE else 0.0

    monkeypatch.setattr("ondevice.checkpoint.write_checkpoint", write)
    monkeypatch.setattr("ondevice.checkpoint.time.monotonic", lambda: clock[0])
    checkpoints, one = Checkpoints(tmp_path, "run"), trainee()
    for _ in range(200):
        clock[0] += 0.5
        checkpoints.write(one, PROGRESS)
    assert len(durable) == 200
    assert durable[0]
    assert sum(durable) <= 1 + 0.05 * clock[0]
    assert sum(durable) >= 4
