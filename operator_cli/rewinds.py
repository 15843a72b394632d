"""Let a group read a shard's partitions again from an earlier time, after the shard was restored.

A restored row stands at an older position. Whatever is applied to it next hides the updates between
for good, so the group goes back before anybody writes: it must have no member.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from shared.errors import Misconfigured, Transient
from shared.kafka_clients import client_options, close_client
from shared.settings import KafkaSettings
from shared.topic_reader import open_reader
from shared.topology import Shard

_CLIENT: Final = "tidemark-rewind"
_STATES_WITHOUT_MEMBERS: Final = ("Empty", "Dead")


@dataclass(frozen=True, slots=True)
class Rewind:
    """One partition: where the group stands, and where it would go back to."""

    partition: int
    committed: int
    target: int

    @property
    def records(self) -> int:
        """How many records would be read again, at most."""
        return max(0, self.committed - self.target)


async def plan_rewind(
    kafka: KafkaSettings, group: str, shard: Shard, since_ms: int, now_ms: int
) -> list[Rewind]:
    """Return where the group would go in each of the shard's partitions.

    Args:
        kafka: where, and the topic of updates.
        group: the consumers' group.
        shard: the shard that was restored.
        since_ms: Unix time of acceptance of the first update to be read again.
        now_ms: Unix time now.

    Raises:
        Misconfigured: the group has members or never read any of it, the time is yet to come, or
            updates since then may have been removed.
        Transient: Kafka cannot be asked.
    """
    if since_ms > now_ms:
        raise Misconfigured("That time is yet to come: name the one when the backup began.")
    named = [TopicPartition(kafka.topic, each) for each in shard.partitions]
    admin = AIOKafkaAdminClient(**client_options(kafka, _CLIENT))
    try:
        await admin.start()
        await _require_no_members(admin, group)
        retention_ms = await _retention_ms(admin, kafka.topic)
        offsets = await admin.list_consumer_group_offsets(group, partitions=named)
    except (KafkaError, OSError, TimeoutError) as error:
        raise Transient(f"Kafka could not be asked ({type(error).__name__}).") from error
    finally:
        await admin.close()
    if 0 <= retention_ms < now_ms - since_ms:
        raise Misconfigured(
            f"Updates are kept for {retention_ms / 86_400_000:.1f} days, and that was before: what "
            "is missing cannot be replayed; restore a later backup."
        )
    if all(offsets[each].offset < 0 for each in named):
        raise Misconfigured(
            f"Group {group} has committed nothing in the partitions of {shard.name}, so there is "
            "nothing to set back; name the consumers' group with --group or TIDEMARK_GROUP__ID."
        )
    async with open_reader(kafka, kafka.topic, _CLIENT) as reader:
        beginnings = await reader.beginnings(shard.partitions)
        ends = await reader.ends(shard.partitions)
        at_time = await reader.at_time(shard.partitions, since_ms)
    rewinds = []
    for tp in named:
        partition = tp.partition
        committed = max(0, offsets[tp].offset)
        at = at_time[partition]
        target = min(committed, ends[partition] if at is None else at)
        if at is not None and at == beginnings[partition] > 0:
            raise Misconfigured(
                f"Partition {partition} has nothing from before that time any more, so updates "
                "since then may have been removed; restore a later backup."
            )
        rewinds.append(Rewind(partition, committed, target))
    return rewinds


async def rewind(kafka: KafkaSettings, group: str, rewinds: Sequence[Rewind]) -> None:
    """Set the group back; it has no member, or Kafka refuses.

    Raises:
        Misconfigured: a member joined meanwhile.
        Transient: Kafka did not take it; nothing is half done, as a repetition sets the same.
    """
    client = AIOKafkaConsumer(
        **client_options(kafka, _CLIENT), group_id=group, enable_auto_commit=False
    )
    targets = {TopicPartition(kafka.topic, each.partition): each.target for each in rewinds}
    try:
        await client.start()
        client.assign(list(targets))
        await client.commit(targets)
    except KafkaError as error:
        if not error.retriable:
            raise Misconfigured(
                f"Kafka refuses to set group {group} back ({type(error).__name__}); stop every "
                "consumer and run this again."
            ) from error
        raise Transient(f"Kafka did not take it ({type(error).__name__}).") from error
    finally:
        await close_client(client.stop(), timeout_s=kafka.request_timeout_ms / 1000)


async def _require_no_members(admin: AIOKafkaAdminClient, group: str) -> None:
    for answer in await admin.describe_consumer_groups([group]):
        for description in answer.groups:
            state, members = description[2], description[5]
            if state not in _STATES_WITHOUT_MEMBERS:
                raise Misconfigured(
                    f"Group {group} has {len(members)} members: stop every consumer for good first "
                    "(scale to 0, or send SIGUSR1), or wait for the end of their sessions."
                )


async def _retention_ms(admin: AIOKafkaAdminClient, topic: str) -> int:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": None})
    (answer,) = await admin.describe_configs([resource])
    return int(answer.resources[0][4][0][1])
