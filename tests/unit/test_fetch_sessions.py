"""What is said to a broker about fetches, and what is left out."""

import asyncio
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
    """Remembers sessions as KIP-227 says, and the fetches as they came over the wire."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.at: list[float] = []
        self.answers: list[Any] = []

    async def send(self, _node_id: int, request: Any) -> Any:
        self.heard.append(request.prepare(VERSIONS))
        self.at.append(time.monotonic())
        answer = self.answers.pop(0) if self.answers else answered()
        if isinstance(answer, BaseException):
            raise answer
        return answer


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
    assert said(broker.heard[3])[1] == 0


async def test_each_broker_has_a_session_of_its_own() -> None:
    broker = Broker()
    fetching = sessions(broker)
    for node_id in (1, 2, 1):
        await fetching.send(node_id, wanting({0: 5}))
    assert [said(each)[1] for each in broker.heard] == [0, 0, 1]


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
    for offset in range(3):
        await fetching.send(1, wanting({0: offset}))
    assert broker.at[1] - broker.at[0] >= 0.2
    assert broker.at[2] - broker.at[1] < 0.2
