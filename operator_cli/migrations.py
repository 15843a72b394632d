"""Bring every shard's schema up to date: ordered SQL files, each applied once.

A file is applied in one transaction, all or nothing. What Postgres does not do in a transaction,
such as building an index while customers write, is in a file `….concurrently.sql`: its statements
are run one by one, so they must be such that they can be run again after half of them.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from operator_cli.shard_connections import Connection, connected, raise_failures
from shared.errors import Misconfigured
from shared.shard_servers import unfit

_FILE_NAME: Final = re.compile(
    r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)(?P<concurrently>\.concurrently)?\.sql"
)
# Any number that other programs on the same database do not use.
_LOCK: Final = 0x7469_6465_6D61_726B
_LOCK_POLL_S: Final = 0.2
# Customers' writes queue behind a statement that waits for a lock on their table.
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '5s'"


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    version: int
    name: str
    sql: str
    concurrently: bool = False

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"

    @property
    def statements(self) -> list[str]:
        """The statements of a file that is not run as one; a line that ends in `;` ends each."""
        return [each for each in re.split(r"(?<=;)[ \t]*\n", self.sql) if each.strip()]


def known_migrations(directory: Path | None = None) -> list[Migration]:
    """Read the SQL files in order.

    Args:
        directory: where they are; by default those that came with this program.

    Raises:
        Misconfigured: there are none, a name is odd, or a number is missing or there twice.
    """
    directory = directory or _directory()
    migrations = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise Misconfigured(
                f"{path.name} must be named like 0001_what_it_does.sql, or "
                "0001_what_it_does.concurrently.sql."
            )
        sql = path.read_text(encoding="utf-8")
        concurrently = match["concurrently"] is not None
        migrations.append(Migration(int(match["version"]), match["name"], sql, concurrently))
    versions = [migration.version for migration in migrations]
    if not versions or versions != list(range(1, len(versions) + 1)):
        raise Misconfigured(
            f"Migrations must be numbered 1, 2, 3, …; {directory} holds {versions or 'none'}."
        )
    return migrations


async def migrate(
    dsns: Mapping[str, SecretStr], *, dry_run: bool = False, directory: Path | None = None
) -> dict[str, list[Migration]]:
    """Apply what each shard lacks, on all shards at once, and return it by shard.

    Safe to run twice, and from several places at the same time. A shard that fails does not stop
    the others; running again picks up where it stopped.

    Args:
        dsns: connection string of each shard.
        dry_run: only say what would be applied.
        directory: see `known_migrations`.

    Raises:
        Misconfigured: a shard refuses the login, is too old, or its schema is newer than this
            program.
        Transient: a shard cannot be reached, or refused a statement.
    """
    migrations = known_migrations(directory)
    outcomes = await asyncio.gather(
        *(_migrate_shard(name, dsn, migrations, dry_run) for name, dsn in dsns.items()),
        return_exceptions=True,
    )
    raise_failures(outcomes)
    return {
        name: outcome
        for name, outcome in zip(dsns, outcomes, strict=True)
        if not isinstance(outcome, BaseException)
    }


async def applied_migrations(connection: Connection) -> dict[int, str]:
    """Return the names of the migrations that a shard has, by version, in order."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT version, name FROM schema_migrations ORDER BY version")
    return {row["version"]: row["name"] for row in rows}


async def _migrate_shard(
    shard: str, dsn: SecretStr, migrations: Sequence[Migration], dry_run: bool
) -> list[Migration]:
    async with connected(shard, dsn, could_not="be migrated") as connection:
        why = unfit(connection, it=shard, its_database=f"The database of {shard}")
        if why is not None:
            raise Misconfigured(why)
        async with connection.transaction(readonly=True):
            done = await applied_migrations(connection)
        for version, name in done.items():
            if version > len(migrations) or migrations[version - 1].name != name:
                raise Misconfigured(
                    f"{shard} has the migration {version:04}_{name}, which this program does not "
                    "know; use the version of tidemark that applied it, or a newer one."
                )
        missing = [migration for migration in migrations if migration.version not in done]
        if dry_run:
            return missing
        applied = []
        for migration in missing:
            # The lock is held by a transaction, so that a pooler cannot separate it from us.
            async with _alone(connection):
                if migration.version in await applied_migrations(connection):
                    continue
                # A simple query, which also closes what was read: an index is not built
                # concurrently as long as a cursor of an older statement is open.
                await connection.execute(_LOCK_TIMEOUT)
                if migration.concurrently:
                    async with connected(shard, dsn, could_not="be migrated") as outside:
                        for statement in migration.statements:
                            await outside.execute(statement)
                else:
                    await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)",
                    migration.version,
                    migration.name,
                )
            applied.append(migration)
        return applied


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    """Open a transaction that nobody else who migrates this shard has at the same time."""
    while True:
        async with connection.transaction():
            # Asked for, not waited for: an index is not built concurrently as long as somebody
            # waits inside a statement that began before.
            if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_migrations ("
                    "version integer PRIMARY KEY, name text NOT NULL, "
                    "applied_at timestamptz NOT NULL DEFAULT now())"
                )
                yield
                return
        await asyncio.sleep(_LOCK_POLL_S)


def _directory() -> Path:
    installed = Path(__file__).with_name("sql")  # where the wheel puts them
    return installed if installed.is_dir() else Path(__file__).parents[1] / "deploy" / "migrations"
