"""Shopify's Toxiproxy between consumers and shards: the one part that Python packages lack.

It is built with Go from its module, at a fixed version that Go's checksum database vouches for.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy.local.layout import LOCAL
from deploy.local.ports import HOST
from tests.consumers import free_port

_MODULE: Final = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
_HOME: Final = LOCAL / "toxiproxy"


class Toxiproxy:
    """A running server, asked over its HTTP API."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def add_proxy(self, name: str, upstream: str) -> str:
        """Open a way to `upstream`, and return the address to connect to instead."""
        listen = f"{HOST}:0"
        made = await self._post("/proxies", name=name, listen=listen, upstream=upstream)
        address: str = made["listen"]
        return address

    async def add_toxic(self, proxy: str, kind: str, **attributes: int) -> None:
        for stream in ("upstream", "downstream"):
            await self._post(
                f"/proxies/{proxy}/toxics",
                name=f"{kind}_{stream}",
                type=kind,
                stream=stream,
                attributes=attributes,
            )

    async def remove_toxic(self, proxy: str, kind: str) -> None:
        for stream in ("upstream", "downstream"):
            async with self._session.delete(f"/proxies/{proxy}/toxics/{kind}_{stream}") as answer:
                answer.raise_for_status()

    async def set_enabled(self, proxy: str, *, enabled: bool) -> None:
        """Close every connection and refuse new ones, or take them again."""
        await self._post(f"/proxies/{proxy}", enabled=enabled)

    async def _post(self, path: str, **content: Any) -> Any:
        async with self._session.post(path, json=content) as answer:
            answer.raise_for_status()
            return await answer.json()


def can_be_had() -> bool:
    """Say whether the server is installed, or can be built here."""
    return _installed() is not None or shutil.which("go") is not None


@asynccontextmanager
async def running_toxiproxy() -> AsyncIterator[Toxiproxy]:
    """Run a server of our own, built first where it is not here yet."""
    program = _installed() or await _build()
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(program, "-host", HOST, "-port", str(port)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://{HOST}:{port}") as session:
            async with asyncio.timeout(10):
                while not await _answers(session):
                    await asyncio.sleep(0.05)
            yield Toxiproxy(session)
    finally:
        process.kill()
        await process.wait()


def _installed() -> str | None:
    built = _HOME / "server"
    return str(built) if built.exists() else shutil.which("toxiproxy-server")


async def _build() -> str:
    _HOME.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(_HOME), "GOFLAGS": "-buildvcs=false"}
    process = await asyncio.create_subprocess_exec("go", "install", _MODULE, env=environment)
    async with asyncio.timeout(600):
        status = await process.wait()
    if status:
        raise RuntimeError(f"Toxiproxy cannot be built: go install {_MODULE} failed.")
    return str(Path(_HOME) / "server")


async def _answers(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/version") as answer:
            return answer.ok
    except aiohttp.ClientConnectionError:
        return False
