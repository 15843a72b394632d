"""An oracle that cannot fail proves nothing: each rule of the consumer is broken here.

The consumer is broken by replacing one of its parts with one that breaks one rule. Everything
else is as always: the real broker, the real shards, and the same judge as for a run of faults.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

import consumer.partition_work
import consumer.service
import consumer.store
from consumer.dead_letters import DeadLetterTopic
from consumer.flush import Store
from consumer.folding import RowChange
from consumer.offsets import OffsetTracker
from consumer.once import KeyUse, KnownUses
from consumer.service import run
from consumer.settings import ConsumerSettings, WriteSettings
from consumer.store import Applied, open_store
from consumer.subscription_queue import Record
from deploy.local.stack import LocalStack
from shared.errors import Rejected
from shared.updates import SealedUpdate, Update, read_sealed
from tests.chaos.system import System, fresh_system
from tests.consumers import consumer_settings, fast_group, produce, running_consumer
from tests.records import APP, subscription
from verification.audit import read_audit
from verification.judgement import Evidence, Fault, Verdict, judge
from verification.marks import COUNT, MARK, POISON
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed
from verification.topic import ends_of, read_topic

PATIENCE_S = 30


def marked(number: int, device: int) -> Update:
    """An update that carries the marks which make it accountable."""
    return Update(
        schema=1,
        app_id=APP,
        subscription_id=subscription(device),
        tags={MARK: number, f"t{number % 3}": number},
        increment={"session_count": 1},
        increment_tags={COUNT: 1},
    )


def traffic(count: int, devices: int = 1, first: int = 1) -> list[Update]:
    return [marked(first + n, n % devices) for n in range(count)]


class Case:
    """A topic with updates in it, consumers right and wrong, and the judge."""

    def __init__(self, system: System) -> None:
        self.kafka = system.kafka
        self.ledger = Ledger()
        self._system = system

    def settings(self, group: str = "main", **write: Any) -> ConsumerSettings:
        return consumer_settings(
            self.kafka,
            self._system.shard_map_file,
            group=fast_group(f"{group}-of-{self.kafka.topic}"),
            write=WriteSettings(**write),
        )

    async def accept(self, updates: Sequence[Update]) -> None:
        await produce(self.kafka, updates, self.ledger)

    async def consume(self, group: str = "main", **write: Any) -> None:
        """Run a consumer until everything is committed, and let it end in order."""
        settings = self.settings(group, **write)
        async with running_consumer(settings):
            await self.committed(settings)

    async def committed(self, settings: ConsumerSettings) -> None:
        ends = await ends_of(self.kafka, self.kafka.topic)
        async with asyncio.timeout(PATIENCE_S):
            await wait_until_committed(self.kafka, settings.group.id, ends)

    @asynccontextmanager
    async def crashing(self, **write: Any) -> AsyncIterator[ConsumerSettings]:
        """Run a consumer that is gone at the end of the block: no drain, no commit."""
        settings = self.settings(**write)
        task = asyncio.create_task(run(settings, asyncio.Event()))
        try:
            yield settings
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def verdict(self) -> Verdict:
        return await judge(
            self.ledger,
            Evidence(
                epoch=self.kafka.topic_epoch,
                records=await read_topic(self.kafka, self.kafka.topic),
                dead_letters=await read_topic(self.kafka, self.kafka.dead_letter_topic),
                rows=await read_rows(self._system.directory),
                writes=read_audit(self._system.dsns),
            ),
        )


@pytest.fixture
async def case(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Case]:
    async with fresh_system(stack, tmp_path) as system:
        yield Case(system)


def wrapped_stores(wrap: Callable[[Store], Store]) -> Any:
    """Return an `open_store` whose stores are wrapped."""

    @asynccontextmanager
    async def opened(*args: Any, **kwargs: Any) -> AsyncIterator[Store]:
        async with open_store(*args, **kwargs) as store:
            yield wrap(store)

    return opened


async def test_it_has_no_objection_where_no_rule_is_broken(case: Case) -> None:
    await case.accept(traffic(300, devices=7))
    async with case.crashing() as settings:
        await case.committed(settings)
    await case.accept(traffic(300, devices=7, first=301))
    await case.consume()
    await case.consume("replay")

    verdict = await case.verdict()

    assert verdict.objections == []
    assert verdict.updates_accepted == 600
    assert verdict.rows == 7
    assert verdict.writes >= 14


async def test_rule_1_two_writes_to_one_subscription_at_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two spellings of one ID are two queues for one row: each is written regardless of the
    other, and what comes second finds that the row has gone past it."""
    spelled_twice = 0

    def read_in_two_spellings(value: bytes | None) -> SealedUpdate:
        nonlocal spelled_twice
        update = read_sealed(value)
        spelled_twice += 1
        if spelled_twice % 2:
            return update
        other = update.subscription_id.replace("-", "")
        return msgspec.structs.replace(update, subscription_id=other)

    monkeypatch.setattr(consumer.partition_work, "read_sealed", read_in_two_spellings)
    monkeypatch.setattr(consumer.partition_work, "check_ids", lambda *_: None)
    await case.accept(traffic(200))
    # One row a statement: Postgres would refuse to write one twice in the same.
    await case.consume(rows_per_flush_max=1, rows_per_flush_min=1)

    verdict = await case.verdict()

    assert verdict.count(Fault.LOST) > 0


class Hasty(OffsetTracker):
    """Says that the highest completed offset may be committed, whatever is open below it."""

    def complete(self, offsets: Iterable[int]) -> None:
        done = list(offsets)
        highest = max([self.committable or 0, *(offset + 1 for offset in done)])
        super().complete(done)
        self.committable = highest


class Wrapped:
    """A store that others are made of."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        return await self._store.apply(changes, first_uses)

    async def first_uses(self, keys: Sequence[tuple[str, str, str]]) -> KnownUses:
        return await self._store.first_uses(keys)

    async def forget_uses(self, before_ms: Mapping[int, int], *, rows_max: int) -> int:
        return await self._store.forget_uses(before_ms, rows_max=rows_max)

    async def find_locked(self, changes: Sequence[RowChange]) -> Sequence[bool]:
        return await self._store.find_locked(changes)

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        return await self._store.find_unreadable(changes)

    async def find_overfull(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        return await self._store.find_overfull(changes)


class HoldingUp(Wrapped):
    """A store that never answers for one subscription."""

    def __init__(self, store: Store, held_up: str) -> None:
        super().__init__(store)
        self._held_up = held_up

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        if any(change.subscription_id == self._held_up for change in changes):
            await asyncio.Event().wait()
        return await super().apply(changes, first_uses)


async def test_rule_2_a_commit_above_an_open_offset(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await case.accept(traffic(50, devices=5))
    with monkeypatch.context() as broken:
        broken.setattr(consumer.partition_work, "OffsetTracker", Hasty)
        holding_up = wrapped_stores(lambda store: HoldingUp(store, subscription(0)))
        broken.setattr(consumer.service, "open_store", holding_up)
        async with case.crashing(rows_per_flush_max=1, rows_per_flush_min=1) as settings:
            await case.committed(settings)
    await case.consume()

    verdict = await case.verdict()

    assert verdict.count(Fault.LOST) > 0


class WriteBehind(Wrapped):
    """A store that says it has written what it only means to write."""

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        return Applied([each.last_offset for each in changes], [True] * len(changes))


async def test_rule_3_an_update_completed_before_its_row_is_durable(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    await case.accept(traffic(50, devices=5))
    with monkeypatch.context() as broken:
        broken.setattr(consumer.service, "open_store", wrapped_stores(WriteBehind))
        async with case.crashing() as settings:
            await case.committed(settings)
    await case.accept(traffic(50, devices=4, first=51))
    await case.consume()

    verdict = await case.verdict()

    assert verdict.count(Fault.LOST) > 0


class Forgetful(DeadLetterTopic):
    """Says that a dead letter is kept when it has only been handed over."""

    async def send(self, record: Record, rejected: Rejected) -> None:
        return


async def test_rule_3_a_record_completed_before_its_dead_letter_is_kept(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = Update(
        schema=1, app_id=APP, subscription_id=subscription(0), tags={POISON: "\0", MARK: 21}
    )
    await case.accept([*traffic(20), poisoned, *traffic(20, first=22)])
    monkeypatch.setattr(DeadLetterTopic, "send", Forgetful.send)
    async with case.crashing() as settings:
        await case.committed(settings)

    verdict = await case.verdict()

    assert [each.fault for each in verdict.objections] == [Fault.DEAD_LETTER_MISSING]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("AND (row.applied_epoch, row.applied_offset) < ($10::integer, change.first_offset)", ""),
        ("< ($10::integer, change.first_offset)", "< ($10::integer, change.last_offset)"),
    ],
    ids=["no-position", "cut-at-the-wrong-end"],
)
async def test_rule_4_a_replay_that_the_row_does_not_refuse(
    case: Case, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    """Everything comes again, and a little more: also folds that straddle the row's position."""
    assert right in consumer.store.APPLY
    monkeypatch.setattr(consumer.store, "APPLY", consumer.store.APPLY.replace(right, wrong))
    await case.accept(traffic(100, devices=3))
    await case.consume()
    await case.accept(traffic(100, devices=3, first=101))
    await case.consume("replay")

    verdict = await case.verdict()

    assert verdict.count(Fault.COUNTED_TWICE) > 0


async def test_an_update_of_unknown_outcome_is_judged_by_what_kafka_holds(case: Case) -> None:
    stored, never_stored = marked(1, 0), marked(2, 0)
    elsewhere = Ledger()
    await produce(case.kafka, [stored], elsewhere)
    for update in (stored, never_stored):
        body = {"tags": update.tags, "increment": {f"tags.{COUNT}": 1, "session_count": 1}}
        case.ledger.outcome_unknown((APP, subscription(0)), body)
    await case.consume()

    verdict = await case.verdict()

    assert verdict.objections == []
    assert (verdict.unknown_stored, verdict.unknown_not_stored) == (1, 1)


async def test_a_record_that_nobody_was_promised_is_objected_to(case: Case) -> None:
    await produce(case.kafka, [marked(1, 0)], Ledger())
    await case.consume()

    verdict = await case.verdict()

    assert {each.fault for each in verdict.objections} == {Fault.STORED_UNASKED}


async def test_a_good_update_in_the_dead_letter_topic_is_objected_to(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(value: bytes | None) -> SealedUpdate:
        raise Rejected("It does not please.", reason="undecodable")

    await case.accept(traffic(3))
    monkeypatch.setattr(consumer.partition_work, "read_sealed", refuse)
    await case.consume()

    verdict = await case.verdict()

    assert verdict.count(Fault.DEAD_LETTER_UNASKED) == 3
    assert verdict.count(Fault.LOST) == 1
