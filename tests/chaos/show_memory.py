"""How much memory the services take at their bounds.

`python -m tests.chaos.show_memory`, with RECORDS=1000000 of backlog, LARGE=1500 records of the
largest size, and FLOOD_S=20 seconds of slow clients and big bodies.
"""

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import aiohttp

from deploy.local import credentials
from ingest_api.schemas import UPDATE_BYTES_MAX
from tests.chaos.bulk import Sent, send_bulk
from tests.chaos.faults import FAULTS
from tests.chaos.run import background, settle
from tests.chaos.shows import Facts, Memory, number, say, show
from tests.chaos.system import System
from verification.oracle import read_rows

SLOW_CLIENTS: Final = 3_000
BIG_CLIENTS: Final = 200
STANDSTILL_S: Final = 20.0


async def measure(system: System) -> Facts:
    """Measure consumer and ingest, one after the other."""
    consumer = await _consumer(system)
    return {**consumer, **await _ingest(system)}


async def _consumer(system: System) -> Facts:
    records, large = number("RECORDS", 1_000_000), number("LARGE", 1_500)
    sent = Sent()
    await send_bulk(system.kafka, _batches(records, 50, seed=1), sent)
    say(f"{records} records are waiting")
    backlog = await _peak(system)
    await send_bulk(system.kafka, _batches(records, 50, seed=2), sent)
    say(f"{records} records are waiting, and no shard can be written")
    standstill = await _peak(system, standstill=True)
    tags = _filling(UPDATE_BYTES_MAX - 1_000)
    await send_bulk(system.kafka, _batches(large, 1, seed=3), sent, tags=tags)
    say(f"{large} records of the largest size are waiting, and no shard can be written")
    largest = await _peak(system, standstill=True)
    rows = await read_rows(system.directory)
    return {
        "consumer_peak_mib": {
            f"backlog of {records} records": backlog,
            f"backlog of {records} records, shards read-only": standstill,
            f"{large} records of {UPDATE_BYTES_MAX // 1024} KiB, shards read-only": largest,
        },
        "rows": len(rows),
        "rows_that_differ": sent.wrong(rows),
    }


async def _peak(system: System, *, standstill: bool = False) -> float:
    """Start a consumer on what is waiting, let it finish, and return the most it took."""
    memory = Memory()
    async with contextlib.AsyncExitStack() as faults:
        if standstill:
            for shard in system.dsns:
                await faults.enter_async_context(FAULTS["shard.read_only"](system, shard))
        await system.start("consumer-1")
        async with memory.watching(system.services["consumer-1"].daemon):
            if standstill:
                await asyncio.sleep(STANDSTILL_S)
                in_flight = (await system.statuses())["consumer-1"]["records_in_flight"]
                say(f"{in_flight} records are in flight, {memory.peak_mib:.0f} MiB so far")
                await faults.aclose()
            await settle(system)
    await system.end()
    say(f"{memory.peak_mib:.0f} MiB at most")
    return round(memory.peak_mib, 1)


def _batches(updates: int, size: int, seed: int) -> Iterator[tuple[str, Sequence[str]]]:
    pick = random.Random(seed)
    apps = [str(uuid.UUID(int=pick.getrandbits(128), version=4)) for _ in range(200)]
    devices = [str(uuid.UUID(int=number, version=4)) for number in range(100)]
    for _ in range(updates // size):
        yield pick.choice(apps), pick.choices(devices, k=size)


def _filling(size: int) -> dict[str, str]:
    """Return tags that make an update of about `size` bytes, and no more than a row may have."""
    value = "é" * 1_024  # as many characters as a tag may have, and twice as many bytes
    return {f"tag{number:0120d}": value for number in range(size // (2 * len(value) + 130))}


async def _ingest(system: System) -> Facts:
    seconds = number("FLOOD_S", 20)
    memory = Memory()
    answers: Counter[str] = Counter()
    await system.start("ingest-api")
    say(f"{SLOW_CLIENTS} slow clients, {BIG_CLIENTS} with big bodies")
    async with (
        background(system.supervise()),
        memory.watching(system.ingest.daemon),
        asyncio.TaskGroup() as tasks,
    ):
        flood = [
            *(
                tasks.create_task(_slow_client(system.ingest_url, answers))
                for _ in range(SLOW_CLIENTS)
            ),
            *(
                tasks.create_task(_big_client(system.ingest_url, answers, too_big=each % 4 == 0))
                for each in range(BIG_CLIENTS)
            ),
        ]
        await asyncio.sleep(seconds)
        async with (
            aiohttp.ClientSession(system.ingest_url) as session,
            session.get("/livez") as answer,
        ):
            alive = answer.status
        for task in flood:
            task.cancel()
    return {
        "ingest_peak_mib": round(memory.peak_mib, 1),
        "ingest_answers": dict(sorted(answers.items())),
        "ingest_alive_during_the_flood": alive,
        "ingest_crashes": len(system.ingest.crashes),
    }


async def _slow_client(url: str, answers: Counter[str]) -> None:
    """Announce a large body, send half of it, and then a byte at a time."""
    host, port = url.removeprefix("http://").split(":")
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(_head(900_000))
            try:
                for _ in range(7):
                    writer.write(b" " * 64_000)
                    await writer.drain()
                while not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            line = await reader.readline()
                            answers[line.decode()[9:12] or "closed"] += 1
                            break
            finally:
                writer.close()
        except OSError:
            answers["closed"] += 1
        await asyncio.sleep(0.5)


def _head(length: int) -> bytes:
    path = "/v1/apps/80000000-0000-4000-8000-000000000000/subscriptions/batch"
    return (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Authorization: {credentials.headers()['Authorization']}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def _big_client(url: str, answers: Counter[str], *, too_big: bool) -> None:
    """Send whole batches of the largest size, or larger, as fast as they are answered."""
    app = str(uuid.uuid4())
    tags: dict[str, Any] = _filling(200_000)
    count = 8 if too_big else 4
    updates = [{"subscription_id": str(uuid.uuid4()), "tags": tags} for _ in range(count)]
    async with aiohttp.ClientSession(url, headers=credentials.headers()) as session:
        while True:
            try:
                path = f"/v1/apps/{app}/subscriptions/batch"
                async with session.post(path, json={"updates": updates}) as answer:
                    answers[str(answer.status)] += 1
                    await answer.read()
            except aiohttp.ClientError:
                answers["closed"] += 1
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    show(measure)
