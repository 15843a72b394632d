"""What receipts say, by a real broker, real rows and both services as processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from deploy.local import credentials
from deploy.local.stack import LocalStack
from operator_cli import keys
from operator_cli.main import app as tidemark
from shared.settings import KafkaSettings, read_shard_map
from shared.tokens import issue
from tests.consumers import (
    consumer_environment,
    group_of,
    ingest_environment,
    kafka_environment,
    service_process,
)
from tests.records import subscription
from verification.oracle import read_rows

PATIENCE_S = 120
APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
NEIGHBOUR = "d9c1e7a2-0000-4000-8000-000000000000"
"""An app of the same partition."""
ELSEWHERE = "00000000-0000-4000-8000-000000000000"
TOO_MANY = {
    "tags": {f"t{number}": number for number in range(200)},
    "increment": {"tags.one": 1},
}


class System:
    def __init__(
        self, kafka: KafkaSettings, shard_map_file: Path, processes: AsyncExitStack
    ) -> None:
        self.kafka = kafka
        self.shard_map_file = shard_map_file
        self.processes = processes
        self.http: httpx.AsyncClient

    async def start_ingest(self, **settings: str) -> None:
        environment = ingest_environment(self.kafka) | {
            "TIDEMARK_RECEIPTS__CONSUMER_GROUP": group_of(self.kafka),
            **settings,
        }
        ingest = await self.processes.enter_async_context(
            service_process("ingest_api", environment)
        )
        await ingest.wait_ready()
        self.http = await self.processes.enter_async_context(
            httpx.AsyncClient(
                base_url=ingest.url, headers=credentials.headers(), timeout=PATIENCE_S
            )
        )
        while (await self.http.get("/v1/receipts/0.0.0")).status_code == 503:
            await asyncio.sleep(0.02)

    async def start_consumer(self) -> None:
        environment = consumer_environment(self.kafka, self.shard_map_file)
        consumer = await self.processes.enter_async_context(
            service_process("consumer", environment)
        )
        await consumer.wait_ready()

    async def patch(
        self, number: int, body: Mapping[str, Any], app: str = APP, **headers: str
    ) -> httpx.Response:
        path = f"/v1/apps/{app}/subscriptions/{subscription(number)}"
        return await self.http.patch(path, json=body, headers=headers)

    async def accepted(self, number: int, body: Mapping[str, Any], app: str = APP) -> str:
        answer = await self.patch(number, body, app)
        assert answer.status_code == 202
        receipt: str = answer.json()["receipt"]
        return receipt

    async def read(self, receipt: str, wait_s: int = 0, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.http.get(
            f"/v1/receipts/{receipt}", params={"wait": wait_s}, headers=headers
        )

    async def state(self, receipt: str, wait_s: int = 30) -> str:
        answer = await self.read(receipt, wait_s)
        assert answer.status_code == 200, answer.text
        state: str = answer.json()["state"]
        return state

    async def hold(self, *words: str) -> None:
        result = await asyncio.to_thread(
            CliRunner().invoke,
            tidemark,
            ["hold", *words, "--app", APP],
            env=kafka_environment(self.kafka),
        )
        assert result.exit_code == 0, result.output

    async def tags(self, number: int, app: str = APP) -> object:
        rows = await read_rows(read_shard_map(self.shard_map_file), [app])
        row = rows.get((app, subscription(number)))
        return row and row.tags


@pytest.fixture
async def system(kafka_settings: KafkaSettings, shard_map_file: Path) -> AsyncIterator[System]:
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as processes:
        found = System(kafka_settings, shard_map_file, processes)
        await found.start_ingest()
        yield found


def token(app: str) -> str:
    key, *_ = keys.read_signing_keys(credentials.SIGNING_KEYS)
    return issue(key, app=app, rights=["read"], valid_s=600)[0]


async def test_a_receipt_says_what_became_of_its_update(system: System) -> None:
    waiting = await system.accepted(1, {"tags": {"n": 1}})
    assert await system.state(waiting, wait_s=0) == "pending"
    in_time = await system.patch(2, {"tags": {"n": 2}}, Prefer="respond-async, wait=0")
    assert (in_time.status_code, in_time.json()["state"]) == (202, "pending")

    await system.start_consumer()
    assert await system.state(waiting) == "applied"
    assert await system.tags(1) == {"n": 1}

    waited_for = await system.patch(3, {"tags": {"n": 3}}, Prefer="wait=30")
    assert (waited_for.status_code, waited_for.json()["state"]) == (200, "applied")
    assert waited_for.headers["preference-applied"] == "wait=30"
    assert await system.tags(3) == {"n": 3}

    refused = await system.patch(4, TOO_MANY, Prefer="wait=30")
    assert refused.status_code == 202
    assert refused.json()["state"] == "dead-lettered"
    assert refused.json()["reason"] == "too_many_tags"
    dead = refused.json()["receipt"]

    await system.hold("add", "--reason", "a test")
    held = ""
    async with asyncio.timeout(PATIENCE_S):
        while not held or await system.state(held) != "held":  # consumers take up to 2 s to hold
            held = await system.accepted(5, {"tags": {"n": 5}})

    # What was held back and given up on is known to one that has just started, too.
    await system.start_ingest()
    assert await system.state(held) == "held"
    assert await system.state(dead) == "dead-lettered"
    elsewhere = await system.patch(6, {"tags": {"n": 6}}, ELSEWHERE, Prefer="wait=30")
    assert elsewhere.status_code == 200

    await system.hold("release")
    while await system.state(held) == "held":
        await asyncio.sleep(0.02)
    assert await system.state(held) == "applied"
    assert await system.tags(5) == {"n": 5}

    await whoever_may_not_know_is_not_told(system, dead)


async def whoever_may_not_know_is_not_told(system: System, receipt: str) -> None:
    epoch, partition, _ = receipt.split(".")
    answers = {
        "another app of the partition": await system.read(receipt, token=token(NEIGHBOUR)),
        "an app of another partition": await system.read(receipt, token=token(ELSEWHERE)),
        "never accepted": await system.read(f"{epoch}.{partition}.1000000"),
        "a later topic": await system.read(f"1.{partition}.0"),
    }
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        answers, 404
    )
    assert len({answer.json()["detail"] for answer in answers.values()}) == 1
    assert (await system.read(receipt, token=token(APP))).status_code == 200
    assert (await system.read("x")).status_code == 422
    assert (await system.read(receipt, wait_s=31)).status_code == 422


async def test_where_kafka_does_not_answer_receipts_are_503_at_once_and_updates_still_accepted(
    stack: LocalStack, system: System
) -> None:
    await system.start_consumer()
    receipt = await system.accepted(1, {"tags": {"n": 1}})
    assert await system.state(receipt) == "applied"

    stack.broker.pause()
    started = time.monotonic()
    answer = await system.read(receipt, wait_s=30)
    took_s = time.monotonic() - started
    stack.broker.resume()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert took_s < 10  # it was willing to wait for 30
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await system.read(receipt)).status_code == 503:
            await asyncio.sleep(0.05)
    assert answer.json()["state"] == "applied"


async def test_who_asks_is_answered_however_many_wait(system: System) -> None:
    await system.start_ingest(TIDEMARK_RECEIPTS__ASKS_MAX="10")
    receipt = await system.accepted(1, {"tags": {"a": 1}})  # and nobody applies it

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(system.read(receipt, 30)) for _ in range(10)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answer = await system.read(receipt)
        still_wait = [each for each in waiting if not each.done()]
        for each in still_wait:
            each.cancel()

    assert answer.json()["state"] == "pending"
    assert still_wait
    assert {each.result().json()["state"] for each in waiting if not each.cancelled()} == {
        "pending"
    }
