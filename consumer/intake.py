"""The only code that touches `AIOKafkaConsumer`: fetch, pause and resume, assignment, commit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from consumer.assigned_work import AssignedWork
from consumer.fetch_sessions import fetch_incrementally
from consumer.fetched_records import fetch_small_records
from consumer.holding import HoldsFollower
from consumer.partition_work import STOPPED, PartitionWork
from consumer.settings import ConsumerSettings
from consumer.subscription_queue import Record
from shared.errors import Misconfigured, OwnershipLost, Transient
from shared.kafka_clients import FORBIDDEN, client_options, close_client, until_reachable

log = structlog.get_logger()

T = TypeVar("T")


class Intake:
    """Fetches records of the assigned partitions, and commits what is durable."""

    def __init__(self, client: AIOKafkaConsumer, settings: ConsumerSettings) -> None:
        self._client = client
        self._settings = settings
        self._topic = settings.kafka.topic

    async def run(self, work: AssignedWork, holds: HoldsFollower) -> None:
        """Join the group and hand every record to `work`, until cancelled.

        Raises:
            Misconfigured: the broker forbids reading the topic or joining the group.
        """
        listener = _Handover(self, work, holds, self._settings.group.drain_timeout_ms / 1000)
        self._client.subscribe([self._topic], listener=listener)
        try:
            await self._outliving(until_reachable(self._client.start))
            while True:
                asking = self._client.getmany(
                    timeout_ms=200, max_records=self._settings.fetch.records_max
                )
                fetched = await self._outliving(asking)
                # What comes while partitions are being assigned is of the new assignment.
                await listener.assigned.wait()
                if listener.failure is not None:
                    raise listener.failure
                for tp, records in (fetched or {}).items():
                    self._receive(work, tp, records)
                for partition_work in work.newly_scarce():
                    self._pause_if_behind(partition_work)
        except FORBIDDEN as error:
            raise Misconfigured(
                f"Kafka forbids what the consumer does ({type(error).__name__}); grant it Read on "
                f"topic {self._topic} and on group {self._settings.group.id}."
            ) from error

    async def _outliving(self, asking: Awaitable[T]) -> T | None:
        """Await what needs the coordinator; return None where it has answered oddly.

        As one may that is going away. aiokafka raises its base class then, and where a heartbeat
        was answered so it sends no more: it has to join again. Where its own task has ended it
        never would.
        """
        try:
            return await asking
        except KafkaError as error:
            if type(error) is not KafkaError or "during coordination" in str(error):
                raise
            log.warning("group.odd_answer", reason=str(error))
        if (coordinator := self._client._coordinator) is not None:  # noqa: SLF001
            coordinator.request_rejoin()
        await asyncio.sleep(self._settings.write.retry_base_ms / 1000)
        return None

    def _receive(self, work: AssignedWork, tp: TopicPartition, records: Sequence[Record]) -> None:
        partition_work = work.partitions.get(tp.partition)
        if partition_work is None:
            return  # no longer ours
        taken = partition_work.receive(records)
        if taken < len(records):
            self._client.seek(tp, records[taken].offset)
        if partition_work.is_full:
            self._pause(tp, partition_work)
            if partition_work.stopped:
                log.error("partition.stopped", partition=tp.partition, reason=STOPPED)

    def _pause_if_behind(self, work: PartitionWork) -> None:
        """Pause what would fill the share; who has little to come goes on.

        All at once, because aiokafka drops what it has fetched of a partition that is paused: one
        by one, each of them would be fetched in vain.
        """
        tp = TopicPartition(self._topic, work.partition)
        if not work.paused and work.is_behind(self._client.highwater(tp)):
            self._pause(tp, work)

    def _pause(self, tp: TopicPartition, work: PartitionWork) -> None:
        work.paused = True
        self._client.pause(tp)

    async def resume_for_ever(self, work: AssignedWork) -> None:
        """Fetch again from paused partitions as soon as they have room."""
        while True:
            await work.room.wait()
            work.room.clear()
            for partition, partition_work in work.partitions.items():
                if partition_work.paused and partition_work.has_room:
                    partition_work.paused = False
                    self._client.resume(TopicPartition(self._topic, partition))

    async def committed(self, partition: int) -> int:
        """Return the next offset to read of a partition; 0 where nothing was committed.

        Raises:
            OwnershipLost: the partition is not ours.
            Transient: the broker did not say.
        """
        try:
            at = await self._client.committed(TopicPartition(self._topic, partition))
        except IllegalStateError as error:
            raise OwnershipLost("The partition is another's now.") from error
        except KafkaError as error:
            raise Transient(f"No committed offset ({type(error).__name__}).") from error
        return at or 0

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read of each partition.

        Raises:
            OwnershipLost: the group has moved on without us.
            Transient: the broker did not take it; nothing is lost, a later one covers it.
        """
        if not offsets:
            return
        positions = {TopicPartition(self._topic, each): offsets[each] for each in offsets}
        try:
            async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                await self._client.commit(positions)
        except (CommitFailedError, IllegalStateError) as error:
            raise OwnershipLost("The group has rebalanced; the offsets are not ours.") from error
        except FORBIDDEN as error:
            raise Misconfigured(
                f"Kafka forbids the commit; grant Read on group {self._settings.group.id}."
            ) from error
        except (KafkaError, TimeoutError) as error:
            raise Transient(f"The commit failed ({type(error).__name__}).") from error

    def leave_at_end(self) -> None:
        """Leave the group when the client closes; without it a static member stays in."""
        # aiokafka sends the request only for a member without a static name. Ours need not have
        # one any more: the broker knows it by the ID that it was given when it joined.
        if (coordinator := self._client._coordinator) is not None:  # noqa: SLF001
            coordinator._group_instance_id = None  # noqa: SLF001


class _Handover(ConsumerRebalanceListener):  # type: ignore[misc]  # the base is untyped
    """Finishes and commits what is in flight before partitions change hands.

    aiokafka logs what a listener raises and goes on, so a failure is kept for the fetching loop.
    """

    def __init__(
        self, intake: Intake, work: AssignedWork, holds: HoldsFollower, drain_timeout_s: float
    ) -> None:
        self.failure: Exception | None = None
        self.assigned = asyncio.Event()
        """Set unless partitions are just being assigned."""
        self.assigned.set()
        self._holds = holds
        self._intake = intake
        self._work = work
        self._drain_timeout_s = drain_timeout_s

    async def on_partitions_revoked(self, _revoked: set[TopicPartition]) -> None:
        try:
            await hand_over(self._intake, self._work, self._drain_timeout_s)
        except Exception as error:
            self.failure = error
            raise

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.assigned.clear()
        try:
            # The former owner may have held updates back for a hold that we have not heard of;
            # what we applied of a later date would be ahead of them for good.
            await self._holds.catch_up()
            self._work.assign(tp.partition for tp in assigned)
        except Exception as error:
            self.failure = error
            raise
        finally:
            self.assigned.set()
        log.info("partitions.assigned", count=len(assigned))


async def hand_over(intake: Intake, work: AssignedWork, drain_timeout_s: float) -> None:
    """Drain, commit, forget: after it nothing of ours is written or committed any more."""
    if not work.partitions:
        return
    abandoned = await work.drain(drain_timeout_s)
    try:
        # As long as the drain at most: together they must end before the session does.
        async with asyncio.timeout(drain_timeout_s):
            await intake.commit(work.committable())
    except (OwnershipLost, Transient, TimeoutError) as error:
        log.warning("commit.failed", reason=str(error) or type(error).__name__)
    finally:
        log.info("partitions.revoked", count=len(work.partitions), records_abandoned=abandoned)
        work.lose_all()


@asynccontextmanager
async def open_intake(settings: ConsumerSettings) -> AsyncIterator[Intake]:
    """Open a group member that has not joined yet.

    Raises:
        Misconfigured: a setting is refused.
    """
    group, fetch = settings.group, settings.fetch
    fetch_small_records()
    client = AIOKafkaConsumer(
        **client_options(settings.kafka, group.instance_id or "tidemark-consumer"),
        group_id=group.id,
        group_instance_id=group.instance_id,
        session_timeout_ms=group.session_timeout_ms,
        rebalance_timeout_ms=group.session_timeout_ms,
        heartbeat_interval_ms=group.heartbeat_interval_ms,
        # Range gives neighbours, so that a consumer writes to few shards.
        partition_assignment_strategy=[RangePartitionAssignor],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=fetch.bytes_max,
        max_partition_fetch_bytes=fetch.partition_bytes_max,
        fetch_max_wait_ms=fetch.wait_max_ms,
        # We always fetch, also when everything is paused; only a dead process stops.
        max_poll_interval_ms=group.session_timeout_ms * 10,
    )
    fetch_incrementally(
        client,
        interval_min_s=fetch.interval_min_ms / 1000,
        bytes_much=min(fetch.bytes_max, fetch.partition_bytes_max) // 4,
    )
    try:
        yield Intake(client, settings)
    finally:
        await close_client(client.stop(), timeout_s=group.heartbeat_interval_ms / 1000)
