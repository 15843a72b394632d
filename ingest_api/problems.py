"""What went wrong, as RFC 9457 problem documents: the only shape errors have here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, NotRequired

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response
from typing_extensions import TypedDict

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1


class FieldError(TypedDict):
    """One thing wrong with a request."""

    detail: str
    pointer: NotRequired[str]
    parameter: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of problem: what it is called, and what a client does about it."""

    slug: str
    status: HTTPStatus
    title: str
    advice: str

    @property
    def type(self) -> str:
        """The URI that names it, and where this API explains it."""
        return f"/problems/{self.slug}"


NOT_JSON = Kind(
    "not-json",
    HTTPStatus.BAD_REQUEST,
    "The body is not JSON.",
    "Send JSON in UTF-8, without lone surrogates. Nothing was accepted.",
)
INCOMPLETE = Kind(
    "incomplete",
    HTTPStatus.BAD_REQUEST,
    "The body ended too early.",
    "Send as many bytes as Content-Length says. Nothing was accepted.",
)
UNAUTHORIZED = Kind(
    "unauthorized",
    HTTPStatus.UNAUTHORIZED,
    "The request carries no good token.",
    "Send Authorization: Bearer, and a token that has not expired. Nothing was accepted.",
)
FORBIDDEN = Kind(
    "forbidden",
    HTTPStatus.FORBIDDEN,
    "The token does not grant this.",
    "Use a token for this app that grants what is asked for. Nothing was accepted.",
)
NOT_FOUND = Kind(
    "not-found", HTTPStatus.NOT_FOUND, "There is nothing at this path.", "Check the path."
)
UNKNOWN_RECEIPT = Kind(
    "unknown-receipt",
    HTTPStatus.NOT_FOUND,
    "There is no such update.",
    "Ask with the receipt as it was answered, and a token for the app it was sent to.",
)
EXPIRED = Kind(
    "receipt-expired",
    HTTPStatus.GONE,
    "The receipt is too old.",
    "What became of it is no longer known here; the row, or the dead-letter topic, tells.",
)
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "The path does not take this method.",
    "Use one of the methods that Allow lists.",
)
BODY_TOO_LARGE = Kind(
    "body-too-large",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The body is too large.",
    "Send smaller batches. Nothing was accepted.",
)
NOT_PACKED = Kind(
    "not-packed",
    HTTPStatus.BAD_REQUEST,
    "The body is not what its Content-Encoding says.",
    "Send one whole stream of gzip or zstd, or leave Content-Encoding out. Nothing was accepted.",
)
TOO_COMPLEX = Kind(
    "too-complex",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The body has too many parts.",
    "Send smaller batches, or fewer names and values at once. Nothing was accepted.",
)
TOO_MANY = Kind(
    "too-many-updates",
    HTTPStatus.TOO_MANY_REQUESTS,
    "Updates come too fast.",
    "Send it again after Retry-After, and slower from then on. Nothing was accepted.",
)
UNSUPPORTED_MEDIA_TYPE = Kind(
    "unsupported-media-type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "The body is not declared as JSON.",
    "Send Content-Type: application/json, in UTF-8, as it is or with Content-Encoding gzip or "
    "zstd. Batches may also be application/x-ndjson.",
)
INVALID = Kind(
    "invalid",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The request cannot be accepted as it is.",
    "Correct what `errors` lists. Nothing was accepted; sending it again changes nothing.",
)
KEY_REUSED = Kind(
    "idempotency-key-reused",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The idempotency key was used for something else.",
    "Use a new key for a new request, and the same request for the same key. Nothing was accepted.",
)
INTERNAL = Kind(
    "internal",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "The service failed.",
    "This is a bug of ours. Whether the update was accepted is unknown.",
)
BUSY = Kind(
    "busy",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too much is waiting to be stored.",
    "Send it again after Retry-After. Updates without a receipt were not accepted.",
)
UNREACHABLE = Kind(
    "unreachable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The store of updates cannot be reached.",
    "Send it again after Retry-After. Updates without a receipt were not accepted.",
)
OUTCOME_UNKNOWN = Kind(
    "outcome-unknown",
    HTTPStatus.GATEWAY_TIMEOUT,
    "The update may or may not have been accepted.",
    "It may still take effect. Sent with an Idempotency-Key, it can be sent again safely. Without "
    "one, an increment that is sent again may count twice.",
)

KINDS: Final = {
    kind.slug: kind
    for kind in (
        NOT_JSON,
        INCOMPLETE,
        NOT_PACKED,
        UNAUTHORIZED,
        FORBIDDEN,
        NOT_FOUND,
        UNKNOWN_RECEIPT,
        EXPIRED,
        METHOD_NOT_ALLOWED,
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
}


@dataclass(slots=True)
class ProblemError(Exception):
    """Ends a request with a problem document."""

    kind: Kind
    detail: str
    errors: Sequence[FieldError] = ()
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """Render it."""
        content: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status.value,
            "detail": self.detail,
        }
        if self.errors:
            content["errors"] = self.errors
        return Response(
            orjson.dumps({**content, **self.members}),
            self.kind.status,
            self.all_headers(),
            media_type=MEDIA_TYPE,
        )

    def all_headers(self) -> dict[str, str]:
        """Return the header fields that go with it."""
        headers = dict(self.headers)
        if self.kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = str(RETRY_AFTER_S)
        return headers


class ErrorDocument(BaseModel):
    """One thing wrong with a request: where, and what."""

    detail: str = Field(description="What is wrong, in a sentence.")
    pointer: str | None = Field(
        None, description="Where in the body, as a JSON Pointer in URI fragment form (RFC 6901)."
    )
    parameter: str | None = Field(None, description="The path or query parameter it is about.")


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="Names the kind of problem; answers to GET with advice.")
    title: str = Field(description="The kind of problem, in a sentence.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is special about this one.")
    errors: list[ErrorDocument] | None = Field(
        None, description="Each thing wrong with the request; at most 100."
    )
