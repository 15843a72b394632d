"""How much one shard is given at a time: less when it is slow, more when it is fast."""

from dataclasses import dataclass
from typing import Final

_DECREASE: Final = 0.7
_ROWS_STEP: Final = 0.05


@dataclass(frozen=True, slots=True)
class PaceBounds:
    """The most and the least that a shard is given, and the statement time to keep to.

    Without `target_s` it is always given the most.
    """

    flushes_max: int
    rows_min: int
    rows_max: int
    target_s: float | None


class Pace:
    """Statements side by side and rows of each, adapted to how long statements take (AIMD).

    A statement over the target takes a share off, first of the statements side by side, then of
    the rows; one below it gives a little back, the rows first. It is given back only while there
    is more to write than it may, so an idle shard does not earn what it has not shown.
    """

    __slots__ = ("_bounds", "_flushes", "_rows")

    def __init__(self, bounds: PaceBounds) -> None:
        self._bounds = bounds
        self._flushes = float(bounds.flushes_max)
        self._rows = float(bounds.rows_max)

    @property
    def flushes(self) -> int:
        """Statements that may be under way at once."""
        return int(self._flushes)

    @property
    def rows(self) -> int:
        """Rows that one statement may have."""
        return int(self._rows)

    def note(self, duration_s: float, *, more_waits: bool) -> None:
        """Learn from a statement; `more_waits` says that it could not take all there was."""
        bounds = self._bounds
        if bounds.target_s is None:
            return
        if duration_s > bounds.target_s:
            self._slow_down()
        elif more_waits:
            if self._rows < bounds.rows_max:
                self._rows = min(bounds.rows_max, self._rows + bounds.rows_max * _ROWS_STEP)
            else:
                self._flushes = min(bounds.flushes_max, self._flushes + 1 / self._flushes)

    def note_failure(self) -> None:
        """Learn from a statement that failed or found the shard busy."""
        if self._bounds.target_s is not None:
            self._slow_down()

    def _slow_down(self) -> None:
        if self._flushes > 1:
            self._flushes = max(1.0, self._flushes * _DECREASE)
        else:
            self._rows = max(self._bounds.rows_min, self._rows * _DECREASE)
