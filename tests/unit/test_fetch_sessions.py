"""What is said to a broker about fetches, and what is left out."""

import asyncio
import random
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest

from consumer.fetch_sessions import FetchSessions

VERSIONS = {1: (4, 11)}
MAX = 1_000


class Broker:
    """Remembers one session as KIP-227 says; fails where it is told to."""

    def __init__(self) -> None:
        self.remembers: dict[int, int] = {}
        self.heard: list[Any] = []
        self.at: list[float] = []
        self.answers: list[Any] = []
        self._id = 6
        self._epoch = 0

    async def send(self, _node_id: int, request: Any) -> Any:
        fetch = request.prepare(VERSIONS)
        self.heard.append(fetch)
        self.at.append(time.monotonic())
        _, _, named, forgotten = said(fetch)
        if fetch.session_epoch == 0:
            self._id, self._epoch = self._id + 1, 0
            self.remembers = {}
        elif (fetch.session_id, fetch.session_epoch) != (self._id, self._epoch + 1):
            return answered(error_code=71)
        else:
            self._epoch += 1
        for _, partitions in forgotten:
            for partition in partitions:
                del self.remembers[partition]
        self.remembers |= named
        answer = self.answers.pop(0) if self.answers else answered(self._id)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def forget(self) -> None:
        """Restart: no session is known any more."""
        self._id += 1


def answered(session_id: int = 7, error_code: int = 0, value: bytes = b"") -> Any:
    topics: list[Any] = [("updates", [(0, 0, 9, 9, 0, [], -1, value)])] if value else []
    return SimpleNamespace(session_id=session_id, error_code=error_code, topics=topics)


def wanting(offsets: dict[int, int]) -> FetchRequest:
    partitions = [(partition, offset, MAX) for partition, offset in offsets.items()]
    return FetchRequest(100, 1, 10_000, 0, [("updates", partitions)])


def said(fetch: Any) -> tuple[int, int, dict[int, int], list[Any]]:
    """Return session, epoch, offsets of the partitions named, and those forgotten."""
    named = {each[0]: each[2] for _, partitions in fetch.topics for each in partitions}
    return fetch.session_id, fetch.session_epoch, named, fetch.forgotten_topics_data


def sessions(broker: Broker, interval_min_s: float = 0.0) -> FetchSessions:
    return FetchSessions(broker, interval_min_s=interval_min_s, bytes_much=100)


async def test_after_the_first_only_changes_are_named() -> None:
    broker = Broker()
    fetching = sessions(broker)
    for offsets in ({0: 5, 1: 5, 2: 5}, {0: 5, 1: 6, 2: 5}, {0: 5, 1: 6}, {0: 5, 1: 6, 2: 9}):
        await fetching.send(1, wanting(offsets))
    assert [said(each) for each in broker.heard] == [
        (0, 0, {0: 5, 1: 5, 2: 5}, []),
        (7, 1, {1: 6}, []),
        (7, 2, {}, [("updates", [2])]),
        (7, 3, {2: 9}, []),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        KafkaConnectionError("gone"),
        asyncio.CancelledError(),
        answered(error_code=70),  # the session's ID is not known
        answered(error_code=71),  # the epoch is not the next one
        answered(session_id=0),  # no room for a session
    ],
    ids=["connection lost", "cancelled", "unknown session", "invalid epoch", "no room"],
)
async def test_everything_is_named_where_the_broker_may_have_forgotten(answer: Any) -> None:
    broker = Broker()
    broker.answers = [answered(), answered(), answer]
    fetching = sessions(broker)
    for offset in range(4):
        try:
            await fetching.send(1, wanting({0: offset, 1: 5}))
        except (KafkaConnectionError, asyncio.CancelledError):
            assert isinstance(answer, BaseException)
    assert [said(each)[2] for each in broker.heard] == [
        {0: 0, 1: 5},
        {0: 1},
        {0: 2},
        {0: 3, 1: 5},
    ]
    assert said(broker.heard[3])[:2] == (7, 0)  # which also ends what may be left of it


async def test_each_broker_has_a_session_of_its_own() -> None:
    broker = Broker()
    fetching = sessions(broker)
    for node_id in (1, 2):
        await fetching.send(node_id, wanting({0: 5}))
    assert [said(each)[1] for each in broker.heard] == [0, 0]


async def test_other_requests_are_sent_as_they_are() -> None:
    passed: list[Any] = []

    class Client:
        async def send(self, node_id: int, request: Any, **options: Any) -> str:
            passed.append((node_id, request, options))
            return "answer"

    request = MetadataRequest([])
    fetching = FetchSessions(Client(), interval_min_s=60, bytes_much=100)
    assert await fetching.send(1, request, group="coordinator") == "answer"
    assert passed == [(1, request, {"group": "coordinator"})]


async def test_a_fetch_waits_after_one_that_brought_little() -> None:
    broker = Broker()
    broker.answers = [answered(value=b"x" * 99), answered(value=b"x" * 100), answered()]
    fetching = sessions(broker, interval_min_s=0.2)
    started = time.monotonic()
    for offset in range(3):
        await fetching.send(1, wanting({0: offset}))
    assert broker.at[1] - started >= 0.2
    assert broker.at[2] - broker.at[1] < 0.2


async def test_a_fetch_that_is_cancelled_while_it_waits_changes_nothing() -> None:
    broker = Broker()
    fetching = sessions(broker, interval_min_s=0.05)
    await fetching.send(1, wanting({0: 1}))
    waiting = asyncio.ensure_future(fetching.send(1, wanting({0: 2})))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await fetching.send(1, wanting({0: 3}))
    assert [said(each)[1:3] for each in broker.heard] == [(0, {0: 1}), (1, {0: 3})]


@pytest.mark.parametrize("seed", range(20))
async def test_a_broker_that_answers_remembers_what_is_wanted(seed: int) -> None:
    pick = random.Random(seed)
    broker = Broker()
    fetching = sessions(broker)
    wanted: dict[int, int] = {}
    answers = 0
    for _ in range(200):
        wanted = {
            partition: wanted.get(partition, 0) + pick.choice([0, 0, 0, 1, 5])
            for partition in range(12)
            if pick.random() < 0.8
        } or {0: 0}
        match pick.randrange(12):
            case 0:
                broker.forget()
            case 1:
                broker.answers = [KafkaConnectionError("gone")]
            case 2:
                broker.answers = [asyncio.CancelledError()]
        try:
            answer = await fetching.send(1, wanting(wanted))
        except (KafkaConnectionError, asyncio.CancelledError):
            continue
        broker.answers = []
        if not answer.error_code:
            answers += 1
            assert broker.remembers == wanted
    assert answers > 100
