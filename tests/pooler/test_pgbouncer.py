"""Shards behind PgBouncer in transaction mode: fewer connections than those who write."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from consumer.store import ShardStore, open_store
from deploy.local import postgres
from deploy.local.accounts import postgres_account
from deploy.local.stack import LocalStack
from operator_cli.migrations import known_migrations, migrate
from operator_cli.subscriptions import read_subscription
from shared.errors import Transient
from shared.settings import KafkaSettings, read_shard_map
from tests.consumers import (
    consumer_environment,
    free_port,
    group_of,
    produce,
    service_process,
)
from tests.contract.test_store import RealShard, Shard, StoreContract, change_of
from tests.records import APP, subscription, update_of
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed
from verification.traffic import CustomerMix

SERVER_CONNECTIONS = 2
"""Connections that PgBouncer opens to each database."""


@pytest.fixture(scope="module")
def port(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a PgBouncer before the first shard."""
    program = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.exit("There is no pgbouncer: install it, or name it with PGBOUNCER=…", returncode=2)
    directory = tmp_path_factory.mktemp("pgbouncer")
    port, account = free_port(), postgres_account()
    users = directory / "users.txt"
    users.write_text(f'"{postgres.USER}" "{postgres.password(stack.layout)}"\n')
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"""[databases]
* = host=127.0.0.1 port={stack.plan.shards[0]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 200
"""
    )
    for path in (directory, users, settings):
        if account is not None:
            shutil.chown(path, account.uid, account.gid)
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)
    with subprocess.Popen(
        [program, settings],
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        stderr=(directory / "log").open("w"),
    ) as process:
        try:
            yield port
        finally:
            process.terminate()


@pytest.fixture
def direct(databases: Mapping[str, SecretStr]) -> SecretStr:
    return databases["shard-0"]


@pytest.fixture
async def pooled(stack: LocalStack, port: int, direct: SecretStr) -> SecretStr:
    """The DSN of the same database through PgBouncer."""
    dsn = SecretStr(direct.get_secret_value().replace(f":{stack.plan.shards[0]}/", f":{port}/"))
    async with asyncio.timeout(30):
        while True:
            try:
                connection = await asyncpg.connect(dsn.get_secret_value())
            except OSError:
                await asyncio.sleep(0.05)
            else:
                await connection.close()
                return dsn


async def open_in(
    exits: AsyncExitStack, dsn: SecretStr, *, pooled: bool = True, statement_timeout_s: float = 10
) -> ShardStore:
    return await exits.enter_async_context(
        open_store(
            dsn,
            connections_max=4,
            connect_timeout_s=10,
            statement_timeout_s=statement_timeout_s,
            lock_timeout_s=10,
            topic_epoch=0,
            create_missing=True,
            pooled=pooled,
        )
    )


class TestStoreThroughPgBouncer(StoreContract):
    @pytest.fixture
    async def shard(self, pooled: SecretStr, direct: SecretStr) -> AsyncIterator[Shard]:
        async with AsyncExitStack() as stack:
            yield RealShard(pooled, stack, read_from=direct, pooled=True)

    async def test_more_writers_than_connections_take_turns_and_lose_nothing(
        self, pooled: SecretStr, direct: SecretStr
    ) -> None:
        one = update_of(1, increment={"session_count": 1})
        async with AsyncExitStack() as stack:
            stores = [await open_in(stack, pooled) for _ in range(6)]

            async def write(number: int, store: ShardStore) -> None:
                for offset in range(50):
                    await store.apply(
                        [
                            change_of(offset, update_of(number * 10 + row, increment=one.increment))
                            for row in range(10)
                        ]
                    )

            await asyncio.gather(*(write(*each) for each in enumerate(stores)))
            server = await asyncpg.connect(direct.get_secret_value())
            used = await server.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
            sums = await server.fetch("SELECT properties->>'session_count' FROM subscriptions")
            await server.close()

        assert [row[0] for row in sums] == ["50"] * 60
        assert used <= SERVER_CONNECTIONS

    async def test_the_statement_time_out_holds_and_is_nobody_elses(
        self, pooled: SecretStr, direct: SecretStr
    ) -> None:
        blocker = await asyncpg.connect(direct.get_secret_value())
        async with AsyncExitStack() as stack:
            store = await open_in(stack, pooled, statement_timeout_s=0.3)
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(Transient, match="57014"):  # canceled by the server itself
                    await store.apply([change_of(0, update_of(1))])
            applied = await store.apply([change_of(0, update_of(1))])
            other = await asyncpg.connect(pooled.get_secret_value(), statement_cache_size=0)
            seen = {await other.fetchval("SHOW statement_timeout") for _ in range(4)}
            await other.close()

        await blocker.close()
        assert applied.positions == [0]
        assert seen == {"0"}

    async def test_without_the_setting_the_sentence_names_it(self, pooled: SecretStr) -> None:
        async with AsyncExitStack() as stack:
            store = await open_in(stack, pooled, pooled=False)

            with pytest.raises(Transient, match="TIDEMARK_WRITE__POOLER=transaction"):
                await store.apply([change_of(0, update_of(1))])


async def test_a_consumer_applies_a_customer_mix_through_it(
    stack: LocalStack,
    kafka_settings: KafkaSettings,
    databases: Mapping[str, SecretStr],
    pooled: SecretStr,
    tmp_path: Path,
) -> None:
    mix, ledger = CustomerMix(11, apps=20, subscriptions=200), Ledger()
    shard_map = tmp_path / "pooled.json"
    dsns = {name: dsn.get_secret_value() for name, dsn in databases.items()}
    stack.write_shard_map(shard_map, dsns | {"shard-0": pooled.get_secret_value()})
    others = tmp_path / "direct.json"
    stack.write_shard_map(others, dsns)
    environment = consumer_environment(kafka_settings, shard_map, "consumer-1")
    updates = [
        update_of(number, app, tags={"n": number}, increment={"session_count": 1})
        for number in range(100)
        for app in mix.apps
    ]

    async with asyncio.timeout(120):
        async with service_process(
            "consumer", environment | {"TIDEMARK_WRITE__POOLER": "transaction"}
        ) as consumer:
            await consumer.wait_ready()
            await produce(kafka_settings, updates, ledger)
            await wait_until_committed(kafka_settings, group_of(kafka_settings), ledger.ends())
        rows = await read_rows(read_shard_map(others), mix.apps)

    assert ledger.differences(rows) == []


async def test_operators_commands_work_through_it(
    stack: LocalStack, direct: SecretStr, pooled: SecretStr, tmp_path: Path
) -> None:
    server = await asyncpg.connect(direct.get_secret_value())
    await server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await server.close()
    shard_map = tmp_path / "pooled.json"
    stack.write_shard_map(shard_map, {"shard-0": pooled.get_secret_value()})
    directory = read_shard_map(shard_map)

    runs = await asyncio.gather(*(migrate(directory.dsns) for _ in range(3)))
    async with AsyncExitStack() as exits:
        store = await open_in(exits, pooled)
        await store.apply([change_of(7, update_of(1, tags={"plan": "pro"}))])
    row = await read_subscription(directory, APP, subscription(1))

    assert sum(len(run["shard-0"]) for run in runs) == len(known_migrations())
    assert row is not None
    assert (row.tags, row.applied_offset) == ({"plan": "pro"}, 7)
