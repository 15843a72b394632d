"""How long it takes until the row that everybody updates is named on the status page.

`python -m tests.chaos.show_hot_row`: ordinary updates at RATE=2000 a second for a while, then as
many to one row among them.
"""

import asyncio
import time
import urllib.request

from tests.chaos.bulk import Sent, send_bulk
from tests.chaos.run import background, settle
from tests.chaos.show_incident import HOT, Ordinary, with_hot
from tests.chaos.shows import Facts, number, say, show
from tests.chaos.system import System

BEFORE_S = 90
PATIENCE_S = 60


async def measure(system: System) -> Facts:
    """Send ordinary updates, then those of the one row as well, and ask for the page."""
    rate = number("RATE", 2_000)
    await system.start("consumer-1")
    page = system.services["consumer-1"].daemon.address
    sent, ordinary = Sent(), Ordinary()
    await send_bulk(system.kafka, ordinary.batches(rate * BEFORE_S), sent, per_s=rate)
    named_before = HOT[1] in await asyncio.to_thread(_read, page)
    say("the one row's updates begin")
    started = time.monotonic()

    async def send() -> None:
        mixed = with_hot(ordinary.batches(rate * PATIENCE_S))
        await send_bulk(system.kafka, mixed, sent, per_s=2 * rate)

    async with background(send()):
        async with asyncio.timeout(PATIENCE_S):
            while HOT[1] not in await asyncio.to_thread(_read, page):
                await asyncio.sleep(0.1)
        listed_s = time.monotonic() - started
        async with asyncio.timeout(PATIENCE_S):
            while "One row takes" not in await asyncio.to_thread(_read, page):
                await asyncio.sleep(0.1)
        said_s = time.monotonic() - started
    await settle(system)
    return {
        "updates_per_s_before": rate,
        "updates_per_s_to_the_row": rate,
        "named_before": named_before,
        "s_until_it_is_in_the_list": round(listed_s, 1),
        "s_until_a_sentence_names_it": round(said_s, 1),
    }


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


if __name__ == "__main__":
    show(measure)
