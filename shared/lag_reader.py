"""Looks at Kafka for lag: end offsets, what a group has committed, and how old the rest is.

It belongs to no group and commits nothing, so it is right while consumers are down, too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.errors import Misconfigured, Transient
from shared.kafka_clients import FORBIDDEN, client_options, close_client, unasked
from shared.lag import Look
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS

_FETCH_BYTES: Final = 2**16
_AGES_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.1
_MARKERS_MAX: Final = 100
"""More offsets in a row are not taken for markers of transactions, each of which has records."""


class LagReader:
    """Looks at one topic as one group has read it."""

    def __init__(
        self,
        client: AIOKafkaConsumer,
        admin: AIOKafkaAdminClient,
        *,
        topic: str,
        group: str,
        patience_s: float,
    ) -> None:
        self._client = client
        self._admin = admin
        self._group = group
        self._patience_s = patience_s
        self._all = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._ages: dict[int, tuple[int, int]] = {}
        self._gaps: dict[int, int] = {}
        """Up to where there is no record, of partitions that end with offsets that are none."""
        self._behind: dict[int, tuple[int, int]] = {}
        """At the last look: from where to where, of the partitions that were behind."""

    async def look(self, *, ages: bool = True) -> Look:
        """Look once; `ages` says whether to read how old the first record is that waits.

        Without, only partitions are read that are a little behind, and of which nothing has moved
        since the last look: what is behind there may be no record, such as a transaction's marker.

        Raises:
            Misconfigured: Kafka forbids it.
            Transient: Kafka cannot be asked.
        """
        try:
            # Positions first: a record that comes in between is waiting, not gone.
            committed = await self._committed()
            positions = await self._positions(committed)
            ends = {
                tp.partition: offset
                for tp, offset in (await self._client.end_offsets(self._all)).items()
            }
            begins = await self._begins(positions, ends)
            standing = self._standing(positions, ends, begins)
            oldest = await self._oldest(positions, ends, begins if ages else standing)
        except FORBIDDEN as error:
            raise Misconfigured(
                f"Kafka forbids looking at lag ({type(error).__name__}); grant Describe on group "
                f"{self._group} and Read on topic {self._all[0].topic}."
            ) from error
        except (KafkaError, TimeoutError, OSError) as error:
            raise Transient(f"Kafka could not be asked ({type(error).__name__}).") from error
        return Look(
            time.time(),
            ends,
            positions,
            oldest if ages else {},
            begins | self._gaps,
            any_committed=bool(committed),
        )

    async def _positions(self, committed: Mapping[int, int]) -> dict[int, int]:
        """Return where the group is; where it has committed nothing, it begins at the beginning."""
        positions = dict(committed)
        rest = [tp for tp in self._all if tp.partition not in positions]
        if rest:
            for tp, offset in (await self._client.beginning_offsets(rest)).items():
                positions[tp.partition] = offset
        return positions

    async def _committed(self) -> Mapping[int, int]:
        """Return what the group has committed; in a new cluster that takes a moment to be known."""
        async with asyncio.timeout(self._patience_s):
            while True:
                try:
                    found: Mapping[
                        TopicPartition, Any
                    ] = await self._admin.list_consumer_group_offsets(
                        self._group, partitions=self._all
                    )
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    await asyncio.sleep(_RETRY_S)
                else:
                    return {tp.partition: at.offset for tp, at in found.items() if at.offset >= 0}

    async def _begins(
        self, positions: Mapping[int, int], ends: Mapping[int, int]
    ) -> dict[int, int]:
        """Return the lowest offset that is still there, of the partitions that are behind."""
        behind = [tp for tp in self._all if positions[tp.partition] < ends[tp.partition]]
        if not behind:
            return {}
        found = await self._client.beginning_offsets(behind)
        return {tp.partition: offset for tp, offset in found.items()}

    def _standing(
        self, positions: Mapping[int, int], ends: Mapping[int, int], begins: Mapping[int, int]
    ) -> dict[int, int]:
        """Return those of `begins` that are a little behind, and as they were at the last look."""
        before = self._behind
        self._behind = {
            number: (positions[number], ends[number])
            for number, at in begins.items()
            if ends[number] - max(at, positions[number]) <= _MARKERS_MAX
        }
        return {n: begins[n] for n, at in self._behind.items() if before.get(n) == at}

    async def _oldest(
        self, positions: Mapping[int, int], ends: Mapping[int, int], begins: Mapping[int, int]
    ) -> dict[int, int]:
        firsts = {number: max(at, positions[number]) for number, at in begins.items()}
        self._gaps = {n: end for n, end in self._gaps.items() if n in firsts and end == ends[n]}
        behind = {n: at for n, at in firsts.items() if at < ends[n] and n not in self._gaps}
        self._ages = {n: age for n, age in self._ages.items() if behind.get(n) == age[0]}
        await self._read_first({n: at for n, at in behind.items() if n not in self._ages}, ends)
        return {number: moment_ms for number, (_, moment_ms) in self._ages.items()}

    async def _read_first(self, offsets: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Read the first record that waits of each partition; what is not read in time is left."""
        if not offsets:
            return
        wanted = {self._all[number]: offset for number, offset in offsets.items()}
        self._client.assign(list(wanted))
        for tp, offset in wanted.items():
            self._client.seek(tp, offset)
        try:
            async with asyncio.timeout(_AGES_TIMEOUT_S):
                while wanted:
                    found = await self._client.getmany(*wanted, timeout_ms=200)
                    for tp, records in found.items():
                        self._ages[tp.partition] = (wanted.pop(tp), records[0].timestamp)
                        self._client.pause(tp)
                    for tp in [*wanted]:
                        if await self._client.position(tp) >= ends[tp.partition]:
                            self._gaps[tp.partition] = ends[tp.partition]
                            del wanted[tp]
        except TimeoutError:
            pass
        finally:
            self._client.unsubscribe()


@asynccontextmanager
async def open_lag_reader(kafka: KafkaSettings, group: str) -> AsyncIterator[LagReader]:
    """Open what looks at the topic of updates as `group` has read it.

    Raises:
        Misconfigured: a setting is refused.
        Transient: Kafka cannot be reached.
    """
    client = AIOKafkaConsumer(
        **client_options(kafka, "tidemark-lag"),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    timeout_s = kafka.request_timeout_ms / 1000
    admin = AIOKafkaAdminClient(**client_options(kafka, "tidemark-lag"))
    try:
        try:
            await client.start()
            await admin.start()
            # aiokafka's stop() fails where tasks that start() made have not had a turn yet.
            await asyncio.sleep(0)
        except KafkaError as error:
            raise unasked(kafka) from error
        yield LagReader(client, admin, topic=kafka.topic, group=group, patience_s=timeout_s)
    finally:
        await close_client(client.stop(), timeout_s=timeout_s)
        await close_client(admin.close(), timeout_s=timeout_s)
