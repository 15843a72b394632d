"""Errors, named by what to do next."""

from typing import Self


class TidemarkError(Exception):
    """Base of what this project raises on purpose; never raised itself."""


class Rejected(TidemarkError):  # noqa: N818 - named by what happened, not by its kind
    """This input can never succeed: answer 4xx, or dead-letter it.

    `reason` is a stable slug for headers and counters; `sqlstate` is set when Postgres refused.
    """

    def __init__(self, message: str, *, reason: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.sqlstate = sqlstate

    def to_keep(self) -> Self:
        """Return it without its traceback, which keeps all that its frames had in memory."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class Transient(TidemarkError):  # noqa: N818
    """The same input may succeed later: answer 503, or retry at the pace of the shard's breaker.

    `outcome_unknown` says that the attempt may have taken effect. `saturation` says that the
    other side is busy, not broken: slow down, and never count it as a failure. `locked` says that
    somebody else holds a part of what was asked for: try without that part. `any_input` says that
    anything else would have failed as well: nothing speaks against trying this first again.
    """

    def __init__(
        self,
        message: str,
        *,
        outcome_unknown: bool = False,
        saturation: bool = False,
        locked: bool = False,
        any_input: bool = False,
    ) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.saturation = saturation
        self.locked = locked
        self.any_input = any_input


class OwnershipLost(TidemarkError):  # noqa: N818
    """The partition is another consumer's now: drop its work, and do not commit."""


class Misconfigured(TidemarkError):  # noqa: N818
    """A human must act: say what to do in one sentence, and exit 2 before serving."""
