"""The ingest API's app without a process around it."""

from typing import Any

from fastapi import FastAPI

from ingest_api.app import create_app
from ingest_api.auth import Access
from ingest_api.direct_routes import DirectApp
from ingest_api.health import Readiness
from ingest_api.idempotency import UsedKeys
from ingest_api.limits import Limits
from ingest_api.own_counts import OwnCounts
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.settings import NO_LIMITS, BodySettings, IdempotencySettings, ReceiptSettings
from shared.settings import KafkaSettings


def app_of(publisher: Any, **parts: Any) -> FastAPI:
    """Build the app around `publisher`; by default nobody is refused, and no receipt is known."""
    defaults: dict[str, Any] = {
        "readiness": Readiness(publisher),
        "access": Access(None),
        "limits": Limits(NO_LIMITS, OwnCounts(NO_LIMITS)),
        "receipts": ReceiptDesk(KafkaSettings(), ReceiptSettings()),
        "body": BodySettings(),
        "used_keys": UsedKeys(IdempotencySettings()),
    }
    return create_app(publisher, **{**defaults, **parts})


def served(publisher: Any, **parts: Any) -> DirectApp:
    """Build the same as the service serves it."""
    return DirectApp(app_of(publisher, **parts))
