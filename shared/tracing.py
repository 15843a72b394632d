"""Trace context as it travels in the headers of a record (W3C Trace Context)."""

import re
from collections.abc import Iterable
from typing import Final

from opentelemetry.trace import SpanContext, TraceFlags

TRACEPARENT: Final = "traceparent"

_parse = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch


def traceparent_of(context: SpanContext) -> bytes:
    """Return the header value that names a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()


def read_traceparent(value: bytes) -> SpanContext | None:
    """Read the span that a header value names; None where it names none."""
    found = _parse(value)
    if found is None:
        return None
    context = SpanContext(
        int(found[1], 16),
        int(found[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(found[3], 16)),
    )
    return context if context.is_valid else None


def sampled_sender(headers: Iterable[tuple[str, bytes | None]]) -> SpanContext | None:
    """Return the span that a record was sent in, where its sender records it.

    Others may have sent it: Kafka lets a header have no value.
    """
    for name, value in headers:
        if name == TRACEPARENT:
            context = read_traceparent(value or b"")
            return context if context is not None and context.trace_flags.sampled else None
    return None
