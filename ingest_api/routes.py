"""The two ways to send updates. HTTP only: translate, publish, answer 202."""

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from ingest_api.auth import Access
from ingest_api.bodies import BodyReader
from ingest_api.direct_routes import DirectRoute
from ingest_api.idempotency import FIELD, KEY_LENGTH_MAX, KEY_PATTERN, UsedKeys, key_of
from ingest_api.limits import Limits
from ingest_api.openapi import SECURITY, json_body, problems
from ingest_api.parameters import AppId, SubscriptionId
from ingest_api.patches import ReadBatch, canonical_id, read_batch, read_patch
from ingest_api.problems import (
    BODY_TOO_LARGE,
    BUSY,
    FORBIDDEN,
    INCOMPLETE,
    INTERNAL,
    INVALID,
    KEY_REUSED,
    METHOD_NOT_ALLOWED,
    NOT_JSON,
    NOT_PACKED,
    OUTCOME_UNKNOWN,
    TOO_COMPLEX,
    TOO_MANY,
    UNAUTHORIZED,
    UNREACHABLE,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemError,
)
from ingest_api.publisher import PartlyPublished
from ingest_api.publishing import Publisher, transient_problem
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.receipt_routes import ReceiptStanding, preferred_wait_s, told
from ingest_api.receipts import PENDING, Receipt
from ingest_api.schemas import Accepted, BatchAccepted
from shared.errors import Transient

_FAILURES: Final = (
    NOT_JSON,
    INCOMPLETE,
    NOT_PACKED,
    UNAUTHORIZED,
    FORBIDDEN,
    BODY_TOO_LARGE,
    TOO_COMPLEX,
    TOO_MANY,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID,
    KEY_REUSED,
    INTERNAL,
    BUSY,
    UNREACHABLE,
    OUTCOME_UNKNOWN,
)
_TRUE: Final = frozenset({"true", "1"})
_FALSE: Final = frozenset({"false", "0"})

Prefer = Annotated[
    str | None,
    Header(
        description="`wait=5` holds the answer for up to 5 seconds, until the update is applied.",
        examples=["wait=5"],
    ),
]
Key = Annotated[
    str | None,
    Header(
        alias=FIELD,
        description="Anything new for each request, such as a UUID. Sent again with the same key "
        "and body within a day, the request has its effect once; with another body it is refused. "
        "A key counts for one subscription, and in a batch for each place: send all of it again.",
        min_length=1,
        max_length=KEY_LENGTH_MAX,
        pattern=KEY_PATTERN,
        examples=["8c7a1b52-0f3d-4e69-9b1c-5d2e6a7f8b90"],
    ),
]
Partial = Annotated[
    bool,
    Query(
        description="Accept the good updates of a batch that holds bad ones; without it, one bad "
        "update fails the whole request."
    ),
]


def update_routes(
    publisher: Publisher,
    *,
    access: Access,
    limits: Limits,
    receipts: ReceiptDesk,
    bodies: BodyReader,
    used_keys: UsedKeys,
) -> APIRouter:
    """Return the routes that take updates."""
    router = APIRouter(route_class=DirectRoute, tags=["Updates"])

    async def publish(app_id: str, values: list[bytes], key: bytes | None, scope: str) -> list[str]:
        """Store updates; a key is used up in its scope by what is stored."""
        if key is None:
            return await publisher.publish(app_id, values)
        with used_keys.using(key, scope, values):
            return await publisher.publish(app_id, values)

    @router.post(
        "/v1/apps/{app_id}/subscriptions/batch",
        status_code=202,
        response_model=BatchAccepted,
        response_model_exclude_none=True,
        response_description="The updates with a receipt are stored, and will be applied.",
        responses=problems(*_FAILURES, schema="BatchProblem"),
        openapi_extra=json_body("Batch", lines="BatchItem") | SECURITY,
    )
    async def update_subscriptions(
        request: Request,
        app_id: AppId,
        partial: Partial = False,
        idempotency_key: Key = None,  # noqa: ARG001 - documents what is read from the request
    ) -> Response:
        """Change up to 1,000 subscriptions of one app, in the order given.

        One bad update fails the whole request, unless `partial=true`: then the good ones are
        accepted, and `results` tells of each update, in the order they were sent.

        A body of type `application/x-ndjson` has one update a line, without `updates` around them;
        errors count the lines as if it had.
        """
        app_id = access.to_app(request, "update", app_id)
        key = key_of(request)
        partial = _flag(request, "partial", default=partial)
        await limits.check_app(app_id)
        batch = read_batch(app_id, await bodies.read_batch(request), partial=partial, key=key)
        await limits.take_batch(app_id, batch.subscription_ids, batch.places)
        try:
            receipts = await publish(app_id, batch.values, key, app_id)
        except PartlyPublished as error:
            raise transient_problem(
                error, _results(batch, error.receipts, unknown=error.unknown)
            ) from error
        return _accepted(_results(batch, receipts))

    @router.patch(
        "/v1/apps/{app_id}/subscriptions/{subscription_id}",
        status_code=202,
        response_model=Accepted,
        response_description="The update is stored, and will be applied.",
        responses={
            200: {"model": ReceiptStanding, "description": "It was waited for, and is applied."},
            **problems(*_FAILURES),
        },
        openapi_extra=json_body("Patch") | SECURITY,
    )
    async def update_subscription(
        request: Request,
        app_id: AppId,
        subscription_id: SubscriptionId,
        prefer: Prefer = None,  # noqa: ARG001 - documents what is read from the request
        idempotency_key: Key = None,  # noqa: ARG001 - likewise
    ) -> Response:
        """Change tags and properties of one subscription, and add to its counters.

        Updates of one subscription are applied in the order of their receipts.
        """
        if subscription_id == "batch":
            raise ProblemError(
                METHOD_NOT_ALLOWED, "A batch is sent by POST.", headers={"allow": "POST"}
            )
        app_id = access.to_app(request, "update", app_id)
        subscription_id = canonical_id("subscription_id", subscription_id)
        key = key_of(request)
        await limits.take(app_id, subscription_id)
        value = read_patch(app_id, subscription_id, await bodies.read(request), key)
        [receipt] = await publish(app_id, [value], key, app_id + subscription_id)
        wait_s = preferred_wait_s(request)
        if wait_s is None:
            return _accepted({"receipt": receipt})
        return await _awaited(receipts, receipt, wait_s)

    return router


def _results(batch: ReadBatch, receipts: list[str], unknown: int = 0) -> dict[str, Any]:
    """Tell of each update of a batch, in the order they were sent."""
    results: list[dict[str, Any]] = [{"receipt": receipt} for receipt in receipts]
    results += [{"outcome": "unknown"}] * unknown
    results += [{"outcome": "not_accepted"}] * (len(batch.values) - len(results))
    if batch.rejected:
        by_place = dict(zip(batch.places, results, strict=True))
        by_place |= {place: {"errors": batch.rejected[place]} for place in batch.rejected}
        results = [by_place[place] for place in range(len(by_place))]
    accepted = len(receipts)
    return {"accepted": accepted, "rejected": len(results) - accepted, "results": results}


async def _awaited(receipts: ReceiptDesk, receipt: str, wait_s: int) -> Response:
    """Answer once it is known what became of an accepted update, or time is over."""
    try:
        standing = await receipts.standing(Receipt.parse(receipt).place, None, wait_s=wait_s)
    except (Transient, LookupError):
        standing = PENDING  # it is accepted all the same
    return Response(
        orjson.dumps(told(receipt, standing)),
        200 if standing.state == "applied" else 202,
        {"preference-applied": f"wait={wait_s}"},
        media_type="application/json",
    )


def _accepted(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), 202, media_type="application/json")


def _flag(request: Request, name: str, *, default: bool) -> bool:
    """Read a boolean query parameter."""
    if not request.scope["query_string"]:
        return default
    text = request.query_params.get(name)
    if text is None:
        return default
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    detail = f"{name} is true or false."
    raise ProblemError(INVALID, detail, [{"parameter": name, "detail": detail}])
