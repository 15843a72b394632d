"""What the measurements share: a stack of their own with default settings, and a table."""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from deploy.local.processes import Daemon
from deploy.local.testing import temporary_stack
from tests.chaos.system import System, fresh_system

Facts = Mapping[str, Any]


def show(measure: Callable[[System], Awaitable[Facts]]) -> None:
    """Run a measurement on services with default settings, and print what it found."""
    # Told to end, it takes its broker and shards with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with temporary_stack() as stack, tempfile.TemporaryDirectory() as directory:

        async def run() -> Facts:
            async with fresh_system(stack, Path(directory)) as system:
                system.describe_services(consumer={}, ingest={})
                return await measure(system)

        facts = asyncio.run(run())
    say(json.dumps(facts, indent=2))


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def number(name: str, default: int) -> int:
    """Read a number from the environment."""
    return int(os.environ.get(name) or default)


def choice(name: str, default: str, known: Iterable[str]) -> str:
    """Read one of `known` from the environment; end with a sentence if it is none of them."""
    chosen = os.environ.get(name) or default
    if chosen not in known:
        sys.exit(f"{name}={chosen} is unknown; there are {', '.join(sorted(known))}.")
    return chosen


class Memory:
    """The most resident memory that a process was seen to have."""

    def __init__(self) -> None:
        self.peak_mib = 0.0

    @asynccontextmanager
    async def watching(self, daemon: Daemon) -> AsyncIterator[None]:
        """Look ten times a second while the block runs."""
        watcher = asyncio.create_task(self._watch(daemon))
        try:
            yield
        finally:
            watcher.cancel()

    async def _watch(self, daemon: Daemon) -> None:
        process: psutil.Process | None = None
        while True:
            process = process or daemon.process()
            if process is not None:
                try:
                    self.peak_mib = max(self.peak_mib, process.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    process = None
            await asyncio.sleep(0.1)
