"""A rolling upgrade: for a while old statements meet the new schema, or new ones the old.

`released/NNNN/` has the statements of the last release, whose newest migration was NNNN. A release
renews it: remove the directory and copy consumer/sql to the number of the newest migration.
Statements about idempotency keys are left out: they came with their table, and are run only for
updates that carry keys, which no earlier version accepts.
"""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.stack import LocalStack
from deploy.local.testing import fresh_databases
from operator_cli.migrations import known_migrations, migrate

CURRENT = Path(__file__).parents[2] / "consumer" / "sql"
(RELEASED,) = (Path(__file__).parent / "released").iterdir()
BEFORE, NOW = int(RELEASED.name), len(known_migrations())


def read(directory: Path) -> list[str]:
    paths = [path for path in directory.glob("*.sql") if not path.stem.endswith("_uses")]
    return [path.read_text("utf-8") for path in sorted(paths)]


@pytest.fixture
async def shard(
    stack: LocalStack, schema: int, tmp_path: Path
) -> AsyncIterator[asyncpg.Connection]:
    """A database with the first `schema` migrations."""
    for path in (CURRENT.parents[1] / "deploy" / "migrations").glob("*.sql"):
        if int(path.name[:4]) <= schema:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    async with fresh_databases(stack, f"schema_{uuid.uuid4().hex[:12]}", "template0") as dsns:
        only = {"shard-0": dsns["shard-0"]}
        await migrate(only, directory=tmp_path)
        connection = await asyncpg.connect(only["shard-0"].get_secret_value())
        yield connection
        await connection.close()


@pytest.mark.parametrize(
    ("statements", "schema"),
    [(read(RELEASED), NOW), (read(CURRENT), BEFORE)],
    ids=["the last release's statements on today's schema", "today's on the last release's"],
)
async def test_statements_of_one_version_work_on_the_schema_of_the_other(
    shard: asyncpg.Connection, statements: list[str]
) -> None:
    for statement in statements:
        await shard.prepare(statement)


@pytest.mark.parametrize("schema", [NOW])
async def test_a_statement_that_asks_for_more_than_the_schema_has_is_found(
    shard: asyncpg.Connection,
) -> None:
    with pytest.raises(asyncpg.UndefinedColumnError):
        await shard.prepare("SELECT of_tomorrow FROM subscriptions")
