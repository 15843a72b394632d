"""Serve an ASGI app inside a running event loop, with signals and sockets left to the program."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import uvicorn

from shared.bounded_http import HttpSettings, bounded_http
from shared.errors import Misconfigured
from shared.settings import ListenSettings


@contextlib.asynccontextmanager
async def serving(
    app: Any, listen: ListenSettings, http: HttpSettings | None = None
) -> AsyncIterator[int]:
    """Serve `app` while the block runs, and yield the port.

    Leaving the block stops accepting, answers what was accepted, and closes. The app gets no
    lifespan events: what it needs is opened around this block and outlives its requests.

    Raises:
        Misconfigured: the address cannot be bound.
    """
    http = http or HttpSettings()
    with contextlib.closing(_bind(listen)) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http=bounded_http(http),
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                log_level="warning",
                timeout_keep_alive=cast("int", http.keep_alive_ms / 1000),
                timeout_graceful_shutdown=cast("int", http.drain_timeout_ms / 1000),
            )
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.serve([listener]), name="http-server")
            await server.listening.wait()
            try:
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True
                # Also when the block was cancelled: the group would cut off open requests.
                await asyncio.wait([running])


def _bind(listen: ListenSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((listen.host, listen.port))
    except OSError as error:
        listener.close()
        raise Misconfigured(
            f"Cannot listen on {listen.host} port {listen.port} ({error.strerror or error}); stop "
            "what holds it, or choose another: TIDEMARK_LISTEN__HOST and TIDEMARK_LISTEN__PORT, or "
            "--host and --export of `tidemark lag`."
        ) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn's server; signals stay with the program, and it tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would take SIGTERM over and raise it again at the end: exit status 143.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()
