"""What the status page says, of one consumer and of several."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from consumer.assigned_work import AssignedWork
from consumer.budget import BudgetBounds, ShardBudget
from consumer.lag_watch import LagWatch
from consumer.overview import HoldLine, Hot, Overview, Point, ShardView, used
from consumer.peers import Gathering, addresses_of, together
from consumer.status_page import render
from consumer.troubles import troubles
from shared.errors import Transient
from shared.lag import Look
from shared.topology import ShardMap

APP = "00000000-0000-4000-8000-000000000000"
ROW = "00000000-0000-4000-8000-000000000005"


def shard(name: str = "shard-0", **fields: Any) -> ShardView:
    calm = ShardView(
        name=name,
        apps="0 to 3",
        first=0,
        partitions=90,
        paused=0,
        stopped=0,
        message_lag=0,
        partition_max=0,
        time_lag_s=0.0,
        accepted_per_s=100.0,
        applied_per_s=100.0,
        catch_up_s=0.0,
        breaker="closed",
        failing_since_s=None,
        failing_because=None,
        flushes_in_flight=1,
        ready=0,
        locked=0,
        trend=[],
    )
    return msgspec.structs.replace(calm, **fields)


def overview(*shards: ShardView, **fields: Any) -> Overview:
    calm = Overview(
        name="consumer-1",
        at_s=1_700_000_000.0,
        ready=True,
        partitions=720,
        shards=shards or (shard(), shard("shard-1")),
        waiting={},
        hot_subscriptions=[],
        hot_apps=[],
        hot_window_s=90.0,
        updates_per_s=200.0,
        holds=[],
        dead_letters={},
        uncommitted_s=0.0,
        kafka_silent_s=0.0,
        in_flight=10,
        in_flight_share=0.01,
    )
    return msgspec.structs.replace(calm, **fields)


HOT = Hot(app=APP, subscription=ROW, low=9_000, high=9_000, per_s=100.0, share=0.5)


def test_nothing_is_said_while_nothing_is_wrong() -> None:
    assert troubles(overview()) == []
    assert "All is well." in render(overview(), public=False)


def test_a_shard_that_is_down_comes_first_and_customers_are_not_told_its_name() -> None:
    down = shard(
        breaker="open",
        failing_since_s=1_699_999_900.0,
        failing_because="It refuses.",
        time_lag_s=90,
    )

    view = overview(down, shard("shard-1"), hot_subscriptions=[HOT])
    first, second = troubles(view)
    public = render(view, public=True)

    assert first.what == (
        "shard-0 cannot be written since 22:11:40 UTC: It refuses. 90 partitions wait; other "
        "shards are not affected."
    )
    assert "subscription " + ROW in second.what
    assert "Updates of apps with IDs from 0 to 3 are accepted, and applied later." in public
    assert 'aria-label="Time lag of apps from 0 to 3 of the last' in public
    assert not any(name in public for name in (APP, ROW, "shard-"))


def test_records_that_wait_while_writers_idle_are_called_starvation() -> None:
    starved = shard(message_lag=50, time_lag_s=40.0, catch_up_s=None, flushes_in_flight=0)

    [trouble] = troubles(overview(starved))

    assert trouble.severity == "bad"
    assert "starvation" in trouble.advice


def test_all_is_caught_up_with_no_sooner_than_the_last_shard() -> None:
    slow, dead = shard(message_lag=9, catch_up_s=600.0), shard(message_lag=9, catch_up_s=None)

    late, never = (
        render(overview(slow, each), public=public)
        for each, public in ((shard(), True), (dead, False))
    )

    assert "<dt>all caught up in</dt><dd>10 min</dd>" in late
    assert "<dt>all caught up in</dt><dd>not at this rate</dd>" in never


def test_all_is_not_well_while_kafka_does_not_say_what_waits() -> None:
    view = together([overview(), overview(kafka_silent_s=60.0)])

    [trouble] = troubles(view)

    assert trouble.severity == "bad"
    assert trouble.what.startswith("Kafka has not answered since 22:12:20 UTC")
    for page in (render(view, public=True), render(view, public=False)):
        assert "All is well." not in page


async def test_kafka_is_silent_from_the_last_look_that_it_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        "consumer.lag_watch.time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 0.0)
    )

    class Kafka:
        is_up = True

        async def look(self, *, ages: bool) -> Look:
            if not self.is_up:
                raise Transient("Kafka cannot be reached.")
            return Look(0.0, {}, {}, {})

    kafka, work = Kafka(), cast("AssignedWork", SimpleNamespace(partitions={}))
    watch = LagWatch(kafka, work, ShardMap.equal(1), interval_s=0.001)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(watch.run())
        clock.now = 60.0
        while watch.everything.latest is None:
            await asyncio.sleep(0)
        assert watch.silent_s == 0.0
        kafka.is_up = False
        clock.now = 65.0
        assert watch.silent_s == 0.0  # a look may take a while
        clock.now = 120.0
        assert watch.silent_s == 60.0
        looking.cancel()


@pytest.mark.parametrize(
    "view",
    [
        overview(shard(stopped=1)),
        overview(shard(locked=1)),
        overview(ready=False),
        overview(partitions=240),
        overview(silent=["http://consumer-3:8090"]),
        overview(holds=[HoldLine(f"app {APP}", "holding", "floods one row", 1_699_999_900.0)]),
    ],
)
def test_customers_are_not_told_that_all_is_well_while_it_is_not_or_is_not_known(
    view: Overview,
) -> None:
    page = render(view, public=True)

    assert "All is well." not in page
    assert APP not in page


def test_a_page_of_one_of_several_consumers_says_of_how_many_partitions_it_knows_nothing() -> None:
    [trouble] = troubles(overview(partitions=240))

    assert trouble.what.startswith(
        "480 of 720 partitions belong to no consumer that this page asks"
    )
    assert "TIDEMARK_TELEMETRY__PEERS" in trouble.advice


def test_what_a_name_contains_is_not_markup() -> None:
    page = render(overview(name="<script>alert(1)</script>"), public=False)

    assert "<script>alert" not in page


def test_consumers_add_up_and_the_one_that_is_silent_is_named() -> None:
    one = overview(
        shard(message_lag=30, accepted_per_s=10, applied_per_s=20, trend=[Point(100.0, 30, 3.0)]),
        partitions=240,
        hot_subscriptions=[HOT],
        updates_per_s=200.0,
    )
    there = shard(
        message_lag=70,
        time_lag_s=7.0,
        accepted_per_s=10,
        applied_per_s=50,
        trend=[Point(101.0, 70, 7.0)],
    )
    other = overview(there, partitions=480, updates_per_s=300.0)

    both = together([one, other], ["http://consumer-3:8090"])

    [added] = both.shards
    assert (added.message_lag, added.time_lag_s, added.partitions) == (100, 7.0, 180)
    assert both.partitions == 720
    assert added.catch_up_s == 2.0
    assert added.trend == [Point(101.0, 100, 7.0)]
    assert both.hot_subscriptions[0].share == 0.2
    assert any("http://consumer-3:8090" in trouble.what for trouble in troubles(both))


def test_consumers_with_different_shard_maps_are_shown_while_a_new_one_is_rolled_out() -> None:
    both = together([overview(shard(), shard("shard-1")), overview(shard(message_lag=5))])

    assert [(each.name, each.message_lag) for each in both.shards] == [
        ("shard-0", 5),
        ("shard-1", 0),
    ]


def test_a_name_with_several_addresses_means_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"consumer": ["10.0.0.2", "10.0.0.1", "fd00::1"], "alone": ["10.0.0.1"]}

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(None, None, None, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    assert addresses_of("http://consumer:8090") == [
        "http://10.0.0.1:8090",
        "http://10.0.0.2:8090",
        "http://[fd00::1]:8090",
    ]
    assert addresses_of("http://alone:8090") == ["http://alone:8090"]


def test_memory_is_as_full_as_the_bound_that_is_nearer() -> None:
    budget = ShardBudget(BudgetBounds(1_000, 10_000, 100), asyncio.Event())
    budget.account(100, 9_000)

    assert (used([]), used([budget])) == (0.0, 0.9)


async def test_consumers_are_asked_once_for_all_who_look_at_the_same_time() -> None:
    asked = []

    def own() -> Overview:
        asked.append(1)
        return overview()

    gathering = Gathering(own, ["http://127.0.0.1:1"])
    views = await asyncio.gather(*(gathering.view() for _ in range(5)))

    assert len(asked) == 1
    assert {view.silent[0] for view in views} == {"http://127.0.0.1:1"}
