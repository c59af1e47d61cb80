"""`python -m profiling frameworks BUNDLE`: training on the device beside other frameworks, one table a subset.

The same network with the same weights, the same images in the same order, batch, layers, optimizer and threads. Every
measurement is a fresh process; repeat by repeat they take turns, and ratios are formed within a repeat. The losses of
the first steps have to agree, which shows that all compute the same. Exit codes are those of
`python -m ondevice.adapt`, and 70 where losses do not agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from profiling.ops.train_graph import training_of
from profiling.peers.child import KERAS_NETWORK
from profiling.peers.comparison import AGREEMENT, FIRST_STEPS, disagreement, render, rows
from profiling.peers.measurement import Measurement, measurement_of
from profiling.peers.problem import Problem, problem_of, write_problem
from profiling.processes import output_of
from signatures.catalogue import Bundle, read_bundle
from signatures.errors import UsageError, exit_code_of
from signatures.subset import subset_of

PICK, HEAD, ALL = SUBSETS = ("pick", "head", "all")
B1_PICK = tuple(f"block_{number}_project" for number in range(7, 12))
"""What b1 picks of MobileNetV2 at ρ 0.1 on photographs (FACTS: "5 project convs from block 7 on"), beside the head."""
DISAGREES = 70
NUMPY_AND_TFLITE = "numpy, flatbuffers, tflite"
PEERS = {
    "pytorch": "torch",
    "mnn": "MNN",
    "onnxruntime": "torch, onnx, onnxruntime",
    "executorch": "torch, executorch.extension.training",
}
"""Those that have an environment of their own, and what they import there."""
DEFAULT_PEERS = tuple(peer for peer in PEERS if peer != "executorch")
"""ExecuTorch takes a minute and more a step: it is measured where it is named."""
NOT_MEASURED = (
    "{peer} is not measured: {python} cannot import it ({why}). `make bench` installs it in .venv-bench; "
    "or name a Python that has it and {needed}: make bench PYTHON_BENCH=…"
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling frameworks", description=__doc__)
    p.add_argument("bundle", type=Path, help="whose network is trained; any float32 MobileNetV2 or alike")
    p.add_argument("--subset", choices=SUBSETS, action="append", help="only this; default: all three")
    p.add_argument("--like", type=Path, metavar="RUN", help="as pick, train what this run trained")
    p.add_argument("--repeats", type=int, default=5, help="of everything (default: 5)")
    p.add_argument(
        "--peer", choices=PEERS, action="append", help=f"beside TensorFlow; default: {', '.join(DEFAULT_PEERS)}"
    )
    p.add_argument("--python", type=Path, default=Path(sys.executable), help="one that has the peers; default: this")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table for each subset; returns the exit code."""
    asked = parser().parse_args(arguments)
    return exit_code_of(lambda: _compare(asked))


def _compare(asked: argparse.Namespace) -> int:
    if asked.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, got {asked.repeats}")
    bundle = read_bundle(asked.bundle)
    problems = {name: problem_of(bundle, _layers(bundle, name, asked.like)) for name in asked.subset or SUBSETS}
    reasons = {peer: why_not(peer, asked.python) for peer in asked.peer or DEFAULT_PEERS}
    pythons = {"ours": sys.executable, "tensorflow": sys.executable}
    if bundle.manifest.network == KERAS_NETWORK:
        pythons["keras"] = sys.executable
    pythons |= {peer: str(asked.python) for peer, why in reasons.items() if not why}
    load = os.getloadavg()[0]
    measured = _measure(problems, pythons, asked.repeats)
    agree = True
    for name, problem in problems.items():
        of_subset = {framework: measured[name, framework] for framework in pythons}
        same = [framework for framework in pythons if framework not in ("ours", "keras")]
        worst = {framework: max(map(disagreement, of_subset["ours"], of_subset[framework])) for framework in same}
        agree &= all(difference <= AGREEMENT for difference in worst.values())
        differences = ", ".join(f"{difference:.0e} ({framework})" for framework, difference in worst.items())
        remarks = [f"losses of the first {FIRST_STEPS} steps: largest relative difference from ours {differences}"]
        ours, *others = of_subset.values()
        print(render(_title(name, problem), rows(ours, others), remarks) + "\n")
    for why in filter(None, reasons.values()):
        print(why)
    print(f"{asked.repeats} repeats, fresh processes in turn; load of the machine before them {load:.2f}")
    if not agree:
        print(f"error: losses differ by more than {AGREEMENT:g}: these are not the same computations", file=sys.stderr)
    return 0 if agree else DISAGREES


def _title(subset: str, problem: Problem) -> str:
    layers = ", ".join(problem.layers) if len(problem.layers) < 10 else f"{len(problem.layers)} layers"
    size = f"{problem.image}², batch {problem.batch}, {problem.threads} threads"
    return f"{problem.network}, {size}; {subset}: {layers}"


def _layers(bundle: Bundle, subset: str, like: Path | None) -> tuple[str, ...]:
    """Names of the layers that train, in model order."""
    head = bundle.layers[-1].name
    if subset == PICK:
        wanted = {*(B1_PICK if like is None else trained_by(like)), head}
        return subset_of(bundle.layers, wanted).names
    return (head,) if subset == HEAD else tuple(layer.name for layer in bundle.layers)


def trained_by(run: Path) -> tuple[str, ...]:
    """The layers that a run trained, whole. Raises InputError, UsageError."""
    training = training_of(run)
    if training.bias_only or training.channels:
        raise UsageError(f"{run} trained biases or channels alone: all frameworks here train whole layers")
    return training.layers


def why_not(peer: str, python: Path) -> str:
    """Why a peer cannot be measured; empty if it can."""
    command = [str(python), "-c", f"import {NUMPY_AND_TFLITE}, {PEERS[peer]}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        why = str(error.strerror)
    else:
        why = done.stderr.strip().split("\n")[-1] if done.returncode else ""
    return why and NOT_MEASURED.format(peer=peer, python=python, why=why, needed=NUMPY_AND_TFLITE)


def _measure(
    problems: dict[str, Problem], pythons: dict[str, str], repeats: int
) -> dict[tuple[str, str], list[Measurement]]:
    """Every framework on every problem, `repeats` times, in turn."""
    measured: dict[tuple[str, str], list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, problem in problems.items():
            (Path(temporary) / name).mkdir()
            write_problem(problem, Path(temporary) / name)
        for repeat in range(repeats):
            for name in problems:
                for framework, python in pythons.items():
                    one = measured_by(python, framework, Path(temporary) / name)
                    done = f"repeat {repeat + 1} of {repeats}: {name}, {framework}"
                    print(f"{done} {one.first_s:.4f} {one.later_s:.4f} s a step", file=sys.stderr)
                    measured.setdefault((name, framework), []).append(one)
    return measured


def measured_by(python: str, framework: str, folder: Path) -> Measurement:
    """Measure in a fresh process of `python`. CapabilityError, with what it said, if that fails."""
    said = output_of(f"measuring {framework}", "-m", "profiling.peers.child", framework, folder, python=python)
    return measurement_of(json.loads(said.splitlines()[-1]))
