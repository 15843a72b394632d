"""The HTTP side with something else behind it: nothing at all, or Postgres in the request.

As Tidemark serves it, but for `FASTAPI`, which stores nothing and is served by FastAPI itself.
"""

import asyncio
import contextlib
import gc
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import uvloop

from ingest_api.app import create_app
from ingest_api.auth import Access
from ingest_api.direct_routes import DirectApp
from ingest_api.health import Readiness
from ingest_api.idempotency import UsedKeys
from ingest_api.limits import Limits
from ingest_api.own_counts import OwnCounts
from ingest_api.publishing import Publisher
from ingest_api.receipt_desk import ReceiptDesk
from ingest_api.settings import NO_LIMITS, BodySettings, IdempotencySettings, ReceiptSettings
from shared.serving import serving
from shared.settings import KafkaSettings, ListenSettings, read_shard_map
from shared.topology import partition_of

NOTHING: Final = "nothing"
FASTAPI: Final = "fastapi"
TWIN: Final = "twin"
_POOL_SIZE: Final = 10
_SQL: Final = """
UPDATE subscriptions SET tags = jsonb_strip_nulls(tags || $3::jsonb), updated_at = now()
WHERE app_id = $1 AND subscription_id = $2
"""


class _Reached:
    connected_once = True


class _AnswersAtOnce:
    """Stores nothing."""

    async def publish(self, app_id: str, values: Sequence[bytes]) -> list[str]:  # noqa: ARG002
        return ["0.0.0"] * len(values)


@dataclass(frozen=True, slots=True)
class _UpdatesInTheRequest:
    """The design that Tidemark replaces: the answer waits for the row."""

    pools: Sequence[Any]
    """By partition."""

    async def publish(self, app_id: str, values: Sequence[bytes]) -> list[str]:
        pool = self.pools[partition_of(app_id)]
        rows = []
        for value in values:
            update = json.loads(value)
            rows.append((app_id, update["subscription_id"], json.dumps(update["tags"])))
        if len(rows) == 1:
            await pool.execute(_SQL, *rows[0])
        else:
            rows.sort()  # two batches that write the same rows must not wait for each other
            await pool.executemany(_SQL, rows)
        return ["0.0.0"] * len(values)


@contextlib.asynccontextmanager
async def _publisher(kind: str, shard_map: Path) -> AsyncIterator[Publisher]:
    if kind in (NOTHING, FASTAPI):
        yield _AnswersAtOnce()
        return
    directory = read_shard_map(shard_map)
    pools = {
        name: await asyncpg.create_pool(dsn.get_secret_value(), max_size=_POOL_SIZE)
        for name, dsn in directory.dsns.items()
    }
    yield _UpdatesInTheRequest([pools[directory.map.shard_of(n).name] for n in range(720)])
    for pool in pools.values():
        pool.terminate()


async def _serve(kind: str, shard_map: Path, port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with _publisher(kind, shard_map) as publisher:
        app = create_app(
            publisher,
            Readiness(_Reached()),
            access=Access(None),
            limits=Limits(NO_LIMITS, OwnCounts(NO_LIMITS)),
            receipts=ReceiptDesk(KafkaSettings(), ReceiptSettings()),
            body=BodySettings(),
            used_keys=UsedKeys(IdempotencySettings()),
        )
        served = app if kind == FASTAPI else DirectApp(app)
        async with serving(served, ListenSettings(port=port)):
            # As the real one does at its start.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            await stop.wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
