"""Where updates are stored, as routes see it, and what a client is told where that fails."""

from collections.abc import Sequence
from typing import Any, Protocol

from ingest_api.problems import BUSY, OUTCOME_UNKNOWN, UNREACHABLE, ProblemError
from shared.errors import Transient


class Publisher(Protocol):
    """Stores updates."""

    async def publish(self, app_id: str, values: Sequence[bytes]) -> list[str]:
        """Store updates of one app in their order; return a receipt for each.

        Raises:
            PartlyPublished: some of several are stored, or may be.
            Transient: none is stored, or it is unknown whether the only one is.
        """
        ...


def transient_problem(error: Transient, members: dict[str, Any] | None = None) -> ProblemError:
    """Return what a client is told where Kafka fails."""
    not_accepted = BUSY if error.saturation else UNREACHABLE
    kind = OUTCOME_UNKNOWN if error.outcome_unknown else not_accepted
    return ProblemError(kind, str(error), members=members or {})
