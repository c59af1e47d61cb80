"""Our ends of a process's pipes, and its end, for coroutines."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from typing import IO

_CHUNK_BYTES = 64 * 1024


class Pipe:
    """One end of a pipe."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        os.set_blocking(file.fileno(), False)

    def read_now(self) -> bytes | None:
        """What it holds; None where that is nothing yet, b"" where nothing can come any more."""
        try:
            return os.read(self._file.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return None

    async def read(self) -> bytes:
        """What it holds; waits where that is nothing yet, b"" where nothing can come any more."""
        while (data := self.read_now()) is None:
            await self.readable()
        return data

    async def readable(self) -> None:
        """Until it holds something, or nothing can come any more."""
        await self._event(self._loop.add_reader, self._loop.remove_reader)

    async def write(self, data: memoryview) -> None:
        """All of it, unless the pipe is closed at either end: then data vanishes."""
        while data and not self._file.closed:
            try:
                data = data[os.write(self._file.fileno(), data) :]
            except BlockingIOError:
                await self._event(self._loop.add_writer, self._loop.remove_writer)
            except BrokenPipeError:
                self.close()

    def close(self) -> None:
        """May be called again."""
        self._file.close()

    async def _event(self, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], bool]) -> None:
        happened = asyncio.Event()
        descriptor = self._file.fileno()
        add(descriptor, happened.set)
        try:
            await happened.wait()
        finally:
            remove(descriptor)


def note_end(process: subprocess.Popen[bytes]) -> asyncio.Event:
    """An event that is set when the process has ended and its exit code is known, even if nobody waits for it."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    watch = os.pidfd_open(process.pid)

    def reap() -> None:
        loop.remove_reader(watch)
        os.close(watch)
        process.wait()
        ended.set()

    loop.add_reader(watch, reap)
    return ended
