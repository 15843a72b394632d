"""A store in memory; `tests/contract/test_store.py` holds it to what a real shard does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consumer.folding import RowChange
from consumer.once import KeyUse, KnownUses
from consumer.store import Applied
from shared.errors import Rejected, Transient
from shared.topology import partition_of
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
    uses: dict[tuple[str, str, str], tuple[int, KeyUse]] = field(default_factory=dict)
    """First uses of keys, each with its epoch."""

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        self.statements.append(list(changes))
        if self.outage is not None:
            raise self.outage
        for change in changes:
            if _has_nul(change.tags) or _has_nul(change.properties):
                raise Rejected("Postgres refuses the data.", reason="refused", sqlstate="22P05")
        if any(_key(change) in self.locked | self.inserting for change in changes):
            raise Transient("Somebody else holds a lock.", locked=True)
        written = [self._apply(change) for change in changes]
        wrote = {
            (change.app_id, change.subscription_id)
            for change, is_written in zip(changes, written, strict=True)
            if is_written
        }
        for use in first_uses:
            if (use.app_id, use.subscription_id) in wrote:
                key = (use.app_id, use.subscription_id, use.once.key)
                self.uses[key] = (self.topic_epoch, use)
        return Applied([self._position(change) for change in changes], written)

    async def find_locked(self, changes: Sequence[RowChange]) -> Sequence[bool]:
        if self.outage is not None:
            raise self.outage
        return [_key(change) in self.locked for change in changes]

    async def first_uses(self, keys: Sequence[tuple[str, str, str]]) -> KnownUses:
        if self.outage is not None:
            raise self.outage
        found = {key: self.uses[key] for key in keys if key in self.uses}
        return {
            key: KeyUse(
                use.app_id,
                use.subscription_id,
                use.once,
                self._offset(epoch, use.offset),
                use.accepted_ms,
            )
            for key, (epoch, use) in found.items()
        }

    async def forget_uses(self, before_ms: Mapping[int, int], *, rows_max: int) -> int:
        old = [
            key
            for key, (_, use) in self.uses.items()
            if use.accepted_ms < before_ms.get(partition_of(use.app_id), 0)
        ][:rows_max]
        for key in old:
            del self.uses[key]
        return len(old)

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
        return self._offset(row.epoch, row.offset)

    def _offset(self, epoch: int, offset: int) -> int:
        if epoch == self.topic_epoch:
            return offset
        return 2**63 - 1 if epoch > self.topic_epoch else -1


def _key(change: RowChange) -> tuple[str, str]:
    return change.app_id, change.subscription_id


def _has_nul(members: Mapping[str, object]) -> bool:
    return any(NUL in name or NUL in str(value) for name, value in members.items())
