"""`tidemark dead-letters` on a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from typer.testing import CliRunner, Result

from consumer.dead_letters import DeadLetterTopic
from consumer.observer import FlushObserver
from operator_cli.main import app as tidemark
from shared.errors import Rejected
from shared.settings import KafkaSettings, read_shard_map
from shared.topology import partition_of
from shared.updates import Update, encode
from tests.consumers import (
    consumer_settings,
    group_of,
    kafka_environment,
    produce,
    read_topic,
    running_consumer,
)
from tests.records import APP, StubRecord, subscription, update_of
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed

PATIENCE_S = 60
OTHER_APP = "ff000000-0000-4000-8000-000000000000"


class Operator:
    """Types commands, and gives up on records as the consumer would."""

    def __init__(self, kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
        self.kafka = kafka
        self._producer = producer

    async def run(self, *words: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke,
            tidemark,
            ["dead-letters", *words],
            env=kafka_environment(self.kafka),
        )

    async def json(self, *words: str) -> Any:
        return json.loads((await self.run(*words, "--json")).stdout)

    async def accept(self, update: Update) -> int:
        """Produce an update, and return its offset."""
        at = await self._producer.send_and_wait(
            self.kafka.topic,
            encode(update),
            update.app_id.encode(),
            partition_of(update.app_id),
        )
        offset: int = at.offset
        return offset

    async def give_up(
        self, offset: int, value: bytes, reason: str = "refused", app: str = APP
    ) -> None:
        record = StubRecord(
            offset,
            value,
            partition_of(app),
            self.kafka.topic,
            key=app.encode(),
            headers=[("traceparent", b"00-1")],
        )
        letters = DeadLetterTopic(
            self._producer, self.kafka.dead_letter_topic, retry_s=1, observer=FlushObserver([])
        )
        await letters.send(record, Rejected("No.", reason=reason, sqlstate="22P05"))
        # Kafka's times are in milliseconds: within one, letters of two partitions have no order.
        await asyncio.sleep(0.002)

    async def accept_and_give_up(self, *updates: Update) -> list[int]:
        """Accept updates, and give up on each of them later."""
        offsets = [await self.accept(update) for update in updates]
        for offset, update in zip(offsets, updates, strict=True):
            await self.give_up(offset, encode(update), app=update.app_id)
        return offsets

    async def replayed(self) -> Sequence[Any]:
        records = await read_topic(self.kafka, self.kafka.topic)
        found = [each for each in records if "tidemark.replay_of" in dict(each.headers)]
        return sorted(found, key=lambda each: (each.partition, each.offset))


@pytest.fixture
async def operator(kafka_settings: KafkaSettings) -> AsyncIterator[Operator]:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_settings.bootstrap_servers, acks="all", enable_idempotence=True
    )
    await producer.start()
    yield Operator(kafka_settings, producer)
    await producer.stop()


async def test_letters_are_listed_in_order_of_time_and_narrowed_by_filters(
    operator: Operator,
) -> None:
    await operator.accept_and_give_up(
        *[update_of(n, tags={"secret": "x"}) for n in range(3)],
        update_of(9, OTHER_APP, tags={"a": 1}),
    )
    await operator.give_up(77, b"not json", reason="undecodable")

    everything = await operator.json("list")
    table = await operator.run("list", "--app", APP.upper(), "--reason", "refused")

    assert [(each["app"], each["subscription"]) for each in everything] == [
        *[(APP, subscription(n)) for n in range(3)],
        (OTHER_APP, subscription(9)),
        (APP, ""),
    ]
    assert table.exit_code == 0
    assert "3 dead letters" in table.stdout
    assert subscription(2) in table.stdout
    assert len(await operator.json("list", "--reason", "undecodable")) == 1
    misspelled = await operator.run("list", "--reason", "refussed")
    assert misspelled.stderr.strip() == (
        "None was given up on for refussed, only for: refused, undecodable."
    )
    assert len(await operator.json("list", "--subscription", subscription(1))) == 1
    assert len(await operator.json("list", "--since", "10m")) == 5
    assert await operator.json("list", "--since", "2100-01-01") == []
    assert [each["subscription"] for each in await operator.json("list", "--limit", "2")] == [
        subscription(9),
        "",
    ]
    assert "2 dead letters of 5" in (await operator.run("list", "--limit", "2")).stdout


async def test_one_letter_is_shown_with_its_headers_and_without_values(operator: Operator) -> None:
    (offset,) = await operator.accept_and_give_up(update_of(1, tags={"email": "a@b.c"}))
    (listed,) = await operator.json("list")

    shown = await operator.json("show", listed["place"])
    text = await operator.run("show", listed["place"])
    revealed = await operator.run("show", listed["place"], "--show-values")

    assert shown["headers"]["tidemark.reason"] == "refused"
    assert shown["headers"]["traceparent"] == "00-1"
    assert shown["origin"] == f"{operator.kafka.topic}/0/{offset}"
    assert shown["value"]["tags"] == {"email": "…"}
    assert "a@b.c" not in text.stdout
    assert "tidemark.sqlstate      22P05" in text.stdout
    assert "a@b.c" in revealed.stdout


@pytest.mark.parametrize("place", ["0:99999", "99:0", "nowhere", "0"])
async def test_a_place_without_a_letter_is_one_sentence(operator: Operator, place: str) -> None:
    result = await operator.run("show", place)

    assert result.exit_code == 2
    assert result.stderr.startswith("tidemark: ")


async def test_reading_leaves_no_group_and_no_record_behind(operator: Operator) -> None:
    await operator.accept_and_give_up(update_of(1, tags={"a": 1}))
    records = await read_topic(operator.kafka, operator.kafka.topic)
    groups = await groups_of(operator.kafka)

    (letter,) = await operator.json("list")
    await operator.run("show", letter["place"])
    await operator.run("replay")

    assert await groups_of(operator.kafka) <= groups
    assert len(await read_topic(operator.kafka, operator.kafka.topic)) == len(records)


async def groups_of(kafka: KafkaSettings) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    groups = await admin.list_consumer_groups()
    await admin.close()
    return {group for group, _ in groups}


async def test_a_replay_is_dry_until_it_is_told_yes(operator: Operator) -> None:
    await operator.accept_and_give_up(update_of(1, tags={"a": 1}))

    dry = await operator.run("replay")
    nothing = await operator.replayed()
    wet = await operator.run("replay", "--yes")

    assert dry.exit_code == wet.exit_code == 0
    assert "1 would be replayed, 0 refused; --yes does it" in dry.stdout
    assert nothing == []
    assert "1 replayed, 0 refused" in wet.stdout
    assert len(await operator.replayed()) == 1


async def test_a_replay_is_the_record_as_it_came_in_origin_order(operator: Operator) -> None:
    updates = [update_of(n % 2, tags={"n": n}) for n in range(6)]
    offsets = [await operator.accept(update) for update in updates]
    for offset, update in reversed(list(zip(offsets, updates, strict=True))):
        await operator.give_up(offset, encode(update))

    result = await operator.run("replay", "--yes")

    replayed = await operator.replayed()
    assert result.exit_code == 0
    assert [each.value for each in replayed] == [encode(update) for update in updates]
    assert {each.key for each in replayed} == {APP.encode()}
    assert [dict(each.headers) for each in replayed] == [
        {
            "traceparent": b"00-1",
            "tidemark.replay_of": f"{operator.kafka.topic}/0/{offset}".encode(),
        }
        for offset in offsets
    ]


async def test_a_letter_that_was_written_twice_is_replayed_once(operator: Operator) -> None:
    (offset,) = await operator.accept_and_give_up(update_of(1, increment={"session_count": 1}))
    await operator.give_up(offset, encode(update_of(1, increment={"session_count": 1})))

    await operator.run("replay", "--yes")

    assert len(await operator.replayed()) == 1


async def test_where_a_later_update_was_accepted_a_replay_must_be_asked_for(
    operator: Operator,
) -> None:
    await operator.accept_and_give_up(update_of(1, tags={"a": "old"}), update_of(2, tags={"a": 1}))
    await operator.accept(update_of(1, tags={"a": "new"}))

    dry = await operator.json("replay")
    refused = await operator.run("replay", "--yes")
    after_refusal = [json.loads(each.value) for each in await operator.replayed()]
    forced = await operator.run("replay", "--yes", "--out-of-order")

    assert [(each["subscription"], each["order"], each["outcome"]) for each in dry] == [
        (subscription(1), "lost", "refused"),
        (subscription(2), "kept", "would be replayed"),
    ]
    assert refused.exit_code == 2
    assert [each["subscription_id"] for each in after_refusal] == [subscription(2)]
    # What had been replayed meanwhile is still refused.
    assert forced.exit_code == 2
    assert len(await operator.replayed()) == 2


async def test_what_was_replayed_before_is_not_counted_twice(operator: Operator) -> None:
    await operator.accept_and_give_up(update_of(1, increment={"session_count": 1}))
    await operator.run("replay", "--yes")

    (second,) = await operator.json("replay", "--yes", "--out-of-order")
    twice = len(await operator.replayed())
    await operator.run("replay", "--yes", "--again")

    assert (second["order"], second["outcome"], twice) == ("replayed before", "refused", 1)
    assert len(await operator.replayed()) == 2


async def test_what_is_no_update_is_never_replayed(operator: Operator) -> None:
    offset = await operator.accept(update_of(1, tags={"a": 1}))
    await operator.give_up(offset, b"not json", reason="undecodable")

    (outcome,) = await operator.json("replay", "--yes", "--out-of-order", "--again")

    assert (outcome["order"], outcome["outcome"]) == ("unreadable", "refused")
    assert await operator.replayed() == []


async def test_a_record_of_the_wrong_partition_goes_to_its_app_s(operator: Operator) -> None:
    update = update_of(1, OTHER_APP, tags={"a": 1})
    await operator.give_up(0, encode(update), reason="wrong_partition", app=APP)

    result = await operator.run("replay", "--yes")

    (replayed,) = await operator.replayed()
    assert result.exit_code == 0
    assert replayed.partition == partition_of(OTHER_APP)


async def test_a_replay_reaches_its_row_through_the_consumer(
    operator: Operator, shard_map_file: Path
) -> None:
    ledger = Ledger()
    await produce(operator.kafka, [update_of(1, tags={"level": 1})], ledger)
    lost = update_of(1, tags={"city": "Lisbon"}, increment={"session_count": 2})

    async with (
        asyncio.timeout(PATIENCE_S),
        running_consumer(consumer_settings(operator.kafka, shard_map_file)),
    ):
        # Given up on, although it could be applied: as after a mistake of ours that was put right.
        await operator.give_up(0, encode(lost))
        await operator.run("replay", "--yes", "--out-of-order")
        (replayed,) = await operator.replayed()
        await wait_until_committed(
            operator.kafka, group_of(operator.kafka), {0: replayed.offset + 1}
        )

    rows = await read_rows(read_shard_map(shard_map_file), [APP])
    row = rows[APP, subscription(1)]
    assert (row.tags, row.properties) == (
        {"level": 1, "city": "Lisbon"},
        {"session_count": 2},
    )
