"""Fixtures that need real parts; a test that asks for none of them starts nothing."""

import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from pydantic import SecretStr

from deploy.local.stack import LocalStack
from deploy.local.testing import fresh_databases, fresh_topic, temporary_stack
from shared.settings import KafkaSettings


def pytest_configure() -> None:
    # A run that is told to end takes its broker and shards with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _clients_make_their_own_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer in this process changes what all of them make; no longer than its test lasts."""
    monkeypatch.setattr(PartitionRecords, "_consumer_record", PartitionRecords._consumer_record)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """A broker and four shards, for this run only."""
    with temporary_stack(topics_in_memory=True) as started:
        yield started


@pytest.fixture
async def kafka_settings(stack: LocalStack) -> AsyncIterator[KafkaSettings]:
    """A topic of 720 partitions and its dead-letter topic, for this test only."""
    async with fresh_topic(stack, f"updates-{uuid.uuid4().hex[:12]}") as kafka:
        yield kafka


@pytest.fixture
def topic(kafka_settings: KafkaSettings) -> str:
    """The name of this test's topic."""
    return kafka_settings.topic


@pytest.fixture
async def databases(stack: LocalStack) -> AsyncIterator[Mapping[str, SecretStr]]:
    """The DSNs of empty, migrated databases by shard name, for this test only."""
    async with fresh_databases(stack, f"test_{uuid.uuid4().hex[:12]}") as dsns:
        yield dsns


@pytest.fixture
async def database(stack: LocalStack) -> AsyncIterator[SecretStr]:
    """The DSN of an empty, migrated database of one shard, for this test only."""
    async with fresh_databases(stack, f"test_{uuid.uuid4().hex[:12]}", shards=1) as dsns:
        (dsn,) = dsns.values()
        yield dsn


@pytest.fixture
def shard_map_file(stack: LocalStack, databases: Mapping[str, SecretStr], tmp_path: Path) -> Path:
    """A shard map of this test's databases."""
    path = tmp_path / "shard_map.json"
    stack.write_shard_map(path, {name: dsn.get_secret_value() for name, dsn in databases.items()})
    return path
