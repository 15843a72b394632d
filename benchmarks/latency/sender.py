"""Sends requests at intended times, whatever becomes of those before (an open loop)."""

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from benchmarks.topics import SAMPLED
from deploy.local import credentials

REQUEST_TIMEOUT_S: Final = 10.0
_ACCEPTED: Final = b"HTTP/1.1 202"
_content_length: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE).search


_TRACED: Final = f"{SAMPLED[0]}: {SAMPLED[1].decode()}\r\n"


def http_request(host: str, method: str, path: str, body: str, *, traced: bool = False) -> bytes:
    """Return a request as it goes over the wire; of one that is `traced`, services make spans."""
    authorization = credentials.headers()["Authorization"]
    content = body.encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"authorization: {authorization}\r\n{_TRACED if traced else ''}"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@dataclass(frozen=True, slots=True)
class Planned:
    """A request, and when it is to be sent, in seconds after the start."""

    at_s: float
    content: bytes
    updates: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request; the time it waited to be sent counts."""

    at_s: float
    updates: int
    latency_s: float
    late_s: float
    """How long it waited for the sender: for its turn, and for a connection where all are used."""
    accepted: bool


class Sender:
    """Sends over as many connections as it takes, each with one request at a time.

    Where none is free another one is opened, up to `connections_max`: requests that are stuck
    hold up nobody but themselves.
    """

    def __init__(self, host: str, port: int, *, connections: int, connections_max: int) -> None:
        self.answers: list[Answer] = []
        self.connections = 0
        """How many there are."""
        self._started = 0.0
        self._host = host
        self._port = port
        self._connections_at_first = connections
        self._connections_max = connections_max
        self._free = 0
        self._due: asyncio.Queue[Planned | None] = asyncio.Queue()

    async def send(self, plan: Iterable[Planned], started: float) -> None:
        """Send all that is planned, in the order of its time, and wait for the answers."""
        self._started = started
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._connections_at_first):
                self._add_connection(tasks)
            for planned in plan:
                delay_s = self._started + planned.at_s - time.monotonic()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                self._due.put_nowait(planned)
                if self._due.qsize() > self._free and self.connections < self._connections_max:
                    self._add_connection(tasks)
            for _ in range(self.connections):
                self._due.put_nowait(None)

    def _add_connection(self, tasks: asyncio.TaskGroup) -> None:
        self.connections += 1
        self._free += 1
        tasks.create_task(self._work(), name=f"connection-{self.connections}")

    async def _work(self) -> None:
        streams = None
        while (planned := await self._due.get()) is not None:
            self._free -= 1
            late_s = time.monotonic() - self._started - planned.at_s
            accepted = False
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    if streams is None or streams[0].at_eof() or streams[1].is_closing():
                        # None yet, or one that lay idle until the server closed it.
                        streams = await asyncio.open_connection(self._host, self._port)
                    streams[1].write(planned.content)
                    accepted = await _read_answer(streams[0])
            except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
                if streams is not None:
                    streams[1].transport.abort()
                streams = None
            latency_s = time.monotonic() - self._started - planned.at_s
            self.answers.append(Answer(planned.at_s, planned.updates, latency_s, late_s, accepted))
            self._free += 1
        if streams is not None:
            streams[1].close()


async def _read_answer(reader: asyncio.StreamReader) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _content_length(head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return head.startswith(_ACCEPTED)
