"""OpenTelemetry: metrics read when somebody asks, spans where somebody collects them."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from time import time_ns
from typing import Any, Final

import structlog
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Tracer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.histogram import Histogram
from shared.metrics import Kind, Metric

log = structlog.get_logger()

Labels = Mapping[str, str]
Read = Callable[[], Iterable[tuple[float | Histogram, Labels]]]
"""Returns what a metric is now, by labels; called when somebody asks, in the event loop."""

_SCOPE: Final = InstrumentationScope("tidemark", version("tidemark"))
_EXPORT_INTERVAL_MS: Final = 60_000
_FAREWELL_S: Final = 2.0


class Telemetry:
    """What one service tells, and the tracer it makes spans with.

    Nothing is counted here: values are read from whatever counts them when a collection comes.
    """

    def __init__(self, reads: Mapping[Metric, Read], service: str) -> None:
        self._histograms = {m: read for m, read in reads.items() if m.kind is Kind.HISTOGRAM}
        self._registry = CollectorRegistry()
        self._started_ns = time_ns()
        self._scrape = _PrometheusReader(self._with_histograms, self._registry)
        self._push = _PushReader(self._with_histograms)
        self._provider = MeterProvider(
            [self._scrape, self._push], resource=_resource(service), shutdown_on_exit=False
        )
        meter = self._provider.get_meter(_SCOPE.name, _SCOPE.version)
        for metric, read in reads.items():
            arguments: Any = (metric.name, [partial(_observed, read)], metric.unit, metric.meaning)
            if metric.kind is Kind.COUNTER:
                meter.create_observable_counter(*arguments)
            elif metric.kind is Kind.GAUGE:
                meter.create_observable_gauge(*arguments)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    async def push_for_ever(self, interval_s: float) -> None:
        """Export all metrics by OTLP every `interval_s`.

        They are read here, where nothing changes meanwhile, and sent by a thread.
        """
        exporter = OTLPMetricExporter()
        try:
            while True:
                await asyncio.sleep(interval_s)
                self._push.collect()
                if self._push.collected is not None:
                    await asyncio.to_thread(exporter.export, self._push.collected)
        finally:
            exporter.shutdown(timeout_millis=1_000)

    def close(self) -> None:
        """Forget the instruments."""
        with suppress(Exception):
            self._provider.shutdown(timeout_millis=1_000)

    def _with_histograms(self, data: sdk.MetricsData) -> sdk.MetricsData:
        """Add the histograms, which no instrument of OpenTelemetry can observe ready-made."""
        now_ns = time_ns()
        metrics = [
            sdk.Metric(
                metric.name,
                metric.meaning,
                metric.unit,
                sdk.Histogram(
                    [self._point(value, labels, now_ns) for value, labels in read()],
                    sdk.AggregationTemporality.CUMULATIVE,
                ),
            )
            for metric, read in self._histograms.items()
        ]
        return replace(
            data,
            resource_metrics=[
                replace(
                    each,
                    scope_metrics=[*each.scope_metrics, sdk.ScopeMetrics(_SCOPE, metrics, "")],
                )
                for each in data.resource_metrics
            ],
        )

    def _point(
        self, value: float | Histogram, labels: Labels, now_ns: int
    ) -> sdk.HistogramDataPoint:
        assert isinstance(value, Histogram)
        return sdk.HistogramDataPoint(
            dict(labels),
            self._started_ns,
            now_ns,
            value.count,
            value.total,
            list(value.counts),
            list(value.bounds),
            value.lowest,
            value.highest,
        )


def _observed(read: Read, _: CallbackOptions) -> Iterator[Observation]:
    for value, labels in read():
        assert not isinstance(value, Histogram)
        yield Observation(value, dict(labels))


_Complete = Callable[[sdk.MetricsData], sdk.MetricsData]


class _PrometheusReader(PrometheusMetricReader):
    def __init__(self, complete: _Complete, registry: CollectorRegistry) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._complete = complete

    def _receive_metrics(
        self, metrics_data: sdk.MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        super()._receive_metrics(self._complete(metrics_data), timeout_millis, **kwargs)


class _PushReader(sdk.MetricReader):
    """Keeps what it collected, for whoever sends it."""

    def __init__(self, complete: _Complete) -> None:
        super().__init__()
        self.collected: sdk.MetricsData | None = None
        self._complete = complete

    def _receive_metrics(
        self,
        metrics_data: sdk.MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - theirs
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        self.collected = self._complete(metrics_data)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing is held."""


def _resource(service: str) -> Resource:
    """Describe this process; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the say."""
    ours = {
        "service.name": service,
        "service.version": _SCOPE.version or "",
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource(ours).merge(Resource.create()) if _says_name() else Resource.create(ours)


def _says_name() -> bool:
    return bool(
        os.environ.get("OTEL_SERVICE_NAME")
        or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    )


def is_disabled() -> bool:
    """Say whether `OTEL_SDK_DISABLED` switches all of it off; the SDK makes no metrics then."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _exports(signal: str) -> bool:
    """Say whether the standard variables name somewhere to send this signal."""
    if is_disabled():
        return False
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp") == "none":
        return False
    named = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(os.environ.get(name) for name in named)


def metrics_route(telemetry: Telemetry) -> Route:
    """Return `/metrics`."""

    async def metrics(_: Request) -> Response:
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", metrics)


@asynccontextmanager
async def open_telemetry(service: str, reads: Mapping[Metric, Read]) -> AsyncIterator[Telemetry]:
    """Make metrics readable, and send them where `OTEL_EXPORTER_OTLP_ENDPOINT` says, if it does."""
    telemetry = Telemetry(reads, service)
    pushing = None
    if _exports("METRICS"):
        interval_ms = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or _EXPORT_INTERVAL_MS)
        pushing = asyncio.create_task(
            telemetry.push_for_ever(interval_ms / 1000), name="metrics-export"
        )
    try:
        yield telemetry
    finally:
        if pushing is not None:
            pushing.cancel()
            await asyncio.wait([pushing])
        telemetry.close()


@asynccontextmanager
async def open_tracer(
    service: str, *, farewell_s: float = _FAREWELL_S
) -> AsyncIterator[Tracer | None]:
    """Yield a tracer whose spans go where the standard variables say; None where they do not.

    Its every span is recorded: what is worth one is decided before it is made. At the end it waits
    for `farewell_s` at most for a collector to take what is left.
    """
    if not _exports("TRACES"):
        yield None
        return
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=_resource(service), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer(_SCOPE.name, _SCOPE.version)
    finally:
        # It would try for half a minute to send what is left, at a collector that is away.
        giving_up = asyncio.get_running_loop().call_later(farewell_s, exporter.shutdown)
        await asyncio.to_thread(provider.shutdown)
        giving_up.cancel()
