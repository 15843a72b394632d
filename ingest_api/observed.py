"""What is noted of requests and of what they publish, and the spans of those that are sampled."""

import random
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    use_span,
)

from ingest_api.health import Readiness
from ingest_api.in_flight import InFlight
from ingest_api.limits import Counts
from ingest_api.publisher import PartlyPublished
from ingest_api.settings import ProduceSettings
from shared.errors import Transient
from shared.histogram import Histogram
from shared.metrics import Ingest, Metric
from shared.telemetry import Labels, Read
from shared.topology import partition_of
from shared.tracing import TRACEPARENT, read_traceparent, traceparent_of

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SERVER_ERROR: Final = 500
_SEND: Final = {
    "messaging.system": "kafka",
    "messaging.operation.type": "send",
    "messaging.operation.name": "send",
}

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class ObservedApp:
    """Counts the requests of an ASGI app by route and status, and makes a span for some.

    Which ones is decided before anything is made, by `ratio` alone. The trace is ours: that of a
    public caller is linked to, not adopted, or they would decide what we record.
    """

    def __init__(self, app: _App, tracer: Tracer | None, ratio: float) -> None:
        self.requests: dict[tuple[str, str, int], Histogram] = {}
        """By method, route and status."""
        self._app = app
        self._tracer = tracer
        self._ratio = ratio

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request, and note it."""
        started = time.perf_counter()
        status = _SERVER_ERROR

        async def noting(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._tracer is not None and random.random() < self._ratio:  # noqa: S311
                with _server_span(self._tracer, scope) as span:
                    await self._app(scope, receive, noting)
                    _finish(span, scope, status)
            else:
                await self._app(scope, receive, noting)
        finally:
            key = (_method(scope), _route(scope), status)
            durations = self.requests.get(key) or self.requests.setdefault(key, Histogram())
            durations.observe(time.perf_counter() - started)


def _method(scope: _Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "_OTHER"


def _route(scope: _Scope) -> str:
    """Return the route's template, never the path, which has IDs in it."""
    return getattr(scope.get("route"), "path", "")


def _server_span(tracer: Tracer, scope: _Scope) -> Any:
    caller = next((read_traceparent(v) for k, v in scope["headers"] if k == b"traceparent"), None)
    span = tracer.start_span(
        _method(scope),
        context=Context(),
        kind=SpanKind.SERVER,
        links=[Link(caller)] if caller is not None else [],
        attributes={
            "http.request.method": _method(scope),
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        },
    )
    return use_span(span, end_on_exit=True)


def _finish(span: Span, scope: _Scope, status: int) -> None:
    route = _route(scope)
    if route:
        span.update_name(f"{_method(scope)} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


class Publishes(Protocol):
    """Stores updates with headers; Kafka's publisher is one."""

    async def publish(
        self, app_id: str, values: Sequence[bytes], headers: Sequence[tuple[str, bytes]] = ()
    ) -> list[str]:
        """Store updates of one app in their order; return a receipt for each."""


class ObservedPublisher:
    """Counts what is published, and makes the span that ends with the broker's acknowledgement."""

    def __init__(self, publisher: Publishes, tracer: Tracer | None, topic: str) -> None:
        self.accepted = 0
        self.not_accepted = 0
        self.unknown = 0
        self.ack = Histogram()
        self._publisher = publisher
        self._tracer = tracer
        self._topic = topic

    async def publish(self, app_id: str, values: Sequence[bytes]) -> list[str]:
        """Store updates of one app in their order; return a receipt for each.

        Raises:
            PartlyPublished: some of several are stored, or may be.
            Transient: none is stored, or it is unknown whether the only one is.
        """
        started = time.perf_counter()
        try:
            # The caller's span records only if the request was sampled.
            if self._tracer is not None and get_current_span().is_recording():
                receipts = await self._traced(self._tracer, app_id, values)
            else:
                receipts = await self._publisher.publish(app_id, values)
        except Transient as error:
            self._note_failure(error, len(values))
            raise
        self.accepted += len(values)
        self.ack.observe(time.perf_counter() - started)
        return receipts

    async def _traced(self, tracer: Tracer, app_id: str, values: Sequence[bytes]) -> list[str]:
        attributes: dict[str, str | int] = {
            **_SEND,
            "messaging.destination.name": self._topic,
            "messaging.destination.partition.id": str(partition_of(app_id)),
        }
        if len(values) > 1:
            attributes["messaging.batch.message_count"] = len(values)
        span = tracer.start_span(
            f"send {self._topic}", kind=SpanKind.PRODUCER, attributes=attributes
        )
        headers = [(TRACEPARENT, traceparent_of(span.get_span_context()))]
        try:
            receipts = await self._publisher.publish(app_id, values, headers)
        except Transient as error:
            span.set_attribute("error.type", type(error.__cause__ or error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        else:
            if len(receipts) == 1:
                span.set_attribute("messaging.kafka.offset", int(receipts[0].rpartition(".")[2]))
            return receipts
        finally:
            span.end()

    def _note_failure(self, error: Transient, count: int) -> None:
        if isinstance(error, PartlyPublished):
            accepted, unknown = len(error.receipts), error.unknown
        else:
            accepted, unknown = 0, count if error.outcome_unknown else 0
        self.accepted += accepted
        self.unknown += unknown
        self.not_accepted += count - accepted - unknown


def reads(
    app: ObservedApp,
    publisher: ObservedPublisher,
    in_flight: InFlight,
    bounds: ProduceSettings,
    *,
    readiness: Readiness,
    counts: Counts,
) -> Mapping[Metric, Read]:
    """Return how each metric of the ingest API is read."""

    def requests() -> list[tuple[Histogram, Labels]]:
        names = Ingest.requests.labels
        return [
            (durations, dict(zip(names, map(str, key), strict=True)))
            for key, durations in app.requests.items()
        ]

    return {
        Ingest.requests: requests,
        Ingest.accepted: lambda: [(publisher.accepted, {})],
        Ingest.failed: lambda: [
            (publisher.not_accepted, {"outcome": "not_accepted"}),
            (publisher.unknown, {"outcome": "unknown"}),
        ],
        Ingest.ack: lambda: [(publisher.ack, {})],
        Ingest.in_flight: lambda: [(in_flight.updates, {})],
        Ingest.in_flight_limit: lambda: [(bounds.updates_in_flight_max, {})],
        Ingest.in_flight_bytes: lambda: [(in_flight.bytes, {})],
        Ingest.in_flight_bytes_limit: lambda: [(bounds.bytes_in_flight_max, {})],
        Ingest.limits_alone: lambda: [(counts.alone, {})],
        Ingest.ready: lambda: [(float(readiness.reason() is None), {})],
    }
