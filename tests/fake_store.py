"""A store in memory; `tests/contract/test_store.py` holds it to what a real shard does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from consumer.folding import RowChange
from consumer.once import KeyUse, KnownUses
from consumer.store import TOO_MANY_TAGS, Applied
from shared.errors import Rejected, Transient
from shared.topology import partition_of
from shared.updates import Update
from tests.records import body_of
from verification.model import ModelRow

NUL = "\x00"

_TAGS_MAX = 200


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
    judged: list[list[RowChange]] = field(default_factory=list)
    uses: dict[tuple[str, str, str], tuple[int, KeyUse]] = field(default_factory=dict)
    """First uses of keys, each with its epoch."""

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        self.statements.append(list(changes))
        if self.outage is not None:
            raise self.outage
        for judge in (_unreadable, self._overfull):
            for rejected in filter(None, map(judge, changes)):
                raise rejected
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

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        return self._judged(changes, _unreadable)

    async def find_overfull(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        return self._judged(changes, self._overfull)

    def _judged(
        self, changes: Sequence[RowChange], judge: Callable[[RowChange], Rejected | None]
    ) -> Sequence[Rejected | None]:
        self.judged.append(list(changes))
        if self.outage is not None:
            raise self.outage
        return [judge(change) for change in changes]

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

    def _overfull(self, change: RowChange) -> Rejected | None:
        row = None if _unreadable(change) else self._applied(change)
        if row is None or len(row.tags) <= _TAGS_MAX:
            return None
        return Rejected("Too many tags.", reason=TOO_MANY_TAGS, sqlstate="23514")

    def _apply(self, change: RowChange) -> bool:
        row = self._applied(change)
        if row is None:
            return False
        self.rows[_key(change)] = row
        return True

    def _applied(self, change: RowChange) -> FakeRow | None:
        """Return the row as the change makes it, None where it does not apply."""
        row = self.rows.get(_key(change))
        if row is None:
            if not self.create_missing:
                return None
            row = FakeRow()
        elif (row.epoch, row.offset) >= (self.topic_epoch, change.first_offset):
            return None
        row = replace(row, tags=dict(row.tags), properties=dict(row.properties))
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
        return row

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


def _unreadable(change: RowChange) -> Rejected | None:
    if _has_nul(change.tags) or _has_nul(change.properties):
        return Rejected("Postgres refuses the data.", reason="refused", sqlstate="22P05")
    return None


def _has_nul(members: Mapping[str, object]) -> bool:
    return any(NUL in name or NUL in str(value) for name, value in members.items())
