"""What the other consumers say of themselves, put together with our own."""

import asyncio
import http.client
import socket
import time
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import chain
from math import isinf
from typing import Final

import msgspec

from consumer.overview import Hot, Overview, Point, ShardView
from shared.lag import catch_up_s

_TIMEOUT_S: Final = 1.0
_HOT: Final = 10
_BUCKET_S: Final = 5
_GOOD_S: Final = 1.0
"""For how long an answer is good enough for the next who asks."""


class Gathering:
    """What all consumers say together, asked once for everybody who wants to know it just now."""

    def __init__(self, own: Callable[[], Overview], peers: Sequence[str]) -> None:
        self._own = own
        self._peers = peers
        self._asking = asyncio.Lock()
        self._view: Overview | None = None
        self._good_until = 0.0

    async def view(self) -> Overview:
        """Return what all consumers say together; who does not answer is named in `silent`.

        A peer whose name has several addresses is as many, and we may be among them: consumers
        are told apart by what they call themselves.
        """
        if not self._peers:
            return self._own()
        async with self._asking:
            if self._view is None or time.monotonic() > self._good_until:
                # In a thread: half an hour of many shards is some work to add up.
                self._view = await asyncio.to_thread(together, *await self._ask_all())
                self._good_until = time.monotonic() + _GOOD_S
            return self._view

    async def _ask_all(self) -> tuple[list[Overview], list[str]]:
        found = await asyncio.gather(
            *(asyncio.to_thread(addresses_of, peer) for peer in self._peers)
        )
        asked = [*chain.from_iterable(found)]
        answers = await asyncio.gather(*(asyncio.to_thread(_ask, peer) for peer in asked))
        silent = [peer for peer, answer in zip(asked, answers, strict=True) if answer is None]
        own = self._own()
        others = {each.name: each for each in answers if each is not None and each.name != own.name}
        return [own, *others.values()], silent


def addresses_of(peer: str) -> list[str]:
    """Return a URL for each address of a name, or the peer as it is where it has one or none."""
    url = urllib.parse.urlsplit(peer)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return [peer]
    hosts = sorted({str(address[0]) for *_, address in found})
    if len(hosts) == 1:
        return [peer]
    bracketed = [f"[{host}]" if ":" in host else host for host in hosts]
    return [f"{url.scheme}://{host}:{port}" for host in bracketed]


def _ask(peer: str) -> Overview | None:
    # Not what it gathers itself: that would ask us in turn.
    try:
        with urllib.request.urlopen(f"{peer}/overview", timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read(), type=Overview)
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None


def together(views: Sequence[Overview], silent: Sequence[str] = ()) -> Overview:
    """Add up what consumers say; each partition is one consumer's."""
    own = views[0]
    # By name: while a new shard map is rolled out, consumers differ in it.
    parts: dict[str, list[ShardView]] = defaultdict(list)
    for shard in chain.from_iterable(view.shards for view in views):
        parts[shard.name].append(shard)
    dead: Counter[str] = Counter()
    for view in views:
        dead.update(view.dead_letters)
    per_s = sum(view.updates_per_s for view in views)
    return msgspec.structs.replace(
        own,
        name=f"{len(views)} consumers" if len(views) > 1 else own.name,
        ready=any(view.ready for view in views),
        partitions=sum(view.partitions for view in views),
        shards=[
            msgspec.structs.replace(reduce(_add, each), trend=_trend([one.trend for one in each]))
            for each in parts.values()
        ],
        hot_subscriptions=_hottest((hot for v in views for hot in v.hot_subscriptions), per_s),
        hot_apps=_hottest((hot for view in views for hot in view.hot_apps), per_s),
        updates_per_s=per_s,
        dead_letters=dict(dead),
        uncommitted_s=max(view.uncommitted_s for view in views),
        kafka_silent_s=max(view.kafka_silent_s for view in views),
        in_flight=sum(view.in_flight for view in views),
        in_flight_share=max(view.in_flight_share for view in views),
        silent=silent,
    )


def _add(one: ShardView, other: ShardView) -> ShardView:
    failing = min(
        (each for each in (one, other) if each.failing_since_s is not None),
        key=lambda each: each.failing_since_s or 0.0,
        default=one,
    )
    message_lag = one.message_lag + other.message_lag
    accepted_per_s = one.accepted_per_s + other.accepted_per_s
    applied_per_s = one.applied_per_s + other.applied_per_s
    longest_s = catch_up_s(message_lag, accepted_per_s, applied_per_s)
    return msgspec.structs.replace(
        one,
        partitions=one.partitions + other.partitions,
        paused=one.paused + other.paused,
        stopped=one.stopped + other.stopped,
        message_lag=message_lag,
        partition_max=max(one.partition_max, other.partition_max),
        time_lag_s=max(one.time_lag_s, other.time_lag_s),
        accepted_per_s=accepted_per_s,
        applied_per_s=applied_per_s,
        catch_up_s=None if isinf(longest_s) else longest_s,
        breaker=failing.breaker,
        failing_since_s=failing.failing_since_s,
        failing_because=failing.failing_because,
        flushes_in_flight=one.flushes_in_flight + other.flushes_in_flight,
        ready=one.ready + other.ready,
        locked=one.locked + other.locked,
    )


def _trend(trends: Sequence[Sequence[Point]]) -> Sequence[Point]:
    """Add up courses by spans of five seconds, of each the last moment."""
    if len(trends) == 1:
        return trends[0]
    found: dict[int, list[Point]] = defaultdict(list)
    for trend in trends:
        for span, point in {int(point.at_s // _BUCKET_S): point for point in trend}.items():
            found[span].append(point)
    return [
        Point(
            max(point.at_s for point in points),
            sum(point.message_lag for point in points),
            max(point.time_lag_s for point in points),
        )
        for _, points in sorted(found.items())
    ]


def _hottest(keys: Iterable[Hot], per_s: float) -> Sequence[Hot]:
    """Order by rate; a key is one consumer's, as its partition is."""
    most = sorted(keys, key=lambda hot: -hot.per_s)[:_HOT]
    return [
        msgspec.structs.replace(hot, share=min(1.0, hot.per_s / per_s) if per_s else 0.0)
        for hot in most
    ]
