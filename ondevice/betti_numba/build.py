"""Compiles the kernels ahead of time: Numba → LLVM → object files → one small shared library, checked and put in place.

Numba's own ``pycc`` makes an extension module for one Python and is deprecated. A kernel that allocates and raises
nothing needs no Python at all: LLVM drops what Numba's wrapper would report exceptions with, and the rest is linked so
that a symbol from elsewhere than the C library fails the build, not a later run. The code is for any processor of the
architecture, so that a cache that moves with its disk cannot end in an illegal instruction.

Only the child process imports this module: it loads Numba.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ondevice.betti_numba.kernels import KERNELS
from ondevice.betti_numba.library import check, checksum_path, library_path, load
from ondevice.betti_numba.linker import link
from ondevice.betti_numba.native import Native
from signatures.durable import partial_suffix
from signatures.errors import CapabilityError


def compiled_here() -> Native:
    """The kernels as Numba compiled them in this process."""
    return Native({kernel.__name__: kernel.address for kernel in KERNELS})


def build_library(folder: Path, build: str, compiler: str) -> Path:
    """Build the library and put it into `folder` under its name, with its checksum.

    Raises:
        CapabilityError: it cannot be linked, loaded or written here, or does not compute what NumPy does.
    """
    target = library_path(folder, build)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # On the same disk, so that it can move.
        with tempfile.TemporaryDirectory(prefix="build", suffix=partial_suffix(), dir=folder) as scratch:
            objects = [Path(scratch, f"{kernel.__name__}.o") for kernel in KERNELS]
            for kernel, path in zip(KERNELS, objects, strict=True):
                path.write_bytes(_object_code(kernel))
            linked = Path(scratch, "betti.so")
            link(compiler, objects, linked)
            check(load(linked))
            # Checksum first: a library without one counts as damaged, and so does a checksum without its library.
            checksum = Path(scratch, "sha256")
            checksum.write_text(hashlib.sha256(linked.read_bytes()).hexdigest())
            checksum.replace(checksum_path(target))
            linked.chmod(0o700)
            linked.replace(target)
    except OSError as error:
        raise CapabilityError(f"{target} cannot be written: {error}") from None
    return target


def _object_code(kernel: Any) -> bytes:
    """Position-independent code of one kernel, exported under its own name, and nothing else."""
    module = llvm.parse_assembly(kernel.inspect_llvm())
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration:
            value.linkage = "internal"
    entry = module.get_function(kernel.native_name)
    entry.linkage = "external"
    entry.name = kernel.__name__
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3, reloc="pic", codemodel="default")
    # Now that LLVM sees that the kernel is called from here alone and never fails, it drops what reports failures.
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    return bytes(machine.emit_object(module))
