"""Two tags that make every update accountable: which one it is, and how many there were.

`chaos_mark` is set to a number of the update's own, and `chaos_count` grows by one with every
update. A row, at any moment, then tells which update was applied last and how many in all.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from verification.oracle import Body
from verification.traffic import Request

MARK: Final = "chaos_mark"
COUNT: Final = "chaos_count"
POISON: Final = "chaos_poison"
"""In whatever is poisoned on purpose: the name of a tag, or of a record's header."""


class Marker:
    """Marks updates with numbers that no other update of its run has."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def marked(self, body: Body) -> dict[str, Any]:
        """Return `body` with a mark."""
        tags = {**body.get("tags", {}), MARK: next(self._numbers)}
        return {**body, "tags": tags, "increment": {**body.get("increment", {}), **_ONE}}

    def mark_all(self, requests: Iterator[Request]) -> Iterator[Request]:
        """Mark every update of `requests`."""
        for request in requests:
            updates = [(each, self.marked(body)) for each, body in request.updates]
            yield replace(request, updates=updates)


_ONE: Final = {f"tags.{COUNT}": 1}


def mark_of(body: Body) -> int:
    """Return the number of a marked update."""
    mark: int = body["tags"][MARK]
    return mark


def mark_in(value: bytes | None) -> int | None:
    """Return the number of the marked update that a record holds, if it holds one."""
    try:
        tags = json.loads(value or b"")["tags"]
    except (ValueError, KeyError, TypeError):
        return None
    return tags.get(MARK) if isinstance(tags, dict) else None
