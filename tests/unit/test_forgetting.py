import asyncio
from collections.abc import Awaitable, Callable

from consumer.assigned_work import AssignedWork
from consumer.dead_letter_guard import GuardBounds
from consumer.forgetting import forget_for_ever
from consumer.settings import InFlightSettings
from shared.holds import Holds
from shared.topology import ShardMap
from shared.updates import KEY_KNOWN_FOR_MS, encode
from tests.records import StubRecord, once_of, update_of
from tests.unit.test_shard_writer import Shard


def forgetting(shard: Shard) -> tuple[AssignedWork, Callable[[int, int], Awaitable[None]]]:
    """Return the work of partition 0, and what applies an update under a key of its own."""
    work = AssignedWork(
        ShardMap.equal(1),
        {"shard-0": shard.writer},
        bounds=InFlightSettings(),
        guard=GuardBounds(share_max=0.5, window=10),
        give_up=lambda *_: None,
        holds=Holds(),
        hold_back=lambda *_: None,
    )
    work.assign([0])
    partition = work.partitions[0]

    async def apply(offset: int, at_ms: int) -> None:
        update = update_of(offset, once=once_of(offset))
        partition.receive([StubRecord(offset, encode(update), timestamp=at_ms)])
        await partition.idle.wait()

    return work, apply


async def test_a_key_is_forgotten_once_its_partition_is_more_than_a_day_past_it() -> None:
    shard = Shard()
    work, apply = forgetting(shard)

    async with asyncio.timeout(10), shard.running():
        task = asyncio.create_task(
            forget_for_ever(work, {"shard-0": shard.writer}, ShardMap.equal(1), interval_s=0)
        )
        await apply(0, 0)
        await apply(1, KEY_KNOWN_FOR_MS)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(shard.store.uses) == 2
        await apply(2, 2 * KEY_KNOWN_FOR_MS)
        while len(shard.store.uses) == 3:
            await asyncio.sleep(0)
        task.cancel()

    assert {use.offset for _, use in shard.store.uses.values()} == {1, 2}


async def test_an_update_of_a_clock_that_is_ahead_has_no_key_forgotten_early() -> None:
    shard = Shard()
    work, apply = forgetting(shard)
    looks = 0

    def now_s() -> float:
        nonlocal looks
        looks += 1
        return KEY_KNOWN_FOR_MS / 1000

    async with asyncio.timeout(10), shard.running():
        await apply(0, 0)
        await apply(1, 2**62)
        task = asyncio.create_task(
            forget_for_ever(
                work, {"shard-0": shard.writer}, ShardMap.equal(1), interval_s=0, clock=now_s
            )
        )
        while looks < 3:
            await asyncio.sleep(0)
        task.cancel()

    assert {use.offset for _, use in shard.store.uses.values()} == {0, 1}
