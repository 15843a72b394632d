"""One update's two traces, and the link between them, as an OTLP receiver gets them.

`python -m tests.chaos.show_trace`
"""

import asyncio
import urllib.request
from typing import Final

import orjson

from deploy.local import credentials
from tests.chaos.shows import Facts, show
from tests.chaos.system import System
from tests.otlp import ReceivedSpan, otlp_receiver

PATH: Final = (
    "/v1/apps/d1f7c2a4-5b0e-4c63-9a8d-2e6f1b7c9d05/subscriptions/"
    "6c1f0a9e-3d52-47b8-8e14-b90d5a72c3f6"
)


async def measure(system: System) -> Facts:
    """Send one update, and wait for its four spans."""
    async with otlp_receiver() as receiver:
        system.describe_services(
            consumer=receiver.environment,
            ingest={**receiver.environment, "TIDEMARK_TELEMETRY__TRACE_RATIO": "1"},
        )
        await system.start("ingest-api", "consumer-1")
        receiver.spans.clear()
        request = urllib.request.Request(
            system.ingest_url + PATH,
            data=orjson.dumps({"tags": {"plan": "pro"}}),
            headers={**credentials.headers(), "Content-Type": "application/json"},
            method="PATCH",
        )
        with await asyncio.to_thread(urllib.request.urlopen, request) as answer:
            receipt = orjson.loads(answer.read())["receipt"]
        await receiver.until(
            lambda: (
                receiver.named("MERGE subscriptions")
                and any(span.name.startswith("PATCH") for span in receiver.spans)
            )
        )
        return {"receipt": receipt, "spans": [_facts(span) for span in receiver.spans]}


def _facts(span: ReceivedSpan) -> dict[str, object]:
    took_ms = (span.span.end_time_unix_nano - span.span.start_time_unix_nano) / 1e6
    return {
        "service": span.service,
        "name": span.name,
        "trace": span.trace.hex(),
        "span": span.id.hex(),
        "parent": span.parent.hex() or None,
        "links": [f"{trace.hex()}/{linked.hex()}" for trace, linked in span.links],
        "ms": round(took_ms, 2),
        "attributes": span.attributes,
    }


if __name__ == "__main__":
    show(measure)
