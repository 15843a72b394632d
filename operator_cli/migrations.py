"""Bring every shard's schema up to date: ordered SQL files, each applied once, all or nothing."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from pydantic import SecretStr

from shared.errors import Misconfigured, TidemarkError, Transient

_FILE_NAME: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
# Any number that other programs on the same database do not use.
_LOCK: Final = 0x7469_6465_6D61_726B
_CONNECT_TIMEOUT_S: Final = 10
_WRONG_LOGIN: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    version: int
    name: str
    sql: str

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


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
            raise Misconfigured(f"{path.name} must be named like 0001_what_it_does.sql.")
        sql = path.read_text(encoding="utf-8")
        migrations.append(Migration(int(match["version"]), match["name"], sql))
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
        Misconfigured: a shard refuses the login, or its schema is newer than this program.
        Transient: a shard cannot be reached, or refused a statement.
    """
    migrations = known_migrations(directory)
    outcomes = await asyncio.gather(
        *(_migrate_shard(name, dsn, migrations, dry_run) for name, dsn in dsns.items()),
        return_exceptions=True,
    )
    applied = {}
    for name, outcome in zip(dsns, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        applied[name] = outcome
    return applied


async def _migrate_shard(
    shard: str, dsn: SecretStr, migrations: Sequence[Migration], dry_run: bool
) -> list[Migration]:
    try:
        connection = await asyncpg.connect(dsn.get_secret_value(), timeout=_CONNECT_TIMEOUT_S)
        try:
            return await _apply_missing(shard, connection, migrations, dry_run)
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)
    except TidemarkError:
        raise
    except _WRONG_LOGIN as error:
        raise Misconfigured(f"{shard} refuses the login of its DSN: {error}.") from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise Transient(f"{shard} could not be migrated: {reason}.") from error


async def _apply_missing(
    shard: str,
    connection: "asyncpg.Connection[asyncpg.Record]",
    migrations: Sequence[Migration],
    dry_run: bool,
) -> list[Migration]:
    done = await _applied(connection)
    for version, name in done.items():
        if version > len(migrations) or migrations[version - 1].name != name:
            raise Misconfigured(
                f"{shard} has the migration {version:04}_{name}, which this program does not know; "
                "use the version of tidemark that applied it, or a newer one."
            )
    missing = [migration for migration in migrations if migration.version not in done]
    if dry_run:
        return missing
    return [each for each in missing if await _apply(connection, each)]


async def _applied(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[int, str]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT version, name FROM schema_migrations ORDER BY version")
    return {row["version"]: row["name"] for row in rows}


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> bool:
    """Apply one migration unless somebody else did meanwhile; say whether it was us."""
    async with connection.transaction():
        # Held until the end of the transaction: works through a transaction pooler, too.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "version integer PRIMARY KEY, name text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        )
        if migration.version in await _applied(connection):
            return False
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)",
            migration.version,
            migration.name,
        )
    return True


def _directory() -> Path:
    installed = Path(__file__).with_name("sql")  # where the wheel puts them
    return installed if installed.is_dir() else Path(__file__).parents[1] / "deploy" / "migrations"
