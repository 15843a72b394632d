"""What operators see: lag, hot keys, the stream itself and the status page, on a real stack."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from shared.lag_reader import open_lag_reader
from shared.settings import KafkaSettings
from tests.consumers import (
    ServiceProcess,
    consumer_environment,
    group_of,
    kafka_environment,
    produce,
    service_process,
)
from tests.records import APP, subscription, update_of
from verification.oracle import Ledger
from verification.progress import wait_until_committed

PATIENCE_S = 60
OTHER_APP = "ff000000-0000-4000-8000-000000000000"
SECRET = "nobody-may-see-this"


@dataclass
class Looking:
    """A topic with updates, a consumer that may run, and the operators' command."""

    kafka: KafkaSettings
    shard_map_file: Path
    ledger: Ledger = field(default_factory=Ledger)

    async def accept(self, *updates: Any) -> None:
        await produce(self.kafka, updates, self.ledger)

    async def settle(self) -> None:
        await wait_until_committed(self.kafka, group_of(self.kafka), self.ledger.ends())

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[ServiceProcess]:
        environment = consumer_environment(self.kafka, self.shard_map_file)
        environment["TIDEMARK_TELEMETRY__LAG_INTERVAL_MS"] = "200"
        async with service_process("consumer", environment) as process:
            await process.wait_ready()
            yield process

    async def run(self, *arguments: str) -> tuple[str, str]:
        """Run `tidemark`, and return what it printed and what it said beside."""
        environment = {
            "PATH": os.defpath,
            **kafka_environment(self.kafka),
            "TIDEMARK_SHARD_MAP_FILE": str(self.shard_map_file),
            "TIDEMARK_GROUP__ID": group_of(self.kafka),
        }
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "operator_cli.main", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    async def json(self, *arguments: str) -> Any:
        return json.loads((await self.run(*arguments, "--json"))[0])

    async def lines(self, *arguments: str) -> Sequence[dict[str, Any]]:
        printed, _ = await self.run("inspect", *arguments, "--json")
        return [json.loads(line) for line in printed.splitlines()]


async def test_lag_is_right_while_no_consumer_runs(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    looking = Looking(kafka_settings, shard_map_file)
    await looking.accept(*(update_of(n) for n in range(7)), update_of(1, OTHER_APP))

    stopped = await looking.json("lag", "--interval", "0.2")
    async with looking.consuming():
        await looking.settle()
    applied = await looking.json("lag", "--interval", "0.2")
    _, said = await looking.run("lag", "--once", "--interval", "0.2")
    _, said_of_another = await looking.run("lag", "--once", "--interval", "0.2", "--group", "typo")

    by_shard = {each["shard"]: each for each in stopped}
    assert [by_shard[name]["message_lag"] for name in ("shard-0", "shard-3", "all")] == [7, 1, 8]
    assert by_shard["all"]["time_lag_s"] > 0
    assert by_shard["all"]["catch_up_s"] is None
    assert [each["message_lag"] for each in applied] == [0] * 5
    assert {each["time_lag_s"] for each in applied} == {0}
    assert said == ""
    assert "Group typo has committed nothing" in said_of_another


async def test_what_was_removed_and_what_is_no_record_does_not_wait(
    kafka_settings: KafkaSettings,
) -> None:
    home = TopicPartition(kafka_settings.topic, 0)
    where = {"bootstrap_servers": kafka_settings.bootstrap_servers}
    admin = AIOKafkaAdminClient(**where)
    producer = AIOKafkaProducer(**where, transactional_id=home.topic)
    member = AIOKafkaConsumer(**where, group_id=home.topic, enable_auto_commit=False)
    await produce(kafka_settings, [update_of(n) for n in range(3)], Ledger())
    await asyncio.gather(*(each.start() for each in (admin, producer, member)))
    member.assign([home])
    looks = []
    try:
        await member.commit({home: 1})
        async with producer.transaction():  # leaves a marker behind its record
            await producer.send(home.topic, b"", partition=0)
        async with open_lag_reader(kafka_settings, home.topic) as reader:
            for begin in (2, 4, 5):
                await admin.delete_records({home: RecordsToDelete(before_offset=begin)})
                looks.append(await reader.look())
    finally:
        await asyncio.gather(admin.close(), producer.stop(), member.stop())

    assert [look.positions[0] for look in looks] == [1, 1, 1]
    assert [look.lag(0) for look in looks] == [3, 0, 0]
    assert [0 in look.oldest_ms for look in looks] == [True, False, False]


async def test_inspect_finds_what_is_asked_for_and_says_what_became_of_it(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    looking = Looking(kafka_settings, shard_map_file)
    await looking.accept(
        update_of(1, tags={"plan": SECRET}),
        update_of(2, tags={"plan": "pro"}, increment={"session_count": 1}),
        update_of(2, tags={"plan": None, "poison": "\x00"}),
        update_of(2, increment={"session_count": 2}),
        update_of(1, OTHER_APP, tags={"level": 3}),
    )
    async with looking.consuming():
        await looking.settle()
    await looking.accept(update_of(2, properties={"language": "de"}))
    one_app, row = ("--app", APP), ("--app", APP, "--subscription", subscription(2))

    everything = await looking.lines(*one_app)
    by_tag = await looking.lines("--tag", "plan=pro")
    by_expression = await looking.lines("--where", "increment.session_count > 1")
    shown, footer = await looking.run("inspect", *one_app, "--limit", "1", "--show-values")
    top = await looking.json("inspect", "--top", "apps")
    fold = await looking.json("inspect", *row, "--fold", "--show-values")
    dead = await looking.lines("--dead-letters")
    stored = await looking.json("subscription", "show", APP, subscription(2))

    assert [each["state"] for each in everything] == [
        *("applied", "applied", "dead-lettered", "applied", "waiting")
    ]
    assert SECRET not in json.dumps(everything)
    assert everything[2]["patch"] == {"tags": {"plan": None, "poison": "…"}}
    assert [each["offset"] for each in by_tag] == [1]
    assert [each["offset"] for each in by_expression] == [3]
    assert SECRET in shown
    assert "NOT complete" in footer
    assert top == [{"name": APP, "updates": 5}, {"name": OTHER_APP, "updates": 1}]
    assert fold["updates"] == 4
    assert {each["where"] for each in fold["differences"]} == {
        *("tags.plan", "tags.poison", "properties.language")
    }
    assert fold["properties"] == {"session_count": 3, "language": "de"}
    assert [each["state"] for each in dead] == ["refused 0:2"]
    assert stored["last_receipt"] == "0.0.3"
    coming = stored["on_the_way"]
    assert (coming["waiting"], coming["dead_lettered"], coming["held"]) == (1, 0, 0)
    assert coming["newest_receipt"] == "0.0.4"


async def test_a_hot_row_is_named_and_the_page_for_customers_names_nobody(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    looking = Looking(kafka_settings, shard_map_file)
    async with looking.consuming() as consumer:
        await looking.accept(*(update_of(5, tags={"n": n}) for n in range(2_000)))
        await looking.settle()
        hot = await looking.json("hot", "--url", consumer.url)
        async with httpx.AsyncClient(base_url=consumer.url) as client:
            page = (await client.get("/")).text
            public = (await client.get("/public")).text

    [hottest] = hot["subscriptions"]
    assert (hottest["app"], hottest["subscription"]) == (APP, subscription(5))
    assert hottest["updates_low"] == hottest["updates_high"] == 2_000
    assert "One row takes 100% of all updates" in page
    assert subscription(5) in page
    assert subscription(5) not in public
    assert APP not in public
