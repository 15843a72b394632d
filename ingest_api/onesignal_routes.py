"""Two calls of OneSignal's API, as its reference and its generated clients have them.

Same paths, bodies, keys and answers, so that who calls it today changes the address and the key.
What they carry and we do not keep is ignored.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, TypeAdapter
from starlette.responses import Response

from ingest_api.auth import Access
from ingest_api.bodies import BodyReader
from ingest_api.direct_routes import DirectRoute
from ingest_api.limits import Limits
from ingest_api.openapi import REFERENCE, SECURITY, inline_body
from ingest_api.parameters import AppId, SubscriptionId
from ingest_api.patches import canonical_id, read_patch
from ingest_api.problems import INVALID, NOT_JSON, ProblemError
from ingest_api.publishing import Publisher, transient_problem
from ingest_api.schemas import Patch, Properties
from shared.errors import Transient

SUBSCRIPTION_PROPERTIES: Final = {
    "type": "device_type",
    "enabled": "enabled",
    "device_model": "device_model",
    "device_os": "device_os",
    "app_version": "app_version",
    "sdk": "sdk_version",
}
PLAYER_PROPERTIES: Final = {
    "language": "language",
    "country": "country",
    "device_model": "device_model",
    "device_os": "device_os",
    "game_version": "app_version",
    "sdk": "sdk_version",
}

_PATCH: Final = TypeAdapter(Patch).json_schema(ref_template=REFERENCE)["properties"]
_PROPERTIES: Final = TypeAdapter(Properties).json_schema()["properties"]


def _documented(names: Mapping[str, str]) -> dict[str, Any]:
    """Return schemas by their names; an empty string is allowed besides."""
    return {
        name: {"anyOf": [_PROPERTIES[ours], {"type": "string", "maxLength": 0}]}
        for name, ours in names.items()
    }


RECEIPT_FIELD: Final = "tidemark-receipt"
"""The header field that has the receipt, because their bodies have no place for it."""


class Errors(BaseModel):
    """What went wrong, as OneSignal says it."""

    errors: list[str] = Field(description="Sentences.", examples=[["There is no such field."]])


class Success(BaseModel):
    """The update is stored, and will be applied."""

    success: bool


_DESCRIPTIONS: Final = {
    400: "The request is wrong.",
    401: "The key is not good.",
    403: "The key is for another app.",
    408: "The request took too long to arrive.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Updates come too fast.",
    500: "The service failed.",
    503: "Not accepted; send it again.",
    504: "It may or may not have been accepted.",
}
_FAILURES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Errors, "description": text} for status, text in _DESCRIPTIONS.items()
}


class _OneSignalRoute(DirectRoute):
    """Says what is wrong in OneSignal's words."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def handle_their_way(request: Request) -> Response:
            try:
                return await handle(request)
            except ProblemError as problem:
                return _their_answer(problem)
            except Transient as error:
                return _their_answer(transient_problem(error))

        return handle_their_way


def onesignal_routes(
    publisher: Publisher, *, access: Access, limits: Limits, bodies: BodyReader
) -> APIRouter:
    """Return the two routes."""
    router = APIRouter(route_class=_OneSignalRoute, tags=["OneSignal"], responses=_FAILURES)

    async def publish(
        app_id: str, subscription_id: str, tags: Any, properties: Mapping[str, Any]
    ) -> dict[str, str]:
        """Store what we keep, if anything; return header fields."""
        await limits.take(app_id, subscription_id)
        patch = {} if tags is None else {"tags": tags}
        patch |= {"properties": properties} if properties else {}
        if not any(patch.values()) and tags in (None, {}):
            return {}
        try:
            body = orjson.dumps(patch)
        except orjson.JSONEncodeError:  # it writes less deeply than it reads
            raise ProblemError(INVALID, "Tags and properties hold no arrays or objects.") from None
        value = read_patch(app_id, subscription_id, body)
        [receipt] = await publisher.publish(app_id, [value])
        return {RECEIPT_FIELD: receipt}

    @router.put(
        "/api/v1/players/{subscription_id}",
        response_model=Success,
        openapi_extra=inline_body(
            ["app_id"],
            app_id={"type": "string", "format": "uuid"},
            tags={"anyOf": [_PATCH["tags"], {"type": "null"}]},
            **_documented(PLAYER_PROPERTIES),
        )
        | SECURITY,
    )
    async def update_player(request: Request, subscription_id: SubscriptionId) -> Response:
        """Set tags and properties, as OneSignal's legacy call does.

        Kept are `tags`, `language`, `country`, `device_model`, `device_os`, `game_version` (as
        `app_version`) and `sdk` (as `sdk_version`).
        """
        access.grant(request, "update")
        player = _object(await bodies.read(request))
        app_id = player.get("app_id")
        if not isinstance(app_id, str):
            raise ProblemError(INVALID, "app_id is required.")
        app_id = access.to_app(request, "update", app_id)
        subscription_id = canonical_id("player_id", subscription_id)
        properties = _kept(player, PLAYER_PROPERTIES)
        headers = await publish(app_id, subscription_id, player.get("tags"), properties)
        return Response(b'{"success":true}', 200, headers, media_type="application/json")

    @router.patch(
        "/apps/{app_id}/subscriptions/{subscription_id}",
        status_code=202,
        response_model=dict[str, Any],
        openapi_extra=inline_body(
            ["subscription"],
            subscription={
                "type": "object",
                "properties": _documented(SUBSCRIPTION_PROPERTIES),
            },
        )
        | SECURITY,
    )
    async def update_their_subscription(
        request: Request, app_id: AppId, subscription_id: SubscriptionId
    ) -> Response:
        """Set properties, as OneSignal's call does.

        Kept are `type` (as `device_type`), `enabled`, `device_model`, `device_os`, `app_version`
        and `sdk` (as `sdk_version`).
        """
        app_id = access.to_app(request, "update", app_id)
        subscription_id = canonical_id("subscription_id", subscription_id)
        subscription = _object(await bodies.read(request)).get("subscription")
        if not isinstance(subscription, dict):
            raise ProblemError(INVALID, "subscription is required, an object.")
        properties = _kept(subscription, SUBSCRIPTION_PROPERTIES)
        headers = await publish(app_id, subscription_id, None, properties)
        return Response(b"{}", 202, headers, media_type="application/json")

    return router


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProblemError(NOT_JSON, f"Invalid JSON: {error.msg}.") from None
    if not isinstance(found, dict):
        raise ProblemError(INVALID, "The body is an object.")
    return found


def _kept(theirs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return what we keep, by our names; an empty string unsets."""
    return {
        ours: None if theirs[name] == "" else theirs[name]
        for name, ours in names.items()
        if name in theirs
    }


def _their_answer(problem: ProblemError) -> Response:
    status = 400 if problem.kind is INVALID else problem.kind.status.value
    errors = [
        f"{each.get('parameter') or each.get('pointer', '#')}: {each['detail']}".removeprefix("#/")
        for each in problem.errors
    ]
    return Response(
        orjson.dumps({"errors": errors or [problem.detail]}),
        status,
        problem.all_headers(),
        media_type="application/json",
    )
