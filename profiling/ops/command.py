"""`python -m profiling ops MODEL.tflite [SIGNATURE]`, or `ops BUNDLE --layers a,b`: what each op of a graph takes.

Time of each op by layer, stage and kind, inside XNNPACK or out of it; what is alive at the peak of memory, and what the
process takes, predicted and measured. Times come from the runtime's own profiler where it has one (ai-edge-litert);
otherwise each op is timed alone. All on this machine, with 2 threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from profiling.needs import PICTURES, need_folder, need_packages
from profiling.ops.profile import OpProfile, profile
from profiling.ops.table import document, render
from profiling.ops.train_graph import ALL, CLASSES, Training, train_graph, training_of
from signatures.catalogue import read_bundle
from signatures.errors import UsageError, exit_code_of
from signatures.tflite_io import read_model, write_model


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m profiling ops", description=(__doc__ or "").partition("\n\n")[2])
    p.add_argument("model", type=Path, metavar="MODEL|BUNDLE", help="a .tflite file, or a bundle folder")
    p.add_argument("signature", nargs="?", help="of a file that has several")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--layers", metavar="NAME,NAME…", help=f"of a bundle: train these and the head ({ALL}: every one)"
    )
    which.add_argument("--like", type=Path, metavar="RUN", help="of a bundle: train what this run trained, as it did")
    p.add_argument("--micro-batch", type=_positive, metavar="N", help="images at once (default: as the device would)")
    p.add_argument("--classes", type=_positive, metavar="N", help=f"of a new head, with --layers (default {CLASSES})")
    p.add_argument("--alone", action="store_true", help="time each op in a model of its own")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write the picture lifetimes.png and .svg there")
    return p


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    return exit_code_of(lambda: _run(parser().parse_args(arguments)))


def _run(asked: argparse.Namespace) -> int:
    if asked.out:
        need_packages("pictures", PICTURES)
        need_folder(asked.out)
    with tempfile.TemporaryDirectory() as folder:
        path, signature, title = _given(asked, Path(folder))
        measured = profile(path, signature, asked.alone)
    if asked.out:
        _draw(asked.out, measured, title)
    print(json.dumps(document(title, measured)) if asked.json else f"{title}\n\n{render(measured)}")
    return 0


def _given(asked: argparse.Namespace, folder: Path) -> tuple[Path, str, str]:
    """The file, the signature, and what it is in words; a bundle's train graph is written to `folder`."""
    of_bundle = asked.layers is not None or asked.like is not None
    if not asked.model.is_dir():
        if of_bundle or asked.micro_batch is not None or asked.classes is not None:
            raise UsageError(f"{asked.model} is a file: --layers, --like and what goes with them take a bundle")
        names = [signature.name for signature in read_model(asked.model).signatures]
        if asked.signature is None and len(names) != 1:
            raise UsageError(f"{asked.model} has the signatures {', '.join(names) or '(none)'}: name one of them")
        return asked.model, asked.signature or names[0], f"{asked.model}: {asked.signature or names[0]}"
    if not of_bundle or asked.signature is not None:
        raise UsageError(f"{asked.model} is a folder: say with --layers or --like what of its network trains")
    training = _training(asked)
    bundle = read_bundle(asked.model)
    graph = train_graph(bundle, training)
    path = folder / "train.tflite"
    write_model(graph.model, path)
    (signature,) = graph.model.signatures
    manifest, count = bundle.manifest, len(graph.layers)
    size = f"micro-batches of {graph.micro_batch} of a batch of {graph.batch}"
    layers = ", ".join(graph.layers) if count <= 8 else f"{count} layers"
    return path, signature.name, f"{manifest.network}, {manifest.image}², {size}; training {layers}"


def _training(asked: argparse.Namespace) -> Training:
    if asked.like is not None:
        if asked.classes is not None:
            raise UsageError("--classes: a run has its own")
        training = training_of(asked.like)
    else:
        names = tuple(name.strip() for name in asked.layers.split(",") if name.strip())
        training = Training(names, asked.classes)
    return training if asked.micro_batch is None else replace(training, micro_batch=asked.micro_batch)


def _draw(folder: Path, measured: OpProfile, title: str) -> None:
    from profiling.ops.lifetime_picture import lifetime_picture
    from profiling.pictures import drawing, write_picture

    with drawing():
        figure = lifetime_picture(measured.timeline, measured.memory.predicted, title)
        for path in write_picture(figure, folder, "lifetimes"):
            print(path, file=sys.stderr)
