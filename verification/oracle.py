"""Judges rows by receipts alone: what was accepted, in the order of its positions."""

import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import asyncpg

from shared.settings import ShardDirectory
from verification.model import ModelRow

Subscription = tuple[str, str]
"""App ID and subscription ID, as canonical text."""

Body = Mapping[str, Any]
"""An update as its HTTP body says it."""


REPETITION: Body = {}
"""Stands for an update that was stored again under its idempotency key: it changes nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where an accepted update stands in Kafka, as its receipt says."""

    epoch: int
    partition: int
    offset: int

    @classmethod
    def of_receipt(cls, receipt: str) -> Self:
        """Read `epoch.partition.offset`."""
        return cls(*map(int, receipt.split(".")))


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as Postgres holds it, numbers as decimals."""

    tags: Mapping[str, Any]
    properties: Mapping[str, Any]
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a row is not what the receipts say."""

    subscription: Subscription
    what: str


@dataclass
class Ledger:
    """Everything that was accepted, by subscription, with its position.

    A request whose outcome is unknown may or may not have been applied. Subscriptions that one
    touched are not judged until `resolve` has been told what Kafka holds.
    """

    accepted: dict[Subscription, list[tuple[Position, Body]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    unknown: dict[Subscription, list[Body]] = field(default_factory=lambda: defaultdict(list))
    under_keys: list[tuple[Subscription, Body]] = field(default_factory=list)
    """What was sent under idempotency keys, as often as its sender liked."""
    count: int = 0

    def accept(self, subscription: Subscription, body: Body, receipt: str) -> None:
        """Note an update that was answered 202."""
        self.accepted[subscription].append((Position.of_receipt(receipt), body))
        self.count += 1

    def outcome_unknown(self, subscription: Subscription, body: Body) -> None:
        """Note an update of which it is not known whether it was accepted."""
        self.unknown[subscription].append(body)

    def resolve(self, find: Callable[[Body], Position | None]) -> tuple[int, int]:
        """Settle every unknown outcome by what Kafka holds.

        `find` tells where an update is, or None where it was never stored. Returns how many were
        stored, and how many were not.
        """
        stored = missing = 0
        for subscription, bodies in self.unknown.items():
            for body in bodies:
                position = find(body)
                if position is None:
                    missing += 1
                else:
                    stored += 1
                    self.accepted[subscription].append((position, body))
        self.unknown.clear()
        return stored, missing

    def resolve_repetitions(self, find_all: Callable[[Body], Sequence[Position]]) -> int:
        """Settle where updates under keys had their effect: where they were stored first.

        `find_all` tells where an update is, in the order of its partition. Returns how often one
        was stored again. A receipt that leads to none of these places is left as it is.
        """
        repetitions = 0
        for subscription, body in self.under_keys:
            places = find_all(body)
            others = [
                (at, each)
                for at, each in self.accepted[subscription]
                if each is not body or at not in places
            ]
            effective = [(at, body if at == places[0] else REPETITION) for at in places]
            self.accepted[subscription] = others + effective
            repetitions += max(0, len(places) - 1)
        self.under_keys.clear()
        return repetitions

    def ends(self) -> dict[int, int]:
        """Return by partition the offset just after the last accepted update."""
        ends: dict[int, int] = {}
        for updates in self.accepted.values():
            for position, _ in updates:
                ends[position.partition] = max(ends.get(position.partition, 0), position.offset + 1)
        return ends

    def expected(self, dead_lettered: Iterable[Position] = ()) -> dict[Subscription, ModelRow]:
        """Apply each subscription's updates in the order of their positions."""
        skipped = set(dead_lettered)
        return {
            subscription: self.expected_row(subscription, skipped)
            for subscription in self.accepted
            if subscription not in self.unknown
        }

    def expected_row(
        self, subscription: Subscription, dead_lettered: Container[Position] = ()
    ) -> ModelRow:
        """Apply one subscription's updates in the order of their positions."""
        row = ModelRow()
        updates = sorted(self.accepted[subscription], key=lambda update: update[0])
        for position, body in updates:
            if position not in dead_lettered:
                row.apply(body)
        return row

    def differences(
        self,
        stored: Mapping[Subscription, StoredRow],
        dead_lettered: Iterable[Position] = (),
    ) -> Sequence[Difference]:
        """Compare what is stored with what the receipts say; empty when all is right."""
        found = []
        skipped = set(dead_lettered)
        for subscription, row in self.expected(skipped).items():
            actual = stored.get(subscription)
            positions = {position for position, _ in self.accepted[subscription]} - skipped
            if not positions:
                if actual is not None:
                    found.append(Difference(subscription, "the row should not be there"))
            elif actual is None:
                found.append(Difference(subscription, "the row is missing"))
            elif actual.tags != row.tags:
                found.append(Difference(subscription, "the tags differ"))
            elif actual.properties != row.properties:
                found.append(Difference(subscription, "the properties or counters differ"))
            elif actual.offset != max(positions).offset:
                found.append(Difference(subscription, "the position differs"))
        return found


async def read_rows(
    directory: ShardDirectory, apps: Iterable[str] | None = None
) -> dict[Subscription, StoredRow]:
    """Read every row of `apps`, or of all, from all shards; one on the wrong shard counts, too."""
    wanted = None if apps is None else list(apps)
    rows: dict[Subscription, StoredRow] = {}
    for dsn in directory.dsns.values():
        connection = await asyncpg.connect(dsn.get_secret_value())
        try:
            found = await connection.fetch(
                "SELECT app_id::text, subscription_id::text, tags, properties, "
                "applied_epoch, applied_offset FROM subscriptions "
                "WHERE $1::uuid[] IS NULL OR app_id = ANY($1::uuid[])",
                wanted,
            )
        finally:
            await connection.close()
        for app, subscription, tags, properties, epoch, offset in found:
            key = (app, subscription)
            assert key not in rows, f"{key} is on two shards"
            rows[key] = StoredRow(_exact_json(tags), _exact_json(properties), epoch, offset)
    return rows


def _exact_json(text: str) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)
