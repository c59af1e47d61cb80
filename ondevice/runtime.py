"""The TFLite interpreter of this machine: ai-edge-litert or tflite-runtime, whichever is installed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.limits import ADDRESS_SPACE, address_space_is_limited
from signatures.errors import AdabetError, BudgetError, CapabilityError, InputError
from signatures.graph import Array, Tensor
from signatures.tflite_io import read_model

_RUNTIMES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
)


def interpreter_module() -> tuple[str, Any]:
    """(distribution with version, module with `Interpreter`). CapabilityError if no runtime can be imported."""
    reasons = []
    for distribution, module in _RUNTIMES:
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            reasons.append(str(error))
            continue
        package = sys.modules[module.partition(".")[0]]
        return f"{distribution} {getattr(package, '__version__', 'of unknown version')}", loaded
    raise CapabilityError(
        "no TFLite interpreter can be imported: pip install ai-edge-litert (on Termux: pkg install "
        f"python-tflite-runtime). Python says: {'; '.join(reasons)}"
    )


@dataclass(frozen=True)
class _Arguments:
    """What a signature takes and gives, without its graph."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class LoadedModel:
    """A model file in an interpreter: call its signatures by name. Its memory comes back when the object is deleted.

    Our own reader checks the file before native code maps it.
    """

    def __init__(self, path: Path, threads: int) -> None:
        model = read_model(path)
        self._signatures = {s.name: _Arguments(dict(s.inputs), dict(s.outputs)) for s in model.signatures}
        self._path = path
        _, module = interpreter_module()
        messages: list[str] = []
        try:
            with _native_messages() as messages:
                self._interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
                if len(model.graphs) == 1:  # else each signature prepares its own graph when it is called
                    self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _refused(f"the interpreter refuses {path}: {error} {''.join(messages)}") from None
        self._runners: dict[str, Any] = {}
        drop_mapped_pages(path)

    def inputs(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Argument names of signature `name` and their shapes. InputError if the file has no such signature."""
        return {key: tensor.shape for key, tensor in self._signature(name).inputs.items()}

    def results(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Result names of signature `name` and their shapes. InputError if the file has no such signature."""
        return {key: tensor.shape for key, tensor in self._signature(name).outputs.items()}

    def call(self, name: str, inputs: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        """Invoke signature `name`: arrays by argument name in, arrays by result name out (copies).

        Raises InputError if the file has no such signature, an argument has another shape or dtype, or the
        interpreter cannot prepare or run it; BudgetError where that may be for want of memory.
        """
        inputs = inputs or {}
        for key, tensor in self._signature(name).inputs.items():
            value = inputs.get(key)
            if value is None or value.shape != tensor.shape or value.dtype.name != tensor.dtype:
                got = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
                raise InputError(f"{name} takes {key!r} as {tensor.dtype}{list(tensor.shape)}, got {got}")
        messages: list[str] = []
        try:
            if name in self._runners:
                results: Mapping[str, Array] = self._runners[name](**inputs)
                return results
            with _native_messages() as messages:  # the first call prepares the graph and may have something to say
                runner = self._interpreter.get_signature_runner(name)
                results = runner(**inputs)
        except (ValueError, RuntimeError) as error:
            said = "".join(messages)
            raise _refused(f"signature {name!r} of {self._path} does not run: {error} {said}") from None
        self._runners[name] = runner
        return results

    def _signature(self, name: str) -> _Arguments:
        if name not in self._signatures:
            raise InputError(f"{self._path} has no signature {name!r} (it has: {', '.join(self._signatures)})")
        return self._signatures[name]


def _refused(what: str) -> AdabetError:
    """What to raise: an interpreter that gets no memory says so in no way that it does not say of a broken file too."""
    if address_space_is_limited():
        return BudgetError(
            f"{what.strip()}: the {ADDRESS_SPACE} leaves it too little, or the file is broken; raise that"
        )
    return InputError(what.strip())


def drop_mapped_pages(path: Path) -> None:
    """Give back the pages of a mapped file: kernels have packed copies of most weights once they are prepared, and what
    is read again comes from the page cache. Nothing where the system has no such maps.
    """
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    name = os.path.realpath(path)
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in maps:  # address range, rights, offset, device, inode, path (proc(5))
        addresses, _, _, _, _, *rest = line.split(maxsplit=5)
        if rest == [name]:
            first, last = (int(address, 16) for address in addresses.split("-"))
            madvise(first, last - first, mmap.MADV_DONTNEED)


@contextlib.contextmanager
def _native_messages() -> Iterator[list[str]]:
    """Keep what native code writes to stderr ("INFO: Created TensorFlow Lite XNNPACK delegate …") off the terminal.

    Yields a list that holds what was written, once the block has ended: for the message of an error.
    """
    written: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            written.append(file.read().decode(errors="replace").strip())
