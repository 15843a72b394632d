"""Commits what is durable, on its own clock."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from consumer.assigned_work import AssignedWork
from shared.errors import OwnershipLost, Transient

log = structlog.get_logger()


@dataclass(slots=True)
class CommitCounts:
    """How committing goes."""

    done: int = 0
    failed: int = 0
    owed_since: float | None = None
    """On the monotonic clock: since when a commit has been due; None where none is."""

    @property
    def owed_s(self) -> float:
        """How long a commit has been due."""
        return 0.0 if self.owed_since is None else time.monotonic() - self.owed_since


class Commits(Protocol):
    """Where offsets are committed; the intake is one."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read of each partition."""


async def commit_for_ever(
    commits: Commits, work: AssignedWork, interval_s: float, counts: CommitCounts
) -> None:
    """Commit whatever has become durable since the last time, every `interval_s`."""
    while True:
        await asyncio.sleep(interval_s)
        await commit_once(commits, work, counts)


async def commit_once(commits: Commits, work: AssignedWork, counts: CommitCounts) -> None:
    """Commit what has become durable; a commit that fails is covered by a later one."""
    # Read once: an offset that is read again later may be another one.
    offsets = work.committable()
    if not offsets:
        counts.owed_since = None
        return
    if counts.owed_since is None:
        counts.owed_since = time.monotonic()
    try:
        await commits.commit(offsets)
    except (OwnershipLost, Transient) as error:
        counts.failed += 1
        log.warning("commit.failed", reason=str(error))
    else:
        counts.done += 1
        counts.owed_since = None
        work.committed(offsets)
