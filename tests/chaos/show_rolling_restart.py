"""Three consumers are restarted one after the other: what does a customer notice?

`python -m tests.chaos.show_rolling_restart`, with SECONDS=20 before and after, RATE=1000 updates/s.
"""

import asyncio
import time
from typing import Final

from deploy.local import credentials
from tests.chaos.run import background, settle
from tests.chaos.shows import Facts, number, say, show
from tests.chaos.system import System
from verification.audit import read_audit
from verification.lags import longest_ms, p99_ms, waits_of
from verification.marks import Marker
from verification.oracle import Ledger, read_rows
from verification.sender import Sender
from verification.topic import read_topic
from verification.traffic import CustomerMix

NAMES: Final = ("consumer-1", "consumer-2", "consumer-3")
WARM_UP_S: Final = 5


async def measure(system: System) -> Facts:
    """Send for three phases: all well, restarts, all well again."""
    seconds, rate = number("SECONDS", 20), number("RATE", 1_000)
    mix = CustomerMix(1, apps=200, subscriptions=5_000)
    ledger = Ledger()
    sender = Sender(system.ingest_url, ledger, headers=credentials.headers(), connections=256)
    over = asyncio.Event()
    await system.start("ingest-api", *NAMES)
    await _settled(system)
    restarts_s = []
    async with background(system.supervise()), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(
            sender.send_at_rate(Marker().mark_all(mix.requests(10**9)), rate, over)
        )
        await asyncio.sleep(WARM_UP_S)
        assigned = {
            name: status["rebalances"] for name, status in (await _statuses(system)).items()
        }
        well_at = time.time()
        await asyncio.sleep(seconds)
        restart_at = time.time()
        for name in NAMES:
            say(f"restarting {name}")
            began = time.monotonic()
            service = system.services[name]
            async with service.hands_on:
                await asyncio.to_thread(service.daemon.restart)
            restarts_s.append(round(time.monotonic() - began, 1))
            assigned[name] = 1  # it has joined, and that is no rebalance for the others
        end_at = time.time()
        await asyncio.sleep(seconds)
        over.set()
        left_out = await sending
        await settle(system)
    found = await _rebalances(system)
    waits = await waits_of(
        await read_topic(system.kafka, system.kafka.topic), read_audit(system.dsns)
    )
    rows = await read_rows(system.directory, mix.apps)
    return {
        "updates_per_s": rate,
        "updates_accepted": ledger.count,
        "updates_not_sent": left_out,
        "restart_s": restarts_s,
        "rebalances_caused": sum(found[name] - assigned[name] for name in NAMES),
        "longest_lag_ms": {
            "before": longest_ms(waits, well_at, restart_at),
            "during": longest_ms(waits, restart_at, end_at),
            "after": longest_ms(waits, end_at, time.time()),
        },
        "p99_lag_ms": {
            "before": p99_ms(waits, well_at, restart_at),
            "during": p99_ms(waits, restart_at, end_at),
        },
        "rows_that_differ": len(ledger.differences(rows)),
        "outcomes_unknown": len(ledger.unknown),
    }


async def _statuses(system: System) -> dict[str, dict[str, int]]:
    return {name: each for name, each in (await system.statuses()).items() if name in NAMES}


async def _rebalances(system: System) -> dict[str, int]:
    return {name: status["rebalances"] for name, status in (await _statuses(system)).items()}


async def _settled(system: System) -> None:
    while {each["partitions"] for each in (await _statuses(system)).values()} != {240}:
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    show(measure)
