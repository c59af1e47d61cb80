"""`python -m profiling.ops.litert_profiler MODEL SIGNATURE`: time of each kernel inside the runtime; JSON on stdout.

The Python classes of ai-edge-litert offer no profiler, but the library beside them does, in C: builtin ops come by
their position in the graph, XNNPACK's operators by name, in the order in which they ran. Declared in litert/c of
github.com/google-ai-edge/LiteRT (litert_compiled_model.h, litert_profiler.h, litert_profiler_event.h). It is called in
a process of its own, which a version of the library that differs may well end.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
import time
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiling.environment import ROOT
from profiling.ops.times import THREADS, feeds, typical
from signatures.errors import CapabilityError
from signatures.graph import Array
from signatures.tflite_io import read_model

SECONDS, LEAST_RUNS = 1.0, 8
"""How long the signature is run, and how often at least."""
_CPU = 1
_WRITE = 1
_BUILTIN, _DELEGATED = 2, 8
"""Types of events."""
_OPTIONS = {b"runtime_options_string": b"enable_profiling = true\n", b"xnnpack": b"num_threads = %d\n" % THREADS}
_RANKED_TYPE_BYTES = 256
"""More than a LiteRtRankedTensorType takes, which is only handed on."""


class _Event(ctypes.Structure):
    """ProfiledEventData of litert_profiler_event.h."""

    _fields_ = (
        ("tag", c_char_p),
        ("type", ctypes.c_uint32),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("index", ctypes.c_uint64),
        ("graph", ctypes.c_uint64),
        ("source", c_int),
    )


@dataclass(frozen=True)
class Kernel:
    """One kernel that ran."""

    name: str
    """The kind of a builtin op, or what XNNPACK calls its operator."""
    op: int | None
    """Which op of the graph it was; None for an operator of XNNPACK."""
    part: int | None
    """In which of the parts that XNNPACK got it ran, in the order of running; None for a builtin op."""
    seconds: float


def kernels(path: Path, signature: str) -> tuple[Kernel, ...]:
    """What ran for one call of a signature of the file `path`, in order, with the lower quartile of several calls.

    CapabilityError if the installed runtime cannot tell.
    """
    command = [sys.executable, "-m", "profiling.ops.litert_profiler", str(path.resolve()), signature]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if not line.startswith(("INFO", "WARNING"))]
        raise CapabilityError(f"the runtime's own profiler does not work here: {said[-1] if said else done.returncode}")
    return tuple(Kernel(**document) for document in json.loads(done.stdout))


class _Library:
    """libLiteRt.so: every call of it that returns a status, checked."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("ai_edge_litert")
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        found = [path for folder in folders for path in Path(folder).glob("libLiteRt.*")]
        if not found:
            raise CapabilityError("no ai-edge-litert with a libLiteRt is installed")
        self._library = ctypes.CDLL(str(found[0]))

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function. CapabilityError unless it returns 0."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CapabilityError(f"{name} returned {status}")

    def made(self, name: str, *arguments: Any) -> c_void_p:
        """What a function puts where its last argument points to."""
        handle = c_void_p()
        self(name, *arguments, byref(handle))
        return handle

    def count(self, name: str, *arguments: Any, kind: Any = c_size_t) -> int:
        """The same for a number."""
        number = kind()
        self(name, *arguments, byref(number))
        return int(number.value)


def profile_here(path: Path, signature: str) -> list[Kernel]:
    """In the process of its own: run the signature and ask."""
    call = _Library()
    environment = call.made("LiteRtCreateEnvironment", 0, None)
    model = call.made("LiteRtCreateModelFromFile", environment, str(path).encode())
    compiled = call.made("LiteRtCreateCompiledModel", environment, model, _options(call))
    profiler = call.made("LiteRtCompiledModelGetProfiler", compiled)
    position, entry = _find(call, model, signature)
    values = feeds(read_model(path).signature(signature))
    owners = (environment, compiled, entry, position)
    inputs, outputs = _buffers(call, "Input", owners, values), _buffers(call, "Output", owners, {})
    run = ("LiteRtRunCompiledModel", compiled, position, c_size_t(len(inputs)), inputs, c_size_t(len(outputs)), outputs)
    call(*run)
    taken: list[list[float]] = []
    started = time.perf_counter()
    while len(taken) < LEAST_RUNS or time.perf_counter() - started < SECONDS:
        for action in (("LiteRtResetProfiler", profiler), ("LiteRtStartProfiler", profiler), run):
            call(*action)
        call("LiteRtStopProfiler", profiler)
        events = (_Event * call.count("LiteRtGetNumProfilerEvents", profiler, kind=c_int))()
        call("LiteRtGetProfilerEvents", profiler, len(events), events)
        ran = [event for event in events if event.type in (_BUILTIN, _DELEGATED)]
        if taken and len(ran) != len(taken[0]):
            raise CapabilityError("runs differ in what they ran")
        taken.append([event.elapsed_us / 1e6 for event in ran])
    return _named(ran, [typical(seconds) for seconds in zip(*taken, strict=True)])


def _options(call: _Library) -> c_void_p:
    options = call.made("LiteRtCreateOptions")
    call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
    c = ctypes.CDLL(None)
    c.strdup.restype = c_void_p
    for name, text in _OPTIONS.items():
        # The library frees the text.
        payload, destroy = c_void_p(c.strdup(text)), ctypes.cast(c.free, c_void_p)
        call("LiteRtAddOpaqueOptions", options, call.made("LiteRtCreateOpaqueOptions", name, payload, destroy))
    return options


def _find(call: _Library, model: c_void_p, signature: str) -> tuple[c_size_t, c_void_p]:
    for i in range(call.count("LiteRtGetNumModelSignatures", model)):
        entry = call.made("LiteRtGetModelSignature", model, c_size_t(i))
        if _text(call, "LiteRtGetSignatureKey", entry) == signature:
            return c_size_t(i), entry
    raise CapabilityError(f"the runtime finds no signature {signature!r}")


def _text(call: _Library, name: str, *arguments: Any) -> str:
    text = c_char_p()
    call(name, *arguments, byref(text))
    return (text.value or b"").decode()


def _buffers(call: _Library, kind: str, owners: tuple[c_void_p, c_void_p, c_void_p, c_size_t], values: Any) -> Any:
    """A buffer for each argument or result of a signature; arguments with their `values`, by name."""
    environment, compiled, entry, position = owners
    count = call.count(f"LiteRtGetNumSignature{kind}s", entry)
    buffers = (c_void_p * count)()
    for i in range(count):
        tensor = call.made(f"LiteRtGetSignature{kind}TensorByIndex", entry, c_size_t(i))
        type_ = ctypes.create_string_buffer(_RANKED_TYPE_BYTES)
        call("LiteRtGetRankedTensorType", tensor, type_)
        wanted = call.made(f"LiteRtGetCompiledModel{kind}BufferRequirements", compiled, position, c_size_t(i))
        buffer = call.made("LiteRtCreateManagedTensorBufferFromRequirements", environment, type_, wanted)
        if kind == "Input":
            _fill(call, buffer, values[_text(call, "LiteRtGetSignatureInputName", entry, c_size_t(i))])
        buffers[i] = buffer
    return buffers


def _fill(call: _Library, buffer: c_void_p, value: Array) -> None:
    address = c_void_p()
    call("LiteRtLockTensorBuffer", buffer, byref(address), _WRITE)
    ctypes.memmove(address, value.ctypes.data, value.nbytes)
    call("LiteRtUnlockTensorBuffer", buffer)


def _named(events: list[_Event], seconds: list[float]) -> list[Kernel]:
    part = -1
    found = []
    for event, taken in zip(events, seconds, strict=True):
        name = event.tag.decode()
        if event.type == _BUILTIN:
            found.append(Kernel(name, int(event.index), None, taken))
        else:
            part += event.index == 0
            found.append(Kernel(name, None, part, taken))
    return found


if __name__ == "__main__":
    try:
        print(json.dumps([asdict(kernel) for kernel in profile_here(Path(sys.argv[1]), sys.argv[2])]))
    except (CapabilityError, AttributeError, OSError) as error:  # AttributeError: a function that the library lacks
        sys.exit(str(error))
