"""Sends dead letters again: at a new position, in order where that is still possible."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from operator_cli.dead_letters import DeadLetter, Filters, find, progress
from shared.errors import Rejected, Transient
from shared.kafka_clients import client_options
from shared.origins import REPLAY_OF, Origin, facts, without_ours
from shared.settings import KafkaSettings
from shared.topic_reader import TopicReader, open_reader
from shared.topology import partition_of
from shared.updates import decode

_WINDOW: Final = 500
"""Records that may be on their way to the broker at once."""


class Order(Enum):
    """What a replay does to the order of its subscription's updates."""

    KEPT = "kept"
    LOST = "lost"
    UNKNOWN = "unknown"
    REPLAYED = "replayed before"
    UNREADABLE = "unreadable"


_WHY: Final = {
    Order.KEPT: "no later update of the subscription has been accepted",
    Order.LOST: "a later update of the subscription has been accepted",
    Order.UNKNOWN: "what was accepted after it is no longer all in the topic",
    Order.REPLAYED: "it has been sent again already; once more would count increments twice",
    Order.UNREADABLE: "its value is no update, so it would only be given up on again",
}


@dataclass(frozen=True, slots=True)
class Replay:
    """A dead letter that is to be sent again, and what that means for the order."""

    letter: DeadLetter
    target: int | None
    """The app's partition; None where no app can be read."""
    order: Order
    will_send: bool
    sent_as: Origin | None = None
    overtaken: bool = False
    """Whether another update of the subscription was accepted between check and replay."""

    @property
    def why(self) -> str:
        """One clause that explains `order`."""
        if self.overtaken:
            return "another update of the subscription was accepted while it was being replayed"
        return _WHY[self.order]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay would do, in the order in which it would be done."""

    replays: Sequence[Replay]
    matched: int
    checked_to: Mapping[int, int]
    """By partition of the updates' topic, up to where later updates were looked for."""

    @property
    def refused(self) -> int:
        """How many will not be sent."""
        return sum(not each.will_send for each in self.replays)


async def plan(
    kafka: KafkaSettings,
    filters: Filters,
    *,
    limit: int,
    out_of_order: bool = False,
    again: bool = False,
) -> ReplayPlan:
    """Find dead letters, the oldest first, and say of each what a replay would do.

    A dead letter may be in its topic twice, because it is written at least once: it counts once.

    Raises:
        Misconfigured: a topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    given_up: set[Origin] = set()

    def note(letter: DeadLetter) -> None:
        if letter.origin is not None:
            given_up.add(letter.origin)

    found = await find(kafka, filters, limit=limit, oldest=True, note=note)
    letters = {letter.origin or letter.place: letter for letter in found.letters}
    by_target: dict[int, list[DeadLetter]] = defaultdict(list)
    unreadable = []
    for letter in letters.values():
        if letter.update is None:
            unreadable.append(Replay(letter, None, Order.UNREADABLE, will_send=False))
        else:
            by_target[partition_of(letter.update.app_id)].append(letter)
    allowed = {Order.KEPT}
    if out_of_order:
        allowed |= {Order.LOST, Order.UNKNOWN}
    if again:
        allowed |= {Order.REPLAYED}
    replays = []
    async with open_reader(kafka, kafka.topic, "tidemark-replay") as reader:
        ends = await reader.ends(by_target)
        check = _OrderCheck(kafka.topic, reader, ends, given_up)
        for target, chosen in by_target.items():
            orders = await check.orders(target, chosen)
            for letter in sorted(chosen, key=_origin_order):
                order = orders[letter.place]
                replays.append(Replay(letter, target, order, will_send=order in allowed))
    return ReplayPlan([*replays, *unreadable], found.matched, ends)


def _origin_order(letter: DeadLetter) -> tuple[Origin, int]:
    return letter.origin or Origin("", 0, 0), letter.offset


class _OrderCheck:
    """Looks in the updates' topic for what was accepted after a dead letter's origin."""

    def __init__(
        self, topic: str, reader: TopicReader, ends: Mapping[int, int], given_up: set[Origin]
    ) -> None:
        self._topic = topic
        self._reader = reader
        self._ends = ends
        self._given_up = given_up

    async def orders(self, target: int, letters: Iterable[DeadLetter]) -> dict[str, Order]:
        """Return by the letter's place what its replay into `target` does to the order."""
        letters = list(letters)
        starts = {letter.place: await self._start(target, letter) for letter in letters}
        known = [start for start in starts.values() if start is not None]
        lowest = min(known, default=self._ends[target])
        latest, replayed = await self._later({each.ids for each in letters}, target, lowest)
        orders = {}
        for letter in letters:
            start = starts[letter.place]
            if str(letter.origin) in replayed:
                orders[letter.place] = Order.REPLAYED
            elif start is None:
                orders[letter.place] = Order.UNKNOWN
            elif latest.get(letter.ids, -1) >= start:
                orders[letter.place] = Order.LOST
            else:
                orders[letter.place] = Order.KEPT
        return orders

    async def _start(self, target: int, letter: DeadLetter) -> int | None:
        """Return from where later updates are; None where some of them may be gone."""
        origin = letter.origin
        if origin is None:
            return None
        beginning = (await self._reader.beginnings([target]))[target]
        if (origin.topic, origin.partition) == (self._topic, target):
            if beginning <= origin.offset + 1 <= self._ends[target]:
                return origin.offset + 1
            return None
        # It was found where its app does not live, so that only time compares.
        accepted = letter.facts.get("timestamp", "")
        if not accepted.isdigit():
            return None
        at_time = (await self._reader.at_time([target], int(accepted)))[target]
        start = self._ends[target] if at_time is None else at_time
        return None if 0 < start == beginning else start

    async def _later(
        self, wanted: set[tuple[str, str]], target: int, start: int
    ) -> tuple[Mapping[tuple[str, str], int], set[str]]:
        """Return the last offset of each subscription that was not given up on, and replays."""
        latest: dict[tuple[str, str], int] = {}
        replayed: set[str] = set()
        apps = {app.encode() for app, _ in wanted}
        end = self._ends[target]
        with progress(f"Reading updates of partition {target}", max(0, end - start)) as advance:
            async for records in self._reader.read({target: start}, {target: end}):
                advance(len(records))
                for record in records:
                    if record.headers and REPLAY_OF in dict(record.headers):
                        replayed.add(facts(record.headers)["replay_of"])
                    if record.key not in apps:
                        continue
                    ids = _ids(record.value, target)
                    if ids in wanted and self._is_applied(target, record.offset):
                        latest[ids] = record.offset
        return latest, replayed

    def _is_applied(self, partition: int, offset: int) -> bool:
        return Origin(self._topic, partition, offset) not in self._given_up


def _ids(value: bytes | None, partition: int) -> tuple[str, str] | None:
    try:
        update = decode(value, partition)
    except Rejected:
        return None
    return update.app_id, update.subscription_id


async def carry_out(kafka: KafkaSettings, to_do: ReplayPlan) -> ReplayPlan:
    """Send what is to be sent, in order, and look whether anything came in between.

    Raises:
        Transient: the broker did not take all; what it took is found by the next plan.
    """
    sent = await _send(kafka, [each for each in to_do.replays if each.will_send])
    refused = [each for each in to_do.replays if not each.will_send]
    overtaken = await _overtaken(kafka, sent, to_do.checked_to)
    done = [replace(each, overtaken=each.letter.place in overtaken) for each in sent]
    return replace(to_do, replays=[*done, *refused])


async def _send(kafka: KafkaSettings, replays: Sequence[Replay]) -> list[Replay]:
    sent: list[Replay] = []
    producer = AIOKafkaProducer(
        **client_options(kafka, "tidemark-replay"),
        acks="all",
        enable_idempotence=True,
        max_request_size=2**21,
    )
    try:
        await producer.start()
        with progress("Replaying", len(replays)) as advance:
            for first in range(0, len(replays), _WINDOW):
                window = replays[first : first + _WINDOW]
                futures = [
                    await producer.send(
                        kafka.topic,
                        key=each.letter.key,
                        value=each.letter.value,
                        partition=each.target,
                        headers=[
                            *without_ours(each.letter.headers),
                            (REPLAY_OF, str(each.letter.origin).encode()),
                        ],
                    )
                    for each in window
                ]
                for each, future in zip(window, futures, strict=True):
                    at = await future
                    place = Origin(at.topic, at.partition, at.offset)
                    sent.append(replace(each, sent_as=place))
                    advance(1)
    except (KafkaError, OSError) as error:
        raise Transient(
            f"Kafka took at least {len(sent)} of {len(replays)} ({type(error).__name__}); run the "
            "replay again, it leaves out what was taken."
        ) from error
    finally:
        await producer.stop()
    return sent


async def _overtaken(
    kafka: KafkaSettings, sent: Sequence[Replay], checked_to: Mapping[int, int]
) -> set[str]:
    """Return the places of dead letters whose subscription was updated since the check."""
    last: dict[int, int] = {}
    for each in sent:
        assert each.sent_as is not None
        last[each.sent_as.partition] = each.sent_as.offset
    first_strange: dict[tuple[str, str], int] = {}
    ours = {each.sent_as for each in sent}
    async with open_reader(kafka, kafka.topic, "tidemark-replay") as reader:
        starts = {partition: checked_to[partition] for partition in last}
        async for records in reader.read(starts, last):
            for record in records:
                if Origin(kafka.topic, record.partition, record.offset) not in ours:
                    ids = _ids(record.value, record.partition)
                    if ids is not None:
                        first_strange.setdefault(ids, record.offset)
    return {
        each.letter.place
        for each in sent
        if each.sent_as
        and first_strange.get(each.letter.ids, each.sent_as.offset) < each.sent_as.offset
    }
