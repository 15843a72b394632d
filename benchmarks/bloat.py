"""What fillfactor and autovacuum do to a table that lives on updates.

    python -m benchmarks.bloat --updates 5000000

Each case is a database of its own, written by the consumer's own statement, 1,000 rows at a time.
Updates that would take an hour take a minute here, so autovacuum looks round every 5 s.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Final

import asyncpg
from pydantic import SecretStr

from consumer.folding import RowChange
from consumer.store import open_store
from deploy.local.stack import LocalStack
from deploy.local.testing import fresh_databases, temporary_stack

_ROWS_PER_FLUSH: Final = 1_000
_TUNED: Final = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, "
    "autovacuum_vacuum_cost_delay = 0"
)
_SETTINGS: Final = ", ".join(part.split(" = ")[0] for part in _TUNED.split(", "))
_CASES: Final = [(100, False), (90, False), (90, True), (70, False), (70, True), (50, False)]
_WORDS: Final = ("pro", "basic", "de-AT", "2026-11-20T12:00:00Z", "newsletter-weekly", "x" * 40)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case came to; sizes in MB."""

    fillfactor: int
    autovacuum: str
    hot_share: float
    table_mb: float
    table_compact_mb: float
    index_mb: float
    index_compact_mb: float
    dead_rows: int
    vacuums: int
    updates_per_s: int


def _change(generator: random.Random, app: str, number: int, offset: int) -> RowChange:
    tags = {
        f"tag_{generator.randrange(15)}": generator.choice(_WORDS)
        for _ in range(generator.randint(1, 2))
    }
    return RowChange(
        app,
        str(uuid.UUID(int=number)),
        tags,
        {"language": generator.choice(_WORDS)} if offset % 5 == 0 else {},
        {"session_count": 1},
        {},
        offset,
        offset,
        1_700_000_000_000 + offset,
    )


async def _measure(
    dsn: SecretStr, fillfactor: int, *, tuned: bool, rows: int, updates: int
) -> Outcome:
    connection = await asyncpg.connect(dsn.get_secret_value())
    autovacuum = _TUNED if tuned else ""
    storage = ", ".join(filter(None, [f"fillfactor = {fillfactor}", autovacuum]))
    # Whatever the migrations set is not what is measured here.
    await connection.execute(f"ALTER TABLE subscriptions RESET ({_SETTINGS})")
    await connection.execute(f"ALTER TABLE subscriptions SET ({storage})")
    generator = random.Random(7)
    app = str(uuid.UUID(int=0))
    everyone = range(rows)
    offset = 0
    async with open_store(
        dsn,
        connections_max=1,
        connect_timeout_s=10,
        statement_timeout_s=60,
        lock_timeout_s=10,
        topic_epoch=0,
        create_missing=True,
    ) as store:
        for first in range(0, rows, _ROWS_PER_FLUSH):
            await store.apply(
                [_change(generator, app, first + n, offset + n) for n in range(_ROWS_PER_FLUSH)]
            )
            offset += _ROWS_PER_FLUSH
        began = time.monotonic()
        for done in range(0, updates, _ROWS_PER_FLUSH):
            chosen = generator.sample(everyone, _ROWS_PER_FLUSH)
            await store.apply(
                [_change(generator, app, n, offset + i) for i, n in enumerate(chosen)]
            )
            offset += _ROWS_PER_FLUSH
            if done % 1_000_000 == 0:
                sys.stderr.write(f"fillfactor {fillfactor}, {autovacuum or 'default'}: {done}\n")
        took_s = time.monotonic() - began
    await asyncio.sleep(2)  # statistics are reported with a delay
    (seen,) = await connection.fetch(
        "SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup, autovacuum_count, "
        "pg_table_size(relid) AS size, pg_indexes_size(relid) AS index_size "
        "FROM pg_stat_user_tables WHERE relname = 'subscriptions'"
    )
    await connection.execute("ALTER TABLE subscriptions SET (fillfactor = 100)")
    await connection.execute("VACUUM FULL subscriptions")
    compact = await connection.fetchval("SELECT pg_table_size('subscriptions')")
    index_compact = await connection.fetchval("SELECT pg_indexes_size('subscriptions')")
    await connection.close()
    return Outcome(
        fillfactor=fillfactor,
        autovacuum="eager" if tuned else "default",
        hot_share=round(seen["n_tup_hot_upd"] / seen["n_tup_upd"], 3),
        table_mb=round(seen["size"] / 1e6, 1),
        table_compact_mb=round(compact / 1e6, 1),
        index_mb=round(seen["index_size"] / 1e6, 1),
        index_compact_mb=round(index_compact / 1e6, 1),
        dead_rows=seen["n_dead_tup"],
        vacuums=seen["autovacuum_count"],
        updates_per_s=round(updates / took_s),
    )


async def _run(stack: LocalStack, options: argparse.Namespace) -> list[dict[str, Any]]:
    outcomes = []
    for fillfactor, tuned in _CASES:
        if options.fillfactor and fillfactor not in options.fillfactor:
            continue
        async with fresh_databases(stack, f"bloat_{fillfactor}_{tuned}".lower()) as dsns:
            dsn = dsns["shard-0"]
            server = await asyncpg.connect(dsn.get_secret_value())
            await server.execute("ALTER SYSTEM SET autovacuum_naptime = '5s'")
            await server.execute("SELECT pg_reload_conf()")
            await server.close()
            outcome = await _measure(
                dsn, fillfactor, tuned=tuned, rows=options.rows, updates=options.updates
            )
        outcomes.append(asdict(outcome))
        print(json.dumps(asdict(outcome)), flush=True)
    return outcomes


def main() -> int:
    """Measure every case and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--updates", type=int, default=5_000_000)
    parser.add_argument("--fillfactor", type=int, action="append")
    options = parser.parse_args()
    with temporary_stack() as stack:
        asyncio.run(_run(stack, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
