"""Consumers for tests: inside the test's loop, or as processes of their own."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from consumer.service import run
from consumer.settings import ConsumerSettings, GroupSettings
from deploy.local import credentials
from deploy.local.layout import CHECKOUT
from shared.settings import KafkaSettings, ListenSettings
from shared.topic_reader import open_reader, require_partitions
from shared.topology import partition_of
from shared.updates import Update, encode
from tests.records import body_of
from verification.oracle import Ledger

FAST_GROUP = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 300, "drain_timeout_ms": 3_000}
"""The shortest session that a broker allows, so that a member that died is replaced soon."""


def group_of(kafka: KafkaSettings) -> str:
    """A group of the test's own, as its topic is: members that were killed stay a while."""
    return f"of-{kafka.topic}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def consumer_settings(
    kafka: KafkaSettings, shard_map_file: Path, **fields: Any
) -> ConsumerSettings:
    return ConsumerSettings(
        kafka=kafka,
        shard_map_file=shard_map_file,
        **{
            "group": fast_group(group_of(kafka)),
            "listen": ListenSettings(port=0),
            **fields,
        },
    )


def fast_group(name: str, **fields: Any) -> GroupSettings:
    return GroupSettings.model_validate(
        {"id": name, **FAST_GROUP, "commit_interval_ms": 50, **fields}
    )


@asynccontextmanager
async def running_consumer(settings: ConsumerSettings) -> AsyncIterator[asyncio.Event]:
    """Run a consumer in this loop; leaving the block (or setting the event) drains it."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run(settings, stop), name="consumer-under-test")
        try:
            yield stop
        finally:
            stop.set()


class ServiceProcess:
    """One of our services as a real process."""

    def __init__(self, module: str, environment: Mapping[str, str], port: int) -> None:
        self._module = module
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self.port = port
        self.output = b""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            cwd=CHECKOUT,
            env={"PATH": os.defpath, "PYTHONPATH": str(CHECKOUT), **self._environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(65_536):
            self.output += chunk

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def wait_ready(self) -> None:
        while not await asyncio.to_thread(self._is_ready):
            assert self._process is not None
            assert self._process.returncode is None, self.output.decode()
            await asyncio.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                return True
        except OSError:
            return False

    async def status(self) -> Mapping[str, Any]:
        def read() -> Mapping[str, Any]:
            with urllib.request.urlopen(f"{self.url}/status", timeout=5) as answer:
                found: Mapping[str, Any] = json.load(answer)
                return found

        return await asyncio.to_thread(read)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal that it survives, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        status = await self._process.wait()
        await self._reading
        return status

    async def wait(self) -> int:
        assert self._process is not None
        status = await self._process.wait()
        await self._reading
        return status


@asynccontextmanager
async def service_process(
    module: str, environment: Mapping[str, str]
) -> AsyncIterator[ServiceProcess]:
    """Start a service on a free port; it is killed at the end if it still runs."""
    port = free_port()
    process = ServiceProcess(module, {**environment, "TIDEMARK_LISTEN__PORT": str(port)}, port)
    await process.start()
    try:
        yield process
    finally:
        await process.end(signal.SIGKILL)


def kafka_environment(kafka: KafkaSettings) -> dict[str, str]:
    return {
        "TIDEMARK_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "TIDEMARK_KAFKA__TOPIC": kafka.topic,
    }


def ingest_environment(kafka: KafkaSettings) -> dict[str, str]:
    return {**kafka_environment(kafka), **credentials.variables()}


def consumer_environment(
    kafka: KafkaSettings, shard_map_file: Path, instance: str | None = None
) -> dict[str, str]:
    variables = {
        **kafka_environment(kafka),
        "TIDEMARK_SHARD_MAP_FILE": str(shard_map_file),
        "TIDEMARK_GROUP__ID": group_of(kafka),
        **{f"TIDEMARK_GROUP__{name.upper()}": str(value) for name, value in FAST_GROUP.items()},
    }
    if instance is not None:
        variables["TIDEMARK_GROUP__INSTANCE_ID"] = instance
    return variables


async def produce(kafka: KafkaSettings, updates: Sequence[Update], ledger: Ledger) -> None:
    """Produce updates as `ingest_api` would, and note each with its position."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, acks="all", enable_idempotence=True
    )
    await producer.start()
    try:
        sent = [
            await producer.send(
                kafka.topic,
                key=update.app_id.encode(),
                value=encode(update),
                partition=partition_of(update.app_id),
            )
            for update in updates
        ]
        for update, future in zip(updates, sent, strict=True):
            at = await future
            receipt = f"{kafka.topic_epoch}.{at.partition}.{at.offset}"
            ledger.accept((update.app_id, update.subscription_id), body_of(update), receipt)
    finally:
        await producer.stop()


async def read_topic(kafka: KafkaSettings, topic: str) -> list[Any]:
    """Return every record that is in a topic now."""
    partitions = range(await require_partitions(kafka, topic))
    async with open_reader(kafka, topic, "tidemark-test") as reader:
        starts, ends = await reader.beginnings(partitions), await reader.ends(partitions)
        return [each async for records in reader.read(starts, ends) for each in records]
