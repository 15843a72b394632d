"""What aiokafka alone does with the same bytes: record batches of 500, acknowledged by all."""

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from aiokafka import AIOKafkaProducer

from shared.topology import partition_of


async def _measure(task: dict[str, Any]) -> None:
    batches = [(app, [value.encode() for value in values]) for app, values in task["batches"]]
    producer = AIOKafkaProducer(
        bootstrap_servers=task["bootstrap_servers"],
        acks="all",
        enable_idempotence=True,
        max_batch_size=1_000_000,
        max_request_size=1_000_000,
    )
    sent = 0
    until = 0.0

    async def send(worker: int) -> None:
        nonlocal sent
        at = worker
        while time.monotonic() < until:
            app, values = batches[at % len(batches)]
            at += task["connections"]
            batch = producer.create_batch()
            key, timestamp_ms = app.encode(), time.time_ns() // 1_000_000
            for value in values:
                batch.append(key=key, value=value, timestamp=timestamp_ms)
            partition = partition_of(app)
            await (await producer.send_batch(batch, task["topic"], partition=partition))
            sent += len(values)

    async with producer:
        for seconds in (task["warm_up_s"], task["seconds"]):
            started, sent = time.monotonic(), 0
            until = started + seconds
            await asyncio.gather(*(send(worker) for worker in range(task["connections"])))
    print(json.dumps({"per_second": sent / (time.monotonic() - started)}))


if __name__ == "__main__":
    uvloop.run(_measure(json.load(sys.stdin)))
