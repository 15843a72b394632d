"""Records that can never succeed, put among the good ones on purpose."""

import asyncio
import contextlib
import json
import random
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.kafka_clients import client_options
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS, partition_of
from verification.marks import POISON
from verification.traffic import Request

TAGS_OF_ONE_REQUEST: Final = 198


def with_poison(requests: Iterator[Request], seed: int, share: float) -> Iterator[Request]:
    """Add updates that the API takes and the row does not: more tags than a row may have."""
    pick = random.Random(seed)
    for request in requests:
        yield request
        if pick.random() < share:
            device = pick.choice(request.updates)[0]
            tags = {POISON: True, **{f"t{n}": n for n in range(TAGS_OF_ONE_REQUEST)}}
            body = {"tags": tags, "increment": {"tags.one": 1, "tags.more": 1}}
            yield Request(request.app, [(device, body)], single=True)


async def poison_for_ever(
    kafka: KafkaSettings, seed: int, devices: Sequence[tuple[str, str]], per_s: float
) -> None:
    """Write to the topic past the API, as no customer could, until cancelled.

    One record at a time: what gathered while a broker is away would come as one mass of poison,
    for which a partition is rightly stopped. Not idempotent, so that there is nothing to recover.
    """
    pick = random.Random(seed)
    producer = AIOKafkaProducer(**client_options(kafka, "chaos-poison"), acks="all")
    await producer.start()
    try:
        while True:
            app, subscription = pick.choice(devices)
            with contextlib.suppress(KafkaError):
                await producer.send_and_wait(
                    kafka.topic,
                    key=app.encode(),
                    value=_poison(pick, app, subscription),
                    partition=partition_of(app),
                    headers=[(POISON, uuid.UUID(int=pick.getrandbits(128)).bytes)],
                )
            await asyncio.sleep(pick.expovariate(per_s))
    finally:
        await producer.stop()


def _poison(pick: random.Random, app: str, subscription: str) -> bytes | None:
    update: dict[str, Any] = {"schema": 1, "app_id": app, "subscription_id": subscription}
    elsewhere = (partition_of(app) + 1 + pick.randrange(PARTITIONS - 1)) % PARTITIONS
    return pick.choice(
        [
            None,
            b"not JSON",
            b'{"schema":1,"app_id":"' + app.encode(),
            json.dumps({**update, "schema": 2, "tags": {"a": 1}}).encode(),
            json.dumps({**update, "app_id": _app_in(elsewhere), "tags": {"a": 1}}).encode(),
            json.dumps({**update, "tags": {"bad": "\0"}}).encode(),
            json.dumps({**update, "tags": {"deep": {"er": 1}}}).encode(),
        ]
    )


def _app_in(partition: int) -> str:
    prefix = -(-(partition << 16) // PARTITIONS)
    return f"{prefix:04x}0000-0000-4000-8000-000000000000"
