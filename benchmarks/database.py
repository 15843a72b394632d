"""The rows on the four shards: loaded once, restored before each run, judged after it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from pydantic import SecretStr

from benchmarks.loads import INITIAL_TAGS, ExpectedRow, Row
from shared.topology import ShardMap

_INITIAL: Final = """
CREATE SCHEMA IF NOT EXISTS bench;
DROP TABLE IF EXISTS bench.initial;
CREATE UNLOGGED TABLE bench.initial (place integer, app_id uuid, subscription_id uuid)
"""
_EXPECTED: Final = """
DROP TABLE IF EXISTS bench.{name};
CREATE UNLOGGED TABLE bench.{name} (
    app_id uuid, subscription_id uuid, tags jsonb, applied_offset bigint,
    PRIMARY KEY (app_id, subscription_id)
)
"""
_RESTORE: Final = f"""
TRUNCATE subscriptions;
INSERT INTO subscriptions (
    app_id, subscription_id, tags, updated_at, applied_epoch, applied_offset
)
SELECT app_id, subscription_id, '{INITIAL_TAGS}', 'epoch', 0, -1
FROM bench.initial ORDER BY place
"""  # noqa: S608 - a constant of ours
_DIFFERENT: Final = """
SELECT count(*)
FROM subscriptions AS row
FULL JOIN bench.initial USING (app_id, subscription_id)
LEFT JOIN bench.{name} AS expected USING (app_id, subscription_id)
WHERE row.tags IS DISTINCT FROM coalesce(expected.tags, $1::jsonb)
   OR row.properties IS DISTINCT FROM '{{}}'::jsonb
   OR ($2 AND row.applied_offset IS DISTINCT FROM coalesce(expected.applied_offset, -1))
"""
_COUNTERS: Final = """
SELECT
    (SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'subscriptions'::regclass) AS rows,
    (SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'subscriptions'::regclass) AS hot,
    (SELECT xact_commit + xact_rollback FROM pg_stat_database
     WHERE datname = current_database()) AS transactions,
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS wal_bytes
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written to all shards."""

    rows: int
    hot: int
    """Row versions that stayed on their page, of `rows`."""
    transactions: int
    wal_bytes: int

    def __sub__(self, before: "Written") -> "Written":
        return Written(
            self.rows - before.rows,
            self.hot - before.hot,
            self.transactions - before.transactions,
            self.wal_bytes - before.wal_bytes,
        )


class Databases:
    """The shards' databases."""

    def __init__(self, dsns: Mapping[str, SecretStr], rows: Sequence[Row]) -> None:
        self.dsns = dsns
        self._rows = rows
        self._shards = ShardMap.equal(len(dsns))

    async def load(self) -> None:
        """Keep the initial rows on every shard."""
        columns = ("place", "app_id", "subscription_id")
        records = self._by_shard(
            (row.partition, (place, row.app_id, row.subscription_id))
            for place, row in enumerate(self._rows)
        )

        async def copy(name: str, connection: Any) -> None:
            await connection.execute(_INITIAL)
            await connection.copy_records_to_table(
                "initial", schema_name="bench", columns=columns, records=records[name]
            )
            await connection.execute("ANALYZE bench.initial")

        await self._on_each(copy)

    async def expect(self, name: str, expected: Iterable[ExpectedRow]) -> None:
        """Keep what rows must hold, to be judged by under this name."""
        table = _table(name)
        records = self._by_shard(
            (row.partition, (row.app_id, row.subscription_id, each.tags, each.offset))
            for each in expected
            for row in (self._rows[each.row],)
        )

        async def copy(shard: str, connection: Any) -> None:
            await connection.execute(_EXPECTED.format(name=table))
            await connection.copy_records_to_table(
                table, schema_name="bench", records=records[shard]
            )
            await connection.execute(f"ANALYZE bench.{table}")

        await self._on_each(copy)

    async def restore(self) -> None:
        """Make all rows as they were before the first update, and leave nothing to tidy up."""

        async def restore(_: str, connection: Any) -> None:
            await connection.execute(_RESTORE)
            await connection.execute("VACUUM (FREEZE, ANALYZE) subscriptions")
            await connection.execute("CHECKPOINT")

        await self._on_each(restore)

    async def count_differences(self, name: str, *, positions: bool) -> int:
        """Count rows that are not as expected; with `positions`, they must say so too."""
        statement = _DIFFERENT.format(name=_table(name))
        counts: list[int] = []

        async def count(_: str, connection: Any) -> None:
            counts.append(await connection.fetchval(statement, INITIAL_TAGS, positions))

        await self._on_each(count)
        return sum(counts)

    async def written(self) -> Written:
        """Return counters since the servers started."""
        found: list[Any] = []

        async def read(_: str, connection: Any) -> None:
            found.append(await connection.fetchrow(_COUNTERS))

        await self._on_each(read)
        return Written(*(sum(row[field] for row in found) for field in Written.__slots__))

    def _by_shard(
        self, records: Iterable[tuple[int, tuple[Any, ...]]]
    ) -> dict[str, list[tuple[Any, ...]]]:
        names = [self._shards.shard_of(number).name for number in range(720)]
        found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in self.dsns}
        for partition, record in records:
            found[names[partition]].append(record)
        return found

    async def _on_each(self, action: Callable[[str, Any], Awaitable[None]]) -> None:
        async def act(name: str, dsn: SecretStr) -> None:
            connection = await asyncpg.connect(dsn.get_secret_value(), command_timeout=120)
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=_jsonb, decoder=bytes, format="binary"
            )
            try:
                await action(name, connection)
            finally:
                await connection.close()

        await asyncio.gather(*(act(name, dsn) for name, dsn in self.dsns.items()))


def _jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


def _table(name: str) -> str:
    return "expected_" + name.replace("-", "_")
