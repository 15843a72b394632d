"""An independent model of what updates do to a row: one by one, in exact decimals.

It shares no code with the services and reads the bodies that customers send, so that a mistake
made once in them is not made here again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Final

_EXACT: Final = Context(prec=1_000)
"""Digits enough for the sum of any float and any integer; the usual 28 are not."""


@dataclass
class ModelRow:
    """What a row should hold."""

    tags: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)

    def apply(self, body: Mapping[str, Any]) -> None:
        """Apply one update, as its HTTP body says it."""
        for name, value in body.get("tags", {}).items():
            _set(self.tags, name, None if value == "" else value)
        for name, value in body.get("properties", {}).items():
            _set(self.properties, name, value)
        for name, amount in body.get("increment", {}).items():
            if name.startswith("tags."):
                _add(self.tags, name.removeprefix("tags."), amount)
            else:
                _add(self.properties, name, amount)


def model_of(bodies: Iterable[Mapping[str, Any]]) -> ModelRow:
    """Apply updates one by one to a row that holds nothing."""
    row = ModelRow()
    for body in bodies:
        row.apply(body)
    return row


def exact(value: Any) -> Any:
    """Return numbers as decimals, so that 1 and 1.0 are one value and no digit is lost."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return Decimal(str(value))


def _set(members: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        members.pop(name, None)
    else:
        members[name] = exact(value)


def _add(members: dict[str, Any], name: str, amount: int) -> None:
    base = members.get(name)
    members[name] = _EXACT.add(base if isinstance(base, Decimal) else Decimal(0), Decimal(amount))
