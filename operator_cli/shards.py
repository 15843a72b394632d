"""Look at every shard: schema, clock, size, connections, load, and rows that are not its own."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from operator_cli.migrations import applied_migrations, known_migrations
from operator_cli.shard_connections import raise_failures, reading
from shared.errors import Misconfigured, Transient
from shared.settings import ShardDirectory
from shared.topology import PARTITIONS, Shard, partition_of

CLOCK_OFF_MAX_S: Final = 1.0
"""A clock that is further off makes times in rows misleading; nothing is decided by them."""

_SKEW_MAX: Final = 2.0
_PREFIX_BITS: Final = 16
_CONSUMER: Final = "tidemark-consumer"

_FACTS: Final = """
SELECT
    extract(epoch FROM clock_timestamp())::float8 AS clock,
    pg_total_relation_size(relid) AS bytes,
    greatest(n_live_tup, 0) AS rows,
    n_tup_ins + n_tup_upd AS writes,
    n_tup_hot_upd::float8 / nullif(n_tup_upd, 0) AS hot_share,
    n_dead_tup AS dead_rows,
    (
        SELECT CASE WHEN n_distinct < 0 THEN -n_distinct * n_live_tup ELSE n_distinct END
        FROM pg_stats
        WHERE schemaname = 'public' AND tablename = 'subscriptions' AND attname = 'app_id'
    )::bigint AS apps,
    (
        SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name = $1
    ) AS consumers_connections,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
    current_setting('max_connections')::integer AS connections_max
FROM pg_stat_user_tables
WHERE relid = to_regclass('subscriptions')
"""
_STRAY: Final = """
SELECT app_id FROM subscriptions
WHERE app_id < $1::uuid OR app_id > $2::uuid
LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What a shard says of itself; counts of rows, apps and writes are Postgres's own estimates."""

    schema: int
    clock_off_s: float
    bytes: int
    rows: int
    apps: int | None
    writes: int
    hot_share: float | None
    dead_rows: int
    connections: int
    consumers_connections: int
    connections_max: int
    stray_app: str | None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """A shard, what it says, and what is wrong with it."""

    shard: Shard
    budget: int | None
    facts: ShardFacts | None
    problems: Sequence[str] = field(default_factory=list)
    is_silent: bool = False
    """Whether it cannot be asked, and may answer later."""


async def check(directory: ShardDirectory) -> list[ShardReport]:
    """Ask every shard at once; one that cannot be asked is a report with that problem."""
    newest = len(known_migrations())

    async def report(shard: Shard) -> ShardReport:
        budget = directory.budgets.get(shard.name)
        try:
            facts = await _ask(shard, directory.dsns[shard.name])
        except (Misconfigured, Transient) as error:
            silent = isinstance(error, Transient)
            return ShardReport(shard, budget, None, [str(error)], is_silent=silent)
        return ShardReport(shard, budget, facts, problems(shard, facts, budget, newest))

    return await asyncio.gather(*map(report, directory.map.shards))


def problems(shard: Shard, facts: ShardFacts, budget: int | None, newest: int) -> list[str]:
    """Say in sentences what is wrong with a shard."""
    found = []
    if facts.schema < newest:
        found.append(f"its schema is {facts.schema} of {newest}; run tidemark migrate")
    if facts.schema > newest:
        found.append(
            f"its schema is {facts.schema}, and this program knows {newest}; use a newer one"
        )
    if abs(facts.clock_off_s) > CLOCK_OFF_MAX_S:
        found.append(f"its clock is {facts.clock_off_s:+.1f} s off; synchronise it")
    if facts.stray_app is not None:
        found.append(
            f"it has rows of app {facts.stray_app}, which is not in partitions "
            f"{shard.first} to {shard.last}; was the shard map changed without moving rows?"
        )
    if budget is not None and facts.consumers_connections > budget:
        found.append(
            f"consumers have {facts.consumers_connections} connections of a budget of {budget}; "
            "run fewer, or raise connections_max"
        )
    if budget is not None and budget > facts.connections_max:
        found.append(
            f"its budget is {budget} connections, and the server allows {facts.connections_max}"
        )
    return found


def skew(values: Mapping[str, int]) -> tuple[str, float] | None:
    """Return which shard has the most, and how many times the mean; None if none has any."""
    total = sum(values.values())
    if not total:
        return None
    largest = max(values, key=lambda name: values[name])
    return largest, values[largest] * len(values) / total


def skew_problems(reports: Sequence[ShardReport]) -> list[str]:
    """Say where one shard has much more than its part of the apps, rows or writes."""
    found = []
    for what in ("apps", "rows", "writes"):
        values = {each.shard.name: getattr(each.facts, what) or 0 for each in reports if each.facts}
        worst = skew(values) if len(values) > 1 else None
        if worst is not None and worst[1] > _SKEW_MAX:
            found.append(f"{worst[0]} has {worst[1]:.1f} times the mean of {what}")
    return found


def bounds(shard: Shard) -> tuple[UUID, UUID]:
    """Return the lowest and the highest app ID of a shard."""
    rest = 128 - _PREFIX_BITS

    def first_prefix(partition: int) -> int:
        return -(-(partition << _PREFIX_BITS) // PARTITIONS)

    lowest = first_prefix(shard.first) << rest
    beyond = first_prefix(shard.last + 1) << rest
    return UUID(int=lowest), UUID(int=beyond - 1)


async def require_own_rows(directory: ShardDirectory, names: Collection[str]) -> None:
    """Check that these shards have rows of no other's apps, as a changed shard map would make it.

    Raises:
        Misconfigured: one has; consumers would begin those rows anew where the map says.
        Transient: a shard cannot be asked.
    """

    async def check_one(shard: Shard) -> None:
        async with reading(shard.name, directory.dsns[shard.name]) as connection:
            if await connection.fetchval("SELECT to_regclass('subscriptions')") is None:
                return
            app = await connection.fetchval(_STRAY, *bounds(shard))
        if app is not None:
            owner = directory.map.shard_of(partition_of(str(app)))
            raise Misconfigured(
                f"{shard.name} has rows of app {app}, which the shard map gives to {owner.name}, "
                "where consumers would begin them anew. Put the map back as it was; or move such "
                f"rows, and delete them from {shard.name}."
            )

    shards = [shard for shard in directory.map.shards if shard.name in names]
    raise_failures(await asyncio.gather(*map(check_one, shards), return_exceptions=True))


async def _ask(shard: Shard, dsn: SecretStr) -> ShardFacts:
    async with reading(shard.name, dsn) as connection:
        schema = max(await applied_migrations(connection), default=0)
        asked_at = time.time()
        row = await connection.fetchrow(_FACTS, _CONSUMER)
        answered_at = time.time()
        if row is None:
            raise Misconfigured(
                f"{shard.name} has no table of subscriptions; run tidemark migrate."
            )
        stray = await connection.fetchval(_STRAY, *bounds(shard))
    facts = dict(row)
    return ShardFacts(
        schema=schema,
        clock_off_s=facts.pop("clock") - (asked_at + answered_at) / 2,
        stray_app=stray and str(stray),
        **facts,
    )
