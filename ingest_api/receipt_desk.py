"""Answers where updates stand, from what Kafka knows: commits, dead letters, holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ingest_api.outcomes import Outcomes, UnknownReceiptError
from ingest_api.receipts import Place, Standing
from ingest_api.settings import ReceiptSettings
from shared.errors import Misconfigured, Transient
from shared.kafka_clients import client_options, close_client
from shared.settings import KafkaSettings
from shared.topic_reader import require_partitions
from shared.topology import PARTITIONS

log = structlog.get_logger()

_RETRY_S: Final = 1.0
_LONG_POLL_MS: Final = 5_000
_CLOCKS_DIFFER_MS: Final = 3_600_000
"""How much earlier than its update a dead letter may seem to have been written."""


@dataclass(slots=True, eq=False)
class _Ask:
    """A question that is answered once it is decided, or time is over."""

    place: Place
    app: str | None
    until: float
    answer: asyncio.Future[Standing]


class ReceiptDesk:
    """Answers many questions with one look at Kafka; it looks only while somebody asks.

    A look reads committed offsets first, and then the other topics up to where they end by that
    time. A consumer commits an offset after its dead letter, or the record that it holds back, has
    been acknowledged: so whatever is below the commit and in none of them has been applied.
    """

    def __init__(self, kafka: KafkaSettings, settings: ReceiptSettings) -> None:
        self.topic_epoch = kafka.topic_epoch
        self._kafka = kafka
        self._settings = settings
        self._asks: list[_Ask] = []
        self._asked = asyncio.Event()
        self._is_open = False
        self._hurries = False

    async def standing(self, place: Place, app: str | None, *, wait_s: float = 0) -> Standing:
        """Say where an update stands; hold the answer for `wait_s` while it is pending.

        Args:
            place: where it was accepted.
            app: whose it must be; None for anybody's.
            wait_s: seconds.

        Raises:
            ExpiredReceiptError, UnknownReceiptError: nothing is known of it.
            Transient: Kafka cannot be asked, or too many are asking.
        """
        if not self._is_open:
            raise Transient("Kafka cannot be asked for receipts at the moment.")
        if len(self._asks) >= self._settings.asks_max:
            raise Transient("Too many receipts are being asked for.", saturation=True)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wait_s, self._settings.wait_max_s)
        ask = _Ask(place, app, until, loop.create_future())
        self._asks.append(ask)
        self._asked.set()
        return await ask.answer

    def hurry(self) -> None:
        """Answer everything with what is known from now on, however long it was to wait."""
        self._hurries = True

    async def run(self) -> None:
        """Answer for ever, from the time on when Kafka can be asked."""
        while True:
            try:
                async with self._opened() as look, asyncio.TaskGroup() as tasks:
                    tasks.create_task(look.read_for_ever(), name="receipts-reader")
                    await look.catch_up()
                    self._is_open = True
                    log.info("receipts.ready")
                    await self._answer_for_ever(look)
            except* (KafkaError, Transient, Misconfigured) as errors:
                reason = str(errors.exceptions[0])
                log.warning("receipts.unavailable", reason=reason, retry_in_s=_RETRY_S)
            finally:
                self._is_open = False
                self._fail(Transient("Kafka cannot be asked for receipts at the moment."))
            await asyncio.sleep(_RETRY_S)

    async def _answer_for_ever(self, look: "_Look") -> None:
        failing = False
        while True:
            await self._asked.wait()
            try:
                async with asyncio.timeout(self._settings.look_timeout_ms / 1000):
                    await self._answer(look)
            except (KafkaError, Transient, TimeoutError) as error:
                if not failing:  # said once, not for each look of an outage
                    log.warning("receipts.not_answered", reason=type(error).__name__)
                failing = True
                self._fail(Transient("Kafka does not say where updates stand."))
            else:
                failing = False
            if not self._asks:
                self._asked.clear()
            await asyncio.sleep(self._settings.look_interval_ms / 1000)

    async def _answer(self, look: "_Look") -> None:
        asks = [ask for ask in self._asks if not ask.answer.done()]
        self._asks = asks.copy()
        committed, ends = await look.at({ask.place.partition for ask in asks})
        now = asyncio.get_running_loop().time()
        # Places are kept free for who asks now, also from those who wait and have gone away.
        crowding_out = len(asks) - self._settings.asks_max // 2
        for number, ask in enumerate(asks):
            if ask.answer.done():
                continue
            partition, offset = ask.place
            try:
                if offset >= max(ends[partition], committed[partition]):
                    raise UnknownReceiptError
                standing = look.outcomes.standing(ask.place, ask.app, committed[partition])
            except LookupError as error:
                ask.answer.set_exception(error)
            else:
                waits = now < ask.until and number >= crowding_out and not self._hurries
                if standing.state != "pending" or not waits:
                    ask.answer.set_result(standing)
        self._asks = [ask for ask in self._asks if not ask.answer.done()]

    def _fail(self, error: Transient) -> None:
        for ask in self._asks:
            if not ask.answer.done():
                ask.answer.set_exception(error)
        self._asks.clear()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator["_Look"]:
        """Open clients that begin to read what was written since `known_for_h`."""
        kafka = self._kafka
        counts = {
            topic: await require_partitions(kafka, topic)
            for topic in (kafka.dead_letter_topic, kafka.held_topic, kafka.holds_topic)
        }
        options = client_options(kafka, "tidemark-receipts")
        reader = AIOKafkaConsumer(
            **options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_LONG_POLL_MS,
        )
        followed = [TopicPartition(topic, n) for topic in counts for n in range(counts[topic])]
        reader.assign(followed)
        # A client of its own: behind a fetch that waits for records, a question would wait, too.
        offsets = AIOKafkaConsumer(**options)
        admin = AIOKafkaAdminClient(**options)
        try:
            for client in (reader, offsets, admin):
                await client.start()
            yield await self._begin(reader, offsets, admin, followed)
        finally:
            for close in (reader.stop, offsets.stop, admin.close):
                await close_client(close(), timeout_s=kafka.request_timeout_ms / 1000)

    async def _begin(
        self,
        reader: AIOKafkaConsumer,
        offsets: AIOKafkaConsumer,
        admin: AIOKafkaAdminClient,
        followed: Sequence[TopicPartition],
    ) -> "_Look":
        kafka = self._kafka
        since_ms = int(time.time() * 1000) - self._settings.known_for_h * 3_600_000
        updates = [TopicPartition(kafka.topic, number) for number in range(PARTITIONS)]
        known_from = await _offsets_since(offsets, updates, since_ms)
        starts = await _offsets_since(
            offsets,
            [tp for tp in followed if tp.topic != kafka.holds_topic],
            since_ms - _CLOCKS_DIFFER_MS,
        )
        for tp in followed:
            reader.seek(tp, starts.get(tp, 0))
        outcomes = Outcomes(
            kafka.topic,
            {tp.partition: offset for tp, offset in known_from.items()},
            entries_max=self._settings.entries_max,
        )
        return _Look(
            reader,
            offsets,
            admin,
            kafka=kafka,
            group=self._settings.consumer_group,
            followed=followed,
            outcomes=outcomes,
        )


class _Look:
    """Looks at Kafka; `outcomes` has what was read so far."""

    def __init__(
        self,
        reader: AIOKafkaConsumer,
        offsets: AIOKafkaConsumer,
        admin: AIOKafkaAdminClient,
        *,
        kafka: KafkaSettings,
        group: str,
        followed: Sequence[TopicPartition],
        outcomes: Outcomes,
    ) -> None:
        self.outcomes = outcomes
        self._reader = reader
        self._offsets = offsets
        self._admin = admin
        self._topic = kafka.topic
        self._group = group
        self._followed = followed
        self._take_in = {
            kafka.dead_letter_topic: outcomes.dead_letter,
            kafka.held_topic: outcomes.held,
            kafka.holds_topic: self._hold,
        }
        self._read_to: dict[TopicPartition, int] = {}
        self._moved = asyncio.Event()

    async def at(self, partitions: Iterable[int]) -> tuple[Mapping[int, int], Mapping[int, int]]:
        """Return commits and ends of partitions of updates; then `outcomes` is as new as those."""
        updates = [TopicPartition(self._topic, number) for number in partitions]
        commits = await self._admin.list_consumer_group_offsets(self._group, partitions=updates)
        ends = await self.catch_up(updates)
        return (
            {tp.partition: max(commits[tp].offset, 0) if tp in commits else 0 for tp in updates},
            {tp.partition: ends[tp] for tp in updates},
        )

    async def catch_up(self, others: Sequence[TopicPartition] = ()) -> Mapping[TopicPartition, int]:
        """Take in everything that is there now; return where all partitions and `others` end."""
        ends: Mapping[TopicPartition, int] = await self._offsets.end_offsets(
            [*self._followed, *others]
        )
        while any(self._read_to.get(tp, 0) < ends[tp] for tp in self._followed):
            await self._moved.wait()
        return ends

    async def read_for_ever(self) -> None:
        """Take in whatever comes."""
        while True:
            for tp in self._followed:
                self._read_to[tp] = await self._reader.position(tp)
            self._moved.set()
            self._moved.clear()
            try:
                found = await self._reader.getmany(timeout_ms=_LONG_POLL_MS)
            except KafkaError as error:
                log.warning("receipts.not_read", reason=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
                continue
            for tp, records in found.items():
                for record in records:
                    self._take_in[tp.topic](record)

    def _hold(self, record: object) -> None:
        try:
            self.outcomes.holds.apply(record.key, record.value)  # type: ignore[attr-defined]
        except ValueError:
            log.warning("hold.unreadable")


async def _offsets_since(
    client: AIOKafkaConsumer, partitions: Sequence[TopicPartition], since_ms: int
) -> dict[TopicPartition, int]:
    """Return where records begin that are not older than `since_ms`; the end where none are."""
    ends = await client.end_offsets(partitions)
    found = await client.offsets_for_times(dict.fromkeys(partitions, since_ms))
    return {tp: at.offset if at else ends[tp] for tp, at in found.items()}
