"""structlog to stdout: JSON for machines, a readable console on a terminal."""

import logging
import sys
import time
from typing import Final, Literal

import structlog

_SAME_MESSAGE_INTERVAL_S: Final = 30.0

LogLevel = Literal["debug", "info", "warning", "error"]


class _OncePer:
    """Let a library say the same once per `interval_s`: of a broker that is down it says a lot."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._said_at: dict[str, float] = {}

    def __call__(self, record: logging.LogRecord) -> bool:
        """Say whether a record is to be logged; what it is about does not count, only its text."""
        now = time.monotonic()
        said_at = self._said_at.get(str(record.msg))
        if said_at is not None and now - said_at < self._interval_s:
            return False
        self._said_at[str(record.msg)] = now
        return True


def configure_logs(level: LogLevel = "info") -> None:
    """Send every log line, structlog's and the libraries', to stdout in one form.

    An event is a noun and what happened to it (`partition.revoked`), facts are fields.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stdout.isatty()
    render: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    repeated = _OncePer(_SAME_MESSAGE_INTERVAL_S)
    handler.addFilter(lambda record: not record.name.startswith("aiokafka") or repeated(record))
    for chatty in ("aiokafka", "asyncio", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
