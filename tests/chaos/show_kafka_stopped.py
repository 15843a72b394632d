"""Kafka is away: what does each call answer, how soon, and is anything accepted lost?

`python -m tests.chaos.show_kafka_stopped`, with FAULT=broker.stop, broker.kill or broker.freeze for
SECONDS=60, and as customers RATE=200 updates/s besides the calls that are timed.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final

import aiohttp

from deploy.local import credentials
from tests.chaos.faults import FAULTS
from tests.chaos.run import background, settle
from tests.chaos.shows import Facts, Memory, choice, number, say, show
from tests.chaos.system import System
from verification.marks import Marker
from verification.oracle import Ledger, read_rows
from verification.sender import Sender
from verification.traffic import CustomerMix

INTERVAL_S: Final = 0.02
AROUND_S: Final = 10
APP: Final = str(uuid.UUID(int=1, version=4))
SUBSCRIPTION: Final = str(uuid.UUID(int=2, version=4))
TAGS: Final[Mapping[str, Any]] = {"tags": {"a": 1}}
CALLS: Final[Sequence[tuple[str, str, Any]]] = (
    ("PATCH", f"/v1/apps/{APP}/subscriptions/{SUBSCRIPTION}", TAGS),
    (
        "POST",
        f"/v1/apps/{APP}/subscriptions/batch",
        {"updates": [{"subscription_id": SUBSCRIPTION, **TAGS}]},
    ),
    ("PUT", f"/api/v1/players/{SUBSCRIPTION}", {"app_id": APP, **TAGS}),
    ("GET", "/v1/receipts/{receipt}", None),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the calls that are timed."""

    method: str
    status: int
    sent_at: float
    seconds: float
    retry_after: str | None


async def measure(system: System) -> Facts:
    """Send before, while Kafka is away, and afterwards."""
    fault, seconds = choice("FAULT", "broker.stop", FAULTS), number("SECONDS", 60)
    mix = CustomerMix(1, apps=200, subscriptions=5_000)
    ledger, memory, over = Ledger(), Memory(), asyncio.Event()
    answers: list[Answer] = []
    sender = Sender(system.ingest_url, ledger, headers=credentials.headers(), connections=256)
    await system.start("ingest-api", "consumer-1")
    async with (
        background(system.supervise()),
        asyncio.TaskGroup() as tasks,
        background(_call(system.ingest_url, answers)),
        memory.watching(system.ingest.daemon),
    ):
        requests = Marker().mark_all(mix.requests(10**9))
        tasks.create_task(sender.send_at_rate(requests, number("RATE", 200), over))
        await asyncio.sleep(AROUND_S)
        before_mib = memory.peak_mib
        say(f"{fault} for {seconds} s")
        away_at = time.monotonic()
        async with FAULTS[fault](system, "broker"):
            await asyncio.sleep(seconds)
            back_at = time.monotonic()
        await asyncio.sleep(AROUND_S)
        over.set()
    await settle(system)
    rows = await read_rows(system.directory, mix.apps)
    away = [each for each in answers if away_at <= each.sent_at < back_at]
    accepted_at = [
        each.sent_at for each in answers if each.status in {200, 202} and each.method != "GET"
    ]
    return {
        "fault": fault,
        "answers_while_away": {
            answer: {
                "count": len(found),
                "slowest_s": max(round(each.seconds, 2) for each in found),
                "last_sent_after_s": max(round(each.sent_at - away_at, 2) for each in found),
                "without_retry_after": sum(each.retry_after is None for each in found),
            }
            for answer, found in _by_answer(away).items()
        },
        "accepted_again_after_s": round(min(at for at in accepted_at if at > back_at) - back_at, 1),
        "ingest_mib": {"before": round(before_mib, 1), "peak": round(memory.peak_mib, 1)},
        "updates_accepted": ledger.count,
        "outcomes_unknown": len(ledger.unknown),
        "rows_that_differ": len(ledger.differences(rows)),
        "crashes": sum(len(each.crashes) for each in system.services.values()),
    }


async def _call(url: str, answers: list[Answer]) -> None:
    """Make each call in turn, fifty a second, whatever becomes of those before."""
    async with (
        aiohttp.ClientSession(url, headers=credentials.headers()) as session,
        asyncio.TaskGroup() as tasks,
    ):
        async with session.patch(CALLS[0][1], json=CALLS[0][2]) as response:
            receipt: str = (await response.json())["receipt"]
        for method, path, body in cycle(CALLS):
            tasks.create_task(
                _time(session, method, path.format(receipt=receipt), body, answers), name="call"
            )
            await asyncio.sleep(INTERVAL_S)


async def _time(
    session: aiohttp.ClientSession, method: str, path: str, body: Any, answers: list[Answer]
) -> None:
    sent_at = time.monotonic()
    async with session.request(method, path, json=body) as response:
        await response.read()
    seconds = time.monotonic() - sent_at
    retry_after = response.headers.get("Retry-After")
    answers.append(Answer(method, response.status, sent_at, seconds, retry_after))


def _by_answer(answers: Sequence[Answer]) -> Mapping[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for each in answers:
        found.setdefault(f"{each.method} {each.status}", []).append(each)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    show(measure)
