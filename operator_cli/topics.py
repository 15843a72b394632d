"""Create the topics that Tidemark needs; never change or delete one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.errors import Misconfigured, Transient
from shared.holds import HELD_PARTITIONS
from shared.kafka_clients import client_options
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS

DEAD_LETTER_PARTITIONS: Final = 12
_REPLICAS_WANTED: Final = 3
_KNOWN_TIMEOUT_S: Final = 60
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is now, and whether it was made just now."""

    name: str
    partitions: int
    created: bool


async def create_topics(
    kafka: KafkaSettings, *, replication_factor: int | None = None
) -> list[TopicState]:
    """Create the topic of updates, and those of dead letters and holds, where they are missing.

    Args:
        kafka: where, and the topic's name.
        replication_factor: copies of each partition; by default three, or as many as there are
            brokers.

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
        # Held back for as long as an operator wants, so never removed by age.
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
            created = await _create(
                admin,
                [
                    NewTopic(name, count, factor, topic_configs=configs.get(name))
                    for name, count in missing.items()
                ],
            )
            found = await _wait_until_known(admin, wanted)
    for name, count in found.items():
        if count != wanted[name]:
            raise Misconfigured(
                f"Topic {name} has {count} partitions where {wanted[name]} are needed; "
                "create it anew under another name, or delete it once nothing in it matters."
            )
    return [TopicState(name, count, name in created) for name, count in wanted.items()]


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
