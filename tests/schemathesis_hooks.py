"""What schemathesis needs to be told of our API; it is named by `SCHEMATHESIS_HOOKS`."""

import json
import re
import uuid
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def one_a_line(_context: Any, value: Any) -> bytes:
    """Send a batch in lines."""
    lines = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(each).encode() for each in lines)


def _is_negative(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_negative


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Send no good key twice: for another body it would be refused, as documented.

    What is to be refused anyway stays as it is: schemathesis would take it for another case.
    """
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch("[!-~]{1,255}", key) and not _is_negative(case):
        case.headers["Idempotency-Key"] = f"{key[:200]}{uuid.uuid4()}"


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Send nothing wrong with `partial=true`, which accepts what is right beside it."""
    return not (_is_negative(case) and (case.query or {}).get("partial") in (True, "true", "1"))
