"""Both lags through a burst, beside what `tidemark plan` says of it.

`python -m tests.chaos.show_lags`, with SECONDS=60 during which the shard is down, or 0. Its
statements are slowed down so that a burst that this machine can send is one that the shard cannot
take. The picture is `docs/pictures/lags.svg`, or `lags-shard-down.svg`.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

from deploy.local.layout import CHECKOUT
from operator_cli.planning import Burst, Moment, Plan, Scenario, at, simulate
from operator_cli.plots import Curve, as_svg
from shared.lag import LagHistory
from shared.lag_reader import open_lag_reader
from shared.wording import amount, duration
from tests.chaos.bulk import Sent, send_bulk
from tests.chaos.run import settle
from tests.chaos.shows import Facts, say, show
from tests.chaos.system import System

SHARD: Final = "shard-0"
ROWS: Final = 50
STATEMENT_S: Final = 0.1
RATE: Final = 150
BURST_RATE: Final = 1_000
BURST_S: Final = 20
BATCH: Final = 10
SLOW: Final = (
    (
        "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN PERFORM pg_sleep({STATEMENT_S}); RETURN NULL; END'"
    ),
    (
        "CREATE TRIGGER be_slow BEFORE INSERT ON subscriptions FOR EACH STATEMENT "
        "EXECUTE FUNCTION be_slow()"
    ),
)
SETTINGS: Final = {
    "TIDEMARK_WRITE__ROWS_PER_FLUSH_MAX": str(ROWS),
    "TIDEMARK_WRITE__FLUSHES_IN_FLIGHT_MAX": "1",
    "TIDEMARK_WRITE__FLUSH_TARGET_MS": "",
}


def batches() -> Iterator[tuple[str, Sequence[str]]]:
    """Yield updates of apps of one shard; never two of one row, so that nothing is folded."""
    apps = [f"{prefix:04x}0000-0000-4000-8000-000000000000" for prefix in range(0, 0x4000, 0x100)]
    while True:
        for app in apps:
            yield app, [str(uuid.uuid4()) for _ in range(BATCH)]


async def measure(system: System) -> Facts:
    """Send, look at both lags twice a second, and compare with the plan."""
    stopped_s = float(os.environ.get("SECONDS") or 60)
    system.describe_services(consumer=SETTINGS, ingest={})
    await system.execute(SHARD, *SLOW)
    await system.start("consumer-1")
    sent, stream = Sent(), batches()
    shard = system.stack.shards[SHARD]
    seen: list[Moment] = []
    done: list[tuple[float, int]] = []
    over = asyncio.Event()

    async def send(per_s: float, seconds: float) -> None:
        wanted = (next(stream) for _ in range(int(per_s * seconds / BATCH)))
        await send_bulk(system.kafka, wanted, sent, per_s=per_s)

    async def send_all() -> None:
        await send(BURST_RATE, BURST_S)
        while not over.is_set():
            await send(RATE, 5)

    async def look(since: float) -> None:
        async with open_lag_reader(system.kafka, system.group) as reader:
            while not over.is_set():
                history = LagHistory()
                history.add(await reader.look())
                lag = history.by_shard(system.directory.map.shards)[-1]
                now = time.time() - since
                seen.append(Moment(now, lag.message_lag, lag.time_lag_s))
                done.append((now, lag.done))
                if now > max(stopped_s, BURST_S) + 10 and lag.message_lag < RATE:
                    over.set()
                await asyncio.sleep(0.5)

    await send(RATE, 5)
    await settle(system)
    say(f"a burst of {BURST_S} s, and {SHARD} down for {stopped_s:.0f} s")
    started = time.time()
    if stopped_s:
        await asyncio.to_thread(shard.kill)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send_all())
        tasks.create_task(look(started))
        back_s = 0.0
        if stopped_s:
            await asyncio.sleep(max(0.0, started + stopped_s - time.time()))
            await asyncio.to_thread(shard.start)
            await asyncio.to_thread(shard.wait_ready)
            while (await system.statuses())["consumer-1"]["shards"][SHARD]["breaker"] != "closed":
                await asyncio.sleep(0.1)
            back_s = time.time() - started
    capacity = _capacity(done, back_s)
    scenario = Scenario(
        rate=RATE, capacity=capacity, burst=Burst(BURST_RATE, BURST_S), stopped_s=back_s
    )
    plan = simulate(scenario, until_s=seen[-1].at_s)
    _draw(plan, seen, back_s)
    return {
        "rate": RATE,
        "burst": f"{BURST_RATE}x{BURST_S}s",
        "shard_down_s": round(back_s, 1),
        "capacity_measured_per_s": round(capacity),
        "message_lag_peak": {
            "measured": max(moment.message_lag for moment in seen),
            "planned": round(plan.message_peak.message_lag),
        },
        "time_lag_peak_s": {
            "measured": round(max(moment.time_lag_s for moment in seen), 1),
            "planned": round(plan.time_peak.time_lag_s, 1),
        },
        "mean_difference_in_percent_of_the_peak": {
            "message_lag": _difference(plan, seen, "message_lag"),
            "time_lag": _difference(plan, seen, "time_lag_s"),
        },
    }


def _capacity(done: Sequence[tuple[float, int]], back_s: float) -> float:
    """Return the records applied a second while there was more than enough to do."""
    busy = [each for each in done if each[0] > back_s + 3][:-4]
    (first_s, first), (last_s, last) = busy[0], busy[-1]
    capacity: float = (last - first) / (last_s - first_s)
    return capacity


def _difference(plan: Plan, seen: Sequence[Moment], name: str) -> float:
    peak = max(getattr(moment, name) for moment in seen)
    found: list[float] = [
        abs(getattr(at(plan, moment.at_s), name) - getattr(moment, name)) / peak for moment in seen
    ]
    return round(100.0 * sum(found) / len(found), 1)


def _draw(plan: Plan, seen: Sequence[Moment], back_s: float) -> None:
    def curve(title: str, name: str, value: Any) -> Curve:
        return Curve(
            title,
            [(moment.at_s, getattr(moment, name)) for moment in plan.moments],
            value,
            duration_or_zero,
            measured=[(moment.at_s, getattr(moment, name)) for moment in seen],
        )

    picture = as_svg(
        [
            curve("message lag: line as planned, dots as measured", "message_lag", amount),
            curve("time lag: line as planned, dots as measured", "time_lag_s", duration),
        ],
        f"A burst while a shard is down for {duration(back_s)}" if back_s else "A burst",
    )
    name = "lags-shard-down.svg" if back_s else "lags.svg"
    (CHECKOUT / "docs" / "pictures" / name).write_text(picture, encoding="utf-8")


def duration_or_zero(seconds: float) -> str:
    """Return a time on the axis, which begins a little before 0."""
    return duration(max(0.0, seconds))


if __name__ == "__main__":
    show(measure)
