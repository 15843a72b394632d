"""Completions in any order, reduced to one offset that is safe to commit."""

from collections import deque
from collections.abc import Iterable, Sequence


class OffsetTracker:
    """Reduce completions that arrive in any order to one offset that is safe to commit.

    Kafka stores a position, so committing 7 claims that everything below 7 is done.
    Only records we were given are tracked: a gap left by compaction needs no work.
    """

    __slots__ = ("_completed", "_received", "committable")

    def __init__(self) -> None:
        self._received: deque[int] = deque()
        self._completed: set[int] = set()
        self.committable: int | None = None
        """The next offset to read: all received ones below it are completed. None before any."""

    def __len__(self) -> int:
        """Count the offsets at or above `committable`, completed out of order or still open."""
        return len(self._received)

    def receive(self, offsets: Sequence[int]) -> None:
        """Note that the records at `offsets` were given to us; offsets only grow."""
        if not offsets:
            return
        assert not self._received or offsets[0] > self._received[-1]
        if self.committable is None:
            self.committable = offsets[0]
        self._received.extend(offsets)

    def complete(self, offsets: Iterable[int]) -> None:
        """Note that the effects of the records at `offsets` are durable; each is completed once."""
        completed = self._completed
        completed.update(offsets)
        received = self._received
        offset = None
        while received and received[0] in completed:
            offset = received.popleft()
            completed.remove(offset)
        if offset is not None:
            # The next one open, or the end: what lies between was never given to us.
            self.committable = received[0] if received else offset + 1
        if not received:
            completed.clear()  # it is empty, but only this gives its memory back
