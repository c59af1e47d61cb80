"""What is no file in place of one, and files that unpack to far more: refused at once, by every reader."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from converter.foreign import read_foreign
from converter.npz import read_npz
from converter.torch_file import read_torch
from ondevice import show
from ondevice.compiled import _is_intact
from ondevice.dataset import open_dataset
from ondevice.packed import read_packed
from ondevice.pictures import decode_picture
from ondevice.runtime import LoadedModel
from signatures.catalogue import read_bundle
from signatures.errors import InputError
from signatures.files import MOST_JSON_BYTES, open_regular, read_json
from signatures.tflite_io import read_model
from tests.end_to_end import tiny

SECONDS = 5


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A reader that waits for a pipe fails its test instead of stopping all of them."""

    def fail(*_: object) -> None:
        raise TimeoutError("a reader waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def good(tmp_path: Path, bundle: Path, pictures: Path) -> Path:
    """A folder with a bundle, a packed dataset and a report of the test's own."""
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copytree(pictures, tmp_path / "pictures")
    return tmp_path


def pipe(path: Path) -> Path:
    """A named pipe in place of the file: opened to be read, it waits for who writes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    """A file that never ends."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")
    return path


def cached(path: Path) -> None:
    if not _is_intact(path):
        raise InputError("it is made anew")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest": ("bundle/manifest.json", lambda f: read_bundle(f / "bundle")),
    "model": ("bundle/model.tflite", lambda f: read_bundle(f / "bundle")),
    "train file": ("bundle/train_rho030.tflite", lambda f: read_bundle(f / "bundle")),
    "loaded model": ("x.tflite", lambda f: LoadedModel(f / "x.tflite", 1)),
    "foreign model": ("x.tflite", lambda f: read_foreign(f / "x.tflite")),
    "classes": ("pictures/classes.json", lambda f: open_dataset(f / "pictures", tiny.IMAGE, f / "work", 0)),
    "images": ("pictures/train/images.npy", lambda f: read_packed(f / "pictures")),
    "labels": ("pictures/test/labels.npy", lambda f: read_packed(f / "pictures")),
    "picture": ("x.png", lambda f: decode_picture(f / "x.png", 16)),
    "report": ("report.json", lambda f: show.read_run(f)),
    "npz": ("x.npz", lambda f: read_npz(f / "x.npz")),
    "pth": ("x.pth", lambda f: read_torch(f / "x.pth")),
    "digest in the cache": ("train-x.sha256", lambda f: cached(f / "train-x.tflite")),
}


@pytest.mark.parametrize("odd", [pipe, device])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused(good: Path, reader: str, odd: Callable[[Path], Path]) -> None:
    name, read = READERS[reader]
    odd(good / name)
    with pytest.raises(InputError):
        read(good)


def test_links_to_files_are_followed(good: Path) -> None:
    """People keep large files elsewhere."""
    model = good / "bundle" / "model.tflite"
    model.rename(good / "elsewhere.tflite")
    model.symlink_to(good / "elsewhere.tflite")
    assert read_bundle(good / "bundle").layers


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(OSError, match="Invalid name"):
        open_regular(Path("a\0b"))


def test_a_json_file_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.touch()
    os.truncate(path, MOST_JSON_BYTES + 1)
    with pytest.raises(InputError, match="more than"):
        read_json(path)


# Numbers that say more than there is --------------------------------------------------------------------------------


def npy(shape: object, descr: str = "|u1", body: bytes = b"", fortran: bool = False) -> bytes:
    """A .npy file by hand."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


ARRAYS = {
    "more than 64 bits": npy((2**40, 2**40, 2**40, 3)),
    "a product of 0 by overflow": npy((2**32, 2**32, 1, 1)),
    "a negative side": npy((-12, 16, 16, 3), body=bytes(9216)),
    "two negative sides": npy((-12, -16, 16, 3), body=bytes(9216)),
    "objects": npy((1,), "|O", b"\x80\x04N."),
    "items of no bytes": npy((2**62,), "|V0"),
    "a header without end": npy((1,)).replace(b")", b" "),
    "a header of code": npy((1,)).replace(b"(1,)", b"f()x"),
    "Fortran order": npy((12, 16, 16, 3), body=bytes(9216), fortran=True),
    "a version of the future": npy((1,)).replace(b"Y\x01", b"Y\x09"),
    "no header": b"\x93NUMPY",
    "too many images": npy((10_000_001, 0, 1, 3)),
}


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_lie(good: Path, case: str, name: str) -> None:
    (good / "pictures" / "train" / f"{name}.npy").write_bytes(ARRAYS[case])
    with pytest.raises(InputError, match=r"npy|labels|images"):
        read_packed(good / "pictures")


def test_images_that_no_memory_holds(good: Path) -> None:
    """A sparse file has the bytes that its header promises, and takes none."""
    path = good / "pictures" / "train" / "images.npy"
    path.write_bytes(npy((48, 100_000, 100_000, 3)))
    os.truncate(path, path.stat().st_size + 48 * 3 * 10**10)
    with pytest.raises(InputError, match="at most"):
        read_packed(good / "pictures")


def zipped(path: Path, content: bytes, **change: int) -> Path:
    """An .npz of one array `a`; `change` sets fields of its entry."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
        for name, value in change.items():
            setattr(archive.filelist[0], name, value)
    return path


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "a bomb": lambda p: zipped(p, npy((100 << 20,), body=bytes(100 << 20))),
    "a header that promises more": lambda p: zipped(p, npy((2**50,), body=bytes(99))),
    "a header that promises less": lambda p: zipped(p, npy((9,), body=bytes(99))),
    "objects": lambda p: zipped(p, npy((1,), "|O", b"\x80\x04N.")),
    "no array": lambda p: zipped(p, b"import os"),
    "a size that is none": lambda p: zipped(p, npy((9,), body=bytes(9)), file_size=2**32 - 2),
    "encrypted": lambda p: zipped(p, npy((9,), body=bytes(9)), flag_bits=1),
    "an unknown compression": lambda p: zipped(p, npy((9,), body=bytes(9)), compress_type=97),
    "a version of the future": lambda p: zipped(p, npy((9,), body=bytes(9)), extract_version=255),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_lie(tmp_path: Path, case: str) -> None:
    with pytest.raises(InputError, match=r"x\.npz"):
        read_npz(ARCHIVES[case](tmp_path / "x.npz"))


def test_a_good_archive_is_read(tmp_path: Path) -> None:
    found = read_npz(zipped(tmp_path / "x.npz", npy((9,), body=bytes(range(9)))))
    np.testing.assert_array_equal(found["a"], np.arange(9))


def png(width: int, height: int) -> bytes:
    """A PNG of black pixels, one bit each."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width // 8 + 1) * height, 1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 2**31 - 1])
def test_a_picture_of_too_many_pixels(tmp_path: Path, side: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(side, side))
    with pytest.raises(InputError, match=r"x\.png"):
        decode_picture(path, 16)


# Manifests and reports ----------------------------------------------------------------------------------------------

TEXTS = ["\x1b]0;title\x07", "line\nline", "\ud800", "a" * 10_000_000]


@pytest.mark.parametrize("text", TEXTS, ids=["escape", "lines", "half a character", "long"])
def test_texts_that_cannot_be_shown(good: Path, text: str) -> None:
    path = good / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["ranking"] = text
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="is damaged") as caught:
        read_bundle(good / "bundle")
    assert len(str(caught.value)) < 1000


def test_a_file_that_is_listed_twice(good: Path) -> None:
    path = good / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] *= 2
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="lists a file twice"):
        read_bundle(good / "bundle")


def test_the_model_that_is_read_is_the_one_that_was_checked(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file takes its place between the check of its digest and its use."""
    model = good / "bundle" / "model.tflite"
    checked = []

    def replaced(mapped: object, where: str) -> object:
        other = model.with_name("other")
        other.write_bytes(b"\0" * 100)
        other.replace(model)
        checked.append(where)
        return parse(mapped, where)

    import signatures.catalogue as catalogue

    parse = catalogue.parse_model
    monkeypatch.setattr(catalogue, "parse_model", replaced)
    assert read_bundle(good / "bundle").layers
    assert checked == [str(model)]
    with pytest.raises(InputError):
        read_model(model)
