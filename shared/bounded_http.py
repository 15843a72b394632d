"""uvicorn's HTTP protocol with the bounds it lacks: on heads, on time, on what waits or arrives."""

import asyncio
import json
from collections.abc import Sized
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from pydantic import Field
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.settings import FrozenModel


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
    pipelined_max: int = Field(
        10_000,
        ge=1,
        le=10_000_000,
        description="Requests that wait until one before them on their connection is answered; "
        "where one more comes, its connection is closed after the answers.",
    )
    head_bytes_max: int = Field(
        16_384,
        ge=1_024,
        le=1_048_576,
        description="Request line and header fields of one request, and those after its body.",
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


def bounded_http(bounds: HttpSettings) -> type[asyncio.Protocol]:
    """Return what makes a protocol for each connection of one server, as uvicorn takes it."""
    protocol = partial(_BoundedHttp, bounds=bounds, turn=_Turn(), queue=_Queue())
    return cast("type[asyncio.Protocol]", protocol)


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


class _Queue:
    """How many requests of all connections wait for an answer to one before them."""

    def __init__(self) -> None:
        self.length = 0


class _InTurn(FlowControl):
    """Reads nothing more while requests wait: each would let in as many as one read holds."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class _Parser(httptools.HttpRequestParser):
    """Parses a request that asks for another protocol as one that does not, body included.

    httptools would leave its body out, and take what comes of it for the next request.
    """

    def __init__(self, protocol: "_BoundedHttp") -> None:
        super().__init__(protocol)
        # As uvicorn has it: what follows `Connection: close` is no error.
        self.set_dangerous_leniencies(lenient_data_after_close=True)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        while True:
            try:
                super().feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._protocol.head_without_upgrade() + data[upgrade.args[0] :]
            else:
                return


_LINGER_S: Final = 2.0


class _Lingering(asyncio.Protocol):
    """Keeps nothing of what still comes; a close before it has come would take the answer along."""

    def __init__(self, answered: asyncio.Protocol) -> None:
        self._answered = answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered.connection_lost(exc)


class _Refused(Exception):  # noqa: N818 - it only ends the parser's callback
    pass


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with the bounds it lacks, and every answer of its own a problem document.

    llhttp limits neither the size of a request's head nor the time a request takes to arrive, and
    uvicorn not how many requests wait on a connection. What is wrong with a request is never
    answered before those that came before it: their senders would take it for their own answer.
    """

    def __init__(self, *, bounds: HttpSettings, turn: _Turn, queue: _Queue, **options: Any) -> None:
        super().__init__(**options)
        self.parser = _Parser(self)
        self._bounds = bounds
        self._turn = turn
        self._queue = queue
        self._arriving = True
        self._in_head = True
        self._ends_after_answers = False
        self._bytes_without_body = 0
        """Those of a head, or that came since any of the body did."""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _InTurn(transport, self.pipeline)
        if len(self.connections) > self._bounds.connections_max:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.")
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self._queue.length -= len(self.pipeline)
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ends_after_answers:
            return
        self._bytes_without_body += len(data)
        super().data_received(data)
        # A request that came in one piece is over by now: these bounds cost it nothing.
        if self._arriving and not (self._ends_after_answers or self.transport.is_closing()):
            if self._bytes_without_body > self._bounds.head_bytes_max:
                self._refuse_head()
            elif self._keeps_body and self._is_too_much_for_a_turn(len(data)):
                self._refuse_body()
            elif self._deadline is None:
                self._set_deadline()

    @property
    def _in_body(self) -> bool:
        return self._arriving and not self._in_head

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
        # More may have come than the head, so look closer before saying that it is too large.
        if self._bytes_without_body > self._bounds.head_bytes_max and self._head_is_too_large():
            raise _Refused
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused
            return  # it comes again, without asking for that
        if self._queue.length >= self._bounds.pipelined_max and self._is_answering:
            raise _Refused
        waiting_before = len(self.pipeline)
        super().on_headers_complete()
        self._queue.length += len(self.pipeline) - waiting_before
        self._in_head = False
        self._bytes_without_body = 0
        self.headers = []  # what comes after the body is none of the request's fields

    def head_without_upgrade(self) -> bytes:
        """Return the head that has just been parsed as one that asks for no other protocol."""
        version = self.parser.get_http_version().encode()
        fields = [(name, value) for name, value in self.headers if name != b"upgrade"]
        lines = [b"%s: %s\r\n" % field for field in fields]
        first = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        return b"".join([first, *lines, b"\r\n"])

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._arriving = False
        self._bytes_without_body = 0
        self._clear_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        waiting_before = len(self.pipeline)
        super().on_response_complete()
        self._queue.length -= waiting_before - len(self.pipeline)
        if self._ends_after_answers and not waiting_before:
            self.transport.close()

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
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")

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
        """Answer from outside any app, and close; where that is no turn to answer, only close."""
        is_answered = self._in_body and self.cycle.response_complete
        if self._is_answering and (self.pipeline or not self._in_body):
            self._end_after_answers()
            return
        if not is_answered:
            self._answer(status, detail)
        self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_after_answers(self) -> None:
        """Take no more, and close when the requests that came as a whole are answered."""
        self._ends_after_answers = True
        self._clear_deadline()
        if self._in_body:  # the last of those that wait, whose rest will not be read
            self.pipeline.popleft()
            self._queue.length -= 1

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
