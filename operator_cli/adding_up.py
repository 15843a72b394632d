"""What updates add up to: a row worked out in memory, and how it differs from the real one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Final

from shared.updates import KEY_KNOWN_FOR_MS, Update

_EXACT: Final = Context(prec=1_000)
"""Digits enough for the sum of any float and any integer."""


@dataclass(slots=True)
class Sum:
    """Tags and properties as a subscription's updates leave them, from nothing."""

    tags: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    updates: int = 0
    repeated: int = 0
    """Updates among them whose idempotency key was in use already, so they have no effect."""
    _first_uses: dict[str, int] = field(default_factory=dict)

    def add(self, update: Update, accepted_ms: int) -> None:
        """Apply one more update: set and unset first, then add."""
        self.updates += 1
        if self._is_repeated(update, accepted_ms):
            self.repeated += 1
            return
        _apply(self.tags, update.tags, update.increment_tags)
        _apply(self.properties, update.properties, update.increment)

    def _is_repeated(self, update: Update, accepted_ms: int) -> bool:
        if update.once is None:
            return False
        key = update.once.key
        first_ms = self._first_uses.get(key)
        if first_ms is not None and accepted_ms - first_ms < KEY_KNOWN_FOR_MS:
            return True
        self._first_uses[key] = accepted_ms
        return False


def _apply(members: dict[str, Any], sets: Mapping[str, Any], increments: Mapping[str, int]) -> None:
    for name, value in sets.items():
        if value is None:
            members.pop(name, None)
        else:
            members[name] = value
    for name, amount in increments.items():
        old = members.get(name)
        is_number = isinstance(old, int | float) and not isinstance(old, bool)
        # As the database adds: exactly, in decimals.
        total = _EXACT.add(Decimal(str(old if is_number else 0)), Decimal(amount))
        members[name] = int(total) if total == int(total) else float(total)


@dataclass(frozen=True, slots=True)
class Difference:
    """A tag or property that is one thing in the stream and another in the row; None: not there."""

    where: str
    name: str
    in_stream: Any
    in_row: Any


def differences(
    found: Sum, tags: Mapping[str, Any], properties: Mapping[str, Any]
) -> list[Difference]:
    """Compare with a row."""
    return [
        *_differ("tags", found.tags, tags),
        *_differ("properties", found.properties, properties),
    ]


def _differ(where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[Difference]:
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            yield Difference(where, name, ours.get(name), theirs.get(name))
