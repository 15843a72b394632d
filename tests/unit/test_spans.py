"""How many spans a consumer makes."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.spans import ProcessSpans
from shared.errors import Rejected
from tests.records import StubRecord

SAMPLED = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


def test_a_flood_of_dead_letters_is_no_flood_of_spans() -> None:
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    spans = ProcessSpans(
        provider.get_tracer("test"),
        group="consumers",
        topic_epoch=0,
        slow_s=60,
        per_s_max=3,
        clock=lambda: 1.0,
    )

    for offset in range(50):
        spans.given_up(StubRecord(offset, b"", headers=SAMPLED), Rejected("No.", reason="refused"))

    assert len(made.get_finished_spans()) == 3
