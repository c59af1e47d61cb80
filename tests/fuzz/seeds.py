"""Good files to spoil: a bundle, a packed dataset, folders of images, a foreign model, weights, a report."""

from __future__ import annotations

import io
import json
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import numpy as np
from PIL import Image

from converter.export import KEEP, ExportPlan, export_bundle
from converter.network import SourceNetwork
from converter.pack import pack_arrays
from ondevice.checkpoint import write_checkpoint
from ondevice.optimizer import Trainee
from ondevice.training import Progress
from signatures.builder import RELU6, GraphBuilder
from signatures.graph import Graph, Model, Options, Tensor, constant
from signatures.layers import find_layers
from signatures.optimizers import Optimizer
from signatures.passes import named_layers
from signatures.shapes import SAME, VALID
from signatures.subset import subset_of, values_of
from signatures.tflite_io import write_model
from tests.converter.test_weights import CONTAINERS, STORAGES, small_state
from tests.end_to_end import tiny
from tests.ondevice.test_show import report

IMAGE = 8
BATCH = 4
CLASSES = ("red", "green", "blue")
LAYERS = ("stem", "depthwise", "pointwise", "head")
CHECKPOINT, RUN = "checkpoint.safetensors", "the run"
SUFFIXES = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP"}


def write_seeds(folder: Path) -> Path:
    """Write them all; the same bytes every time."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(2)
    splits = [(random.integers(0, 256, (n, IMAGE, IMAGE, 3)).astype(np.uint8), np.arange(n) % 3) for n in (9, 3)]
    pack_arrays(splits[0], splits[1], CLASSES, folder / "pictures", IMAGE)
    scales = {name: np.ones(3, np.float32) for name in LAYERS if name != "head"}
    source = SourceNetwork("small", small_network(), tiny.PREPROCESSING, scales, "random")
    export_bundle(source, ExportPlan(BATCH, (0.3,), KEEP, None, None, 0, threads=1), folder / "bundle", replace=False)
    _write_photographs(folder / "photographs")
    write_model(Model((varied_network(),), ()), folder / "foreign.tflite")
    random = np.random.default_rng(0)
    np.savez(folder / "weights.npz", **{f"w{i}": random.normal(0, 1, (3, 4)).astype(np.float32) for i in range(3)})
    np.savez_compressed(folder / "packed.npz", **_arrays(random))
    for suffix, write in CONTAINERS.items():
        content = write(small_state(suffix == "legacy"), STORAGES)
        (folder / f"{suffix}.pth").write_bytes(_undated(content) if suffix == "zip" else content)
    learnt = trainee()
    learnt.powers.update(dict.fromkeys(learnt.powers, 0.5))
    write_checkpoint(folder / CHECKPOINT, RUN, learnt, Progress((2.5, 1.25, 0.75), (0.5, 0.25)))
    (folder / "run").mkdir()
    (folder / "run" / "report.json").write_text(json.dumps(report()))
    return folder


def _arrays(random: np.random.Generator) -> dict[str, np.ndarray]:
    images = random.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    labels = np.array([0, 1, 0, 1])
    return {
        "train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels,
        "classes": np.array(["a", "b"]),
    }  # fmt: skip


def _undated(content: bytes) -> bytes:
    """A zip archive that is the same every day."""
    stream = io.BytesIO()
    with ZipFile(io.BytesIO(content)) as dated, ZipFile(stream, "w") as archive:
        for name in dated.namelist():
            archive.writestr(ZipInfo(name), dated.read(name))
    return stream.getvalue()


def _write_photographs(folder: Path) -> None:
    random = np.random.default_rng(1)
    for split in ("train", "test"):
        for name in ("left", "right"):
            (folder / split / name).mkdir(parents=True)
            for suffix, kind in SUFFIXES.items():
                pixels = random.integers(0, 256, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"0.{suffix}", kind)


def trainee() -> Trainee:
    """Of all layers of the small network, before its first step."""
    network = small_network()
    subset = subset_of(find_layers(network), LAYERS)
    return Trainee(Optimizer("adam"), values_of(network, subset), subset)


def small_network() -> Graph:
    """Four layers that train: [1, 8, 8, 3] to logits of 3 classes."""
    random = np.random.default_rng(4)
    b = GraphBuilder("small")

    def weights(*shape: int) -> Tensor:
        return b.const(random.normal(0, 0.3, shape).astype(np.float32), "weights")

    x = b.input("x", (1, IMAGE, IMAGE, 3))
    strides = {"StrideW": 2, "StrideH": 2, "Padding": SAME, "FusedActivationFunction": RELU6}
    x = b.conv_2d(x, weights(4, 3, 3, 3), weights(4), **strides)
    y = b.depthwise_conv_2d(x, weights(1, 3, 3, 4), weights(4), StrideW=1, StrideH=1, Padding=SAME)
    x = b.add(x, b.conv_2d(y, weights(4, 1, 1, 4), weights(4)))
    logits = b.fully_connected(b.mean(x, [1, 2]), weights(len(CLASSES), 4), weights(len(CLASSES)))
    graph = b.graph([logits])
    return named_layers(graph, [layer.op for layer in find_layers(graph)], LAYERS)


def varied_network() -> Graph:
    """A network of many kinds of ops, as other converters write them: [1, 8, 8, 3] to probabilities of 4 classes."""
    random = np.random.default_rng(5)
    b = GraphBuilder("varied")

    def weights(*shape: int) -> Tensor:
        return b.const(random.normal(0, 0.3, shape).astype(np.float32), "weights")

    def emit(kind: str, *inputs: Tensor, options: str = "NONE", **fields: object) -> Tensor:
        return b.emit(kind, inputs, Options(options, fields))  # type: ignore[arg-type]

    window = {"Padding": SAME, "StrideW": 2, "StrideH": 2}
    x = b.input("x", (1, 8, 8, 3))
    x = b.conv_2d(x, weights(8, 3, 3, 3), weights(8), FusedActivationFunction=RELU6, Padding=SAME)
    x = b.depthwise_conv_2d(b.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), weights(1, 3, 3, 8), weights(8), Padding=VALID)
    left = emit("MAX_POOL_2D", x, options="Pool2DOptions", FilterWidth=2, FilterHeight=2, **window)
    right = emit("AVERAGE_POOL_2D", x, options="Pool2DOptions", FilterWidth=3, FilterHeight=3, **window)
    right = emit("HARD_SWISH", right)
    x = b.concat([left, emit("LEAKY_RELU", right, options="LeakyReluOptions", Alpha=0.1)], axis=3)
    x = emit("SPACE_TO_DEPTH", x, options="SpaceToDepthOptions", BlockSize=2)
    x = emit("DEPTH_TO_SPACE", x, options="DepthToSpaceOptions", BlockSize=2)
    shape = b.ints((1, 8, 8, 4), "shape")
    up = {"Padding": SAME, "StrideW": 2, "StrideH": 2, "FusedActivationFunction": 0}
    y = b.emit("TRANSPOSE_CONV", (shape, weights(4, 2, 2, 16), x), Options("TransposeConvOptions", up))
    y = emit("RESIZE_BILINEAR", y, b.ints((4, 4), "size"), options="ResizeBilinearOptions", HalfPixelCenters=True)
    y = emit("TILE", y, b.ints((1, 1, 1, 4), "copies"), options="TileOptions")
    x = b.add(x, emit("PRELU", y, weights(1, 1, 16)))
    x = emit("GATHER", x, b.ints((3, 1, 2, 0), "rows"), options="GatherOptions", Axis=1)
    x = emit("MIRROR_PAD", x, b.ints([(0, 0), (1, 1), (1, 1), (0, 0)], "p"), options="MirrorPadOptions", Mode=0)
    x = emit("SLICE", x, b.ints((0, 1, 1, 0), "begin"), b.ints((1, 4, 4, -1), "size"), options="SliceOptions")
    tokens = b.reshape(x, (1, 16, 16))
    scores = emit("SOFTMAX", b.matmul(tokens, b.transpose(tokens, (0, 2, 1))), options="SoftmaxOptions", Beta=1.0)
    tokens = emit("GELU", b.matmul(scores, tokens), options="GeluOptions", Approximate=True)
    one = emit("SQUEEZE", b.mean(tokens, [1], keep=True), options="SqueezeOptions", SqueezeDims=(1,))
    most = emit("REDUCE_MAX", tokens, b.ints((1,), "axis"), options="ReducerOptions", KeepDims=False)
    both = emit("PACK", one, most, options="PackOptions", ValuesCount=2, Axis=1)
    x = b.reshape(emit("REVERSE_V2", both, b.ints((1,), "axis"), options="ReverseV2Options"), (1, 32))
    chosen = emit("GREATER", x, constant("zero", np.zeros((), np.float32)), options="GreaterOptions")
    x = emit("SELECT_V2", chosen, x, b.scale(x, 0.5), options="SelectV2Options")
    x = emit("SQRT", emit("ABS", b.add(x, weights(1, 32))))
    logits = b.fully_connected(x, weights(4, 32), weights(4))
    return b.graph([emit("SOFTMAX", logits, options="SoftmaxOptions", Beta=1.0)])
