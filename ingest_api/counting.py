"""Opens what counts updates, as the settings say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ingest_api.limits import Counts
from ingest_api.own_counts import OwnCounts
from ingest_api.settings import LimitSettings


@asynccontextmanager
async def open_counts(settings: LimitSettings) -> AsyncIterator[Counts]:
    """Count in this process, or together with others where `store_url` is.

    Raises:
        Misconfigured: the URL is none.
    """
    if settings.store_url is None:
        yield OwnCounts(settings)
        return
    # Its client takes a quarter of a second to import, which nobody else should wait for.
    from ingest_api.shared_counts import connected  # noqa: PLC0415

    async with connected(settings.store_url, settings) as counts:
        yield counts
