"""Is it applied yet? What became of an update, asked by its receipt."""

import re
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ingest_api.auth import Access
from ingest_api.direct_routes import DirectRoute
from ingest_api.openapi import SECURITY, problems
from ingest_api.outcomes import ExpiredReceiptError, UnknownReceiptError
from ingest_api.problems import (
    BUSY,
    EXPIRED,
    FORBIDDEN,
    INTERNAL,
    INVALID,
    UNAUTHORIZED,
    UNKNOWN_RECEIPT,
    UNREACHABLE,
    ProblemError,
)
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.receipts import Place, Receipt, Standing, State
from shared.tokens import EVERY_APP
from shared.topology import partition_of

WAIT_MAX_S: Final = 30

_FAILURES: Final = (
    UNAUTHORIZED,
    FORBIDDEN,
    UNKNOWN_RECEIPT,
    EXPIRED,
    INVALID,
    INTERNAL,
    BUSY,
    UNREACHABLE,
)
_wait_of = re.compile(rb'(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})', re.IGNORECASE).search

ReceiptText = Annotated[
    str,
    Path(
        description="The receipt, as it was answered.",
        examples=["0.417.20931"],
        json_schema_extra={
            "pattern": r"^(0|[1-9][0-9]{0,9})\.([0-9]|[1-9][0-9]|[1-6][0-9]{2}|7[01][0-9])"
            r"\.(0|[1-9][0-9]{0,17})$"
        },
    ),
]
Wait = Annotated[
    int,
    Query(
        ge=0,
        le=WAIT_MAX_S,
        description="Seconds to hold the answer while the update is pending.",
        examples=[10],
    ),
]


class ReceiptStanding(BaseModel):
    """What became of an update."""

    receipt: str = Field(examples=["0.417.20931"])
    state: State = Field(
        description="`pending`: not known to be in its row yet. `applied`: its row has it. "
        "`dead-lettered`: it could never be applied, and is kept with the `reason`. `held`: an "
        "operator holds it back, and it will be applied later."
    )
    reason: str | None = Field(
        None, description="Why it could never be applied, a word.", examples=["too_many_tags"]
    )
    detail: str | None = Field(None, description="The same in a sentence.")


def receipt_routes(access: Access, receipts: ReceiptDesk) -> APIRouter:
    """Return the route that tells what became of updates."""
    router = APIRouter(route_class=DirectRoute, tags=["Receipts"])

    @router.get(
        "/v1/receipts/{receipt}",
        response_model=ReceiptStanding,
        response_model_exclude_none=True,
        response_description="What became of the update.",
        responses=problems(*_FAILURES),
        openapi_extra=SECURITY,
    )
    async def read_receipt(request: Request, receipt: ReceiptText, wait: Wait = 0) -> Response:
        """Tell what became of an update.

        The answer comes from what Kafka knows. `pending` may be said of an update that is applied
        while an older one of the same partition is not. Receipts are known for a day at least.
        """
        grant = access.grant(request, "read")
        place = _place(receipt, receipts.topic_epoch)
        wait = _seconds(request, default=wait)
        app = None if grant.app == EVERY_APP else grant.app
        if app is not None and partition_of(app) != place.partition:
            raise _unknown()
        try:
            standing = await receipts.standing(place, app, wait_s=wait)
        except UnknownReceiptError:
            raise _unknown() from None
        except ExpiredReceiptError:
            raise _expired() from None
        return Response(orjson.dumps(told(receipt, standing)), media_type="application/json")

    return router


def preferred_wait_s(request: Request) -> int | None:
    """Return how long the client would wait (RFC 7240), within our bound; None if it does not."""
    for name, value in request.scope["headers"]:
        if name == b"prefer" and (found := _wait_of(value)):
            return min(int(found[1]), WAIT_MAX_S)
    return None


def told(receipt: str, standing: Standing) -> dict[str, Any]:
    """Return what a client is told of an update."""
    facts = {
        "receipt": receipt,
        "state": standing.state,
        "reason": standing.reason,
        "detail": standing.detail,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _place(text: str, topic_epoch: int) -> Place:
    try:
        receipt = Receipt.parse(text)
    except ValueError:
        detail = "A receipt reads as it was answered, such as 0.417.20931."
        raise ProblemError(INVALID, detail, [{"parameter": "receipt", "detail": detail}]) from None
    if receipt.epoch < topic_epoch:
        raise _expired()
    if receipt.epoch > topic_epoch:
        raise _unknown()
    return receipt.place


def _seconds(request: Request, *, default: int) -> int:
    text = request.query_params.get("wait")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= WAIT_MAX_S):  # noqa: PLR2004
        detail = f"wait is a whole number of seconds, from 0 to {WAIT_MAX_S}."
        raise ProblemError(INVALID, detail, [{"parameter": "wait", "detail": detail}])
    return int(text)


def _unknown() -> ProblemError:
    return ProblemError(UNKNOWN_RECEIPT, "There is no such update that this token may ask for.")


def _expired() -> ProblemError:
    return ProblemError(EXPIRED, "What became of this update is no longer known here.")
