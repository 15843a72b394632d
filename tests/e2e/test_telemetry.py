"""What both services tell: traces as a collector receives them, metrics as they are scraped."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from opentelemetry.semconv._incubating.attributes import db_attributes, messaging_attributes
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import credentials
from shared.metrics import Consumer, Ingest, Kind, Metric, metrics_of
from shared.settings import KafkaSettings
from shared.telemetry import open_tracer
from tests.consumers import (
    ServiceProcess,
    consumer_environment,
    ingest_environment,
    produce,
    service_process,
)
from tests.otlp import Receiver, otlp_receiver
from tests.records import APP, subscription, update_of
from verification.oracle import Ledger

PATIENCE_S = 60
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Samples = dict[str, list[tuple[dict[str, str], float]]]
SECRET = "nobody-may-see-this"


@dataclass
class Told:
    """Both services, and what they told so far."""

    kafka: KafkaSettings
    ingest: ServiceProcess
    consumer: ServiceProcess
    receiver: Receiver

    async def patch(self, number: int, headers: dict[str, str] | None = None) -> str:
        async with httpx.AsyncClient(base_url=self.ingest.url, timeout=PATIENCE_S) as client:
            answer = await client.patch(
                f"/v1/apps/{APP}/subscriptions/{subscription(number)}",
                json={"tags": {"plan": SECRET}},
                headers={**credentials.headers(), **(headers or {})},
            )
        receipt: str = answer.json()["receipt"]
        return receipt

    async def batch(self, count: int) -> None:
        updates = [
            {"subscription_id": subscription(n), "tags": {"plan": SECRET}} for n in range(count)
        ]
        async with httpx.AsyncClient(base_url=self.ingest.url, timeout=PATIENCE_S) as client:
            answer = await client.post(
                f"/v1/apps/{APP}/subscriptions/batch",
                json={"updates": updates},
                headers=credentials.headers(),
            )
        assert answer.status_code == 202, answer.text

    async def applied(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.value(self.consumer, Consumer.updates, outcome="applied") < count:
                await asyncio.sleep(0.05)

    async def scraped(self, process: ServiceProcess) -> Samples:
        async with httpx.AsyncClient(base_url=process.url, timeout=PATIENCE_S) as client:
            text = (await client.get("/metrics")).text
        found = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name].append((dict(sample.labels), sample.value))
        return found

    async def value(self, process: ServiceProcess, metric: Metric, **labels: str) -> float:
        ending = "_count" if metric.kind is Kind.HISTOGRAM else ""
        samples = (await self.scraped(process))[metric.prometheus_name + ending]
        return sum(value for has, value in samples if labels.items() <= has.items())


@asynccontextmanager
async def telling(kafka: KafkaSettings, shard_map_file: Path) -> AsyncIterator[Told]:
    async with otlp_receiver() as receiver, AsyncExitStack() as processes:
        ingest = await processes.enter_async_context(
            service_process(
                "ingest_api",
                {
                    **ingest_environment(kafka),
                    **receiver.environment,
                    "TIDEMARK_TELEMETRY__TRACE_RATIO": "1",
                },
            )
        )
        consumer = await processes.enter_async_context(
            service_process(
                "consumer",
                {
                    **consumer_environment(kafka, shard_map_file),
                    **receiver.environment,
                    "TIDEMARK_TELEMETRY__LAG_INTERVAL_MS": "200",
                },
            )
        )
        await asyncio.gather(ingest.wait_ready(), consumer.wait_ready())
        yield Told(kafka, ingest, consumer, receiver)


async def test_a_trace_ends_at_the_broker_and_what_applies_it_is_another_that_links_to_it(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    topic = kafka_settings.topic

    async with telling(kafka_settings, shard_map_file) as told:
        receipt = await told.patch(1, {"traceparent": CALLER})
        received = told.receiver
        await received.until(lambda: received.named(f"process {topic}"))
        await received.until(lambda: received.named(f"send {topic}"))
        await produce(told.kafka, [update_of(2, tags={"poison": "\x00"})], Ledger())
        await received.until(lambda: len(received.named(f"process {topic}")) == 2)

    [server] = [span for span in received.spans if span.name.startswith("PATCH ")]
    [send] = received.named(f"send {topic}")
    [process, given_up] = received.named(f"process {topic}")
    [flush, *_] = received.named("MERGE subscriptions")
    assert server.name == "PATCH /v1/apps/{app_id}/subscriptions/{subscription_id}"
    assert server.parent == b""
    assert [link[0].hex() for link in server.links] == [CALLER.split("-")[1]]
    assert (send.trace, send.parent) == (server.trace, server.id)
    assert process.parent == b""
    assert process.links == [(send.trace, send.id)]
    assert process.trace != send.trace
    assert (flush.trace, flush.parent) == (process.trace, process.id)
    assert process.attributes["tidemark.position"] == receipt
    assert process.attributes["tidemark.shard"] == "shard-0"
    assert process.attributes["tidemark.fold_size"] == 1
    assert 0 <= process.attributes["tidemark.time_lag_s"] < PATIENCE_S
    assert given_up.attributes["error.type"] == "refused"
    assert given_up.links == []
    services = defaultdict(set)
    for span in received.spans:
        services[span.trace].add(span.service)
    assert all(len(names) == 1 for names in services.values())
    assert SECRET.encode() not in received.raw
    known = {
        value
        for module in (db_attributes, messaging_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {name for span in received.spans for name in span.attributes}
    assert {name for name in ours if name.startswith(("messaging.", "db."))} <= known


async def test_metrics_add_up_to_what_was_done(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    async with telling(kafka_settings, shard_map_file) as told:
        await told.batch(50)
        await told.patch(1)
        await told.applied(51)

        consumer, ingest = told.consumer, told.ingest
        applied = await told.value(consumer, Consumer.updates, shard="shard-0", outcome="applied")
        lags = await told.value(consumer, Consumer.time_lag)
        accepted = await told.value(ingest, Ingest.accepted)
        answered = await told.value(ingest, Ingest.requests, http_response_status_code="202")
        await told.receiver.until(
            lambda: sum(p.count for p in told.receiver.points.get(Consumer.time_lag.name, [])) == 51
        )
        async with asyncio.timeout(PATIENCE_S):
            while await told.value(consumer, Consumer.message_lag):
                await asyncio.sleep(0.05)
        exposed = {process: await told.scraped(process) for process in (consumer, ingest)}

    assert applied == lags == accepted == 51
    assert answered == 2
    for process, group in ((consumer, Consumer), (ingest, Ingest)):
        for metric in metrics_of(group):
            ending = "_bucket" if metric.kind is Kind.HISTOGRAM else ""
            assert metric.prometheus_name + ending in exposed[process]


async def test_a_collector_that_is_away_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")

    async with asyncio.timeout(5), open_tracer("tidemark-test", farewell_s=0.1) as tracer:
        assert tracer is not None
        tracer.start_span("last").end()
