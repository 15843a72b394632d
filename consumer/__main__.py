"""`python -m consumer`: settings from the environment, signals, exit codes."""

import asyncio
import gc
import signal
import sys
from collections.abc import Iterator

import structlog
import uvloop

from consumer.service import run
from consumer.settings import ConsumerSettings
from shared.errors import Misconfigured
from shared.logs import configure_logs
from shared.settings import load
from shared.usage import usage

_EXAMPLE = """\
TIDEMARK_KAFKA__BOOTSTRAP_SERVERS=kafka-1:9092,kafka-2:9092 \\
TIDEMARK_SHARD_MAP_FILE=/etc/tidemark/shard_map.json \\
TIDEMARK_GROUP__INSTANCE_ID=consumer-0 \\
python -m consumer"""


def _tune_garbage_collection() -> None:
    """Look for cycles less often: records in flight make none, and there are many of them."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _run(settings: ConsumerSettings) -> None:
    stop, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def stop_for_good() -> None:
        leave.set()
        stop.set()

    loop.add_signal_handler(signal.SIGUSR1, stop_for_good)
    await run(settings, stop, leave=leave)


def _each(group: BaseExceptionGroup[Misconfigured]) -> Iterator[Misconfigured]:
    """Yield the errors in a group of groups: each task group on their way wraps them once more."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


def main() -> int:
    """Consume until SIGTERM or SIGUSR1; 0 after a drain, 2 where a human must act."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(
            usage(
                "python -m consumer",
                "Applies the updates that wait in Kafka to the shards, in order per subscription. "
                "SIGTERM drains, commits and ends it with 0; so does SIGUSR1, which takes it out "
                "of its group as well: it is not to come back. 2 says that a human must act.",
                ConsumerSettings,
                _EXAMPLE,
            )
        )
        return 0
    exit_code = 0
    try:
        settings = load(ConsumerSettings)
        configure_logs(settings.log_level)
        _tune_garbage_collection()
        uvloop.run(_run(settings))
    except* Misconfigured as group:
        for error in _each(group):
            sys.stderr.write(f"consumer: {error}\n")
        exit_code = 2
    return exit_code


if __name__ == "__main__":
    structlog.contextvars.bind_contextvars(service="consumer")
    sys.exit(main())
