"""One shard of four is killed for a minute: what do the other three notice?

`python -m tests.chaos.show_dead_shard`, with SECONDS=60 for each phase and RATE=2000 updates/s.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from deploy.local import credentials
from tests.chaos.run import background, settle
from tests.chaos.shows import Facts, number, say, show
from tests.chaos.system import System
from verification.audit import read_audit
from verification.lags import Waited, longest_ms, p99_ms, percentile, waits_of
from verification.marks import Marker
from verification.oracle import Ledger
from verification.sender import Sender
from verification.topic import read_topic
from verification.traffic import CustomerMix

DEAD: Final = "shard-1"
WARM_UP_S: Final = 10


async def measure(system: System) -> Facts:
    """Send for three phases: all well, one shard down, one shard back."""
    seconds, rate = number("SECONDS", 60), number("RATE", 2_000)
    mix = CustomerMix(1, apps=200, subscriptions=5_000)
    sender = Sender(system.ingest_url, Ledger(), headers=credentials.headers(), connections=512)
    over = asyncio.Event()
    await system.start("ingest-api", "consumer-1")
    async with background(system.supervise()), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(
            sender.send_at_rate(Marker().mark_all(mix.requests(10**9)), rate, over)
        )
        await asyncio.sleep(WARM_UP_S)
        well_at = time.time()
        await asyncio.sleep(seconds)
        down_at = time.time()
        say(f"killing {DEAD}")
        await asyncio.to_thread(system.stack.shards[DEAD].kill)
        await asyncio.sleep(seconds)
        say(f"starting {DEAD}")
        await asyncio.to_thread(system.stack.shards[DEAD].start)
        await asyncio.to_thread(system.stack.shards[DEAD].wait_ready)
        back_at = time.time()
        await asyncio.sleep(seconds)
        end_at = time.time()
        over.set()
        left_out = await sending
        await settle(system)
    records = await read_topic(system.kafka, system.kafka.topic)
    waits = await waits_of(records, read_audit(system.dsns))
    phases = {
        "before": (well_at, down_at),
        "during": (down_at, back_at),
        "after": (back_at, end_at),
    }
    return {
        "updates_per_s": rate,
        "updates_not_sent": left_out,
        "seconds_of_each_phase": seconds,
        "p99_lag_ms_of_the_others": {
            phase: p99_ms([each for each in waits if not _is_dead(system, each)], *times)
            for phase, times in phases.items()
        },
        "longest_lag_ms_of_the_others": {
            phase: longest_ms([each for each in waits if not _is_dead(system, each)], *times)
            for phase, times in phases.items()
        },
        "p99_lag_ms_of_the_dead": {
            phase: p99_ms([each for each in waits if _is_dead(system, each)], *times)
            for phase, times in phases.items()
        },
        "backlog_applied_s_after_its_return": round(
            max(
                each.applied_at
                for each in waits
                if _is_dead(system, each) and each.accepted_at < back_at
            )
            - back_at,
            1,
        ),
        "normal_again_s_after_its_return": _normal_again_s(
            [each for each in waits if _is_dead(system, each)], well_at, down_at, back_at
        ),
        "crashes": {name: len(each.crashes) for name, each in system.services.items()},
    }


def _is_dead(system: System, waited: Waited) -> bool:
    return system.directory.map.shard_of(waited.partition).name == DEAD


def _normal_again_s(
    waits: Sequence[Waited], well_at: float, down_at: float, back_at: float
) -> float:
    """Return the seconds until what is applied has waited no longer than twice what is normal.

    Three seconds in a row have to be normal: single ones are not, before the outage either. One in
    which nothing is applied is not.
    """
    normal_s = 2 * percentile(
        [each.lag_s for each in waits if well_at <= each.accepted_at < down_at], 0.99
    )
    by_second: dict[int, list[float]] = defaultdict(list)
    for each in waits:
        if each.applied_at >= back_at:
            by_second[int(each.applied_at - back_at)].append(each.lag_s)
    late = [
        not by_second[second] or percentile(by_second[second], 0.99) > normal_s
        for second in range(max(by_second))
    ]
    return next((at for at in range(len(late)) if not any(late[at : at + 3])), len(late))


if __name__ == "__main__":
    show(measure)
