"""What is in the stream: scans of the topic of updates, or of dead letters, that change nothing.

No group is joined and nothing is committed. Most records are thrown out by their bytes alone,
before they are decoded.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import cel
import msgspec

from operator_cli.conventions import say_if_none_committed
from operator_cli.dead_letters import DeadLetter, find, progress
from operator_cli.dead_letters import Filters as LetterFilters
from operator_cli.holds import held_positions
from shared.errors import Misconfigured, Rejected
from shared.lag_reader import open_lag_reader
from shared.origins import Origin, facts
from shared.settings import KafkaSettings
from shared.topic_reader import TopicReader, open_reader, require_partitions
from shared.topology import partition_of
from shared.tracing import TRACEPARENT
from shared.updates import Update, decode

_PORTION: Final = 50_000
_FOLLOW_S: Final = 0.5
_CLOCKS_APART_MS: Final = 60_000
"""By how much the clock of who gave up on a record may be behind that of who accepted it."""

Top = Literal["apps", "subscriptions", "tags"]


class Condition:
    """An expression in CEL over one record: it cannot loop, call out or change anything.

    It knows `app_id`, `subscription_id`, `tags`, `properties`, `increment`, `increment_tags`,
    `partition`, `offset` and `accepted` (a timestamp). What it cannot evaluate, such as a tag that
    is not there, does not match.

    Raises:
        Misconfigured: it is no expression, or speaks of something that there is not.
    """

    def __init__(self, text: str) -> None:
        self.unfit = 0
        """For how many records it failed otherwise than by a tag or property that is not there."""
        try:
            self._program = cel.compile(text)
        except ValueError as error:
            what = str(error).partition("\n")[0]
            raise Misconfigured(f"--where cannot be read as CEL: {what}") from error
        known = {*_VARIABLES, *_TYPES, *_BOUND.findall(text)}
        strange = {*self._program.variables()} - known
        strange |= {each for each in self._program.functions() if each.isidentifier()} - _FUNCTIONS
        if strange:
            raise Misconfigured(
                f"--where cannot be evaluated: there is no {', '.join(sorted(strange))}. It knows "
                f"{', '.join(_VARIABLES)}."
            )
        # Only what it speaks of: handing a value over takes longer than most expressions.
        self._reads = {
            name: _only(read, fields) if (fields := _fields(text, name)) else read
            for name, read in _VARIABLES.items()
            if name in self._program.variables()
        }

    def matches(self, record: Any, update: Update) -> bool:
        """Say whether it is true of a record."""
        values = {name: read(record, update) for name, read in self._reads.items()}
        try:
            found = self._program.execute(values)
        except KeyError:
            return False
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            # What they say may quote a value.
            found = None
        # Neither true nor false, as `tags.plan` alone is, must not pass for false.
        self.unfit += not isinstance(found, bool)
        return found is True


_Read = Callable[[Any, Update], Any]
"""Takes a variable's value from a record and the update in it."""


def _fields(text: str, name: str) -> set[str]:
    """Return the members that an expression selects of `name`; none where it does more with it."""
    mentions = re.findall(rf"\b{name}\b(?:\.(\w+)\b(?!\s*\())?", text)
    return set() if "" in mentions else set(mentions)


def _only(read: _Read, fields: Collection[str]) -> _Read:
    def read_fields(record: Any, update: Update) -> Any:
        members = read(record, update)
        return {field: members[field] for field in fields if field in members}

    return read_fields


_VARIABLES: Final[Mapping[str, _Read]] = {
    "app_id": lambda _, update: update.app_id,
    "subscription_id": lambda _, update: update.subscription_id,
    "tags": lambda _, update: update.tags,
    "properties": lambda _, update: update.properties,
    "increment": lambda _, update: update.increment,
    "increment_tags": lambda _, update: update.increment_tags,
    "partition": lambda record, _: record.partition,
    "offset": lambda record, _: record.offset,
    "accepted": lambda record, _: datetime.fromtimestamp(record.timestamp / 1000, UTC),
}

_BOUND: Final = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*(\w+)\s*,")
"""The variable of a macro such as `tags.exists(name, name == 'plan')`."""

_TYPES: Final = {"int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type"}

_FUNCTIONS: Final = {
    *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
    *("int", "uint", "double", "string", "bytes", "timestamp", "duration"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which records are meant; what is None does not narrow them. IDs are canonical."""

    app: str | None = None
    subscription: str | None = None
    tag: str | None = None
    """`name`, or `name=value`."""
    trace: str | None = None
    where: Condition | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def sieve(self, records: Sequence[Any]) -> Sequence[Any]:
        """Throw out most records by their bytes alone, and none that is meant."""
        if self.trace is not None:
            trace = self.trace.encode()
            records = [each for each in records if each.headers and _is_of(each.headers, trace)]
        if self.subscription is not None:
            needle = f'"{self.subscription}"'.encode()
            records = [each for each in records if each.value and needle in each.value]
        if self.tag is not None:
            name = msgspec.json.encode(self.tag.partition("=")[0])
            records = [each for each in records if each.value and name in each.value]
        if self.app is not None:
            key = self.app.encode()
            records = [each for each in records if each.key == key]
        return records

    def match(self, record: Any, update: Update | None) -> bool:
        """Say whether a record that went through the sieve is meant."""
        if self.subscription is not None and (
            update is None or update.subscription_id != self.subscription
        ):
            return False
        if self.tag is not None and not (update is not None and _has_tag(update, self.tag)):
            return False
        return self.where is None or (update is not None and self.where.matches(record, update))


def _is_of(headers: Sequence[tuple[str, bytes | None]], trace: bytes) -> bool:
    # Others may have sent it: Kafka lets a header have no value.
    return any(name == TRACEPARENT and trace in (value or b"") for name, value in headers)


def _has_tag(update: Update, wanted: str) -> bool:
    name, given, text = wanted.partition("=")
    if name not in update.tags:
        return name in update.increment_tags and not given
    return not given or _as_text(update.tags[name]) == text


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True)
class Seen:
    """A record that was meant, and the update in it; None where it is none."""

    record: Any
    update: Update | None

    @property
    def ids(self) -> tuple[str, str]:
        """App and subscription, as far as they can be read."""
        if self.update is not None:
            return self.update.app_id, self.update.subscription_id
        return (self.record.key or b"").decode(errors="replace"), ""


@dataclass(slots=True)
class Scanned:
    """Which offsets were looked at, by partition: from the first, up to and without the second."""

    partitions: int = 0
    records: int = 0
    matched: int = 0
    first: int | None = None
    end: int | None = None
    complete: bool = True
    removed: bool = False
    """Whether retention has removed what came before, or may have removed some of it."""
    unfit: int = 0
    """For how many records --where could not be evaluated."""

    def sentence(self) -> str:
        """Say what was looked at, and whether it was everything that was asked for."""
        if self.partitions == 1 and self.first is not None:
            where = f"offsets {self.first:,} to {(self.end or 0) - 1:,} of one partition"
            if self.first == self.end:
                where = "one partition, which has nothing there"
        else:
            where = f"{self.partitions} partitions"
        parts = [f"{self.matched:,} of {self.records:,} records match; scanned {where}"]
        parts.append(
            "complete" if self.complete else "NOT complete: --limit was reached, more may follow"
        )
        if self.removed:
            parts.append("older records were removed by retention")
        if self.unfit:
            parts.append(f"--where could not be evaluated for {self.unfit:,} of them")
        return "; ".join(parts) + "."


async def scan(
    kafka: KafkaSettings,
    filters: Filters,
    *,
    limit: int | None,
    scanned: Scanned,
    dead_letters: bool = False,
    follow: bool = False,
) -> AsyncIterator[Seen]:
    """Yield the records that are meant, in the order of each partition; note in `scanned` how far.

    With `follow` it never ends.

    Raises:
        Misconfigured: the topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    topic = kafka.dead_letter_topic if dead_letters else kafka.topic
    count = await require_partitions(kafka, topic)
    only_one = filters.app is not None and not dead_letters
    partitions = [partition_of(filters.app or "")] if only_one else list(range(count))
    async with open_reader(kafka, topic, "tidemark-inspect") as reader:
        starts, ends = await _range(reader, partitions, filters)
        beginnings = await reader.beginnings(partitions)
        scanned.partitions = len(partitions)
        scanned.removed = any(0 < first == starts[n] for n, first in beginnings.items())
        if only_one:
            scanned.first, scanned.end = starts[partitions[0]], ends[partitions[0]]
        while True:
            with progress("Reading", sum(ends[n] - starts[n] for n in starts)) as advance:
                async for records in reader.read(starts, ends, records_max=_PORTION):
                    advance(len(records))
                    for record in filters.sieve(records):
                        seen = Seen(record, update_in(record, dead=dead_letters))
                        matches = filters.match(record, seen.update)
                        scanned.unfit = filters.where.unfit if filters.where else 0
                        if not matches:
                            continue
                        scanned.matched += 1
                        yield seen
                        if scanned.matched == limit:
                            scanned.records += 1 + records.index(record)
                            scanned.complete = record.offset + 1 >= ends[record.partition]
                            scanned.complete &= len(partitions) == 1
                            scanned.end = record.offset + 1
                            return
                    scanned.records += len(records)
            if not follow:
                return
            await asyncio.sleep(_FOLLOW_S)
            starts, ends = ends, await reader.ends(partitions)


async def _range(
    reader: TopicReader, partitions: Sequence[int], filters: Filters
) -> tuple[dict[int, int], dict[int, int]]:
    ends = await reader.ends(partitions)
    starts = await reader.beginnings(partitions)
    if filters.since_ms is not None:
        found = await reader.at_time(partitions, filters.since_ms)
        starts = {n: ends[n] if (at := found[n]) is None else at for n in partitions}
    if filters.until_ms is not None:
        found = await reader.at_time(partitions, filters.until_ms)
        ends = {n: ends[n] if (at := found[n]) is None else at for n in partitions}
    return starts, {n: max(starts[n], ends[n]) for n in partitions}


def update_in(record: Any, *, dead: bool = False) -> Update | None:
    """Read the update in a record, or in a dead letter; None where it holds none."""
    try:
        home = partition_of((record.key or b"").decode()) if dead else record.partition
        return decode(record.value, home)
    except (Rejected, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Tops:
    """What came most often."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, seen: Seen, what: Top) -> None:
        """Count one record."""
        if what == "apps":
            self.counts[seen.ids[0]] += 1
        elif what == "subscriptions":
            self.counts["/".join(seen.ids)] += 1
        elif seen.update is not None:
            self.counts.update({*seen.update.tags, *seen.update.increment_tags})


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of records: below `committed` they were applied, unless kept elsewhere."""

    committed: Mapping[int, int]
    dead: frozenset[tuple[int, int]]
    held: frozenset[tuple[int, int]]

    def of(self, record: Any) -> str:
        """Return `applied`, `waiting`, `dead-lettered` or `held`."""
        at = (record.partition, record.offset)
        if at in self.dead:
            return "dead-lettered"
        if at in self.held:
            return "held"
        return "applied" if record.offset < self.committed.get(record.partition, 0) else "waiting"


async def fates(kafka: KafkaSettings, group: str, seen: Sequence[Seen]) -> Fates:
    """Find out what became of records of the topic of updates.

    Raises:
        Misconfigured: a topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    if not seen:
        return Fates({}, frozenset(), frozenset())
    wanted = {(each.record.partition, each.record.offset) for each in seen}
    since_ms = min(each.record.timestamp for each in seen) - _CLOCKS_APART_MS
    async with open_lag_reader(kafka, group) as reader:
        look = await reader.look(ages=False)
    say_if_none_committed(look, group)
    dead: set[tuple[int, int]] = set()

    def note(letter: DeadLetter) -> None:
        origin = letter.origin
        if origin is not None and origin.topic == kafka.topic:
            dead.add((origin.partition, origin.offset))

    await find(kafka, LetterFilters(since_ms=since_ms), limit=1, note=note)
    held = await held_positions(kafka, {each.ids[0] for each in seen})
    return Fates(look.positions, frozenset(dead & wanted), frozenset(held & wanted))


def fate_of_dead_letter(record: Any) -> str:
    """Return why a dead letter is one, and where it came from."""
    ours = facts(record.headers)
    origin = Origin.of_headers(record.headers)
    return f"{ours.get('reason', '')} {f'{origin.partition}:{origin.offset}' if origin else ''}"
