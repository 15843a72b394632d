"""The ingest API as a process: what it opens, and in which order it stops."""

import asyncio

import structlog

from ingest_api.app import create_app
from ingest_api.auth import keep_current, open_access
from ingest_api.health import Readiness
from ingest_api.publisher import open_publisher
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.settings import IngestSettings
from shared.serving import serving

log = structlog.get_logger()


async def run(settings: IngestSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`; then turn unready, answer what was accepted, and flush.

    Raises:
        Misconfigured: in a group, at the start or as soon as Kafka tells.
    """
    access = open_access(settings)
    async with open_publisher(settings) as publisher, asyncio.TaskGroup() as tasks:
        receipts = ReceiptDesk(settings.kafka, settings.receipts)
        background = [
            tasks.create_task(keep_current(access, settings), name="access-files"),
            tasks.create_task(receipts.run(), name="receipts"),
        ]
        readiness = Readiness(publisher)
        app = create_app(publisher, readiness, access=access, receipts=receipts, body=settings.body)
        async with serving(app, settings.listen, settings.http) as port:
            log.info("service.started", host=settings.listen.host, port=port)
            await stop.wait()
            readiness.draining = True
            log.info("service.draining", delay_s=settings.shutdown_delay_s)
            await asyncio.sleep(settings.shutdown_delay_s)
            receipts.hurry()
        for task in background:
            task.cancel()
    log.info("service.stopped")
