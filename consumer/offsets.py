"""Completions in any order, reduced to one offset that is safe to commit."""

from collections import deque


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

    def receive(self, offset: int) -> None:
        """Note that the record at `offset` was given to us; offsets only grow."""
        assert not self._received or offset > self._received[-1]
        if self.committable is None:
            self.committable = offset
        self._received.append(offset)

    def complete(self, offset: int) -> None:
        """Note that the effect of the record at `offset` is durable; each is completed once."""
        received = self._received
        if received[0] != offset:
            self._completed.add(offset)
            return
        received.popleft()
        completed = self._completed
        while received and received[0] in completed:
            offset = received.popleft()
            completed.remove(offset)
        # The next one open, or the end: what lies between was never given to us.
        self.committable = received[0] if received else offset + 1
