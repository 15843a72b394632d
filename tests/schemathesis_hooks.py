"""What schemathesis needs to be told of our API; it is named by `SCHEMATHESIS_HOOKS`."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def one_a_line(_context: Any, value: Any) -> bytes:
    """Send a batch in lines."""
    lines = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(each).encode() for each in lines)
