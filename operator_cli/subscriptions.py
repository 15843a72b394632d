"""Read the row of one subscription from its shard."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from operator_cli.shard_connections import reading
from shared.errors import Misconfigured
from shared.settings import ShardDirectory
from shared.topology import partition_of


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """A row, where it lives, and the position of the last update in it."""

    app_id: str
    subscription_id: str
    shard: str
    partition: int
    tags: Mapping[str, Any]
    properties: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    applied_epoch: int
    applied_offset: int

    @property
    def receipt(self) -> str:
        """The receipt of the last update that was applied."""
        return f"{self.applied_epoch}.{self.partition}.{self.applied_offset}"


def canonical(name: str, text: str) -> str:
    """Return an ID in the one spelling that is stored.

    Raises:
        Misconfigured: it is not a UUID.
    """
    try:
        return str(UUID(text))
    except ValueError:
        raise Misconfigured(f"{name} {text!r} is not a UUID.") from None


async def read_subscription(
    directory: ShardDirectory, app_id: str, subscription_id: str
) -> SubscriptionRow | None:
    """Read a row; None where there is none.

    Both IDs are canonical UUID text.

    Raises:
        Misconfigured: the shard refuses the login.
        Transient: it cannot be asked.
    """
    partition = partition_of(app_id)
    shard = directory.map.shard_of(partition).name
    async with reading(shard, directory.dsns[shard]) as connection:
        row = await connection.fetchrow(
            "SELECT tags, properties, created_at, updated_at, applied_epoch, applied_offset "
            "FROM subscriptions WHERE app_id = $1 AND subscription_id = $2",
            app_id,
            subscription_id,
        )
    if row is None:
        return None
    tags, properties, *rest = row
    return SubscriptionRow(
        app_id, subscription_id, shard, partition, json.loads(tags), json.loads(properties), *rest
    )
