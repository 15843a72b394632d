"""What counting promises, held against this process alone and against a real Redis."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from ingest_api.counting import open_counts
from ingest_api.limits import Counts, Waits
from ingest_api.own_counts import OwnCounts
from ingest_api.settings import LimitSettings
from ingest_api.shared_counts import SharedCounts
from shared.errors import Misconfigured
from tests.records import subscription
from tests.redis_server import RedisServer, redis_server

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
OTHER_APP = "00000000-0000-4000-8000-000000000000"
A, B = map(subscription, (1, 2))
HOUR_S = 3_600
SLOW = LimitSettings(
    app_updates_per_s=10 / HOUR_S, subscription_updates_per_s=2 / HOUR_S, burst_s=HOUR_S
)
"""Ten of an app and two of a subscription an hour: nothing is over before a test is."""


def about(waits: Waits) -> tuple[int, list[int]]:
    """Return the waits in whole minutes, upwards."""
    app_s, *subscriptions_s = [-int(-each // 60) for each in (waits[0], *waits[1])]
    return app_s, subscriptions_s


class CountsContract:
    """Every test runs on both."""

    async def test_a_burst_passes_and_what_is_over_it_is_told_how_long_to_wait(
        self, counts: Counts
    ) -> None:
        found = [about(await counts.take(APP, [A])) for _ in range(3)]

        assert found == [(0, [0]), (0, [0]), (0, [30])]

    async def test_keys_do_not_know_of_each_other(self, counts: Counts) -> None:
        await counts.take(APP, [A, A])

        assert about(await counts.take(APP, [B])) == (0, [0])
        assert about(await counts.take(OTHER_APP, [A])) == (0, [0])

    async def test_an_app_is_counted_by_its_updates_and_a_batch_passes_as_a_whole(
        self, counts: Counts
    ) -> None:
        await counts.take(APP, [subscription(n) for n in range(100, 112)])

        assert about(await counts.take(APP, [A])) == (18, [0])
        assert about(await counts.take(APP, [])) == (18, [])

    async def test_nothing_is_counted_of_what_has_to_wait(self, counts: Counts) -> None:
        await counts.take(APP, [A, A])

        refused = [about(await counts.take(APP, [A, B])) for _ in range(9)]

        assert refused == [(0, [30, 0])] * 9
        assert about(await counts.take(APP, [B, B])) == (0, [0, 0])

    async def test_to_ask_for_no_subscription_counts_nothing(self, counts: Counts) -> None:
        assert [about(await counts.take(APP, [])) for _ in range(20)] == [(0, [])] * 20


class TestOwnCounts(CountsContract):
    @pytest.fixture
    def counts(self) -> Counts:
        return OwnCounts(SLOW)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as found:
        yield found


def settings(server: RedisServer, base: LimitSettings = SLOW) -> LimitSettings:
    return base.model_copy(update={"store_url": SecretStr(server.url), "store_timeout_ms": 10_000})


class TestSharedCounts(CountsContract):
    @pytest.fixture
    async def counts(self, server: RedisServer) -> AsyncIterator[Counts]:
        async with open_counts(settings(server)) as found:
            yield found

    async def test_processes_count_together(self, server: RedisServer) -> None:
        async with open_counts(settings(server)) as one, open_counts(settings(server)) as another:
            found = [about(await each.take(APP, [A])) for each in (one, another, one, another)]

        assert found == [(0, [0]), (0, [0]), (0, [30]), (0, [30])]

    async def test_what_is_paid_for_may_pass_again_and_is_forgotten(
        self, server: RedisServer
    ) -> None:
        fast = LimitSettings(app_updates_per_s=0, subscription_updates_per_s=50, burst_s=0.02)
        async with asyncio.timeout(30), open_counts(settings(server, fast)) as counts:
            started = time.monotonic()
            for _ in range(6):
                while (await counts.take(APP, [A])).subscriptions_s[0]:
                    await asyncio.sleep(0.001)
            took_s = time.monotonic() - started

        assert took_s >= 0.1
        assert await keys_left(server) <= 1

    async def test_nobody_is_refused_while_the_server_is_away_or_hangs(
        self, server: RedisServer
    ) -> None:
        patient = settings(server).model_copy(update={"store_timeout_ms": 50})
        async with open_counts(patient) as counts:
            assert isinstance(counts, SharedCounts)
            await counts.take(APP, [A, A])
            server.send(signal.SIGSTOP)
            while_it_hangs = [await counts.take(APP, [A]) for _ in range(3)]
            server.send(signal.SIGCONT)
            await server.end()
            while_away = await counts.take(APP, [B])
            alone = counts.alone
            await server.start()
            async with asyncio.timeout(30):
                while counts.is_failing:
                    await counts.take(APP, [])
                    await asyncio.sleep(0.02)
            again = await counts.take(APP, [A])

        assert [about(each) for each in while_it_hangs] == [(0, [0]), (0, [0]), (0, [30])]
        assert about(while_away) == (0, [0])
        assert alone == 4
        assert about(again) == (0, [0])  # counted together again, by a server that has forgotten

    async def test_a_url_that_is_none_is_told_without_quoting_it(self) -> None:
        bad = LimitSettings(store_url=SecretStr("http://user:secret@host"))

        with pytest.raises(Misconfigured) as caught:
            async with open_counts(bad):
                pass

        assert "secret" not in str(caught.value)
        assert "STORE_URL" in str(caught.value)


async def keys_left(server: RedisServer) -> int:
    async with Redis.from_url(server.url) as client:
        return int(await client.dbsize())
