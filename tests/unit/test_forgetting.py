import asyncio

from consumer.assigned_work import AssignedWork
from consumer.dead_letter_guard import GuardBounds
from consumer.forgetting import forget_for_ever
from consumer.settings import InFlightSettings
from shared.holds import Holds
from shared.topology import ShardMap
from shared.updates import KEY_KNOWN_FOR_MS, encode
from tests.records import StubRecord, once_of, update_of
from tests.unit.test_shard_writer import Shard


async def test_a_key_is_forgotten_once_its_partition_is_more_than_a_day_past_it() -> None:
    shard = Shard()
    shard_map = ShardMap.equal(1)
    work = AssignedWork(
        shard_map,
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

    async with asyncio.timeout(10), shard.running():
        forgetting = asyncio.create_task(
            forget_for_ever(work, {"shard-0": shard.writer}, shard_map, interval_s=0)
        )
        await apply(0, at_ms=0)
        await apply(1, at_ms=KEY_KNOWN_FOR_MS)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(shard.store.uses) == 2
        await apply(2, at_ms=2 * KEY_KNOWN_FOR_MS)
        while len(shard.store.uses) == 3:
            await asyncio.sleep(0)
        forgetting.cancel()

    assert {use.offset for _, use in shard.store.uses.values()} == {1, 2}
