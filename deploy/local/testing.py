"""A stack for one test run, and fresh topics and databases on it for one test."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from pydantic import SecretStr

from deploy.local import postgres
from deploy.local.launch import write_identity
from deploy.local.layout import TEST_STATES, Layout
from deploy.local.ports import Plan
from deploy.local.processes import find
from deploy.local.stack import LocalStack, read_plan
from operator_cli.topics import create_topics
from shared.settings import KafkaSettings

_COORDINATOR_TIMEOUT_S: Final = 60.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - not there everywhere
_MEMORY_BYTES_MIN: Final = 4 * 2**30


@contextmanager
def temporary_stack(*, topics_in_memory: bool = False) -> Iterator[LocalStack]:
    """Run a broker and four shards on free ports until the end of the block.

    A run that was killed leaves its stack behind; the next one finds it here and removes it.

    Args:
        topics_in_memory: keep topics on a file system in memory, where there is one. Hundreds of
            topics with 720 partitions come and go faster there, and a killed broker loses nothing.
    """
    remove_stale_stacks()
    state = _own_state()
    if topics_in_memory:
        _keep_topics_in_memory(Layout(state))
    stack = LocalStack(state, Plan.on_free_ports())
    stack.save_plan()
    try:
        stack.start_infrastructure()
        asyncio.run(_wait_for_coordinator(stack))
        yield stack
    finally:
        _remove(state)


@asynccontextmanager
async def fresh_topic(stack: LocalStack, name: str) -> AsyncIterator[KafkaSettings]:
    """Create a topic of 720 partitions and what belongs to it; delete all of it afterwards."""
    kafka = KafkaSettings(bootstrap_servers=stack.plan.bootstrap_servers, topic=name)
    await create_topics(kafka)
    try:
        yield kafka
    finally:
        await asyncio.to_thread(stack.heal)
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.plan.bootstrap_servers)
        await admin.start()
        await admin.delete_topics(
            [kafka.topic, kafka.dead_letter_topic, kafka.held_topic, kafka.holds_topic]
        )
        await admin.close()


@asynccontextmanager
async def fresh_databases(
    stack: LocalStack, name: str, template: str = postgres.DATABASE, shards: int | None = None
) -> AsyncIterator[dict[str, SecretStr]]:
    """Create a database on every shard, and yield the DSNs; drop them afterwards.

    It is a copy of `template`, by default migrated already. `shards` says on how many of them,
    the first ones, since each takes time.
    """
    ports = dict(list(zip(stack.shards, stack.plan.shards, strict=True))[:shards])
    await _on_each(stack, ports.values(), f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield {
            shard: SecretStr(postgres.dsn(stack.layout, port, name))
            for shard, port in ports.items()
        }
    finally:
        await asyncio.to_thread(stack.heal)
        await _on_each(stack, ports.values(), f'DROP DATABASE "{name}" WITH (FORCE)')


async def _wait_for_coordinator(stack: LocalStack) -> None:
    """Ask a new broker for a group until it knows who coordinates groups.

    It makes a topic for that when it is asked first, so that whichever test is the first waits.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.plan.bootstrap_servers)
    await admin.start()
    try:
        async with asyncio.timeout(_COORDINATOR_TIMEOUT_S):
            while True:
                try:
                    await admin.list_consumer_group_offsets("nobody")
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    await asyncio.sleep(0.1)
                else:
                    return
    finally:
        await admin.close()


def _own_state() -> Path:
    """Make a directory that has an owner from the moment it is there."""
    new = TEST_STATES / f"{os.getpid()}.new"
    new.mkdir(parents=True, exist_ok=True)
    write_identity(new / "owner.pid")
    return new.rename(TEST_STATES / str(os.getpid()))


def _keep_topics_in_memory(layout: Layout) -> None:
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _MEMORY_BYTES_MIN:
        return
    elsewhere = _MEMORY / layout.name_elsewhere
    shutil.rmtree(elsewhere, ignore_errors=True)  # of a checkout that was there before
    elsewhere.mkdir(mode=0o700)
    layout.kafka.symlink_to(elsewhere)


def _remove(state: Path) -> None:
    elsewhere = _MEMORY / Layout(state).name_elsewhere
    plan = read_plan(Layout(state))
    if plan is None:
        shutil.rmtree(state)
    else:
        LocalStack(state, plan).remove()
    shutil.rmtree(elsewhere, ignore_errors=True)


async def _on_each(stack: LocalStack, ports: Iterable[int], statement: str) -> None:
    async def execute(port: int) -> None:
        connection = await asyncpg.connect(postgres.dsn(stack.layout, port, "postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    await asyncio.gather(*(execute(port) for port in ports))


def remove_stale_stacks() -> None:
    """End and remove the stacks of test runs that are no more."""
    for state in TEST_STATES.glob("*[0-9]"):
        if find(state / "owner.pid") is None:
            _remove(state)
