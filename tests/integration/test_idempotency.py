"""Retries under an idempotency key, through two ingest processes and a consumer that is killed."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx

from deploy.local import credentials
from shared.settings import KafkaSettings, read_shard_map
from tests.consumers import (
    consumer_environment,
    group_of,
    ingest_environment,
    service_process,
)
from tests.records import subscription
from verification.oracle import read_rows

PATIENCE_S = 120
APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
PATH = f"/v1/apps/{APP}/subscriptions"


def plus(count: int) -> dict[str, Any]:
    return {"increment": {"session_count": count}}


async def patch(
    pod: httpx.AsyncClient, key: str, body: Mapping[str, Any], **headers: str
) -> httpx.Response:
    headers = {"Idempotency-Key": key, **headers}
    return await pod.patch(f"{PATH}/{subscription(1)}", json=body, headers=headers)


async def test_a_retry_has_no_effect_on_whichever_pod_and_whatever_was_restarted(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    ingest = ingest_environment(kafka_settings) | {
        "TIDEMARK_RECEIPTS__CONSUMER_GROUP": group_of(kafka_settings)
    }
    consumer = consumer_environment(kafka_settings, shard_map_file, "consumer-1")

    async def counted() -> Mapping[str, object]:
        rows = await read_rows(read_shard_map(shard_map_file), [APP])
        return {key[1]: row.properties["session_count"] for key, row in rows.items()}

    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        enter = stack.enter_async_context
        processes = [await enter(service_process("ingest_api", ingest)) for _ in range(2)]
        commits_nothing = {"TIDEMARK_GROUP__COMMIT_INTERVAL_MS": "60000"}
        killed = await enter(service_process("consumer", consumer | commits_nothing))
        pods = []
        for process in processes:
            await process.wait_ready()
            pods.append(
                await enter(
                    httpx.AsyncClient(
                        base_url=process.url, headers=credentials.headers(), timeout=PATIENCE_S
                    )
                )
            )
        a, b = pods
        batch = {
            "updates": [{"subscription_id": subscription(n), **plus(n)} for n in (10, 1, 10, 10)]
        }
        answers = [
            await patch(a, "k-1", plus(1)),
            await patch(b, "k-1", plus(1)),
            await patch(a, "k-2", plus(100)),
            *[
                await pod.post(f"{PATH}/batch", json=batch, headers={"Idempotency-Key": "k-1"})
                for pod in (a, b, a)
            ],
        ]
        assert {answer.status_code for answer in answers} == {202}
        once = {subscription(1): 102, subscription(10): 30}
        while await counted() != once:
            await asyncio.sleep(0.02)

        # Until it knows what became of updates, it does not wait for them.
        while (await b.get(f"/v1/receipts/{answers[0].json()['receipt']}")).status_code == 503:
            await asyncio.sleep(0.02)

        await killed.end(signal.SIGKILL)
        await enter(service_process("consumer", consumer))
        again = await patch(b, "k-1", plus(1), Prefer="wait=30")
        known = await patch(b, "k-1", plus(2))
        unknown_here = await patch(b, "k-2", plus(2), Prefer="wait=30")

        assert (again.status_code, again.json()["state"]) == (200, "applied")
        assert known.status_code == 422
        assert unknown_here.json()["state"] == "dead-lettered"
        assert unknown_here.json()["reason"] == "idempotency_key_reused"
        assert await counted() == once
