"""What tokens, limits and receipts cost the ingest API: its rate with all of them and with none.

`python -m benchmarks.safeguards`; single updates by 64 connections, the same for both by turns.
With receipts means that somebody asks for one all the time, so that Kafka is looked at ten times a
second.
"""

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from statistics import median
from typing import Any, Final

import aiohttp

from benchmarks.ingest.measure import Ingest, missing, server_daemon
from benchmarks.measure import Spread
from benchmarks.stack import bench_stack
from deploy.local import credentials
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack
from operator_cli.topics import create_topics

_NOTHING: Final = {
    "TIDEMARK_AUTH__REQUIRED": "false",
    "TIDEMARK_LIMITS__APP_UPDATES_PER_S": "0",
    "TIDEMARK_LIMITS__SUBSCRIPTION_UPDATES_PER_S": "0",
}
_EVERYTHING: Final = {
    # Counted, and never too many.
    "TIDEMARK_LIMITS__APP_UPDATES_PER_S": "1000000",
    "TIDEMARK_LIMITS__SUBSCRIPTION_UPDATES_PER_S": "1000000",
}
_TOPIC: Final = "safeguards"


async def _measure(stack: LocalStack, repeats: int) -> dict[str, list[dict[str, Any]]]:
    await create_topics(stack.kafka_settings.model_copy(update={"topic": _TOPIC}))
    ingest = Ingest(stack, seed=1, say=_say)
    requests = ingest.write_requests()["single"]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(repeats):
        for arm, variables in (("none", _NOTHING), ("all", _EVERYTHING)):
            daemon = server_daemon(stack, "ingest", _TOPIC)
            daemon = replace(daemon, env={**daemon.env, **variables})
            async with _running(daemon, asked=variables is _EVERYTHING):
                run = await asyncio.to_thread(ingest.run, arm, daemon, "single", requests)
            found[arm].append(run)
    return found


@asynccontextmanager
async def _running(daemon: Daemon, *, asked: bool) -> AsyncIterator[None]:
    daemon.start()
    try:
        await asyncio.to_thread(daemon.wait_ready)
        asking = asyncio.create_task(_ask_for_ever(daemon.address)) if asked else None
        yield
        if asking is not None:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
    finally:
        daemon.stop()


async def _ask_for_ever(address: str) -> None:
    """Wait for an update that nobody applies, as there is no consumer."""
    app = subscription = "00000000-0000-4000-8000-000000000000"
    headers = credentials.headers()
    async with aiohttp.ClientSession(address, headers=headers) as session:
        path = f"/v1/apps/{app}/subscriptions/{subscription}"
        async with session.patch(path, json={"tags": {"a": 1}}) as answer:
            receipt = (await answer.json())["receipt"]
        while True:
            async with session.get(f"/v1/receipts/{receipt}?wait=30") as answer:
                await answer.read()
            await asyncio.sleep(0.01)


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def main() -> int:
    """Measure both by turns, and print the median of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safeguards", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if reason := missing():
        sys.stderr.write(f"{reason}\n")
        return 1
    with bench_stack() as stack:
        found = asyncio.run(_measure(stack, options.repeats))
    rates = {arm: [run["per_second"] for run in runs] for arm, runs in found.items()}
    for arm, runs in found.items():
        cpu_us = median(run["server_cpu_us"] for run in runs)
        _say(f"{arm:5} {Spread.of(rates[arm])} requests/s · {cpu_us:.0f} µs of CPU each (medians)")
    lost = median(
        1 - with_all / with_none
        for with_none, with_all in zip(rates["none"], rates["all"], strict=True)
    )
    _say(f"all of it costs {lost:.1%} of the rate (median of {options.repeats} pairs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
