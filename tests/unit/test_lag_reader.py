"""Looks at Kafka that do not read ages."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from shared.lag_reader import LagReader

MARKER, RECORD, BACKLOG, DELETED = 3, 4, 5, 6
"""A partition that ends with the marker of a transaction, one with a record that waits, one with so
many that they cannot be markers, and one of which nothing is left but a marker."""


class Kafka:
    """Some offsets are not committed in each of four partitions; notes which of them are read."""

    def __init__(self) -> None:
        self.read: list[set[int]] = []
        self.waiting = {MARKER: 1, RECORD: 1, BACKLOG: 1_000, DELETED: 1_000}

    async def list_consumer_group_offsets(
        self, _group: str, *, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, Any]:
        return {tp: SimpleNamespace(offset=10) for tp in partitions}

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: 10 + self.waiting.get(tp.partition, 0) for tp in tps}

    async def beginning_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: 1_009 if tp.partition == DELETED else 0 for tp in tps}

    def assign(self, tps: Iterable[TopicPartition]) -> None:
        self.read.append({tp.partition for tp in tps})

    def seek(self, _tp: TopicPartition, _offset: int) -> None:
        pass

    def pause(self, _tp: TopicPartition) -> None:
        pass

    def unsubscribe(self) -> None:
        pass

    async def position(self, tp: TopicPartition) -> int:
        return 10 + self.waiting[tp.partition]

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int
    ) -> dict[TopicPartition, list[Any]]:
        del timeout_ms
        return {tp: [SimpleNamespace(timestamp=1)] for tp in tps if tp.partition == RECORD}


async def test_a_marker_does_not_wait_for_ever_and_what_moves_is_not_read() -> None:
    kafka: Any = Kafka()
    reader = LagReader(kafka, kafka, topic="updates", group="consumers", patience_s=1.0)

    looks = [await reader.look(ages=False) for _ in range(4)]
    kafka.waiting = {MARKER: 2, RECORD: 2, BACKLOG: 1_000, DELETED: 1_000}
    moved = await reader.look(ages=False)

    assert [look.lag(MARKER) for look in looks] == [1, 0, 0, 0]
    assert [look.lag(RECORD) for look in looks] == [1, 1, 1, 1]
    assert [look.lag(BACKLOG) for look in looks] == [1_000] * 4
    assert [look.lag(DELETED) for look in looks] == [1, 0, 0, 0]
    assert kafka.read == [{MARKER, RECORD, DELETED}]
    assert moved.lag(MARKER) == 2
