"""The shell and exec services: a command, or sh that reads its commands, on pipes.

adbd puts interactive shells, and all that speak the first version of the protocol, on a pseudo-terminal. Here nothing
gets one; what its hang-up does to the processes is done by hand. Window sizes are read and ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.device.adb_daemon.pipes import Pipe, note_end
from tests.device.adb_daemon.stream import Stream, StreamClosed
from tests.device.adb_daemon.tasks import run_all, run_first

_FRAME = struct.Struct("<BI")
"""Of the shell protocol, version 2: what it is, and the size of what follows it."""
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_CANNOT_RUN = 126


@dataclass(frozen=True)
class Request:
    """`framed`: version 2 of the protocol, with an exit code. `merged`: stderr goes where stdout does."""

    command: bytes
    framed: bool
    merged: bool
    terminal: str | None


def parse_request(options: Sequence[bytes], command: bytes) -> Request:
    """From b"shell,v2,raw:ls" the options [b"v2", b"raw"] and b"ls"; options that we do not know mean nothing."""
    framed = b"v2" in options
    on_terminal = b"pty" in options or (not command and b"raw" not in options)
    terminals = [os.fsdecode(option.removeprefix(b"TERM=")) for option in options if option.startswith(b"TERM=")]
    return Request(command, framed, on_terminal or not framed, terminals[-1] if terminals else None)


async def serve(request: Request, program: str, environment: Mapping[str, str], stream: Stream) -> None:
    """Runs until the command has ended, or the client has left: then its process group gets SIGHUP."""
    stream.accept()
    try:
        child = _Child(request, program, environment)
    except OSError as error:
        await _report(stream, request, f"error: {program}: {error.strerror}\n".encode())
        return
    complete = False
    try:
        if request.framed:
            await run_first(child.pass_frames(stream), child.take_frames(stream), stream.closed.wait())
        else:
            await run_first(child.pass_output(stream), child.take_input(stream), stream.closed.wait())
        complete = request.framed and not stream.closed.is_set()
    finally:
        # Without a terminal nothing hangs up on what a command leaves in the background.
        if not complete:
            child.hang_up()
        child.close()


async def _report(stream: Stream, request: Request, message: bytes) -> None:
    if request.framed:
        message = _frame(_STDERR, message) + _frame(_EXIT, bytes([_CANNOT_RUN]))
    await stream.write(message)


class _Child:
    """A shell in a session of its own. Raises OSError where it cannot be started."""

    def __init__(self, request: Request, program: str, environment: Mapping[str, str]) -> None:
        terminal = {} if request.terminal is None else {"TERM": request.terminal}
        self._process = subprocess.Popen(
            [program, *([b"-c", request.command] if request.command else [])],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if request.merged else subprocess.PIPE,
            cwd="/",
            env={**environment, **terminal},
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._ended = note_end(self._process)
        self._stdin = Pipe(self._process.stdin)
        self._outputs = {_STDOUT: Pipe(self._process.stdout)}
        if self._process.stderr:
            self._outputs[_STDERR] = Pipe(self._process.stderr)

    def hang_up(self) -> None:
        """SIGHUP to all that the command has started, but for what has left its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGHUP)

    def close(self) -> None:
        """Our ends of the pipes."""
        for pipe in (self._stdin, *self._outputs.values()):
            pipe.close()

    async def pass_output(self, stream: Stream) -> None:
        """Until the command ends, even if others hold its stdout: its pseudo-terminal would end with it."""
        stdout = self._outputs[_STDOUT]
        while True:
            ended = self._ended.is_set()
            data = stdout.read_now()
            if data:
                await stream.write(data)
            elif ended or data is not None:
                return
            else:
                await run_first(stdout.readable(), self._ended.wait())

    async def take_input(self, stream: Stream) -> None:
        """Until the end of the stream."""
        while data := await stream.read():
            await self._stdin.write(data)

    async def pass_frames(self, stream: Stream) -> None:
        """Until all who hold stdout and stderr have closed them; then the exit code."""
        await run_all(*(self._pass_frames_of(kind, stream) for kind in self._outputs))
        await self._ended.wait()
        code = self._process.returncode
        await stream.write(_frame(_EXIT, bytes([128 - code if code < 0 else code])))

    async def _pass_frames_of(self, kind: int, stream: Stream) -> None:
        while data := await self._outputs[kind].read():
            await stream.write(_frame(kind, data))

    async def take_frames(self, stream: Stream) -> None:
        """Raises StreamClosed at the end of the stream."""
        while True:
            kind, size = _FRAME.unpack(await stream.read_exactly(_FRAME.size))
            while size:
                data = await stream.read(size)
                if not data:
                    raise StreamClosed
                size -= len(data)
                if kind == _STDIN:
                    await self._stdin.write(data)
            if kind == _CLOSE_STDIN:
                self._stdin.close()


def _frame(kind: int, data: bytes) -> bytes:
    return _FRAME.pack(kind, len(data)) + data
