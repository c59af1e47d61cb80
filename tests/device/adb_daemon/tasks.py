"""Coroutines that end together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def run_all(*coroutines: Coroutine[object, object, object]) -> None:
    """Until all have ended, or one fails: then the others are cancelled, and its exception is raised."""
    await _run(coroutines, asyncio.FIRST_EXCEPTION)


async def run_first(*coroutines: Coroutine[object, object, object]) -> None:
    """Until one of them ends or fails; the others are cancelled. Raises its exception."""
    await _run(coroutines, asyncio.FIRST_COMPLETED)


async def _run(coroutines: tuple[Coroutine[object, object, object], ...], until: str) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
