"""Run a command in mount and process namespaces of its own: what it mounts and what it starts is gone when it ends.

Nothing that is mounted here is ever seen outside, so `rm -rf .work` cannot reach through a mount, and no process is
left behind, however the command or its caller ends. Four processes: the caller → this one → the init of the new
process namespace → the command.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from signatures.errors import CapabilityError, exit_code_of
from tests.device.lab.layout import is_native

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80  # <asm-generic/siginfo.h>: sent by the kernel, as a terminal's Ctrl-C is

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WATCHED = (*_FORWARDED, signal.SIGCHLD)

# What Linux shows of each Cortex-A72, with the features that QEMU gives it. Without it programs read this machine's own
# /proc/cpuinfo beside a foreign /sys: ai-edge-litert 2.3.0 crashes on that, and without /sys no XNNPACK kernel runs.
_CORTEX_A72 = """processor\t: {}
BogoMIPS\t: 125.00
Features\t: fp asimd aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs of `size_bytes` at `place`, an absolute path inside the root; owner and mode are those of the folder."""

    place: str
    size_bytes: int


def may_be_made() -> bool:
    """Whether this process may make the namespaces: a container's root often may not."""
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(_CLONE_NEWNS | _CLONE_NEWPID) != 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run(command: Sequence[str], root: Path | None, disks: Sequence[SmallDisk], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit code, 128 + n where signal n ended it, 127 where it could not be started.

    With a root, /proc, /dev and `disks` are mounted in it; the command itself is not chrooted. SIGTERM, SIGHUP and
    SIGINT sent to this process reach the command. The calling process stays in the new namespaces: start one for it.
    Raises CapabilityError where the system refuses.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWPID, what="make mount and process namespaces (it takes CAP_SYS_ADMIN)")
    init = os.fork()
    if init == 0:
        os._exit(_init(command, root, disks, environment, before))
    return _wait_for(init)


def _init(
    command: Sequence[str],
    root: Path | None,
    disks: Sequence[SmallDisk],
    environment: Mapping[str, str],
    mask: set[signal.Signals | int],
) -> int:
    """Process 1 of the namespace: the kernel ends everything in it when this one ends."""
    try:
        _end_with_caller()
        mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
        if root is not None:
            _furnish(root)
            for disk in disks:
                _mount_disk(root, disk)
    except CapabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    child = os.fork()
    if child == 0:
        _become(command, environment, mask)
    return _wait_for(child)


def _become(command: Sequence[str], environment: Mapping[str, str], mask: set[signal.Signals | int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvpe(command[0], list(command), dict(environment))
    except OSError as error:
        print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(127)


def _wait_for(child: int) -> int:
    """Exit code of a child; hands signals on to it, and collects whatever other children this process gets."""
    while True:
        told = signal.sigwaitinfo(_WATCHED)
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != _SI_KERNEL:  # what a terminal sends reaches the command without us
                os.kill(child, told.si_signo)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else 128 - code


def _end_with_caller() -> None:
    """Have the kernel kill this process when its caller ends; PR_SET_PDEATHSIG(2const)."""
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), what="ask for a signal at the caller's death")


def _furnish(root: Path) -> None:
    """Mount /proc, /sys and a /dev with what programs expect in it."""
    unfit = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    mount("proc", root / "proc", "proc", unfit)
    mount("sysfs", root / "sys", "sysfs", unfit | _MS_RDONLY)
    devices = root / "dev"
    mount("tmpfs", devices, "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=0755,size=64k")
    for name in _DEVICES:
        (devices / name).touch()
        mount(f"/dev/{name}", devices / name, None, _MS_BIND)
    for name, target in _DEVICE_LINKS.items():
        (devices / name).symlink_to(target)
    (devices / "pts").mkdir()
    mount("devpts", devices / "pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    (devices / "shm").mkdir()
    mount("tmpfs", devices / "shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
    if not is_native():
        file = devices / "cpuinfo"  # a bound file stays when its name goes
        file.write_text("".join(_CORTEX_A72.format(number) for number in range(os.cpu_count() or 1)))
        mount(str(file), root / "proc" / "cpuinfo", None, _MS_BIND)
        file.unlink()


def _mount_disk(root: Path, disk: SmallDisk) -> None:
    place = (root / disk.place.lstrip("/")).resolve()
    if not place.is_dir() or not place.is_relative_to(root.resolve()):
        raise CapabilityError(f"cannot mount a disk on {disk.place}: no such folder inside {root}")
    folder = place.stat()
    options = f"size={disk.size_bytes},mode={folder.st_mode & 0o7777:o},uid={folder.st_uid},gid={folder.st_gid}"
    mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def mount(source: str | None, target: Path, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2)."""
    texts = [text.encode() if text is not None else None for text in (source, str(target), kind)]
    data = options.encode() if options is not None else None
    _call("mount", *texts, ctypes.c_ulong(flags), data, what=f"mount {source or 'nothing'} on {target}")


def _call(function: str, *arguments: object, what: str) -> None:
    """Call a function of the C library that returns 0 or sets errno."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        raise CapabilityError(f"cannot {what}: {os.strerror(ctypes.get_errno())}")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m tests.device.lab.namespace [--root FOLDER] -- COMMAND…`: what the build starts its tools with."""
    options = argparse.ArgumentParser()
    options.add_argument("--root", type=Path)
    options.add_argument("command", nargs="+")
    given = options.parse_args(arguments)
    _end_with_caller()  # a build that is killed takes its tools with it
    return run(given.command, given.root, (), os.environ)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
