"""A witness inside each shard: every write of a row, with where it moved the row's position.

The trigger runs in the transaction of the write, so what it notes is what was done: no more where
a server crashed, no less where a client never heard the answer. Writes of one row wait for one
another at the row, so their numbers are in their order.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from pydantic import SecretStr

from verification.oracle import Subscription

_INSTALL: Final = """
CREATE TABLE audit (
    number          bigint GENERATED ALWAYS AS IDENTITY,
    app_id          uuid NOT NULL,
    subscription_id uuid NOT NULL,
    was_epoch       integer,
    was_offset      bigint,
    epoch           integer NOT NULL,
    "offset"        bigint NOT NULL,
    mark            bigint,
    count           bigint,
    at              timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit (
        app_id, subscription_id, was_epoch, was_offset, epoch, "offset", mark, count
    ) VALUES (
        NEW.app_id,
        NEW.subscription_id,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.applied_epoch END,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.applied_offset END,
        NEW.applied_epoch,
        NEW.applied_offset,
        (NEW.tags ->> 'chaos_mark')::bigint,
        (NEW.tags ->> 'chaos_count')::bigint
    );
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION note_write();
"""


@dataclass(frozen=True, slots=True)
class Write:
    """One write of one row: its position before (None where it was created) and after."""

    subscription: Subscription
    before: tuple[int, int] | None
    after: tuple[int, int]
    mark: int | None
    count: int | None
    at: float
    """When it was made, in Unix time."""


async def install_audit(dsns: Mapping[str, SecretStr]) -> None:
    """Have every write noted from now on."""
    for dsn in dsns.values():
        connection = await asyncpg.connect(dsn.get_secret_value())
        try:
            await connection.execute(_INSTALL)
        finally:
            await connection.close()


async def read_audit(dsns: Mapping[str, SecretStr]) -> AsyncIterator[Write]:
    """Yield every write, those of one row in their order."""
    for dsn in dsns.values():
        connection = await asyncpg.connect(dsn.get_secret_value())
        try:
            async with connection.transaction():
                async for row in connection.cursor(
                    "SELECT app_id::text, subscription_id::text, was_epoch, was_offset, epoch, "
                    '"offset", mark, count, extract(epoch FROM at)::float8 '
                    "FROM audit ORDER BY number",
                    prefetch=5_000,
                ):
                    yield _write(row)
        finally:
            await connection.close()


def _write(row: Any) -> Write:
    app, subscription, was_epoch, was_offset, epoch, offset, mark, count, at = row
    before = None if was_epoch is None else (was_epoch, was_offset)
    return Write((app, subscription), before, (epoch, offset), mark, count, at)
