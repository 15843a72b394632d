"""How fast `tidemark inspect` looks through one partition.

`python -m tests.chaos.show_inspect`, with RECORDS=1000000 updates of one app, one of which is asked
for.
"""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from deploy.local.layout import CHECKOUT
from tests.chaos.bulk import Sent, send_bulk
from tests.chaos.shows import Facts, number, show
from tests.chaos.system import System
from verification.marks import MARK

APP: Final = "80000000-0000-4000-8000-000000000000"
WANTED: Final = "00000000-0000-4000-8000-000000000001"
BATCH: Final = 500


def batches(records: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield updates of many subscriptions of one app; the wanted one is the last."""
    some = [str(uuid.uuid4()) for _ in range(BATCH)]
    for _ in range(records // BATCH - 1):
        yield APP, some
    yield APP, [*some[1:], WANTED]


async def measure(system: System) -> Facts:
    """Fill a partition, and look for one subscription, one tag and one expression."""
    records = number("RECORDS", 1_000_000)
    await send_bulk(system.kafka, batches(records), Sent())
    environment = {
        "PATH": os.defpath,
        "TIDEMARK_KAFKA__BOOTSTRAP_SERVERS": system.kafka.bootstrap_servers,
        "TIDEMARK_KAFKA__TOPIC": system.kafka.topic,
        "TIDEMARK_GROUP__ID": system.group,
    }
    facts: dict[str, float] = {"records": records}
    for name, arguments in {
        "subscription": ["--subscription", WANTED],
        "expression": ["--where", f"subscription_id == '{WANTED}'"],
        "expression_on_tags": ["--where", f"tags.{MARK} == {records}"],
        "top": ["--top", "subscriptions"],
    }.items():
        started = time.monotonic()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "operator_cli.main", "inspect", "--app", APP, *arguments],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert WANTED in done.stdout or name == "top"
        assert f"{records:,} records" in done.stderr
        facts[f"s_by_{name}"] = round(time.monotonic() - started, 1)
    return facts


if __name__ == "__main__":
    show(measure)
