"""Take updates over HTTP and keep them in Kafka."""

import asyncio
import gc
import signal
import sys
from typing import Final

import uvloop

from ingest_api.service import run
from ingest_api.settings import IngestSettings
from shared.errors import Misconfigured
from shared.logs import configure_logs
from shared.settings import load
from shared.usage import usage

_EXAMPLE: Final = """\
TIDEMARK_KAFKA__BOOTSTRAP_SERVERS=kafka-1:9092,kafka-2:9092 TIDEMARK_LISTEN__HOST=0.0.0.0 \\
  python -m ingest_api"""


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    if arguments:
        wants_help = arguments in (["--help"], ["-h"])
        text = usage("python -m ingest_api", __doc__ or "", IngestSettings, _EXAMPLE)
        (sys.stdout if wants_help else sys.stderr).write(text)
        return 0 if wants_help else 2
    status = 0
    try:
        settings = load(IngestSettings)
        configure_logs(settings.log_level)
        _spare_the_collector()
        uvloop.run(_until_signalled(settings))
    except* Misconfigured as group:
        sys.stderr.write(f"{_first(group)}\n")
        status = 2
    return status


async def _until_signalled(settings: IngestSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)


def _spare_the_collector() -> None:
    """Keep the garbage collector from looking at everything all the time.

    What lives now lives to the end. What a request makes is mostly freed without the collector,
    which by default looks after every 700 new objects: a fifth of a busy server's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _first(group: BaseExceptionGroup[Misconfigured]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
