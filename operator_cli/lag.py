"""How far behind the consumers are, seen from Kafka alone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import structlog
from starlette.applications import Starlette

from operator_cli.conventions import say_if_none_committed
from shared.errors import Transient
from shared.lag import TOTAL, Lag, LagHistory
from shared.lag_reader import LagReader, open_lag_reader
from shared.metrics import Exporter, Metric
from shared.serving import serving
from shared.settings import KafkaSettings, ListenSettings
from shared.telemetry import Read, metrics_route, open_telemetry
from shared.topology import ShardMap

log = structlog.get_logger()


async def follow(
    kafka: KafkaSettings, group: str, shard_map: ShardMap, interval_s: float
) -> AsyncIterator[Sequence[Lag]]:
    """Yield the lags by shard, and in all at the end, every `interval_s`; the first has no rates.

    Raises:
        Misconfigured: Kafka forbids it.
        Transient: Kafka cannot be asked.
    """
    history = LagHistory()
    async with open_lag_reader(kafka, group) as reader:
        while True:
            look = await reader.look()
            if history.latest is None:
                say_if_none_committed(look, group)
            history.add(look)
            yield history.by_shard(shard_map.shards)
            await asyncio.sleep(interval_s)


async def export(
    kafka: KafkaSettings,
    group: str,
    shard_map: ShardMap,
    *,
    listen: ListenSettings,
    interval_s: float,
    started: Callable[[int], None],
) -> None:
    """Serve `/metrics` until SIGTERM or SIGINT; tell `started` the port.

    While Kafka cannot be asked there are no numbers: old ones would say that all is well.

    Raises:
        Misconfigured: Kafka forbids it, or the address cannot be bound.
        Transient: Kafka cannot be reached at the start.
    """
    current = _Current()
    async with (
        open_lag_reader(kafka, group) as reader,
        open_telemetry("tidemark-lag", _reads(current, shard_map)) as telemetry,
        serving(Starlette(routes=[metrics_route(telemetry)]), listen) as port,
    ):
        started(port)
        looking = asyncio.create_task(_look_for_ever(current, reader, interval_s), name="lag")
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if looking.done():
            await looking
        looking.cancel()


class _Current:
    """What is known now."""

    def __init__(self) -> None:
        self.history = LagHistory()


async def _look_for_ever(current: _Current, reader: LagReader, interval_s: float) -> None:
    while True:
        try:
            current.history.add(await reader.look())
        except Transient as error:
            log.warning("lag.unknown", reason=str(error))
            current.history = LagHistory()
        await asyncio.sleep(interval_s)


def _reads(current: _Current, shard_map: ShardMap) -> Mapping[Metric, Read]:
    def of(value: Callable[[Lag], float]) -> Read:
        def read() -> list[tuple[float, dict[str, str]]]:
            if current.history.latest is None:
                return []
            lags = current.history.by_shard(shard_map.shards)
            return [(value(lag), {"shard": lag.name}) for lag in lags if lag.name != TOTAL]

        return read

    return {
        Exporter.message_lag: of(lambda lag: lag.message_lag),
        Exporter.partition_lag_max: of(lambda lag: lag.partition_max),
        Exporter.oldest_age: of(lambda lag: lag.time_lag_s),
        Exporter.catch_up: of(lambda lag: lag.catch_up_s),
        Exporter.accepted: of(lambda lag: lag.accepted),
        Exporter.committed: of(lambda lag: lag.done),
    }
