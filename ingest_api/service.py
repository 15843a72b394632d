"""The ingest API as a process: what it opens, and in which order it stops."""

import asyncio
from typing import Final

import structlog

from ingest_api.app import create_app
from ingest_api.auth import keep_current, open_access
from ingest_api.counting import open_counts
from ingest_api.direct_routes import DirectApp
from ingest_api.health import Readiness
from ingest_api.idempotency import UsedKeys
from ingest_api.limits import Limits
from ingest_api.observed import ObservedApp, ObservedPublisher, reads
from ingest_api.publisher import open_publisher
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.settings import IngestSettings
from shared.serving import serving
from shared.telemetry import metrics_route, open_telemetry, open_tracer

log = structlog.get_logger()

_SERVICE: Final = "tidemark-ingest"


async def run(settings: IngestSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`; then turn unready, answer what was accepted, and flush.

    Raises:
        Misconfigured: in a group, at the start or as soon as Kafka tells.
    """
    access = open_access(settings)
    async with (
        open_tracer(_SERVICE) as tracer,
        open_counts(settings.limits) as counts,
        open_publisher(settings) as publisher,
        asyncio.TaskGroup() as tasks,
    ):
        receipts = ReceiptDesk(settings.kafka, settings.receipts)
        background = [
            tasks.create_task(keep_current(access, settings), name="access-files"),
            tasks.create_task(receipts.run(), name="receipts"),
        ]
        readiness = Readiness(publisher)
        observed = ObservedPublisher(publisher, tracer, settings.kafka.topic)
        app = create_app(
            observed,
            readiness,
            access=access,
            limits=Limits(settings.limits, counts),
            receipts=receipts,
            body=settings.body,
            used_keys=UsedKeys(settings.idempotency),
        )
        served = ObservedApp(DirectApp(app), tracer, settings.telemetry.trace_ratio)
        sources = reads(
            served,
            observed,
            publisher.in_flight,
            settings.produce,
            readiness=readiness,
            counts=counts,
        )
        async with (
            open_telemetry(_SERVICE, sources) as telemetry,
            serving(served, settings.listen, settings.http) as port,
        ):
            app.router.routes.append(metrics_route(telemetry))
            log.info("service.started", host=settings.listen.host, port=port)
            await stop.wait()
            readiness.draining = True
            log.info("service.draining", delay_s=settings.shutdown_delay_s)
            await asyncio.sleep(settings.shutdown_delay_s)
            receipts.hurry()
        for task in background:
            task.cancel()
    log.info("service.stopped")
