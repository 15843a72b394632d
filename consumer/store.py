"""One shard's Postgres: rows that only move forward, by one statement for many."""

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, overload

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy
from pydantic import SecretStr

from consumer.folding import RowChange
from consumer.once import KeyUse, KnownUses
from shared.errors import Rejected, Transient
from shared.shard_servers import unfit
from shared.topology import partition_of
from shared.updates import Once

BEFORE_ALL: Final = -1
"""Where a row of an earlier topic epoch stands: below every offset of this one."""

APPLIED_BEFORE: Final = 2**63 - 1
"""Where a row of a later topic epoch stands: all of this one was applied before."""

TOO_MANY_TAGS: Final = "too_many_tags"
"""The reason for which the row of an update is full: the name of the constraint."""

_SERVER_FIRST_S: Final = 1.0


def _sql(name: str) -> str:
    return files("consumer.sql").joinpath(name).read_text()


APPLY: Final = _sql("apply_changes.sql")
"""The statement that writes changes; `apply_arguments` makes what it takes."""

_APPLY_AND_KEEP_USES: Final = _sql("keep_uses.sql") + APPLY
_READ_POSITIONS: Final = _sql("read_positions.sql")
_FIND_LOCKED: Final = _sql("find_locked.sql")
_FIND_UNREADABLE: Final = _sql("find_unreadable.sql")
_FIND_OVERFULL: Final = _sql("find_overfull.sql")
_READ_USES: Final = _sql("read_uses.sql")
_FORGET_USES: Final = _sql("forget_uses.sql")

_encoder: Final = msgspec.json.Encoder()
_dumps, _dump_lines = _encoder.encode, _encoder.encode_lines


@dataclass(frozen=True, slots=True)
class Applied:
    """Where the rows stand after a statement.

    `positions` has the offset of each change's row, in the order of the changes: at least its
    last offset where all of it is applied, now or before; between first and last where an earlier
    write had taken its head; None where there is no row and none is to be created.
    """

    positions: Sequence[int | None]
    written: Sequence[bool]
    """Which changes this statement wrote, rather than one before it or after."""
    pool_wait_s: float = field(default=0.0, compare=False)
    """How long it waited for a connection."""


class ShardStore:
    """Writes folded updates to the rows of one shard.

    `topic_epoch` goes before the offset in every position. `create_missing` says whether an
    update of a subscription that has no row creates it. `first` is a statement that each
    transaction begins with; without one, statements are their own transactions.
    """

    def __init__(
        self, pool: asyncpg.Pool, *, topic_epoch: int, create_missing: bool, first: str | None
    ) -> None:
        self._pool = pool
        self._topic_epoch = topic_epoch
        self._create_missing = create_missing
        self._first = first

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        """Write each change whose row is still below its first offset, in one statement.

        It keeps the first uses of keys as well, each if the change of its row is written.

        Raises:
            Rejected: Postgres refuses the data of at least one change; none was applied.
            Transient: the shard cannot do it now; where the outcome is unknown a repetition
                finds the rows' positions and changes nothing twice. `locked` where it had to wait
                too long for somebody else's transaction; none was applied.
        """
        asked_at = time.perf_counter()
        async with self._connection() as connection:
            pool_wait_s = time.perf_counter() - asked_at
            status = await connection.execute(
                _APPLY_AND_KEEP_USES if first_uses else APPLY,
                *apply_arguments(
                    changes,
                    topic_epoch=self._topic_epoch,
                    create_missing=self._create_missing,
                ),
                *(_columns(first_uses, changes) if first_uses else ()),
            )
            rows_written = int(status.rpartition(" ")[2])
            if rows_written == len(changes):
                positions = [each.last_offset for each in changes]
                return Applied(positions, [True] * rows_written, pool_wait_s)
            rows = await connection.fetch(_READ_POSITIONS, *_ids(changes))
        # What was just written is younger than what was found.
        newest = min((row["age"] for row in rows if row["age"] is not None), default=None)
        return Applied(
            [self._offset(row["applied_epoch"], row["applied_offset"]) for row in rows],
            [bool(rows_written) and row["age"] == newest for row in rows],
            pool_wait_s,
        )

    async def find_locked(self, changes: Sequence[RowChange]) -> Sequence[bool]:
        """Say of each change whether somebody else's transaction holds its row; wait for none.

        A row that another transaction is just inserting cannot be seen, and is not found.

        Raises:
            Transient: the shard cannot do it now; `locked` where the whole table is.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(_FIND_LOCKED, *_ids(changes))
        return [row["locked"] for row in rows]

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        """Say of each change why Postgres does not take its JSON, None where it does.

        Raises:
            Transient: the shard cannot tell now.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(_FIND_UNREADABLE, *map(_json_lines, _members(changes)))
        found = {row["place"]: _refusal(row["sqlstate"]) for row in rows}
        return [found.get(place) for place in range(1, len(changes) + 1)]

    async def find_overfull(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        """Say of each change whether its row as it is now would have too many tags with it.

        None where it would not, and where the change is unreadable or does not apply.

        Raises:
            Transient: the shard cannot tell now.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(
                _FIND_OVERFULL,
                *map(_array, _ids(changes)),
                _array([each.first_offset for each in changes]),
                _json_lines([each.tags for each in changes]),
                _json_lines([each.increment_tags for each in changes]),
                self._topic_epoch,
                self._create_missing,
            )
        found = {row["place"]: _refusal(_CHECK_VIOLATION, TOO_MANY_TAGS) for row in rows}
        return [found.get(place) for place in range(1, len(changes) + 1)]

    async def first_uses(self, keys: Sequence[tuple[str, str, str]]) -> KnownUses:
        """Return what is known of keys, which are app ID, subscription ID and key.

        Raises:
            Transient: the shard cannot tell now.
        """
        apps, subscriptions, digests = zip(*keys, strict=True)
        async with self._connection() as connection:
            rows = await connection.fetch(
                _READ_USES, apps, subscriptions, [bytes.fromhex(each) for each in digests]
            )
        uses = [
            KeyUse(
                str(row["app_id"]),
                str(row["subscription_id"]),
                Once(key=row["key"].hex(), body=row["body"].hex()),
                self._offset(row["used_epoch"], row["used_offset"]),
                row["used_ms"],
            )
            for row in rows
        ]
        return {(use.app_id, use.subscription_id, use.once.key): use for use in uses}

    async def forget_uses(self, before_ms: Mapping[int, int], *, rows_max: int) -> int:
        """Remove first uses of keys that are older than their partition still has to know.

        Args:
            before_ms: by partition the time of acceptance, in Unix time.
            rows_max: how many to remove at most.

        Returns:
            how many were.

        Raises:
            Transient: the shard cannot do it now.
        """
        async with self._connection() as connection:
            status = await connection.execute(
                _FORGET_USES, list(before_ms), list(before_ms.values()), rows_max
            )
        return int(status.rpartition(" ")[2])

    @overload
    def _offset(self, epoch: int, offset: int) -> int: ...
    @overload
    def _offset(self, epoch: int | None, offset: int | None) -> int | None: ...
    def _offset(self, epoch: int | None, offset: int | None) -> int | None:
        if epoch is None:
            return None
        if epoch == self._topic_epoch:
            return offset
        return APPLIED_BEFORE if epoch > self._topic_epoch else BEFORE_ALL

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        with _translated_errors(any_input=True):
            connection = await self._pool.acquire()
        with _translated_errors():
            try:
                if self._first is None:
                    yield connection
                else:
                    async with connection.transaction():
                        await connection.execute(self._first)
                        yield connection
            except asyncpg.PostgresError:
                # The server answered: the connection is in order.
                await self._pool.release(connection)
                raise
            except BaseException:
                # Time-out, cancellation, lost: what is under way there is not waited for.
                connection.terminate()
                await self._pool.release(connection)
                raise
            else:
                await self._pool.release(connection)


@asynccontextmanager
async def open_store(
    dsn: SecretStr,
    *,
    connections_max: int,
    connect_timeout_s: float,
    statement_timeout_s: float,
    lock_timeout_s: float,
    topic_epoch: int,
    create_missing: bool,
    pooled: bool = False,
) -> AsyncIterator[ShardStore]:
    """Open a pool that connects when first used, so that a shard that is down stops nobody.

    `pooled` says that each transaction may run on another connection of the server: nothing is
    prepared, and nothing set, for longer than one. A pooler such as PgBouncer also refuses to
    pass settings on at connecting.
    """
    name = {"application_name": "tidemark-consumer"}
    timeouts = {
        "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
        "lock_timeout": f"{lock_timeout_s * 1000:.0f}",
    }
    first = "; ".join(f"SET LOCAL {setting} = {value}" for setting, value in timeouts.items())
    pool = asyncpg.create_pool(
        dsn.get_secret_value(),
        min_size=0,
        max_size=connections_max,
        timeout=connect_timeout_s,
        # The server ends a statement first, which frees its backend; this is for one that hangs.
        command_timeout=statement_timeout_s + _SERVER_FIRST_S,
        init=_check_server,
        # Writes leave no state in the session, so there is none to reset after each.
        reset=_leave_as_is,
        server_settings=name if pooled else name | timeouts,
        statement_cache_size=0 if pooled else 100,
    )
    await pool  # connects nothing: min_size is 0
    try:
        yield ShardStore(
            pool,
            topic_epoch=topic_epoch,
            create_missing=create_missing,
            first=first if pooled else None,
        )
    finally:
        # Not close(): that waits for connections to be released, and writers have ended by now.
        pool.terminate()


async def _check_server(connection: Any) -> None:
    why = unfit(connection, it="It", its_database="Its database")
    if why is not None:
        raise Transient(why, any_input=True)


async def _leave_as_is(connection: Any) -> None:
    """Reset nothing."""


def apply_arguments(
    changes: Sequence[RowChange], *, topic_epoch: int, create_missing: bool
) -> tuple[Any, ...]:
    """Return the arguments of `APPLY`; the first nine are columns, each as one text."""
    return (
        *map(_array, _ids(changes)),
        _array([each.first_offset for each in changes]),
        _array([each.last_offset for each in changes]),
        _array([each.accepted_ms for each in changes]),
        *map(_json_array, _members(changes)),
        topic_epoch,
        create_missing,
    )


def _ids(changes: Sequence[RowChange]) -> tuple[list[str], list[str]]:
    return [each.app_id for each in changes], [each.subscription_id for each in changes]


def _members(changes: Sequence[RowChange]) -> tuple[list[Mapping[str, Any]], ...]:
    return (
        [each.tags for each in changes],
        [each.increment_tags for each in changes],
        [each.properties for each in changes],
        [each.increment for each in changes],
    )


def _json_array(changes: Sequence[Mapping[str, Any]]) -> str:
    """Return one JSON array of all, `null` where there is none; none of any is `[]`.

    Functions side by side in `ROWS FROM` fill up with NULL what the shorter ones return.
    """
    if not any(changes):
        return "[]"
    return _dumps([members or None for members in changes]).decode()


def _json_lines(changes: Sequence[Mapping[str, Any]]) -> str:
    """Return the JSON of each on a line of its own, so that one that is unreadable stands alone.

    `null` where there is none; none of any is no line at all.
    """
    if not any(changes):
        return ""
    return _dump_lines([members or None for members in changes])[:-1].decode()


def _array(values: Iterable[str | int]) -> str:
    """Return the text of a Postgres array of numbers, or of canonical IDs: nothing to be quoted."""
    return f"{{{','.join(map(str, values))}}}"


def _columns(uses: Sequence[KeyUse], changes: Sequence[RowChange]) -> list[list[Any]]:
    """Return the arrays that keep first uses; each also says where its row's change begins."""
    firsts = {(each.app_id, each.subscription_id): each.first_offset for each in changes}
    return [
        [each.app_id for each in uses],
        [each.subscription_id for each in uses],
        [bytes.fromhex(each.once.key) for each in uses],
        [bytes.fromhex(each.once.body) for each in uses],
        [partition_of(each.app_id) for each in uses],
        [each.offset for each in uses],
        [each.accepted_ms for each in uses],
        [firsts[each.app_id, each.subscription_id] for each in uses],
    ]


_DATA_CLASSES: Final = {"21", "22", "23", "54"}
"""SQLSTATE classes that speak of the data: cardinality, exception, integrity, program limit."""

_SATURATION_STATES: Final = {"53300", "40001", "40P01", "23505"}
"""Too many connections, serialization, deadlock, and two first inserts of one row at once: others
were faster, and the shard is in order."""

_LOCKED: Final = "55P03"

_SHARD_STATES: Final = {"25006", "57P01", "57P03"}
"""Read-only, shut down by an administrator, starting or recovering: whatever is written."""

_PROTOCOL_VIOLATION: Final = "08P01"

_CHECK_VIOLATION: Final = "23514"

_SENTENCES: Final = {TOO_MANY_TAGS: "Its row would have more than 200 tags."}
"""What callers are told of a constraint that says no."""


def _refusal(sqlstate: str, constraint: str | None = None) -> Rejected:
    reason = constraint or "refused"
    sentence = _SENTENCES.get(reason, f"Postgres refuses the data ({sqlstate}).")
    return Rejected(sentence, reason=reason, sqlstate=sqlstate)


@contextmanager
def _translated_errors(*, any_input: bool = False) -> Iterator[None]:
    """Translate errors; with `any_input` nothing was sent yet that may have caused them."""
    try:
        yield
    except asyncpg.PostgresError as error:
        sqlstate = error.sqlstate or "XX000"
        # The server's text may quote values, so only its code goes on.
        if sqlstate in _SATURATION_STATES:
            raise Transient(
                f"Postgres is busy ({sqlstate}).", saturation=True, any_input=any_input
            ) from error
        if sqlstate == _LOCKED:
            raise Transient(f"Somebody else holds a lock ({sqlstate}).", locked=True) from error
        if sqlstate[:2] in _DATA_CLASSES:
            raise _refusal(sqlstate, error.constraint_name) from error
        if sqlstate == _PROTOCOL_VIOLATION:
            raise Transient(
                f"The connection is refused ({sqlstate}); if a pooler is in between, set "
                "TIDEMARK_WRITE__POOLER=transaction.",
                any_input=any_input,
            ) from error
        raise Transient(
            f"Postgres answers {sqlstate} ({type(error).__name__}).",
            any_input=any_input or sqlstate in _SHARD_STATES,
        ) from error
    # TimeoutError is an OSError; a host name that cannot be encoded is a UnicodeError.
    # The internal error is asyncpg's word for a connection that broke in the middle of a message.
    except (
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        UnicodeError,
    ) as error:
        raise Transient(
            f"The connection to Postgres failed ({type(error).__name__}).",
            outcome_unknown=True,
            any_input=any_input,
        ) from error
