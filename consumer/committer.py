"""Commits what is durable, on its own clock."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from consumer.assigned_work import AssignedWork
from shared.errors import OwnershipLost, Transient

log = structlog.get_logger()


class Commits(Protocol):
    """Where offsets are committed; the intake is one."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read of each partition."""


async def commit_for_ever(commits: Commits, work: AssignedWork, interval_s: float) -> None:
    """Commit whatever has become durable since the last time, every `interval_s`."""
    while True:
        await asyncio.sleep(interval_s)
        await commit_once(commits, work)


async def commit_once(commits: Commits, work: AssignedWork) -> None:
    """Commit what has become durable; a commit that fails is covered by a later one."""
    # Read once: an offset that is read again later may be another one.
    offsets = work.committable()
    if not offsets:
        return
    try:
        await commits.commit(offsets)
    except (OwnershipLost, Transient) as error:
        log.warning("commit.failed", reason=str(error))
    else:
        work.committed(offsets)
