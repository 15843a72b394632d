"""A store in memory; `tests/contract/test_store.py` holds it to what a real shard does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consumer.folding import RowChange
from consumer.store import Applied
from shared.errors import Rejected, Transient
from shared.updates import Update
from tests.records import body_of
from verification.model import ModelRow

NUL = "\x00"


@dataclass
class FakeRow(ModelRow):
    epoch: int = 0
    offset: int = -1


@dataclass
class FakeStore:
    """Rows by (app ID, subscription ID); `outage` is raised instead of writing while it is set.

    `locked` are rows that somebody else's transaction holds; `inserting` are rows that it has made
    and not committed.
    """

    topic_epoch: int = 0
    create_missing: bool = True
    rows: dict[tuple[str, str], FakeRow] = field(default_factory=dict)
    outage: Transient | None = None
    locked: set[tuple[str, str]] = field(default_factory=set)
    inserting: set[tuple[str, str]] = field(default_factory=set)
    statements: list[list[RowChange]] = field(default_factory=list)

    async def apply(self, changes: Sequence[RowChange]) -> Applied:
        self.statements.append(list(changes))
        if self.outage is not None:
            raise self.outage
        for change in changes:
            if _has_nul(change.tags) or _has_nul(change.properties):
                raise Rejected("Postgres refuses the data.", reason="refused", sqlstate="22P05")
        if any(_key(change) in self.locked | self.inserting for change in changes):
            raise Transient("Others hold a lock.", saturation=True, locked=True)
        written = [self._apply(change) for change in changes]
        return Applied([self._position(change) for change in changes], written)

    async def find_locked(self, changes: Sequence[RowChange]) -> Sequence[bool]:
        return [_key(change) in self.locked for change in changes]

    def _apply(self, change: RowChange) -> bool:
        key = _key(change)
        row = self.rows.get(key)
        if row is None:
            if not self.create_missing:
                return False
            row = self.rows[key] = FakeRow()
        elif (row.epoch, row.offset) >= (self.topic_epoch, change.first_offset):
            return False
        row.apply(
            body_of(
                Update(
                    schema=1,
                    app_id=change.app_id,
                    subscription_id=change.subscription_id,
                    tags=change.tags,
                    properties=change.properties,
                    increment=change.increment,
                    increment_tags=change.increment_tags,
                )
            )
        )
        row.epoch, row.offset = self.topic_epoch, change.last_offset
        return True

    def _position(self, change: RowChange) -> int | None:
        row = self.rows.get(_key(change))
        if row is None:
            return None
        if row.epoch == self.topic_epoch:
            return row.offset
        return 2**63 - 1 if row.epoch > self.topic_epoch else -1


def _key(change: RowChange) -> tuple[str, str]:
    return change.app_id, change.subscription_id


def _has_nul(members: Mapping[str, object]) -> bool:
    return any(NUL in name or NUL in str(value) for name, value in members.items())
