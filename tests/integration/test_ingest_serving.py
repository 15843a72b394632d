"""The server's own bounds and answers, on real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from shared.bounded_http import HttpSettings
from shared.errors import Misconfigured
from shared.serving import serving
from shared.settings import ListenSettings

ANYWHERE = ListenSettings(port=0)
PATIENCE_S = 30


class App:
    """Answers 200 with the size of the body, once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.requests = 0
        self.fields: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        await self.may_answer.wait()
        self.fields = list(scope["headers"])
        body = b"%d" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def app() -> App:
    return App()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def sent(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self._reader.readexactly(int(fields["content-length"]))
        return int(head[0].split()[1]), fields, body

    async def problem(self) -> tuple[int, dict[str, Any]]:
        status, fields, body = await self.answer()
        assert fields["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(body)
        assert problem["status"] == status
        return status, problem

    async def ended(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read(1) == b""

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield connection
    finally:
        connection.close()


def request(size: int = 0, *fields: str) -> bytes:
    lines = ["PATCH / HTTP/1.1", "Host: x", f"Content-Length: {size}", *fields, "", ""]
    return "\r\n".join(lines).encode()


async def test_requests_are_served_on_a_free_port(app: App) -> None:
    async with serving(app, ANYWHERE) as port, connected(port) as client:
        for _ in range(2):
            client.send(request(3) + b"abc")
            status, _, body = await client.answer()
            assert (status, body) == (200, b"3")


async def test_a_port_that_is_taken_is_a_sentence(app: App) -> None:
    async with serving(app, ANYWHERE) as port:
        with pytest.raises(Misconfigured, match=f"port {port} .*LISTEN__PORT, or --host and --exp"):
            async with serving(app, ListenSettings(port=port)):
                pass


async def test_at_the_end_accepted_requests_are_answered_and_no_more_taken(app: App) -> None:
    app.may_answer.clear()
    stop = asyncio.Event()
    ports: asyncio.Queue[int] = asyncio.Queue()

    async def serve() -> None:
        async with serving(app, ANYWHERE) as port:
            ports.put_nowait(port)
            await stop.wait()

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        served = tasks.create_task(serve())
        port = await ports.get()
        async with connected(port) as busy, connected(port) as idle:
            busy.send(request())
            await until_requested(app, 1)
            stop.set()
            assert await idle.ended()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            app.may_answer.set()
            status, fields, _ = await busy.answer()
            assert (status, fields["connection"]) == (200, "close")
        await served


async def test_accepted_requests_are_answered_also_when_the_program_fails(app: App) -> None:
    app.may_answer.clear()
    ports: asyncio.Queue[int] = asyncio.Queue()

    async def serve() -> None:
        async with serving(app, ANYWHERE) as port:
            ports.put_nowait(port)
            await asyncio.Event().wait()

    served = asyncio.ensure_future(serve())
    async with connected(await ports.get()) as client:
        client.send(request())
        await until_requested(app, 1)
        served.cancel()
        await asyncio.sleep(0)
        app.may_answer.set()
        assert (await client.answer())[0] == 200
    await asyncio.wait([served])
    assert served.cancelled()


async def until_requested(app: App, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while app.requests < count:
            await asyncio.sleep(0.01)


def small(app: App, **bounds: int) -> AbstractAsyncContextManager[int]:
    return serving(app, ANYWHERE, HttpSettings.model_validate(bounds))


@pytest.mark.parametrize("piece", [512, 10_000])
async def test_a_head_that_is_too_large_is_431(app: App, piece: int) -> None:
    async with small(app, head_bytes_max=1_024) as port, connected(port) as client:
        data = request(0, "X: " + "x" * 1_400)[:1_536]
        for start in range(0, len(data), piece):
            client.send(data[start : start + piece])
            await asyncio.sleep(0)

        assert (await client.problem())[0] == 431
        assert await client.ended()
    assert app.requests == 0


async def test_a_field_without_end_is_431(app: App) -> None:
    async with small(app, head_bytes_max=1_024) as port, connected(port) as client:
        client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)

        assert (await client.problem())[0] == 431


async def test_a_large_body_in_one_piece_with_its_head_is_no_large_head(app: App) -> None:
    async with small(app, head_bytes_max=1_024) as port, connected(port) as client:
        client.send((request(20_000) + b"x" * 20_000) * 2)

        for _ in range(2):
            status, _, body = await client.answer()
            assert (status, body) == (200, b"20000")


TUNNEL = b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"


def in_chunks(*fields: bytes) -> bytes:
    head = b"PATCH / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"3\r\nabc\r\n0\r\n" + b"".join(field + b"\r\n" for field in fields)


async def test_fields_after_a_body_are_none_of_the_requests(app: App) -> None:
    async with serving(app, ANYWHERE) as port, connected(port) as client:
        client.send(in_chunks(b"Authorization: late", b"Content-Encoding: br", b""))

        assert (await client.answer())[2] == b"3"
    assert [name for name, _ in app.fields] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("line", [b"a: b\r\n", b"x"])
async def test_fields_after_a_body_are_bounded_as_those_before_it(app: App, line: bytes) -> None:
    async with small(app, head_bytes_max=1_024) as port, connected(port) as client:
        client.send(in_chunks(b"a: b"))
        await until_requested(app, 1)
        client.send(b"a: " + line * 1_100)

        assert (await client.problem())[0] == 431
        assert await client.ended()


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_request_that_asks_for_another_protocol_is_served_with_its_body(
    app: App, pieces: int
) -> None:
    head = request(3, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "X: y")
    async with serving(app, ANYWHERE) as port, connected(port) as client:
        for _ in range(2):
            client.send(head + b"abc" * (pieces == 1))
            if pieces == 2:
                requests = app.requests
                await until_requested(app, requests + 1)
                client.send(b"abc")
            assert (await client.answer())[2] == b"3"
    assert (b"x", b"y") in app.fields


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(request(0) + request(3, "Transfer-Encoding: chunked"), id="a second one"),
        pytest.param(in_chunks()[:-3] + b"no", id="a bad body"),
    ],
)
async def test_what_is_wrong_with_a_request_is_not_answered_to_the_one_before(
    app: App, after: bytes
) -> None:
    app.may_answer.clear()
    async with serving(app, ANYWHERE) as port, connected(port) as client:
        client.send(request(3) + b"abc" + after)
        await until_requested(app, 1)
        app.may_answer.set()

        statuses = [(await client.answer())[0] for _ in range(1 + after.startswith(request(0)))]

        assert set(statuses) == {200}
        assert await client.ended()
    assert app.requests == len(statuses)


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", request(0, "Content-Length: 5"), b"GET / HTTP/1.1\r\nA\r\n\r\n", TUNNEL],
)
async def test_what_is_not_http_is_400(app: App, data: bytes) -> None:
    async with small(app) as port, connected(port) as client:
        client.send(data)

        assert (await client.problem())[0] == 400
        assert await client.ended()


@pytest.mark.parametrize("beginning", [b"", b"PATCH / HT", request(10), request(10) + b"abc"])
async def test_a_request_that_takes_too_long_to_arrive_is_408(app: App, beginning: bytes) -> None:
    async with small(app, request_timeout_ms=50) as port, connected(port) as client:
        client.send(beginning)

        assert (await client.problem())[0] == 408
        assert await client.ended()


async def test_every_request_of_a_connection_has_its_own_time(app: App) -> None:
    async with small(app, request_timeout_ms=2_000) as port, connected(port) as client:
        for _ in range(5):
            client.send(request(2) + b"a")
            await asyncio.sleep(0.5)
            client.send(b"b")
            assert (await client.answer())[0] == 200


async def test_an_answer_may_take_longer_than_a_request(app: App) -> None:
    app.may_answer.clear()
    async with small(app, request_timeout_ms=1_000) as port, connected(port) as client:
        client.send(request())
        await asyncio.sleep(1.1)
        app.may_answer.set()

        assert (await client.answer())[0] == 200


async def test_an_idle_connection_is_closed(app: App) -> None:
    async with small(app, keep_alive_ms=20) as port, connected(port) as client:
        client.send(request())
        assert (await client.answer())[0] == 200

        assert await client.ended()


async def test_what_arrives_in_one_turn_of_the_loop_is_bounded(app: App) -> None:
    async with small(app, turn_bytes_max=2**16) as port:
        async with connected(port) as client:
            client.send(request(10**7) + bytes(10**7))
            await client.sent()
            status, problem = await client.problem()
            assert (status, problem["detail"]) == (503, "Too much is arriving at once.")
        async with connected(port) as client:
            client.send(request(200_000))
            for _ in range(20):
                client.send(bytes(10_000))
                for _ in range(10):  # turns
                    await asyncio.sleep(0)
            assert (await client.answer())[2] == b"200000"


async def test_connections_are_bounded(app: App) -> None:
    async with small(app, connections_max=1) as port, connected(port) as first:
        first.send(request())
        assert (await first.answer())[0] == 200
        async with connected(port) as second:
            status, fields, _ = await second.answer()

            assert (status, fields["retry-after"]) == (503, "1")
            assert await second.ended()
        first.send(request())
        assert (await first.answer())[0] == 200


async def test_requests_that_wait_for_answers_before_theirs_are_bounded(app: App) -> None:
    app.may_answer.clear()
    async with small(app, pipelined_max=3) as port:
        async with connected(port) as first, connected(port) as second:
            first.send(request() * 3)
            await until_requested(app, 1)
            second.send(request() * 6)
            await until_requested(app, 2)
            app.may_answer.set()

            for client, answered in ((first, 3), (second, 2)):
                for _ in range(answered):
                    assert (await client.answer())[0] == 200
            assert await second.ended()
        async with connected(port) as third:
            third.send(request() * 4)
            for _ in range(4):
                assert (await third.answer())[0] == 200


async def test_no_more_is_read_while_requests_wait(app: App) -> None:
    in_one_read_at_most = 2**18 // 15_000 + 1
    async with (
        small(app, pipelined_max=in_one_read_at_most + 1) as port,
        connected(port) as client,
    ):
        client.send((request(15_000) + bytes(15_000)) * 500)

        for _ in range(500):
            assert (await client.answer())[2] == b"15000"
