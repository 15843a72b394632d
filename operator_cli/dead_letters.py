"""Reads the dead-letter topic: what was given up on, why, and where it came from."""

import heapq
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from shared.errors import Misconfigured, Rejected
from shared.origins import Header, Origin, facts
from shared.settings import KafkaSettings
from shared.topic_reader import open_reader, require_partitions
from shared.topology import partition_of
from shared.updates import Update, decode

REDACTED: Final = "…"


class _Ids(msgspec.Struct):
    app_id: str = ""
    subscription_id: str = ""


@dataclass(frozen=True)
class DeadLetter:
    """One record of the dead-letter topic."""

    partition: int
    offset: int
    timestamp_ms: int
    """When it was given up on."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]

    @classmethod
    def of(cls, record: Any) -> "DeadLetter":
        """Read what the broker hands over."""
        return cls(
            record.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            record.headers,
        )

    @property
    def place(self) -> str:
        """Where `show` finds it."""
        return f"{self.partition}:{self.offset}"

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What the consumer wrote when it gave up."""
        return facts(self.headers)

    @property
    def reason(self) -> str:
        """The slug of the reason."""
        return self.facts.get("reason", "")

    @cached_property
    def origin(self) -> Origin | None:
        """Where it had been accepted."""
        return Origin.of_headers(self.headers)

    @cached_property
    def ids(self) -> tuple[str, str]:
        """App and subscription as far as they can be read, also of a value that is refused."""
        try:
            found = msgspec.json.decode(self.value or b"", type=_Ids)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = _Ids()
        return found.app_id or (self.key or b"").decode(errors="replace"), found.subscription_id

    @cached_property
    def update(self) -> Update | None:
        """The update in it; None where its value is none that could be applied."""
        try:
            return decode(self.value, partition_of(self.ids[0]))
        except (Rejected, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant; what is None does not narrow them."""

    app: str | None = None
    subscription: str | None = None
    reason: str | None = None
    since_ms: int | None = None

    def match(self, letter: DeadLetter) -> bool:
        """Say whether this one is meant."""
        return (
            (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (self.reason is None or letter.reason == self.reason)
            and (self.app is None or letter.ids[0] == self.app)
            and (self.subscription is None or letter.ids[1] == self.subscription)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The dead letters that were asked for, in order of time, and how many matched in all."""

    letters: Sequence[DeadLetter]
    matched: int


async def find(
    kafka: KafkaSettings,
    filters: Filters,
    *,
    limit: int,
    oldest: bool = False,
    note: Callable[[DeadLetter], None] = lambda _: None,
) -> Found:
    """Scan the topic for the latest `limit` dead letters that match, or the oldest.

    `note` is told of every one that was scanned. Memory is bounded by `limit`.

    Raises:
        Misconfigured: the topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    sign = -1 if oldest else 1
    kept: list[tuple[tuple[int, int, int], DeadLetter]] = []
    matched = 0
    async for letter in _scan(kafka, filters.since_ms):
        note(letter)
        if not filters.match(letter):
            continue
        matched += 1
        age = (sign * letter.timestamp_ms, sign * letter.partition, sign * letter.offset)
        heapq.heappush(kept, (age, letter))
        if len(kept) > limit:
            heapq.heappop(kept)
    letters = [letter for _, letter in sorted(kept, key=lambda each: each[0])]
    return Found(letters[::sign], matched)


async def _scan(kafka: KafkaSettings, since_ms: int | None) -> AsyncIterator[DeadLetter]:
    topic = kafka.dead_letter_topic
    partitions = range(await require_partitions(kafka, topic))
    async with open_reader(kafka, topic, "tidemark-dead-letters-cli") as reader:
        ends = await reader.ends(partitions)
        starts = await reader.beginnings(partitions)
        if since_ms is not None:
            at_time = await reader.at_time(partitions, since_ms)
            starts = {each: ends[each] if (at := at_time[each]) is None else at for each in starts}
        with progress("Reading dead letters", sum(ends[n] - starts[n] for n in starts)) as advance:
            async for records in reader.read(starts, ends):
                for record in records:
                    yield DeadLetter.of(record)
                advance(len(records))


async def fetch(kafka: KafkaSettings, partition: int, offset: int) -> DeadLetter:
    """Read one dead letter.

    Raises:
        Misconfigured: there is none at that place.
        Transient: Kafka cannot be reached.
    """
    topic = kafka.dead_letter_topic
    partitions = await require_partitions(kafka, topic)
    if 0 <= partition < partitions:
        async with open_reader(kafka, topic, "tidemark-dead-letters-cli") as reader:
            ends = await reader.ends([partition])
            end = min(ends[partition], offset + 1)
            async for records in reader.read({partition: offset}, {partition: end}):
                for record in records:
                    if record.offset == offset:
                        return DeadLetter.of(record)
    raise Misconfigured(
        f"{topic} has no record at {partition}:{offset}; take a place from "
        "`tidemark dead-letters list`."
    )


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far a scan is; yield what is told of each step."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def since(text: str, now: datetime, option: str = "--since") -> int:
    """Return Unix milliseconds of `10m`, `2h`, `3d`, or of an ISO time, UTC where it has no zone.

    What is before 1970 is 1970: Kafka knows nothing earlier.

    Raises:
        Misconfigured: it is neither; the sentence names the `option`.
    """
    try:
        if match := _AGE.fullmatch(text):
            moment = now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            moment = datetime.fromisoformat(text)
    except OverflowError:  # so many days that no calendar goes back to them
        return 0
    except ValueError as error:
        raise Misconfigured(
            f"{option} {text} is no time; write 10m, 2h, 3d or 2026-11-20T12:00:00Z."
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000))


def readable_value(letter: DeadLetter, *, show_values: bool) -> object:
    """Return the value for reading: customers' data is left out unless it is asked for."""
    try:
        value = msgspec.json.decode(letter.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = (letter.value or b"").decode(errors="replace")
        return value if show_values else f"{len(letter.value or b'')} bytes that are not JSON"
    if show_values:
        return value
    if not isinstance(value, dict):
        return f"{len(letter.value or b'')} bytes of JSON that is no object"
    return {name: _redacted(name, member) for name, member in value.items()}


_PLAIN: Final = {"schema", "app_id", "subscription_id"}


def _redacted(name: str, member: object) -> object:
    if name in _PLAIN:
        return member
    if isinstance(member, dict):
        return {each: None if held is None else REDACTED for each, held in member.items()}
    return REDACTED
