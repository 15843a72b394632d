"""An OTLP receiver in a process of its own: where the spans of measured services go.

It keeps none of them, since it shares the cores with what is measured.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

from deploy.local.layout import CHECKOUT
from deploy.local.ports import HOST


@dataclass
class Collector:
    """Where to send, and how many spans came; the number is known at the end."""

    endpoint: str
    spans: int = 0


@contextmanager
def collector() -> Iterator[Collector]:
    """Receive until the end of the block."""
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", __name__], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = Collector(process.stdout.readline().strip())
        try:
            yield found
        finally:
            process.terminate()
            found.spans = int(process.stdout.readline() or 0)


def telemetry(otlp_endpoint: str | None) -> dict[str, str]:
    """Return the variables by which a service sends its spans and metrics there."""
    return {} if otlp_endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint}


class _Counter(traces_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):
    spans = 0

    async def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802 - theirs
        if isinstance(request, metrics.ExportMetricsServiceRequest):
            return metrics.ExportMetricsServiceResponse()
        self.spans += sum(
            len(scope.spans) for each in request.resource_spans for scope in each.scope_spans
        )
        return traces.ExportTraceServiceResponse()


async def _receive() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server, counter = grpc.aio.server(), _Counter()
    register: Any
    for register in (
        traces_grpc.add_TraceServiceServicer_to_server,
        metrics_grpc.add_MetricsServiceServicer_to_server,
    ):
        register(counter, server)
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    print(f"http://{HOST}:{port}", flush=True)
    await stop.wait()
    await server.stop(grace=None)
    print(counter.spans, flush=True)


if __name__ == "__main__":
    asyncio.run(_receive())
