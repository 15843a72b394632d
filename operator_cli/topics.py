"""Create the topics that Tidemark needs; never change or delete one, but say where it differs."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.errors import Misconfigured, Transient
from shared.holds import HELD_PARTITIONS
from shared.kafka_clients import client_options
from shared.settings import KafkaSettings
from shared.topic_reader import open_reader
from shared.topology import PARTITIONS

DEAD_LETTER_PARTITIONS: Final = 12
RETENTION_DAYS: Final = 7
_REPLICAS_WANTED: Final = 3
_MS_PER_DAY: Final = 86_400_000
_KNOWN_TIMEOUT_S: Final = 60
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is now, whether it was made just now, and which settings are not as wanted."""

    name: str
    partitions: int
    created: bool
    differences: Sequence[str] = field(default_factory=list)


async def create_topics(
    kafka: KafkaSettings,
    *,
    replication_factor: int | None = None,
    min_insync_replicas: int | None = None,
    retention_days: int = RETENTION_DAYS,
) -> list[TopicState]:
    """Create the topic of updates, and those of dead letters and holds, where they are missing.

    Args:
        kafka: where, and the topic's name.
        replication_factor: copies of each partition; by default three, or as many as there are
            brokers.
        min_insync_replicas: how many of them must have a record before it is acknowledged; by
            default two, or one less than the copies if that is fewer.
        retention_days: how long updates are kept.

    Raises:
        Misconfigured: a topic exists with another number of partitions, or Kafka refuses.
        Transient: Kafka cannot be reached.
    """
    wanted = {
        kafka.topic: PARTITIONS,
        kafka.dead_letter_topic: DEAD_LETTER_PARTITIONS,
        kafka.held_topic: HELD_PARTITIONS,
        kafka.holds_topic: 1,
    }
    configs = {
        kafka.topic: {"retention.ms": str(retention_days * _MS_PER_DAY)},
        # What waits for an operator is never removed by age.
        kafka.dead_letter_topic: {"retention.ms": "-1"},
        kafka.held_topic: {"retention.ms": "-1"},
        kafka.holds_topic: {"cleanup.policy": "compact"},
    }
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin, wanted)
        missing = {name: count for name, count in wanted.items() if name not in found}
        created = set()
        if missing:
            brokers = len((await admin.describe_cluster())["brokers"])
            factor = replication_factor or min(_REPLICAS_WANTED, brokers)
            in_sync = min_insync_replicas or min(2, max(1, factor - 1))
            for name in wanted:
                configs[name]["min.insync.replicas"] = str(in_sync)
            created = await _create(
                admin,
                [
                    NewTopic(name, count, factor, topic_configs=configs[name])
                    for name, count in missing.items()
                ],
            )
            found = await _wait_until_known(admin, wanted)
        elif min_insync_replicas:
            for name in wanted:
                configs[name]["min.insync.replicas"] = str(min_insync_replicas)
        differences = await _differences(admin, configs)
    for name, count in found.items():
        if count != wanted[name]:
            raise Misconfigured(
                f"Topic {name} has {count} partitions where {wanted[name]} are needed; "
                "create it anew under another name, or delete it once nothing in it matters."
            )
    return [
        TopicState(name, count, name in created, differences[name])
        for name, count in wanted.items()
    ]


async def wait_until_served(kafka: KafkaSettings, states: Sequence[TopicState]) -> None:
    """Wait until brokers serve each partition of those topics that were made just now.

    That takes some seconds, in which whoever sends an update would wait for its answer.

    Raises:
        Transient: it takes too long.
    """
    patient = kafka.model_copy(update={"request_timeout_ms": _KNOWN_TIMEOUT_S * 1000})
    for state in states:
        if state.created:
            async with open_reader(patient, state.name, "tidemark-topics") as reader:
                await reader.ends(range(state.partitions))  # repeats what is not answered yet


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**client_options(kafka, "tidemark-topics"))
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(
            f"Kafka at {kafka.bootstrap_servers} could not be asked: "
            f"{str(error) or type(error).__name__}."
        ) from error
    finally:
        await admin.close()


async def _partition_counts(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, int]
) -> dict[str, int]:
    # All of them: a broker may be set up to create a topic that is asked for by name.
    topics: list[dict[str, Any]] = await admin.describe_topics()
    return {each["topic"]: len(each["partitions"]) for each in topics if each["topic"] in wanted}


async def _differences(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Say of each topic which of its settings are not as wanted."""
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, name, configs=dict.fromkeys(configs))
        for name, configs in wanted.items()
    ]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(resources):
        for _code, _message, _type, name, entries in answer.resources:
            found[name] = {entry[0]: entry[1] for entry in entries}
    return {
        name: [
            f"{key} is {found[name][key]} where {value} is wanted"
            for key, value in configs.items()
            if found[name][key] != value
        ]
        for name, configs in wanted.items()
    }


async def _wait_until_known(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, int]
) -> dict[str, int]:
    """Wait until brokers tell clients of topics that the controller has created."""
    async with asyncio.timeout(_KNOWN_TIMEOUT_S):
        while True:
            found = await _partition_counts(admin, wanted)
            if found.keys() == wanted.keys():
                return found
            await asyncio.sleep(_POLL_S)


async def _create(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> set[str]:
    """Create topics; return those that nobody else created meanwhile."""
    response = await admin.create_topics(topics)
    created = set()
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if not code:
            created.add(name)
        elif error is not TopicAlreadyExistsError:
            raise Misconfigured(f"Kafka refuses to create {name}: {message or error.__name__}")
    return created
