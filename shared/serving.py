"""Serve an ASGI app inside a running event loop, with signals and sockets left to the program."""

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from pydantic import Field
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import Misconfigured
from shared.settings import FrozenModel, ListenSettings


class HttpSettings(FrozenModel):
    """How much of the server one client, or all of them, can hold."""

    connections_max: int = Field(
        4_096, ge=1, le=1_000_000, description="Open connections; one more is answered 503."
    )
    head_bytes_max: int = Field(
        16_384, ge=1_024, le=1_048_576, description="Request line and header fields of one request."
    )
    head_timeout_ms: int = Field(
        10_000, ge=10, le=600_000, description="How long the head of a request may take to arrive."
    )
    keep_alive_ms: int = Field(
        75_000, ge=0, le=3_600_000, description="How long an idle connection is kept."
    )
    drain_timeout_ms: int = Field(
        10_000, ge=0, le=600_000, description="At the end: how long to finish accepted requests."
    )


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
                http=cast("type[asyncio.Protocol]", functools.partial(_BoundedHttp, bounds=http)),
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
            "what holds it, or set TIDEMARK_LISTEN__HOST and TIDEMARK_LISTEN__PORT."
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


class _HeadTooLarge(Exception):  # noqa: N818 - it only ends the parser's callback
    pass


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with the bounds it lacks, and every answer of its own a problem document.

    llhttp limits neither the size of a request's head nor the time it takes to arrive.
    """

    def __init__(self, *, bounds: HttpSettings, **options: Any) -> None:
        super().__init__(**options)
        self._bounds = bounds
        self._in_head = True
        self._head_bytes = 0
        self._head_too_large = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections_max:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.")
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head that came in one piece is over by now, so this costs the others nothing.
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes_max:
                self._refuse_head()
            elif self._head_timer is None:
                self._expect_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_ended()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._bounds.head_bytes_max:
            self._head_too_large = True
            raise _HeadTooLarge
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_too_large:
            self._refuse_head()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(
            self._bounds.head_timeout_ms / 1000,
            self._refuse,
            HTTPStatus.REQUEST_TIMEOUT,
            "The head of the request did not arrive in time.",
        )

    def _head_ended(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"Request line and header fields may have {self._bounds.head_bytes_max} bytes.",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer from outside any app, and close."""
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": detail,
        }
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n"
        )
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            head += "retry-after: 1\r\n"
        self.transport.write(head.encode("ascii") + b"\r\n" + body)
        self.transport.close()
