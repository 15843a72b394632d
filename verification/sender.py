"""Sends traffic over real HTTP from many connections, and keeps a ledger of what was accepted."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Final

import httpx

from verification.oracle import Ledger
from verification.traffic import Request

_UNREACHABLE_PAUSE_S: Final = 0.2


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
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(30.0),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self._ledger = ledger
        self._connections = connections
        self._on_accepted = on_accepted

    async def send_all(self, requests: Iterable[Request]) -> None:
        """Send every request, as many side by side as there are connections."""
        pending = iter(requests)
        async with self._client, asyncio.TaskGroup() as tasks:
            for number in range(self._connections):
                tasks.create_task(self._send_each(pending), name=f"sender-{number}")

    async def _send_each(self, pending: Iterator[Request]) -> None:
        for request in pending:
            await self.send(request)

    async def send(self, request: Request) -> None:
        """Send one request, and note in the ledger what became of it.

        Raises:
            httpx.HTTPStatusError: it was refused as wrong, which this traffic never is.
        """
        while True:
            try:
                response = await self._post(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                # Nothing was sent: the service is not there at the moment.
                await asyncio.sleep(_UNREACHABLE_PAUSE_S)
                continue
            except httpx.TransportError:
                self._note_unknown(request)
                return
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            self.refused += 1
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
        if response.status_code == HTTPStatus.GATEWAY_TIMEOUT:
            self._note_unknown(request)
            return
        response.raise_for_status()
        answer = response.json()
        receipts = (
            [answer["receipt"]]
            if request.single
            else [result["receipt"] for result in answer["results"]]
        )
        for (subscription, body), receipt in zip(request.updates, receipts, strict=True):
            self._ledger.accept((request.app, subscription), body, receipt)
        self._on_accepted(len(receipts))

    async def _post(self, request: Request) -> httpx.Response:
        if request.single:
            ((subscription, body),) = request.updates
            return await self._client.patch(
                f"/v1/apps/{request.app}/subscriptions/{subscription}", json=body
            )
        updates = [{"subscription_id": each, **body} for each, body in request.updates]
        return await self._client.post(
            f"/v1/apps/{request.app}/subscriptions/batch", json={"updates": updates}
        )

    def _note_unknown(self, request: Request) -> None:
        for subscription, _ in request.updates:
            self._ledger.outcome_unknown((request.app, subscription))
