"""Whether the process lives, and whether it should be sent requests."""

from dataclasses import dataclass
from typing import Protocol

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response


class Connection(Protocol):
    """Knows whether Kafka has been reached since the start."""

    @property
    def connected_once(self) -> bool:
        """Stays true: where Kafka fails later, an honest 503 is better than no server at all."""
        ...


@dataclass(slots=True)
class Readiness:
    """Ready between the first connection to Kafka and the order to stop."""

    connection: Connection
    draining: bool = False

    def reason(self) -> str | None:
        """Say why requests should go elsewhere, if they should."""
        if self.draining:
            return "The service is stopping."
        if not self.connection.connected_once:
            return "Kafka has not been reached yet."
        return None


class Health(BaseModel):
    """Whether the service can take requests."""

    ready: bool
    reason: str | None = Field(None, description="Why it is not ready.")


def health_routes(readiness: Readiness) -> APIRouter:
    """Return the routes that an orchestrator asks."""
    router = APIRouter(tags=["Health"])

    @router.get("/livez", summary="Is the process alive?", response_model=Health)
    async def livez() -> Response:
        return _answer(200, readiness.reason())

    @router.get(
        "/readyz",
        summary="Should requests be sent here?",
        response_model=Health,
        responses={503: {"model": Health, "description": "Not now; `reason` says why."}},
    )
    async def readyz() -> Response:
        reason = readiness.reason()
        return _answer(503 if reason else 200, reason)

    return router


def _answer(status: int, reason: str | None) -> Response:
    content = {"ready": reason is None} | ({"reason": reason} if reason else {})
    return Response(orjson.dumps(content), status, media_type="application/json")
