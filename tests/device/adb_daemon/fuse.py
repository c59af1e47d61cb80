"""Breaks connections where a test wants it: after so many bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class LinkCut(Exception):  # noqa: N818 — an event, not an error
    """The fuse has blown: the connection ends here, without a word."""


class Fuse:
    """`cuts`: after how many bytes the connection that carries them breaks, each > 0 and counted from the one before.

    Bytes of both directions count together, headers included, over all connections. Each cut is used once; after the
    last, connections live on.
    """

    def __init__(self, cuts: Iterable[int]) -> None:
        self._cuts = deque(cuts)

    def burn(self, size: int) -> int | None:
        """`size` bytes are to pass. None where all may; otherwise after how many of them the connection breaks."""
        if not self._cuts:
            return None
        self._cuts[0] -= size
        return None if self._cuts[0] > 0 else size + self._cuts.popleft()
