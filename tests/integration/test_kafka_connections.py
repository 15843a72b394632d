"""Connections to a real broker that are closed just before something is written to them."""

import asyncio

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from shared.kafka_clients import client_options
from shared.settings import KafkaSettings


def test_one_that_uvloop_has_closed_is_a_broken_one(kafka_settings: KafkaSettings) -> None:
    async def scenario() -> None:
        client = AIOKafkaClient(**client_options(kafka_settings, "closed"))
        await client.bootstrap()
        try:
            (broker,) = (node.nodeId for node in client.cluster.brokers())
            await client.send(broker, MetadataRequest([]))
            connection = client._conns[broker, ConnectionGroup.DEFAULT]
            connection._writer.transport.abort()
            await asyncio.sleep(0)

            with pytest.raises(KafkaConnectionError):
                connection.send(MetadataRequest([]))

            assert await client.send(broker, MetadataRequest([]))
        finally:
            await client.close()

    uvloop.run(scenario())


async def test_another_fault_is_not_taken_for_a_closed_connection(
    kafka_settings: KafkaSettings,
) -> None:
    class Unsupported:
        def prepare(self, _: object) -> None:
            raise NotImplementedError

    client = AIOKafkaClient(**client_options(kafka_settings, "unsupported"))
    await client.bootstrap()
    try:
        (broker,) = (node.nodeId for node in client.cluster.brokers())
        with pytest.raises(NotImplementedError):
            await client.send(broker, Unsupported())

        assert await client.send(broker, MetadataRequest([]))
    finally:
        await client.close()
