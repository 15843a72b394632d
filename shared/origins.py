"""Where a record came from, kept in its headers when it is moved to another topic."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

Header = tuple[str, bytes]

PREFIX: Final = "tidemark."
"""What the names of our headers begin with."""

REPLAY_OF: Final = f"{PREFIX}replay_of"
"""Names the origin of a dead letter that was sent again."""


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """A place in a topic."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def of_headers(cls, headers: Iterable[tuple[str, bytes | None]]) -> Self | None:
        """Read where a dead letter came from; None where its headers do not say."""
        ours = facts(headers)
        try:
            return cls(ours["topic"], int(ours["partition"]), int(ours["offset"]))
        except (KeyError, ValueError):
            return None


def facts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return what our headers say, by name without prefix; the last of a name counts.

    Others may have sent it: Kafka lets a header have no value.
    """
    return {
        name.removeprefix(PREFIX): (value or b"").decode(errors="replace")
        for name, value in headers
        if name.startswith(PREFIX)
    }


def without_ours(headers: Iterable[Header]) -> Sequence[Header]:
    """Return the headers that the producer of a record gave it."""
    return [header for header in headers if not header[0].startswith(PREFIX)]
