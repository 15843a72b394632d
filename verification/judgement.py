"""The verdict on a run: what customers were told, against what Kafka and the shards hold."""

from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from verification.audit import Write
from verification.marks import COUNT, POISON, mark_in, mark_of
from verification.oracle import REPETITION, Body, Ledger, Position, StoredRow, Subscription


class Fault(Enum):
    """Kinds of things that must never be."""

    LOST = "lost"
    REORDERED = "reordered"
    COUNTED_TWICE = "counted twice"
    STORED_UNASKED = "stored without having been accepted"
    DEAD_LETTER_MISSING = "given up on without a dead letter"
    DEAD_LETTER_UNASKED = "dead-lettered without reason"
    DEAD_LETTER_ALTERED = "dead-lettered, but not as it came"
    ROW_DIFFERS = "row is not what the receipts say"


@dataclass(frozen=True, slots=True)
class Objection:
    """One thing that is not as it must be."""

    fault: Fault
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.fault.value}: {self.where}: {self.what}"


@dataclass
class Verdict:
    """What was checked, and everything that was found wrong."""

    updates_accepted: int = 0
    unknown_stored: int = 0
    unknown_not_stored: int = 0
    repetitions: int = 0
    records: int = 0
    poisoned: int = 0
    rows: int = 0
    writes: int = 0
    dead_letters: int = 0
    dead_letters_repeated: int = 0
    objections: list[Objection] = field(default_factory=list)

    def object(self, fault: Fault, where: object, what: str) -> None:
        """Note one thing that is wrong."""
        self.objections.append(Objection(fault, str(where), what))

    def count(self, fault: Fault) -> int:
        """Return how often this was found."""
        return sum(each.fault is fault for each in self.objections)


@dataclass
class Evidence:
    """What is left when a run is over."""

    epoch: int
    records: Sequence[Any]
    """Everything in the topic of updates."""
    dead_letters: Sequence[Any]
    rows: Mapping[Subscription, StoredRow]
    writes: AsyncIterator[Write]


async def judge(ledger: Ledger, evidence: Evidence) -> Verdict:
    """Derive from receipts alone what must be, and object to whatever is otherwise.

    Every update must carry a mark. Unknown outcomes are settled first, by what Kafka holds.
    """
    verdict = Verdict(updates_accepted=ledger.count, records=len(evidence.records))
    topic = _Topic(evidence)
    verdict.unknown_stored, verdict.unknown_not_stored = ledger.resolve(topic.find)
    verdict.repetitions = ledger.resolve_repetitions(topic.find_all)
    verdict.poisoned = len(topic.poisoned)
    _judge_records(verdict, ledger, topic)
    _judge_dead_letters(verdict, topic, evidence)
    _judge_rows(verdict, ledger, topic, evidence.rows)
    histories = {
        subscription: _History(updates, topic.poisoned)
        for subscription, updates in ledger.accepted.items()
    }
    await _judge_writes(verdict, histories, evidence)
    return verdict


class _Topic:
    """The records of the topic, by position and by mark."""

    def __init__(self, evidence: Evidence) -> None:
        self.by_position: dict[Position, Any] = {}
        self.by_mark: dict[int, list[Position]] = {}
        self.poisoned: set[Position] = set()
        for record in evidence.records:
            position = Position(evidence.epoch, record.partition, record.offset)
            self.by_position[position] = record
            if _is_poison(record):
                self.poisoned.add(position)
            mark = mark_in(record.value)
            if mark is not None:
                self.by_mark.setdefault(mark, []).append(position)

    def find(self, body: Body) -> Position | None:
        positions = self.find_all(body)
        return positions[0] if positions else None

    def find_all(self, body: Body) -> Sequence[Position]:
        return self.by_mark.get(mark_of(body), ())


def _is_poison(record: Any) -> bool:
    in_header = any(name == POISON for name, _ in record.headers)
    return in_header or POISON.encode() in (record.value or b"")


def _judge_records(verdict: Verdict, ledger: Ledger, topic: _Topic) -> None:
    """Each accepted update is at the position of its receipt, and nothing else is there.

    It is there once, but for repetitions under its key.
    """
    accepted: set[int] = set()
    for subscription, updates in ledger.accepted.items():
        repetitions = {position for position, body in updates if body is REPETITION}
        for position, body in updates:
            if body is REPETITION:
                continue
            mark = mark_of(body)
            accepted.add(mark)
            found = topic.by_mark.get(mark, [])
            if position not in found:
                verdict.object(Fault.LOST, position, f"the receipt of {subscription} leads nowhere")
            if (times := len({*found} - repetitions)) > 1:
                verdict.object(Fault.COUNTED_TWICE, position, f"stored {times} times")
    for mark, positions in topic.by_mark.items():
        if mark not in accepted and not _came_from_poisoner(topic, positions[0]):
            verdict.object(Fault.STORED_UNASKED, positions[0], f"mark {mark} was never accepted")


def _came_from_poisoner(topic: _Topic, position: Position) -> bool:
    return any(name == POISON for name, _ in topic.by_position[position].headers)


def _judge_dead_letters(verdict: Verdict, topic: _Topic, evidence: Evidence) -> None:
    """Exactly what was poisoned on purpose, at least once, as it came and with its origin."""
    seen: Counter[Position] = Counter()
    for letter in evidence.dead_letters:
        headers = {name: value.decode() for name, value in letter.headers if "tidemark." in name}
        partition, offset = headers["tidemark.partition"], headers["tidemark.offset"]
        position = Position(evidence.epoch, int(partition), int(offset))
        seen[position] += 1
        origin = topic.by_position.get(position)
        if origin is None or position not in topic.poisoned:
            reason = headers.get("tidemark.reason")
            verdict.object(Fault.DEAD_LETTER_UNASKED, position, f"reason {reason}")
        elif not _is_as_it_came(letter, origin, headers):
            verdict.object(Fault.DEAD_LETTER_ALTERED, position, "key, value, headers or origin")
    for position in topic.poisoned - seen.keys():
        verdict.object(Fault.DEAD_LETTER_MISSING, position, "was poisoned")
    verdict.dead_letters = len(seen)
    verdict.dead_letters_repeated = sum(count - 1 for count in seen.values())


def _is_as_it_came(letter: Any, origin: Any, headers: Mapping[str, str]) -> bool:
    return (
        (letter.key, letter.value) == (origin.key, origin.value)
        and tuple(letter.headers)[: len(origin.headers)] == tuple(origin.headers)
        and headers["tidemark.topic"] == origin.topic
        and headers["tidemark.timestamp"] == str(origin.timestamp)
        and headers["tidemark.reason"] != ""
    )


def _judge_rows(
    verdict: Verdict, ledger: Ledger, topic: _Topic, rows: Mapping[Subscription, StoredRow]
) -> None:
    for difference in ledger.differences(rows, topic.poisoned):
        row = rows.get(difference.subscription)
        expected = ledger.expected_row(difference.subscription, topic.poisoned)
        if row is None:
            verdict.object(Fault.LOST, difference.subscription, difference.what)
            continue
        count, right = row.tags.get(COUNT, 0), expected.tags.get(COUNT, 0)
        if count != right:
            fault = Fault.LOST if count < right else Fault.COUNTED_TWICE
            verdict.object(fault, difference.subscription, f"{count} applied of {right}")
        else:
            verdict.object(Fault.ROW_DIFFERS, difference.subscription, difference.what)
    for subscription in rows.keys() - ledger.accepted.keys():
        verdict.object(Fault.STORED_UNASKED, subscription, "the row was never asked for")
    verdict.rows = len(rows)


class _History:
    """A subscription's updates in the order of their positions, without the poisoned ones."""

    def __init__(self, updates: Sequence[tuple[Position, Body]], poisoned: set[Position]) -> None:
        good = sorted(
            ((at, body) for at, body in updates if at not in poisoned), key=lambda each: each[0]
        )
        self._positions = [(at.epoch, at.offset) for at, _ in good]
        self._states: list[tuple[int, int | None]] = [(0, None)]
        """How many had an effect, and the mark of the last of them, before and after each."""
        for _, body in good:
            count, mark = self._states[-1]
            self._states.append((count, mark) if body is REPETITION else (count + 1, mark_of(body)))

    def through(self, position: tuple[int, int]) -> tuple[int, int | None]:
        """Return how many effects there are up to a position, and the mark of the row at it."""
        place = bisect_right(self._positions, position)
        is_there = place > 0 and self._positions[place - 1] == position
        count, mark = self._states[place]
        return count, mark if is_there else None


async def _judge_writes(
    verdict: Verdict, histories: Mapping[Subscription, _History], evidence: Evidence
) -> None:
    """Each write moved its row forward, to a state that the row must have had at some time.

    A row that was wrong for a moment and right at the end is found here.
    """
    stands: dict[Subscription, tuple[int, int]] = {}
    async for write in evidence.writes:
        verdict.writes += 1
        history = histories.get(write.subscription)
        if history is None:
            continue  # its row is objected to already
        before = stands.get(write.subscription)
        if write.before != before:
            verdict.object(
                Fault.REORDERED, write.subscription, f"found at {write.before} and not at {before}"
            )
        if before is not None and write.after <= before:
            verdict.object(
                Fault.REORDERED, write.subscription, f"moved from {before} to {write.after}"
            )
        stands[write.subscription] = write.after
        count, mark = history.through(write.after)
        if write.count != count:
            applied = write.count or 0
            fault = Fault.LOST if applied < count else Fault.COUNTED_TWICE
            what = f"{applied} applied of {count} at {write.after}"
            verdict.object(fault, write.subscription, what)
        elif write.mark != mark:
            what = f"mark {write.mark} and not {mark} at {write.after}"
            verdict.object(Fault.REORDERED, write.subscription, what)
