"""Serve an ASGI app inside a running event loop, with signals and sockets left to the program."""

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any, Final, cast

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
    turn_bytes_max: int = Field(
        16 * 2**20,
        ge=2**16,
        le=2**34,
        description="Bytes read in one turn of the event loop of requests that have not arrived as "
        "a whole; one more is answered 503.",
    )
    head_bytes_max: int = Field(
        16_384, ge=1_024, le=1_048_576, description="Request line and header fields of one request."
    )
    request_timeout_ms: int = Field(
        30_000, ge=10, le=600_000, description="How long a request may take to arrive; then 408."
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
    protocol = functools.partial(_BoundedHttp, bounds=http, turn=_Turn())
    with contextlib.closing(_bind(listen)) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http=cast("type[asyncio.Protocol]", protocol),
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


class _Turn:
    """How much was read in this turn of the loop, while nobody could look at any of it.

    One turn reads from every connection that has sent something, before a single request goes on.
    """

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, size: int, loop: asyncio.AbstractEventLoop) -> int:
        """Return how much it is together with `size` more."""
        if not self._bytes:
            loop.call_soon(self._end)
        self._bytes += size
        return self._bytes

    def _end(self) -> None:
        self._bytes = 0


_LINGER_S: Final = 2.0


class _Lingering(asyncio.Protocol):
    """Keeps nothing of what still comes; a close before it has come would take the answer along."""

    def __init__(self, answered: asyncio.Protocol) -> None:
        self._answered = answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered.connection_lost(exc)


class _HeadTooLarge(Exception):  # noqa: N818 - it only ends the parser's callback
    pass


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with the bounds it lacks, and every answer of its own a problem document.

    llhttp limits neither the size of a request's head nor the time a request takes to arrive.
    """

    def __init__(self, *, bounds: HttpSettings, turn: _Turn, **options: Any) -> None:
        super().__init__(**options)
        self._bounds = bounds
        self._turn = turn
        self._arriving = True
        self._in_head = True
        self._bytes_since_head_began = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections_max:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.")
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_since_head_began += len(data)
        super().data_received(data)
        # A request that came in one piece is over by now: these bounds cost it nothing.
        if self._arriving and not self.transport.is_closing():
            if self._in_head and self._bytes_since_head_began > self._bounds.head_bytes_max:
                self._refuse_head()
            elif self._keeps_body and self._is_too_much_for_a_turn(len(data)):
                self._refuse_body()
            elif self._deadline is None:
                self._set_deadline()

    @property
    def _keeps_body(self) -> bool:
        # Once it is answered, what still comes of it is not kept; one that waits is not read.
        return not (self._in_head or self.cycle.response_complete or self.pipeline)

    def _is_too_much_for_a_turn(self, size: int) -> bool:
        return self._turn.add(size, self.loop) > self._bounds.turn_bytes_max

    def on_message_begin(self) -> None:
        self._arriving = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        # More may have come than the head, so look closer before saying that it is too large.
        if self._bytes_since_head_began > self._bounds.head_bytes_max and self._head_is_too_large():
            raise _HeadTooLarge
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arriving = False
        self._bytes_since_head_began = 0
        self._clear_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self.headers is not None and self._head_is_too_large():
            self._refuse_head()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _head_is_too_large(self) -> bool:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return size > self._bounds.head_bytes_max

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(
            self._bounds.request_timeout_ms / 1000, self._give_up_waiting
        )

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up_waiting(self) -> None:
        # There may be a request before this one, or an answer to the beginning of this one.
        if self.cycle is None or self._in_head == self.cycle.response_complete:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")
        else:
            self.transport.close()

    def _refuse_body(self) -> None:
        """Answer a request that arrives, and forget what has; the app sees a client that left."""
        self.cycle.body.clear()
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "Too much is arriving at once.")
        self._clear_deadline()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)
        self.transport.set_protocol(_Lingering(self))
        self.flow.resume_reading()

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"Request line and header fields may have {self._bounds.head_bytes_max} bytes.",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer from outside any app, and close."""
        self._answer(status, detail)
        self.transport.close()

    def _answer(self, status: HTTPStatus, detail: str) -> None:
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
