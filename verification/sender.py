"""Sends traffic over real HTTP from many connections, and keeps a ledger of what was accepted."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from verification.oracle import Ledger
from verification.traffic import Request

_UNREACHABLE_PAUSE_S: Final = 0.2
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_NOT_ALL_ACCEPTED: Final = (
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.REQUEST_TIMEOUT,
)


class Sender:
    """Sends each request until it is accepted, or its outcome is unknown.

    What a 503 does not accept is sent again. What is answered with 504, or not at all, may have
    been accepted: the ledger keeps it apart, and it is not sent again, unless it has an idempotency
    key. With one, it is sent until it is accepted, and then once more.
    """

    def __init__(
        self,
        base_url: str,
        ledger: Ledger,
        *,
        headers: Mapping[str, str],
        connections: int,
        on_accepted: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.refused = 0
        """Requests that were answered 503 and sent again."""
        self.patient = True
        """Whether what is not accepted is sent again; otherwise it is given up."""
        self._base_url = base_url
        self._ledger = ledger
        self._headers = headers
        self._connections = connections
        self._on_accepted = on_accepted

    async def send_all(self, requests: Iterable[Request]) -> None:
        """Send every request, as many side by side as there are connections.

        Raises:
            ExceptionGroup: of `aiohttp.ClientResponseError`, where an answer says that a request
                is wrong, which this traffic never is.
        """
        pending = iter(requests)
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            for number in range(self._connections):
                tasks.create_task(self._send_each(session, pending), name=f"sender-{number}")

    async def send_at_rate(
        self, requests: Iterator[Request], updates_per_s: float, stop: asyncio.Event
    ) -> int:
        """Send as customers do, who do not wait for one another, until `stop`.

        A request is sent when its time has come, however slow the answers are. Only where every
        connection is in use is it not sent at all; returns how many updates that were.

        Raises:
            ExceptionGroup: see `send_all`.
        """
        left_out = 0
        open_requests: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            for request in requests:
                await _pause_until(due, stop)
                if stop.is_set():
                    break
                due += len(request.updates) / updates_per_s
                if len(open_requests) >= self._connections:
                    left_out += len(request.updates)
                    continue
                task = tasks.create_task(self._send(session, request), name="request")
                open_requests.add(task)
                task.add_done_callback(open_requests.discard)
            self.patient = False
        return left_out

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=self._connections)
        return aiohttp.ClientSession(
            self._base_url, headers=self._headers, connector=connector, timeout=_TIMEOUT
        )

    async def _send_each(self, session: aiohttp.ClientSession, pending: Iterator[Request]) -> None:
        for request in pending:
            await self._send(session, request)

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        if request.key is None:
            await self._send_until_accepted(session, request)
            return
        ((subscription, body),) = request.updates
        self._ledger.under_keys.append(((request.app, subscription), body))
        await self._send_until_accepted(session, request)
        with suppress(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
            async with _requested(session, request) as response:
                if response.status not in _NOT_ALL_ACCEPTED:
                    response.raise_for_status()

    async def _send_until_accepted(self, session: aiohttp.ClientSession, request: Request) -> None:
        while True:
            try:
                async with _requested(session, request) as response:
                    left = await self._note(request, response)
                    pause_s = float(response.headers.get("Retry-After", "1"))
            except aiohttp.ClientConnectorError:
                # Nothing was sent: nobody is there at the moment.
                left, pause_s = request, _UNREACHABLE_PAUSE_S
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                left = self._note_answer(request, _Answer(unknown=len(request.updates)))
                pause_s = _UNREACHABLE_PAUSE_S
            if left is None or not self.patient:
                return
            request = left
            await asyncio.sleep(pause_s)

    async def _note(self, request: Request, response: aiohttp.ClientResponse) -> Request | None:
        """Note what was answered; return what is to be sent again."""
        if response.status not in _NOT_ALL_ACCEPTED:
            response.raise_for_status()
        content = await response.json(content_type=None)
        if response.status in _NOT_ALL_ACCEPTED:
            answer = _Answer.of_results(content.get("results", ()))
            if not answer.told and response.status == HTTPStatus.GATEWAY_TIMEOUT:
                answer = _Answer(unknown=len(request.updates))
        else:
            answer = _Answer.of_results([content] if request.single else content["results"])
            assert len(answer.receipts) == len(request.updates), content
        left = self._note_answer(request, answer)
        if left is not None:
            self.refused += 1
        return left

    def _note_answer(self, request: Request, answer: "_Answer") -> Request | None:
        updates = iter(request.updates)
        for receipt in answer.receipts:
            subscription, body = next(updates)
            self._ledger.accept((request.app, subscription), body, receipt)
        self._on_accepted(len(answer.receipts))
        for subscription, body in itertools.islice(updates, answer.unknown):
            self._ledger.outcome_unknown((request.app, subscription), body)
        if answer.unknown and request.key is not None:
            return request
        left = list(updates)
        return replace(request, updates=left) if left else None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a request's updates: some stored, then some unknown, then some not stored."""

    receipts: tuple[str, ...] = ()
    unknown: int = 0
    told: bool = False

    @classmethod
    def of_results(cls, results: Iterable[Mapping[str, str]]) -> "_Answer":
        results = list(results)
        receipts = tuple(each["receipt"] for each in results if "receipt" in each)
        unknown = sum(each.get("outcome") == "unknown" for each in results)
        stored_first = all("receipt" in each for each in results[: len(receipts)])
        then_unknown = results[len(receipts) : len(receipts) + unknown]
        assert stored_first, results
        assert all(each.get("outcome") == "unknown" for each in then_unknown), results
        return cls(receipts, unknown, told=bool(results))


async def _pause_until(due: float, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    if (wait_s := due - loop.time()) > 0:
        try:
            async with asyncio.timeout(wait_s):
                await stop.wait()
        except TimeoutError:
            pass


def _requested(
    session: aiohttp.ClientSession, request: Request
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    method, path, body = _http(request)
    headers = {} if request.key is None else {"Idempotency-Key": request.key}
    return session.request(method, path, json=body, headers=headers)


def _http(request: Request) -> tuple[str, str, dict[str, Any]]:
    """Return method, path and body."""
    subscriptions = f"/v1/apps/{request.app}/subscriptions"
    if request.single:
        ((subscription, body),) = request.updates
        return "PATCH", f"{subscriptions}/{subscription}", body
    updates = [{"subscription_id": each, **body} for each, body in request.updates]
    return "POST", f"{subscriptions}/batch", {"updates": updates}
