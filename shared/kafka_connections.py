"""Connections to brokers, of which a closed one is a broken one under uvloop as well.

uvloop raises `RuntimeError` where something is written to a connection that was just closed;
asyncio's own loop drops it, and the reader finds out. aiokafka knows `OSError` only, so it would be
the end of a consumer or of a producer (aio-libs/aiokafka#1038) instead of a reason to connect
again. Written against aiokafka 0.14; `tests/integration/test_kafka_connections.py` holds it to its
word.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


def _closed_is_broken(send: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(send)
    def sending(connection: AIOKafkaConnection, *args: Any, **options: Any) -> Any:
        try:
            return send(connection, *args, **options)
        except RuntimeError as error:
            writer = connection._writer  # noqa: SLF001 - None where it is known to be closed
            if writer is None or not writer.transport.is_closing():
                raise  # another one, such as any KafkaError
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(
                f"Connection at {connection.host}:{connection.port} is closed."
            ) from error

    return sending


_send = _closed_is_broken(AIOKafkaConnection.send)
_send_sasl_token = _closed_is_broken(AIOKafkaConnection._send_sasl_token)  # noqa: SLF001


def outlive_closed_connections() -> None:
    """Have all of this process' aiokafka clients connect again after a closed connection."""
    AIOKafkaConnection.send = _send
    AIOKafkaConnection._send_sasl_token = _send_sasl_token  # noqa: SLF001
