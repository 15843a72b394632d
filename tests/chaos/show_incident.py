"""The incident that Tidemark was built after: one customer's updates all go into one row.

`python -m tests.chaos.show_incident`, with UPDATES=1000000 to the one row, as many others among
them, at RATE=10000 updates/s in all; then the others alone at the same pace, for comparison.
"""

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

from shared.topology import partition_of
from tests.chaos.bulk import Sent, send_bulk
from tests.chaos.run import background, settle
from tests.chaos.shows import Facts, number, say, show
from tests.chaos.system import System
from verification.audit import read_audit
from verification.lags import percentile, waits_of
from verification.marks import MARK
from verification.oracle import read_rows
from verification.topic import read_topic

HOT: Final = ("80000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001")
BATCH: Final = 50


class Ordinary:
    """Updates of 200 apps with 5,000 devices, evenly."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._devices = {
            str(uuid.UUID(int=self._random.getrandbits(128), version=4)): [
                str(uuid.UUID(int=self._random.getrandbits(128), version=4)) for _ in range(25)
            ]
            for _ in range(200)
        }
        self._apps = list(self._devices)

    def batches(self, updates: int) -> Iterator[tuple[str, Sequence[str]]]:
        for _ in range(updates // BATCH):
            app = self._random.choice(self._apps)
            yield app, self._random.choices(self._devices[app], k=BATCH)


def with_hot(
    batches: Iterator[tuple[str, Sequence[str]]],
) -> Iterator[tuple[str, Sequence[str]]]:
    app, subscription = HOT
    for batch in batches:
        yield batch
        yield app, [subscription] * BATCH


async def measure(system: System) -> Facts:
    """Send the ordinary updates alone, and then with the one row's among them."""
    updates, rate = number("UPDATES", 1_000_000), number("RATE", 10_000)
    await system.start("consumer-1")
    sent, ordinary = Sent(), Ordinary()
    async with background(system.supervise()):
        await _send(system, sent, ordinary.batches(20_000), rate)  # warm
        without = await _send(system, sent, ordinary.batches(updates), rate / 2)
        with_it = await _send(system, sent, with_hot(ordinary.batches(updates)), rate)
    rows = await read_rows(system.directory)
    return {
        "updates_to_one_row": sent.counts[HOT],
        "without": without,
        "with": with_it,
        "last_value_of_the_row_is_right": rows[HOT].tags[MARK] == sent.last[HOT],
        "rows": len(rows),
        "rows_that_differ": sent.wrong(rows),
        "crashes": {name: len(each.crashes) for name, each in system.services.items()},
    }


async def _send(
    system: System, sent: Sent, batches: Iterator[tuple[str, Sequence[str]]], rate: float
) -> dict[str, Any]:
    since, before = time.time(), sent.total
    sent_in_s = await send_bulk(system.kafka, batches, sent, per_s=rate)
    updates = sent.total - before
    say(f"{updates} sent in {sent_in_s:.1f} s")
    await settle(system)
    applied_in_s = time.time() - since
    records = [
        record
        for record in await read_topic(system.kafka, system.kafka.topic)
        if record.timestamp / 1000 >= since and record.partition != partition_of(HOT[0])
    ]
    lags = [each.lag_s for each in await waits_of(records, read_audit(system.dsns))]
    return {
        "updates": updates,
        "offered_per_s": rate,
        "applied_per_s": round(updates / applied_in_s),
        "p50_lag_ms_of_other_partitions": round(percentile(lags, 0.5) * 1000, 1),
        "p99_lag_ms_of_other_partitions": round(percentile(lags, 0.99) * 1000, 1),
    }


if __name__ == "__main__":
    show(measure)
