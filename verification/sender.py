"""Sends traffic over real HTTP from many connections, and keeps a ledger of what was accepted."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from verification.oracle import Ledger
from verification.traffic import Request

_UNREACHABLE_PAUSE_S: Final = 0.2
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


class Sender:
    """Sends each request until it is accepted, or its outcome is unknown.

    A 503 was not accepted, so it is sent again. What is answered with 504, or not at all, may have
    been accepted: the ledger keeps it apart, and it is not sent again.
    """

    def __init__(
        self,
        base_url: str,
        ledger: Ledger,
        *,
        connections: int,
        on_accepted: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.refused = 0
        """Requests that were answered 503 and sent again."""
        self._base_url = base_url
        self._ledger = ledger
        self._connections = connections
        self._on_accepted = on_accepted

    async def send_all(self, requests: Iterable[Request]) -> None:
        """Send every request, as many side by side as there are connections.

        Raises:
            ExceptionGroup: of `aiohttp.ClientResponseError`, where an answer says that a request
                is wrong, which this traffic never is.
        """
        pending = iter(requests)
        connector = aiohttp.TCPConnector(limit=self._connections)
        async with (
            aiohttp.ClientSession(self._base_url, connector=connector, timeout=_TIMEOUT) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(self._connections):
                tasks.create_task(self._send_each(session, pending), name=f"sender-{number}")

    async def _send_each(self, session: aiohttp.ClientSession, pending: Iterator[Request]) -> None:
        for request in pending:
            await self._send(session, request)

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        method, path, body = _http(request)
        while True:
            try:
                async with session.request(method, path, json=body) as response:
                    if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                        await self._note(request, response)
                        return
                    self.refused += 1
                    pause_s = float(response.headers.get("Retry-After", "1"))
            except aiohttp.ClientConnectorError:
                pause_s = _UNREACHABLE_PAUSE_S  # nothing was sent: nobody is there at the moment
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                self._note_unknown(request)
                return
            await asyncio.sleep(pause_s)

    async def _note(self, request: Request, response: aiohttp.ClientResponse) -> None:
        if response.status == HTTPStatus.GATEWAY_TIMEOUT:
            self._note_unknown(request)
            return
        response.raise_for_status()
        answer = await response.json()
        results = [answer] if request.single else answer["results"]
        for (subscription, body), result in zip(request.updates, results, strict=True):
            self._ledger.accept((request.app, subscription), body, result["receipt"])
        self._on_accepted(len(results))

    def _note_unknown(self, request: Request) -> None:
        for subscription, _ in request.updates:
            self._ledger.outcome_unknown((request.app, subscription))


def _http(request: Request) -> tuple[str, str, dict[str, Any]]:
    """Return method, path and body."""
    subscriptions = f"/v1/apps/{request.app}/subscriptions"
    if request.single:
        ((subscription, body),) = request.updates
        return "PATCH", f"{subscriptions}/{subscription}", body
    updates = [{"subscription_id": each, **body} for each, body in request.updates]
    return "POST", f"{subscriptions}/batch", {"updates": updates}
