"""Incremental fetches (KIP-227): name only what changed since the last fetch from a broker.

aiokafka names every partition in every fetch, and so does the answer. With hundreds of partitions
and little to read in each, that was half of what a consumer did, and much of its broker's work.
Written against aiokafka 0.14, which has one fetch at a time under way to a broker;
`tests/integration/test_fetch_sessions.py` holds it to its word.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest

_OPENING: Final = 0
_EPOCH_MAX: Final = 2**31 - 1


def fetch_incrementally(
    consumer: AIOKafkaConsumer, *, interval_min_s: float, bytes_much: int
) -> None:
    """Have a consumer that has not started yet send its fetches through sessions."""
    client = consumer._client  # noqa: SLF001
    sessions = FetchSessions(client, interval_min_s=interval_min_s, bytes_much=bytes_much)
    client.send = sessions.send


class FetchSessions:
    """Sends the fetches of one client, each as what it changes about the one before.

    A fetch waits until `interval_min_s` after the one before, unless that brought `bytes_much`: how
    much there is to read, not how fast a broker answers, says how often it is worth asking.
    """

    def __init__(self, client: AIOKafkaClient, *, interval_min_s: float, bytes_much: int) -> None:
        self._send = client.send
        self._interval_min_s = interval_min_s
        self._bytes_much = bytes_much
        self._sessions: defaultdict[int, _Session] = defaultdict(_Session)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Send any request, and return the answer: in place of the client's `send`."""
        if not isinstance(request, FetchRequest):
            return await self._send(node_id, request, **options)
        session = self._sessions[node_id]
        await asyncio.sleep(session.next_at - time.monotonic())
        session.next_at = time.monotonic() + self._interval_min_s
        try:
            answer = await self._send(node_id, _Changes(request, session), **options)
        except BaseException:
            session.reopen()  # nobody knows what the broker has heard
            raise
        session.answered(answer)
        if _bytes_of(answer) >= self._bytes_much:
            session.next_at = 0.0
        return answer


class _Session:
    """What a broker remembers of our fetches from it."""

    def __init__(self) -> None:
        self.next_at = 0.0
        """When the next fetch is worth its while, by the monotonic clock."""
        self._id = 0
        self._epoch = _OPENING
        self._named: Mapping[tuple[str, int], tuple[int, ...]] = {}
        """Each partition as it was named last: its offset, and how much to fetch."""

    def reduce(self, fetch: Any) -> None:
        """Leave in a fetch of all that is wanted only what the broker has not heard yet."""
        wanted = {
            (topic, partition[0]): partition
            for topic, partitions in fetch.topics
            for partition in partitions
        }
        fetch.session_id, fetch.session_epoch = self._id, self._epoch
        if self._epoch != _OPENING:
            named = self._named
            fetch.topics = _by_topic(
                (place[0], partition)
                for place, partition in wanted.items()
                if named.get(place) != partition
            )
            fetch.forgotten_topics_data = _by_topic(named.keys() - wanted.keys())
        self._named = wanted

    def answered(self, answer: Any) -> None:
        """Note what the broker made of the last fetch."""
        if answer.error_code or not answer.session_id:
            self.reopen()  # it has forgotten us, or remembers as many as it can
        else:
            self._id = answer.session_id
            self._epoch = 1 if self._epoch == _EPOCH_MAX else self._epoch + 1

    def reopen(self) -> None:
        """Name everything in the next fetch, which also ends the session so far."""
        self._epoch = _OPENING


class _Changes:
    """A fetch as a connection takes it: put together once the broker's versions are known."""

    def __init__(self, request: FetchRequest, session: _Session) -> None:
        self._request = request
        self._session = session

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        fetch = self._request.prepare(versions)
        self._session.reduce(fetch)
        return fetch


def _by_topic(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for topic, each in pairs:
        found[topic].append(each)
    return list(found.items())


def _bytes_of(answer: Any) -> int:
    return sum(len(each[-1] or b"") for _, partitions in answer.topics for each in partitions)
