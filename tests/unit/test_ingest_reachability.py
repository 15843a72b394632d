import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ingest_api.reachability import PAUSE_AFTER_FAILURE_S, Reachability


class Broker:
    """A broker that connects when the test says so."""

    def __init__(self) -> None:
        self.attempts = 0
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def connect(self, _: int) -> bool:
        self.attempts += 1
        return await asyncio.shield(self.outcome)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_many_requests_make_one_attempt(broker: Broker) -> None:
    reachability = Reachability(broker.connect, 60)
    async with asyncio.TaskGroup() as tasks:
        requests = [tasks.create_task(reachability.reach(1)) for _ in range(100)]
        await soon(lambda: broker.attempts > 0)
        broker.outcome.set_result(True)

    assert all(request.result() for request in requests)
    assert broker.attempts == 1


async def test_an_attempt_that_failed_is_not_repeated_at_once(broker: Broker, clock: Clock) -> None:
    reachability = Reachability(broker.connect, 60, clock)
    broker.outcome.set_result(False)

    assert not await reachability.reach(1)
    assert not await reachability.reach(1)
    assert broker.attempts == 1

    clock.now += PAUSE_AFTER_FAILURE_S
    assert not await reachability.reach(1)
    assert broker.attempts == 2


async def test_brokers_do_not_wait_for_each_other(clock: Clock) -> None:
    async def connect(broker: int) -> bool:
        return broker == 1

    reachability = Reachability(connect, 60, clock)

    assert not await reachability.reach(2)
    assert await reachability.reach(1)


async def test_an_attempt_that_takes_too_long_has_failed(broker: Broker) -> None:
    reachability = Reachability(broker.connect, 0.001)

    assert not await reachability.reach(1)


@pytest.mark.parametrize("outcome", [True, False])
async def test_who_waits_outlives_who_tries(broker: Broker, *, outcome: bool) -> None:
    reachability = Reachability(broker.connect, 60)
    trying = asyncio.ensure_future(reachability.reach(1))
    await soon(lambda: broker.attempts > 0)
    waiting: Awaitable[bool] = asyncio.ensure_future(reachability.reach(1))
    leaving = asyncio.ensure_future(reachability.reach(1))
    await asyncio.sleep(0)

    leaving.cancel()
    if outcome:
        broker.outcome.set_result(True)
    else:
        trying.cancel()

    async with asyncio.timeout(5):
        assert await waiting is outcome
    await asyncio.wait([trying, leaving])
