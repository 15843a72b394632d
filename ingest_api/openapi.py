"""What OpenAPI says of bodies and problems, which FastAPI cannot read from our endpoints."""

import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from ingest_api.problems import MEDIA_TYPE, RETRY_AFTER_S, Kind, Problem
from ingest_api.schemas import BATCH_EXAMPLE, UPDATES_PER_BATCH_MAX, Batch, BatchProblem, Patch

_CHALLENGE: Final = {
    "WWW-Authenticate": {
        "description": "What is wrong with the token (RFC 6750).",
        "schema": {"type": "string", "example": 'Bearer error="invalid_token"'},
    }
}
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    401: _CHALLENGE,
    403: _CHALLENGE,
    429: {
        "Retry-After": {
            "description": "Seconds to wait.",
            "schema": {"type": "integer", "example": 1},
        },
        "RateLimit-Policy": {
            "description": "What is limited: the quota `q` in a window of `w` seconds.",
            "schema": {"type": "string", "example": '"app";q=5000;w=5'},
        },
        "RateLimit": {
            "description": "What is left, and in how many seconds more is.",
            "schema": {"type": "string", "example": '"app";r=0;t=1'},
        },
    },
    503: {
        "Retry-After": {
            "description": "Seconds to wait.",
            "schema": {"type": "integer", "example": RETRY_AFTER_S},
        }
    },
}
"""Header fields that go with an answer, by its status."""

REFERENCE: Final = "#/components/schemas/{model}"
_DOCUMENTED: Final[tuple[type[Any], ...]] = (Patch, Batch, Problem, BatchProblem)

_SECURITY_SCHEME: Final = "token"
SECURITY: Final[dict[str, Any]] = {"security": [{_SECURITY_SCHEME: []}]}
"""Documents that a route needs a token."""

DESCRIPTION: Final = """
Changes to app subscriptions, accepted at once and applied in order.

An update is answered `202` when it is stored durably, with a **receipt** that names its place;
the database is written soon after. Updates of one app are applied in the order of their receipts.

Each request carries a token: `Authorization: Bearer …`. It is for one app or for all of them,
grants `update` or `read` or both, and expires.

Every error is a problem document (RFC 9457, `application/problem+json`). Its `type` answers to
`GET` with advice on what to do; its `errors` point at each thing that is wrong with the request.
`503` carries `Retry-After`: updates without a receipt were not accepted. `504` means that the
outcome is unknown. Sent with an `Idempotency-Key`, an update can be sent again safely.

Bodies are JSON in UTF-8 of up to 1 MiB, as they are or with `Content-Encoding: gzip` or
`zstd`. Types are strict: `"1"` is a string and never a number.
A request that is not HTTP is answered `400`, one with too large a head `431`, one that takes too
long to arrive `408`; the connection is closed then.
""".strip()


def json_body(schema: str, lines: str | None = None) -> dict[str, Any]:
    """Document a required JSON body of the component `schema`, or of `lines`, one a line."""
    content: dict[str, Any] = {"application/json": {"schema": _reference(schema)}}
    if lines is not None:
        example = "".join(f"{json.dumps(each)}\n" for each in BATCH_EXAMPLE["updates"])
        content["application/x-ndjson"] = {
            "schema": {
                "type": "array",
                "items": _reference(lines),
                "minItems": 1,
                "maxItems": UPDATES_PER_BATCH_MAX,
                "description": f"A `{lines}` a line.",
            },
            "x-example": example,
        }
    return {"requestBody": {"required": True, "content": content}}


def inline_body(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    """Document a required JSON object of which more than `properties` may be sent."""
    schema = {"type": "object", "required": required, "properties": properties}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def problems(*kinds: Kind, schema: str = "Problem") -> dict[int | str, dict[str, Any]]:
    """Document the problems that a route may answer, by their status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        response = responses.setdefault(
            kind.status.value,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": _reference(schema), "examples": {}}},
            },
        )
        response["description"] = f"{response['description']} {kind.title}".strip()
        response["content"][MEDIA_TYPE]["examples"][kind.slug] = {
            "summary": kind.title,
            "description": kind.advice,
            "value": {
                "type": kind.type,
                "title": kind.title,
                "status": kind.status.value,
                "detail": kind.title,
            },
        }
        if headers := _HEADERS.get(kind.status.value):
            response["headers"] = headers
    return responses


def document(app: FastAPI) -> None:
    """Have `app` describe itself completely."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _drop_fastapi_errors(schema)
            schema["components"]["schemas"] |= _components()
            schema["components"]["securitySchemes"] = {
                _SECURITY_SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token for one app, or for every app.",
                }
            }
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _drop_fastapi_errors(schema: dict[str, Any]) -> None:
    """Remove the shape that FastAPI assumes for errors: ours are problems, listed by each route."""
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]


def _components() -> dict[str, Any]:
    components: dict[str, Any] = {}
    for model in _DOCUMENTED:
        schema = TypeAdapter(model).json_schema(ref_template=REFERENCE)
        components |= schema.pop("$defs", {})
        components[model.__name__] = schema
    return components


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=schema)}
