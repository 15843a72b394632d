"""Migrations on real shards: applied once, all or nothing, from wherever they are run."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from deploy.local.stack import LocalStack
from deploy.local.testing import fresh_databases
from operator_cli import migrations
from operator_cli.migrations import known_migrations, migrate
from shared.errors import Misconfigured, Transient

Dsns = Mapping[str, SecretStr]


@pytest.fixture
async def empty_databases(stack: LocalStack) -> AsyncIterator[Dsns]:
    async with fresh_databases(stack, f"empty_{uuid.uuid4().hex[:12]}", "template0") as dsns:
        yield dsns


async def query(dsn: SecretStr, sql: str, *arguments: Any) -> Any:
    connection = await asyncpg.connect(dsn.get_secret_value())
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


def versions(applied: Mapping[str, list[Any]]) -> dict[str, list[int]]:
    return {shard: [migration.version for migration in done] for shard, done in applied.items()}


def write_without(directory: Path, number: str) -> Path:
    """Copy migrations but those whose names begin with `number`."""
    copy = directory / f"without-{number}"
    copy.mkdir()
    for path in directory.glob("*.sql"):
        if not path.name.startswith(number):
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


async def test_every_shard_gets_every_migration(empty_databases: Dsns) -> None:
    applied = await migrate(empty_databases)

    everything = [migration.version for migration in known_migrations()]
    assert versions(applied) == dict.fromkeys(empty_databases, everything)
    for dsn in empty_databases.values():
        assert await query(dsn, "SELECT count(*) FROM subscriptions") == 0
        assert await query(dsn, "SELECT count(*) FROM schema_migrations") == len(everything)


async def test_a_second_run_applies_nothing(empty_databases: Dsns) -> None:
    await migrate(empty_databases)

    assert not any((await migrate(empty_databases)).values())


async def test_a_dry_run_names_what_is_missing_and_changes_nothing(empty_databases: Dsns) -> None:
    planned = await migrate(empty_databases, dry_run=True)

    assert versions(planned) == versions(await migrate(empty_databases))


async def test_runs_at_the_same_time_apply_each_migration_once(empty_databases: Dsns) -> None:
    runs = await asyncio.gather(*(migrate(empty_databases) for _ in range(4)))

    for shard in empty_databases:
        applied = sorted(each.version for run in runs for each in run[shard])
        assert applied == [migration.version for migration in known_migrations()]


async def test_a_migration_that_fails_leaves_nothing_behind(
    empty_databases: Dsns, tmp_path: Path
) -> None:
    (tmp_path / "0001_good.sql").write_text("CREATE TABLE good ();")
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE half (); SELECT 1 / 0;")

    with pytest.raises(Transient, match="shard-0 could not be migrated: division by zero"):
        await migrate(empty_databases, directory=tmp_path)

    for dsn in empty_databases.values():
        assert await query(dsn, "SELECT to_regclass('good') IS NOT NULL")
        assert await query(dsn, "SELECT to_regclass('half') IS NULL")
        assert await query(dsn, "SELECT max(version) FROM schema_migrations") == 1


async def test_a_role_that_may_not_change_the_schema_is_for_a_human_to_put_right(
    empty_databases: Dsns,
) -> None:
    dsn, role = empty_databases["shard-0"].get_secret_value(), f"poor_{uuid.uuid4().hex[:12]}"
    url = urlsplit(dsn)
    poor = url._replace(netloc=f"{role}:poor@{url.hostname}:{url.port}").geturl()
    await query(empty_databases["shard-0"], f"CREATE ROLE {role} LOGIN PASSWORD 'poor'")
    try:
        with pytest.raises(
            Misconfigured, match="permission denied for schema public; let the role"
        ):
            await migrate({"shard-0": SecretStr(poor)})
    finally:
        await query(empty_databases["shard-0"], f"DROP ROLE {role}")


async def test_an_index_is_built_while_customers_write(
    empty_databases: Dsns, tmp_path: Path
) -> None:
    (tmp_path / "0001_rows.sql").write_text("CREATE TABLE rows (id int);")
    (tmp_path / "0002_index_on_rows.concurrently.sql").write_text(
        "DROP INDEX CONCURRENTLY IF EXISTS rows_id;\n"
        "CREATE UNIQUE INDEX CONCURRENTLY rows_id ON rows (id);\n"
    )
    first = {"shard-0": empty_databases["shard-0"]}
    await migrate(first, directory=write_without(tmp_path, "0002"))
    customer = await asyncpg.connect(first["shard-0"].get_secret_value())
    await customer.execute("INSERT INTO rows VALUES (1), (1)")

    with pytest.raises(Transient, match="could not create unique index"):
        await migrate(first, directory=tmp_path)
    is_valid = "SELECT indisvalid FROM pg_index WHERE indrelid = 'rows'::regclass"
    half_built = await customer.fetchval(is_valid)
    transaction = customer.transaction()
    await transaction.start()
    await customer.execute("DELETE FROM rows")
    runs = [asyncio.create_task(migrate(first, directory=tmp_path)) for _ in range(2)]
    other = await asyncpg.connect(first["shard-0"].get_secret_value())
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND query LIKE '%CONCURRENTLY%' AND wait_event_type = 'Lock'"
    )
    while not await other.fetchval(waits):  # for the transaction that was there before
        await asyncio.sleep(0.02)
    await other.execute("INSERT INTO rows VALUES (7)")
    await transaction.commit()
    applied = [versions(run) for run in await asyncio.gather(*runs)]

    assert half_built is False
    assert sorted(each["shard-0"] for each in applied) == [[], [2]]
    assert await other.fetchval(is_valid)
    await customer.close()
    await other.close()


async def test_a_migration_that_would_hold_customers_up_gives_way(
    database: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for migration in known_migrations():
        (tmp_path / f"{migration}.sql").write_text(migration.sql)
    (tmp_path / f"{len(known_migrations()) + 1:04}_more.sql").write_text(
        "ALTER TABLE subscriptions ADD COLUMN more int;"
    )
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "SET LOCAL lock_timeout = '50ms'")
    customer = await asyncpg.connect(database.get_secret_value())

    async with customer.transaction():
        await customer.execute("LOCK TABLE subscriptions IN ROW EXCLUSIVE MODE")
        with pytest.raises(Transient, match="lock timeout"):
            await migrate({"shard-0": database}, directory=tmp_path)

    await customer.close()
    assert (await migrate({"shard-0": database}, directory=tmp_path))["shard-0"]


async def test_a_schema_from_the_future_is_left_alone(databases: Dsns) -> None:
    future = "INSERT INTO schema_migrations (version, name) VALUES (9999, 'of_tomorrow')"
    await query(databases["shard-2"], future)

    with pytest.raises(Misconfigured, match="shard-2 has the migration 9999_of_tomorrow"):
        await migrate(databases)


async def test_a_server_that_is_too_old_is_for_a_human_to_upgrade(
    empty_databases: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.shard_servers.POSTGRES_MIN", 99)

    with pytest.raises(Misconfigured, match=r"shard-0 is Postgres \d+; upgrade it to 99 or later"):
        await migrate(empty_databases)


async def test_a_database_in_another_encoding_is_for_a_human_to_make_anew(
    database: SecretStr,
) -> None:
    utf8 = database.get_secret_value()
    await query(
        database,
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'",
    )
    latin = SecretStr(urlsplit(utf8)._replace(path="/latin").geturl())
    try:
        with pytest.raises(Misconfigured, match="of shard-0 is in LATIN1; create it with"):
            await migrate({"shard-0": latin})
    finally:
        await query(database, "DROP DATABASE latin WITH (FORCE)")


async def test_a_wrong_password_is_for_a_human_to_put_right(databases: Dsns) -> None:
    dsn = databases["shard-1"].get_secret_value()
    user_and_password, _, rest = dsn.partition("@")
    wrong = SecretStr(f"{user_and_password[:-1]}x@{rest}")

    with pytest.raises(Misconfigured, match="shard-1 refuses the login"):
        await migrate({**databases, "shard-1": wrong})


@pytest.mark.parametrize("name", ["1_short.sql", "0001-hyphen.sql", "0001_Upper.sql"])
def test_an_odd_file_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(Misconfigured, match="must be named like"):
        known_migrations(tmp_path)


@pytest.mark.parametrize("names", [[], ["0002_b.sql"], ["0001_a.sql", "0001_b.sql"]])
def test_numbers_start_at_one_without_gaps(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(Misconfigured, match="must be numbered 1, 2, 3"):
        known_migrations(tmp_path)


@pytest.mark.parametrize(
    ("base", "increments", "result"),
    [
        ({}, {"n": 2}, '{"n": 2}'),
        ({"n": 40}, {"n": 2}, '{"n": 42}'),
        ({"n": 40, "m": "kept"}, {"n": -41}, '{"m": "kept", "n": -1}'),
        ({"n": "text"}, {"n": 2}, '{"n": 2}'),
        ({"n": True}, {"n": 2}, '{"n": 2}'),
        ({"n": None}, {"n": 2}, '{"n": 2}'),
        ({"n": 0.1}, {"n": 1}, '{"n": 1.1}'),
        ({"n": 2**53}, {"n": 1}, '{"n": 9007199254740993}'),
        ({"n": 1}, {}, '{"n": 1}'),
    ],
)
async def test_incrementing_starts_from_zero_and_is_exact(
    database: SecretStr, base: dict[str, Any], increments: dict[str, int], result: str
) -> None:
    sql = "SELECT jsonb_increment($1::jsonb, $2::jsonb)::text"

    found = await query(database, sql, json.dumps(base), json.dumps(increments))

    assert found == result
