"""Holds: written to the control topic, read from it and from the holding topic."""

import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from shared.errors import Misconfigured, Rejected, Transient
from shared.holds import (
    Hold,
    HoldKey,
    Holds,
    HoldState,
    HoldView,
    control_record,
    held_at,
    held_partition_of,
)
from shared.kafka_clients import FORBIDDEN, client_options
from shared.settings import KafkaSettings
from shared.topic_reader import open_reader, require_partitions
from shared.topology import partition_of
from shared.updates import decode

_CLIENT: Final = "tidemark-hold"


@dataclass(frozen=True, slots=True)
class CountedHold:
    """A hold, and how many updates wait because of it."""

    view: HoldView
    held: int


def key_of(app: str, subscription: str | None) -> HoldKey:
    """Read the IDs that an operator typed.

    Raises:
        Misconfigured: one of them is no UUID.
    """
    try:
        return HoldKey(str(uuid.UUID(app)), subscription and str(uuid.UUID(subscription)))
    except ValueError as error:
        raise Misconfigured(
            f"{app}{f'/{subscription}' if subscription else ''} is no ID; write UUIDs."
        ) from error


async def read_holds(kafka: KafkaSettings) -> Holds:
    """Read the whole control topic.

    Raises:
        Misconfigured: it is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    await require_partitions(kafka, kafka.holds_topic)
    holds = Holds()
    async with open_reader(kafka, kafka.holds_topic, _CLIENT) as reader:
        async for records in reader.read(await reader.beginnings([0]), await reader.ends([0])):
            for record in records:
                holds.apply(record.key, record.value)
    return holds


async def add(kafka: KafkaSettings, key: HoldKey, *, reason: str, by: str) -> bool:
    """Hold back what is accepted of `key`; say whether it was not held back already.

    Raises:
        Misconfigured: a topic is missing, or may not be written.
        Transient: Kafka cannot be reached.
    """
    await require_partitions(kafka, kafka.held_topic)
    partition = held_partition_of(partition_of(key.app))
    # The end first: a hold that is not seen afterwards has held nothing back below it.
    async with open_reader(kafka, kafka.held_topic, _CLIENT) as reader:
        end = (await reader.ends([partition]))[partition]
    holds = await read_holds(kafka)
    view = holds.view(key)
    if view is not None and view.state is HoldState.HOLDING:
        return False
    hold = Hold(
        id=uuid.uuid4().hex,
        state="holding",
        reason=reason,
        since_ms=int(time.time() * 1000),
        held_from=holds.held_from(key, end),
        by=by,
    )
    await _write(kafka, key, hold)
    return True


async def release(kafka: KafkaSettings, key: HoldKey, *, by: str) -> HoldView:
    """Have what is held back of `key` applied, and then hold nothing back any more.

    Returns how the hold stood; one that is being released is left as it is.

    Raises:
        Misconfigured: there is no such hold.
        Transient: Kafka cannot be reached.
    """
    holds = await read_holds(kafka)
    view = holds.view(key)
    if view is None or view.state is HoldState.RELEASED:
        raise Misconfigured(f"{key} is not held; `tidemark hold list` says what is.")
    if view.state is HoldState.HOLDING:
        hold = Hold(
            id=view.id,
            state="releasing",
            reason=view.reason,
            since_ms=view.since_ms,
            held_from=view.read_from,
            by=by,
        )
        await _write(kafka, key, hold)
    return view


async def _write(kafka: KafkaSettings, key: HoldKey, hold: Hold) -> None:
    producer = AIOKafkaProducer(
        **client_options(kafka, _CLIENT), acks="all", enable_idempotence=True
    )
    try:
        await producer.start()
        name, value = control_record(key, hold)
        await producer.send_and_wait(kafka.holds_topic, key=name, value=value)
    except (KafkaError, OSError) as error:
        raise Transient(
            f"{kafka.holds_topic} did not take it ({type(error).__name__}); run it again."
        ) from error
    finally:
        await producer.stop()


async def list_holds(kafka: KafkaSettings, *, released: bool = False) -> Sequence[CountedHold]:
    """Return holds, and how many updates each has in the holding topic; each update once.

    Raises:
        Misconfigured: a topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    await require_partitions(kafka, kafka.held_topic)
    holds = await read_holds(kafka)
    views = [each for each in holds.views() if released or each.state is not HoldState.RELEASED]
    by_partition: dict[int, list[HoldView]] = defaultdict(list)
    for view in views:
        by_partition[held_partition_of(partition_of(view.key.app))].append(view)
    counts: dict[HoldKey, int] = {view.key: 0 for view in views}
    seen: dict[HoldKey, _OffsetSet] = {view.key: _OffsetSet() for view in views}
    async with open_reader(kafka, kafka.held_topic, _CLIENT) as reader:
        starts = {each: min(v.read_from for v in found) for each, found in by_partition.items()}
        async for records in reader.read(starts, await reader.ends(by_partition)):
            for record in records:
                for view in by_partition[record.partition]:
                    if _is_of(view, record) and seen[view.key].add(_offset(record)):
                        counts[view.key] += 1
    return [CountedHold(view, counts[view.key]) for view in views]


@dataclass(frozen=True, slots=True)
class Leftover:
    """Offsets of one partition of the holding topic that nothing waits for: `first` up to `end`."""

    partition: int
    first: int
    end: int


async def find_leftovers(kafka: KafkaSettings) -> Sequence[Leftover]:
    """Find what every hold of its partition has released.

    A hold that is added later may name an older offset to read from, but none at which anything
    was left to it: whoever released without that hold has applied all there was.

    Raises:
        Misconfigured: a topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    await require_partitions(kafka, kafka.held_topic)
    ends: dict[int, int] = {}
    for view in (await read_holds(kafka)).views():
        at = held_partition_of(partition_of(view.key.app))
        ends[at] = min(view.read_from, ends.get(at, view.read_from))
    async with open_reader(kafka, kafka.held_topic, _CLIENT) as reader:
        firsts = await reader.beginnings(ends)
    return [Leftover(at, firsts[at], ends[at]) for at in sorted(ends) if firsts[at] < ends[at]]


async def remove(kafka: KafkaSettings, leftovers: Sequence[Leftover]) -> None:
    """Delete leftovers from the holding topic, for good.

    Raises:
        Misconfigured: Kafka forbids it.
        Transient: Kafka did not do it, or not all of it.
    """
    admin = AIOKafkaAdminClient(**client_options(kafka, _CLIENT))
    try:
        await admin.start()
        await admin.delete_records(
            {
                TopicPartition(kafka.held_topic, each.partition): RecordsToDelete(each.end)
                for each in leftovers
            }
        )
    except FORBIDDEN as error:
        raise Misconfigured(f"Kafka forbids it; grant Delete on {kafka.held_topic}.") from error
    except (KafkaError, OSError) as error:
        raise Transient(
            f"{kafka.held_topic} was not trimmed ({type(error).__name__}); run it again."
        ) from error
    finally:
        await admin.close()


async def held_positions(kafka: KafkaSettings, apps: Collection[str]) -> set[tuple[int, int]]:
    """Return partition and offset of each update of these apps that is held back now.

    Raises:
        Misconfigured: a topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    views = [
        view
        for view in (await read_holds(kafka)).views()
        if view.key.app in apps and view.state is not HoldState.RELEASED
    ]
    found: set[tuple[int, int]] = set()
    if not views:
        return found
    async with open_reader(kafka, kafka.held_topic, _CLIENT) as reader:
        starts: dict[int, int] = {}
        for view in views:
            at = held_partition_of(partition_of(view.key.app))
            starts[at] = min(view.read_from, starts.get(at, view.read_from))
        async for records in reader.read(starts, await reader.ends(starts)):
            for record in records:
                for view in views:
                    if record.key == view.key.app.encode() and _is_of(view, record):
                        found.add((partition_of(view.key.app), _offset(record)))
    return found


def _is_of(view: HoldView, record: Any) -> bool:
    if record.offset < view.read_from or held_at(record) is None:
        return False
    try:
        update = decode(record.value, partition_of(view.key.app))
    except Rejected:
        return False
    return view.key.covers(update.app_id, update.subscription_id)


def _offset(record: Any) -> int:
    found = held_at(record)
    assert found is not None
    return found[0].offset


class _OffsetSet:
    """A set of offsets, a bit each: millions of neighbours fit."""

    _PAGE_BITS = 2**16

    def __init__(self) -> None:
        self._pages: defaultdict[int, bytearray] = defaultdict(
            lambda: bytearray(self._PAGE_BITS // 8)
        )

    def add(self, offset: int) -> bool:
        """Add an offset; say whether it is new."""
        page, bit = divmod(offset, self._PAGE_BITS)
        byte, shift = divmod(bit, 8)
        held = self._pages[page]
        is_new = not held[byte] >> shift & 1
        held[byte] |= 1 << shift
        return is_new
