"""Topics that are not as ours are."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.settings import KafkaSettings
from shared.topology import PARTITIONS


@asynccontextmanager
async def another_topic(
    kafka: KafkaSettings,
    *,
    partitions: int = PARTITIONS,
    configs: Mapping[str, str] | None = None,
) -> AsyncIterator[KafkaSettings]:
    """Create a topic beside the test's own, and wait until it is known; delete it afterwards."""
    name = f"{kafka.topic}-other"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(name, partitions, 1, topic_configs=dict(configs or {}))]
        )
        async with asyncio.timeout(60):
            while name not in await admin.list_topics():
                await asyncio.sleep(0.05)
        yield kafka.model_copy(update={"topic": name})
        await admin.delete_topics([name])
    finally:
        await admin.close()
