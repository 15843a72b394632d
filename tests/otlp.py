"""A real OTLP receiver over gRPC, as any collector is one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


def value_of(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")


def attributes_of(pairs: Iterator[KeyValue]) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in pairs}


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came over the wire."""

    service: str
    span: Any

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def trace(self) -> bytes:
        return bytes(self.span.trace_id)

    @property
    def id(self) -> bytes:
        return bytes(self.span.span_id)

    @property
    def parent(self) -> bytes:
        return bytes(self.span.parent_span_id)

    @property
    def links(self) -> list[tuple[bytes, bytes]]:
        return [(link.trace_id, link.span_id) for link in self.span.links]

    @property
    def attributes(self) -> dict[str, Any]:
        return attributes_of(self.span.attributes)


@dataclass
class Receiver(traces_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):
    """Keeps all it is sent."""

    port: int = 0
    spans: list[ReceivedSpan] = field(default_factory=list)
    points: dict[str, list[Any]] = field(default_factory=dict)
    """The latest data points of each metric, by name."""
    raw: bytes = b""

    @property
    def environment(self) -> dict[str, str]:
        """What makes a service send here, and soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
        }

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - theirs
        self.raw += request.SerializeToString()
        if isinstance(request, metrics.ExportMetricsServiceRequest):
            for scope in (s for r in request.resource_metrics for s in r.scope_metrics):
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    self.points[metric.name] = list(data.data_points)
            return metrics.ExportMetricsServiceResponse()
        for resource in request.resource_spans:
            service = attributes_of(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [ReceivedSpan(service, span) for span in scope.spans]
        return traces.ExportTraceServiceResponse()

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    async def until(self, condition: Callable[[], object], patience_s: float = 60) -> None:
        async with asyncio.timeout(patience_s):
            while not condition():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def otlp_receiver() -> AsyncIterator[Receiver]:
    """Receive on a free port until the end of the block."""
    server = grpc.aio.server()
    receiver = Receiver()
    register: Any = traces_grpc.add_TraceServiceServicer_to_server
    register(receiver, server)
    register = metrics_grpc.add_MetricsServiceServicer_to_server
    register(receiver, server)
    receiver.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(grace=None)
