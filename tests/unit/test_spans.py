"""How many spans a consumer makes, and of what."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.spans import ProcessSpans
from shared.errors import Rejected, Transient
from shared.tracing import TRACEPARENT, sampled_sender
from tests.records import StubRecord
from tests.unit.test_partition_work import row_of

SAMPLED = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


def spans_to(made: InMemorySpanExporter) -> ProcessSpans:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    return ProcessSpans(
        provider.get_tracer("test"),
        group="consumers",
        topic_epoch=0,
        slow_s=60,
        per_s_max=3,
        clock=lambda: 1.0,
    )


def test_a_flood_of_dead_letters_is_no_flood_of_spans() -> None:
    made = InMemorySpanExporter()
    spans = spans_to(made)

    for offset in range(50):
        spans.given_up(StubRecord(offset, b"", headers=SAMPLED), Rejected("No.", reason="refused"))

    assert len(made.get_finished_spans()) == 3


def test_a_statement_that_fails_when_some_of_its_rows_are_written_has_a_span_of_another() -> None:
    """It had been split to find a poisoned update, and then the shard was lost."""
    made = InMemorySpanExporter()
    spans = spans_to(made)

    spans.failed("shard-0", [row_of(1), row_of(2, 7)], Transient("The connection is lost."))
    spans.failed("shard-0", [row_of(1)], Transient("The connection is lost."))

    process, _flush = sorted(made.get_finished_spans(), key=lambda span: span.name, reverse=True)
    assert (process.attributes or {})["messaging.kafka.offset"] == 7


def test_a_header_without_a_value_names_no_span() -> None:
    assert sampled_sender([(TRACEPARENT, None)]) is None
