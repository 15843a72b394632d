"""What every aiokafka client of ours shares: addresses, TLS, SASL, time-outs, the topic check."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.helpers import create_ssl_context

from shared.errors import Misconfigured, Transient
from shared.kafka_connections import outlive_closed_connections
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS

log = structlog.get_logger()

FORBIDDEN: Final = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
)
"""What Kafka answers where a grant is missing; aiokafka has no base class for them."""

_BACKOFF_BASE_S: Final = 0.2
_BACKOFF_CAP_S: Final = 5.0
_TOPIC_APPEARS_WITHIN_S: Final = 3.0
"""How long after its creation a topic may still be unknown to a broker."""

T = TypeVar("T")


def client_options(kafka: KafkaSettings, client_id: str) -> dict[str, Any]:
    """Return keyword arguments for any aiokafka client.

    Raises:
        Misconfigured: a certificate or key file cannot be loaded.
    """
    outlive_closed_connections()
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": client_id,
        "request_timeout_ms": kafka.request_timeout_ms,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.sasl_password is not None:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=kafka.ssl_ca_file, certfile=kafka.ssl_cert_file, keyfile=kafka.ssl_key_file
        )
    except OSError as error:  # ssl.SSLError is one too
        raise Misconfigured(
            f"Kafka's TLS files cannot be loaded ({error.strerror or error}); check ssl_ca_file, "
            "ssl_cert_file and ssl_key_file."
        ) from error
    return context


async def close_client(stop: Coroutine[Any, Any, None], *, timeout_s: float) -> None:
    """Run an aiokafka client's `stop()` to its end, within `timeout_s`.

    Without a broker it may hang, or raise the cancellation of a task of its own, which here would
    look like ours: so it runs in a task apart.
    """
    closing = asyncio.create_task(stop, name="kafka-close")
    try:
        await asyncio.wait({closing}, timeout=timeout_s)
    finally:
        if not closing.done():
            closing.cancel()
            log.warning("kafka.close_timed_out")
        elif closing.cancelled() or closing.exception():
            log.warning("kafka.close_failed")


async def until_reachable(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat what needs a broker, such as a client's `start()`, until there is one."""
    backoff_s = _BACKOFF_BASE_S
    while True:
        try:
            return await attempt()
        # aiokafka says the second where it got no answer about a topic's partitions.
        except (KafkaConnectionError, UnknownTopicOrPartitionError, Transient) as error:
            log.warning("kafka.not_ready", reason=type(error).__name__, retry_in_s=backoff_s)
        await asyncio.sleep(backoff_s)
        backoff_s = min(backoff_s * 2, _BACKOFF_CAP_S)


async def require_topics(kafka: KafkaSettings, others: Mapping[str, int | None] = {}) -> None:
    """Wait for a broker, and check that updates have a topic of 720 partitions, and `others` one.

    `others` may say how many partitions each must have, too.

    Raises:
        Misconfigured: one is missing or hidden from us, or has another number of partitions.
    """
    wanted = {kafka.topic: PARTITIONS, **others}
    missing_s = 0.0
    while True:
        counts = await until_reachable(lambda: count_partitions(kafka))
        for topic, count in wanted.items():
            found = counts.get(topic)
            if None not in (found, count) and found != count:
                raise Misconfigured(
                    f"Topic {topic} has {found} partitions, but an app's partition is computed "
                    f"for {count}; name a topic made by `tidemark topics create`."
                )
        missing = [topic for topic in wanted if topic not in counts]
        if not missing:
            return
        if missing_s >= _TOPIC_APPEARS_WITHIN_S:
            raise no_topic(missing[0])
        await asyncio.sleep(_BACKOFF_BASE_S)
        missing_s += _BACKOFF_BASE_S


def unasked(kafka: KafkaSettings) -> Transient:
    """Return the error that says so."""
    return Transient(
        f"Kafka at {kafka.bootstrap_servers} could not be asked; start it, or name its brokers "
        "with TIDEMARK_KAFKA__BOOTSTRAP_SERVERS."
    )


def no_topic(topic: str) -> Misconfigured:
    """Return the error that says so."""
    return Misconfigured(
        f"Topic {topic} does not exist, or may not be described; create it with "
        "`tidemark topics create`, or grant Describe on it."
    )


async def count_partitions(kafka: KafkaSettings) -> Mapping[str, int]:
    """Count the partitions of every topic that is there and may be described.

    Raises:
        Misconfigured: Kafka does not let us ask.
        Transient: Kafka cannot be reached.
    """
    admin = AIOKafkaAdminClient(**client_options(kafka, "tidemark-check"))
    try:
        await admin.start()
        # All of them: a broker may be set up to create a topic that is asked for by name.
        topics = await admin.describe_topics()
    except KafkaError as error:
        if error.retriable:
            raise unasked(kafka) from error
        raise Misconfigured(
            f"Kafka refuses to describe topics ({type(error).__name__}); check the credentials "
            "and grant Describe."
        ) from error
    finally:
        await admin.close()
    return {each["topic"]: len(each["partitions"]) for each in topics if each["partitions"]}
