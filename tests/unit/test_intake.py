import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError

from consumer.assigned_work import AssignedWork
from consumer.holding import HoldsFollower
from consumer.intake import Intake
from consumer.settings import ConsumerSettings, GroupSettings, InFlightSettings
from shared.errors import Misconfigured
from shared.holds import Holds
from shared.topology import ShardMap
from tests.records import StubRecord, record_of, update_of
from tests.unit.test_shard_writer import GUARD, Shard


class ForbiddingClient:
    """A group member that may not commit; as aiokafka, it swallows what a listener raises."""

    def __init__(self, at: TopicPartition) -> None:
        self._at = at
        self._offsets = count()
        self._listener: Any = None

    def subscribe(self, _: Sequence[str], listener: Any) -> None:
        self._listener = listener

    async def start(self) -> None:
        await self._listener.on_partitions_assigned({self._at})

    async def getmany(self, **_: Any) -> Mapping[TopicPartition, Sequence[StubRecord]]:
        await asyncio.sleep(0)
        return {self._at: [record_of(next(self._offsets), update_of())]}

    async def rebalance(self) -> None:
        with suppress(Exception):
            await self._listener.on_partitions_revoked({self._at})
        with suppress(Exception):
            await self._listener.on_partitions_assigned({self._at})

    async def commit(self, _: Any) -> None:
        raise GroupAuthorizationFailedError("group")

    async def end_offsets(self, ats: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(ats, 0)


async def test_a_commit_that_is_forbidden_while_partitions_go_is_what_ends_it() -> None:
    """And not that they come again before they were forgotten."""
    settings = ConsumerSettings(group=GroupSettings(drain_timeout_ms=10))
    client = ForbiddingClient(TopicPartition(settings.kafka.topic, 0))
    work = AssignedWork(
        ShardMap.equal(1),
        {"shard-0": Shard().writer},
        bounds=InFlightSettings(),
        guard=GUARD,
        give_up=lambda *_: None,
        holds=Holds(),
        hold_back=lambda *_: None,
    )
    follower = HoldsFollower(client, "holds", retry_s=0.0)

    running = asyncio.create_task(Intake(client, settings).run(work, follower))
    while not work.committable():
        await asyncio.sleep(0)
    await client.rebalance()

    with pytest.raises(Misconfigured, match="forbids the commit"):
        await running
