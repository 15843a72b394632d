"""How far a consumer group has come, read from Kafka alone."""

import asyncio
from collections.abc import Callable, Mapping

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.kafka_clients import client_options
from shared.settings import KafkaSettings


async def wait_until_committed(
    kafka: KafkaSettings,
    group: str,
    ends: Mapping[int, int],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Wait until the group has committed every partition up to its end.

    `ends` has by partition the offset just after the last record that matters; `on_progress` is
    told how many records are still waiting. The caller bounds the time.
    """
    admin = AIOKafkaAdminClient(**client_options(kafka, "tidemark-verification"))
    await admin.start()
    try:
        while True:
            offsets = await _committed(admin, group, kafka.topic)
            waiting = sum(
                max(0, end - max(0, offsets.get(partition, 0))) for partition, end in ends.items()
            )
            on_progress(waiting)
            if not waiting:
                return
            await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def _committed(admin: AIOKafkaAdminClient, group: str, topic: str) -> Mapping[int, int]:
    try:
        committed = await admin.list_consumer_group_offsets(group)
    except KafkaError as error:
        if not error.retriable:  # the group's coordinator may be on its way
            raise
        return {}
    return {tp.partition: at.offset for tp, at in committed.items() if tp.topic == topic}
