"""Sends requests at intended times, whatever becomes of those before (an open loop)."""

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from deploy.local import credentials

REQUEST_TIMEOUT_S: Final = 10.0
_ACCEPTED: Final = b"HTTP/1.1 202"
_content_length: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE).search


def http_request(host: str, method: str, path: str, body: str) -> bytes:
    """Return a request as it goes over the wire."""
    authorization = credentials.headers()["Authorization"]
    content = body.encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"authorization: {authorization}\r\n"
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
    accepted: bool


class Sender:
    """Sends over a number of connections, each with one request at a time."""

    def __init__(self, host: str, port: int, *, connections: int) -> None:
        self.answers: list[Answer] = []
        self._started = 0.0
        self._host = host
        self._port = port
        self._connections = connections
        self._due: asyncio.Queue[Planned | None] = asyncio.Queue()

    async def send(self, plan: Iterable[Planned], started: float) -> None:
        """Send all that is planned, in the order of its time, and wait for the answers."""
        self._started = started
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._connections):
                tasks.create_task(self._work(), name=f"connection-{number}")
            for planned in plan:
                delay_s = self._started + planned.at_s - time.monotonic()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                self._due.put_nowait(planned)
            for _ in range(self._connections):
                self._due.put_nowait(None)

    async def _work(self) -> None:
        streams = None
        while (planned := await self._due.get()) is not None:
            accepted = False
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    streams = streams or await asyncio.open_connection(self._host, self._port)
                    streams[1].write(planned.content)
                    accepted = await _read_answer(streams[0])
            except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
                if streams is not None:
                    streams[1].transport.abort()
                streams = None
            latency_s = time.monotonic() - self._started - planned.at_s
            self.answers.append(Answer(planned.at_s, planned.updates, latency_s, accepted))
        if streams is not None:
            streams[1].close()


async def _read_answer(reader: asyncio.StreamReader) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _content_length(head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return head.startswith(_ACCEPTED)
