"""From the intended time of a request to its answer, and to its row."""

import asyncio
import gc
import http.client
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import chain, islice, repeat
from typing import Any, Final

import psutil

from benchmarks.collector import telemetry
from benchmarks.database import Databases
from benchmarks.ingest.measure import server_daemon
from benchmarks.ingest.servers import TWIN
from benchmarks.latency.probes import INTERVAL_S, TAG, Probe
from benchmarks.latency.scenarios import (
    BURST_PER_S,
    SCENARIOS,
    SOAK_PER_S,
    UPDATES_PER_BATCH,
    Scenario,
)
from benchmarks.latency.sender import Answer, Planned, Sender, http_request
from benchmarks.loads import FULL, LOADS, Row, Update, make_rows
from benchmarks.measure import rss_max_mib, rss_mib
from benchmarks.topics import SAMPLED_EVERY, temporary_topics
from deploy.local import services
from deploy.local.ports import HOST
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack
from shared.settings import KafkaSettings, read_shard_map
from shared.topology import ShardMap

TIDEMARK: Final = "tidemark"
SYSTEMS: Final = (TIDEMARK, TWIN)
_CONNECTIONS: Final = 256
_CONNECTIONS_MAX: Final = 8_000
"""More than wait where a shard's requests, a quarter of all, hang until they are given up."""
_WARM_UP_S: Final = 5.0
_BROKER_WARM_UP: Final = Scenario("broker warm-up", 60, base_per_s=SOAK_PER_S)
"""Until Java has compiled what single updates need."""
_ARRIVE_WITHIN_S: Final = 60.0
_REQUESTS: Final = 20_000
_BATCHES: Final = 400

Say = Callable[[str], None]


class Latency:
    """Plays scenarios on Tidemark and on its synchronous twin."""

    def __init__(
        self, stack: LocalStack, *, seed: int, say: Say, otlp_endpoint: str | None = None
    ) -> None:
        self._stack = stack
        self._say = say
        self._otlp_endpoint = otlp_endpoint
        self._dsns = read_shard_map(stack.layout.shard_map).dsns
        rows = self._rows = make_rows()
        self._seed = seed
        self._databases = Databases(self._dsns, rows)
        shard_of = ShardMap.equal(len(self._dsns)).shard_of
        self._probe_rows: dict[str, Row] = {}
        self._probes_sent = 0
        for row in rows:
            self._probe_rows.setdefault(shard_of(row.partition).name, row)
        self._probed = {row.app_id for row in self._probe_rows.values()}
        host = f"{HOST}:{stack.plan.ingest}"
        updates = list(islice(self._updates(), _REQUESTS))
        self._singles = list(self._requests(updates))
        self._batches = list(_batches(host, rows, self._probed, [each.tags for each in updates]))

    def _updates(self) -> Iterator[Update]:
        """Yield updates of rows that are not probed, uniform over all others; they end."""
        for update in LOADS["distinct"].updates(self._rows, self._seed, FULL):
            if self._rows[update.row].app_id not in self._probed:
                yield update

    def _requests(self, updates: Iterable[Update]) -> Iterator[bytes]:
        """Yield a request for each update; one of a hundred is traced."""
        host = f"{HOST}:{self._stack.plan.ingest}"
        for number, update in enumerate(updates):
            path, body = _path(self._rows[update.row]), f'{{"tags":{update.tags}}}'
            traced = number % SAMPLED_EVERY == 0
            yield http_request(host, "PATCH", path, body, traced=traced)

    async def measure(self) -> list[dict[str, Any]]:
        """Return every scenario on every system, with a line for each second of it."""
        await self._databases.load()
        await self._play(_BROKER_WARM_UP, TIDEMARK)
        return [
            await self._play(scenario, system)
            for scenario in SCENARIOS
            for _ in range(scenario.plays)
            for system in SYSTEMS
        ]

    async def soak(self, minutes: int) -> dict[str, Any]:
        """Return time lag and memory in each minute of a steady load on Tidemark.

        It goes to all rows, so that what is kept for each of them would show.
        """
        await self._databases.load()
        await self._play(_BROKER_WARM_UP, TIDEMARK)
        scenario = Scenario("soak", 60, base_per_s=SOAK_PER_S)
        lines: list[dict[str, Any]] = []
        accepted = failed = missing = 0
        requests = chain.from_iterable(self._requests(self._updates()) for _ in repeat(None))
        async with self._deployed(TIDEMARK) as daemons:
            for minute in range(1, minutes + 1):
                singles = list(islice(requests, int(scenario.seconds * scenario.base_per_s)))
                sender, probes = await self._send(scenario, singles)
                accepted += _updates_of(sender.answers, accepted=True)
                failed += _updates_of(sender.answers, accepted=False)
                missing += sum(probe.outstanding for probe in probes)
                figures = _figures(sender.answers, probes, scenario, 0, scenario.seconds)
                memory = {"rss_mib": _memory(daemons), "rss_max_mib": _memory(daemons, rss_max_mib)}
                lines.append({"minute": minute, **memory, **figures})
                self._say(json.dumps(lines[-1]))
            applied = await self._applied(accepted)
        return {
            "not_arrived": missing,
            "updates_accepted": accepted,
            "updates_unknown": failed,
            "updates_applied": applied,
            "minutes": lines,
        }

    async def _play(self, scenario: Scenario, system: str) -> dict[str, Any]:
        async with self._deployed(system) as daemons:
            warmed_up, _ = await self._send(Scenario("warm-up", _WARM_UP_S), self._singles)
            sender, probes = await self._send(scenario, self._singles)
            answers = [*warmed_up.answers, *sender.answers]
            accepted = _updates_of(answers, accepted=True)
            failed = _updates_of(answers, accepted=False)
            applied = accepted if system == TWIN else await self._applied(accepted)
            memory = _memory(daemons)
        found = {
            "scenario": scenario.name,
            "system": system,
            "event": scenario.event,
            "stalled": scenario.stalled,
            **_summary(scenario, sender.answers, probes),
            "not_arrived": sum(probe.outstanding for probe in probes),
            "connections": sender.connections,
            "sender_late_p99_ms": percentile_ms([each.late_s for each in sender.answers], 0.99),
            "updates_accepted": accepted,
            "updates_unknown": failed,
            "failed_while_warming_up": sum(not each.accepted for each in warmed_up.answers),
            "updates_applied": applied,
            "rss_mib": memory,
            "timeline": _timeline(scenario, sender.answers, probes),
        }
        shown = {name: value for name, value in found.items() if name != "timeline"}
        self._say(json.dumps(shown))
        return found

    @asynccontextmanager
    async def _deployed(self, system: str) -> AsyncIterator[list[Daemon]]:
        await self._databases.restore()
        topic = f"latency-{uuid.uuid4().hex[:12]}"
        own = self._stack.kafka_settings.model_copy(update={"topic": topic})
        async with temporary_topics(own) as kafka:
            with self._running(system, kafka) as daemons:
                await asyncio.to_thread(_wait_ready, daemons)
                yield daemons

    @contextmanager
    def _running(self, system: str, kafka: KafkaSettings) -> Iterator[list[Daemon]]:
        daemons = [
            server_daemon(
                self._stack,
                "ingest" if system == TIDEMARK else TWIN,
                kafka.topic,
                self._otlp_endpoint,
            )
        ]
        if system == TIDEMARK:
            variables = {"TIDEMARK_GROUP__ID": kafka.topic, **telemetry(self._otlp_endpoint)}
            layout, plan = self._stack.layout, self._stack.plan
            daemons.append(services.consumer(layout, plan, 1, kafka.topic, variables))
        try:
            for daemon in daemons:
                daemon.start()
            yield daemons
        finally:
            for daemon in daemons:
                daemon.stop()

    async def _send(
        self, scenario: Scenario, singles: Sequence[bytes]
    ) -> tuple[Sender, list[Probe]]:
        probes = [Probe(shard, row) for shard, row in self._probe_rows.items()]
        sender = Sender(
            HOST,
            self._stack.plan.ingest,
            connections=_CONNECTIONS,
            connections_max=_CONNECTIONS_MAX,
        )
        plan = self._plan(scenario, singles, probes)
        with _without_collecting():
            await self._play_out(plan, scenario, sender, probes)
        return sender, probes

    async def _play_out(
        self, plan: Sequence[Planned], scenario: Scenario, sender: Sender, probes: Sequence[Probe]
    ) -> None:
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(probe.watch(self._dsns[probe.shard], started), name=probe.shard)
                for probe in probes
            ]
            disturbing = tasks.create_task(self._disturb(scenario), name="disturbance")
            await sender.send(plan, started)
            await disturbing
            deadline = time.monotonic() + _ARRIVE_WITHIN_S
            while _are_awaited(probes) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            for watcher in watching:
                watcher.cancel()

    async def _applied(self, accepted: int) -> int:
        """Return how many updates the consumer says to be in their rows, once it is through."""
        deadline = time.monotonic() + _ARRIVE_WITHIN_S
        applied = 0
        while applied < accepted and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            applied = await asyncio.to_thread(_updates_applied, self._stack.plan.status[0])
        return applied

    async def _disturb(self, scenario: Scenario) -> None:
        if scenario.stalled is None or scenario.event is None:
            return
        shard = self._stack.shards[scenario.stalled]
        begins_s, ends_s = scenario.event
        await asyncio.sleep(begins_s)
        try:
            await asyncio.to_thread(shard.pause)
            await asyncio.sleep(ends_s - begins_s)
        finally:
            shard.resume()

    def _plan(
        self, scenario: Scenario, singles: Sequence[bytes], probes: Sequence[Probe]
    ) -> list[Planned]:
        planned = [
            Planned(number / scenario.base_per_s, singles[number % len(singles)], 1)
            for number in range(int(scenario.seconds * scenario.base_per_s))
        ]
        if scenario.burst and scenario.event is not None:
            begins_s, ends_s = scenario.event
            batches_per_s = (BURST_PER_S - scenario.base_per_s) / UPDATES_PER_BATCH
            for number in range(int((ends_s - begins_s) * batches_per_s)):
                at_s = begins_s + number / batches_per_s
                content = self._batches[number % len(self._batches)]
                planned.append(Planned(at_s, content, UPDATES_PER_BATCH))
        host = f"{HOST}:{self._stack.plan.ingest}"
        # A row may still hold a number from before: each is higher than all of them.
        first = self._probes_sent + 1
        count = int(scenario.seconds / INTERVAL_S)
        self._probes_sent += count
        for place, probe in enumerate(probes):
            for number in range(count):
                # Not all shards at the same moment.
                at_s = (number + place / len(probes)) * INTERVAL_S
                body = f'{{"tags":{{"{TAG}":{first + number}}}}}'
                content = http_request(host, "PATCH", _path(probe.row), body)
                planned.append(Planned(at_s, content, 1))
                probe.expect(first + number, at_s)
        return sorted(planned, key=lambda each: each.at_s)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the garbage collector from holding up requests that are due.

    A pass over all that is planned and answered takes 0.2 to 0.4 s.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_invalid(played: Mapping[str, Any]) -> bool:
    """Say whether what was played on a system does not count, since updates are missing.

    Those of which the sender does not know whether they were accepted may have been applied or not.
    """
    accepted, applied = played["updates_accepted"], played["updates_applied"]
    found = accepted <= applied <= accepted + played["updates_unknown"]
    return bool(played["not_arrived"]) or not found


def _are_awaited(probes: Sequence[Probe]) -> bool:
    return any(probe.outstanding for probe in probes)


def _path(row: Row) -> str:
    return f"/v1/apps/{row.app_id}/subscriptions/{row.subscription_id}"


def _batches(
    host: str, rows: Sequence[Row], probed: set[str], tags: Sequence[str]
) -> Iterator[bytes]:
    by_app: dict[str, list[Row]] = {}
    for row in rows:
        if row.app_id not in probed:
            by_app.setdefault(row.app_id, []).append(row)
    apps = list(by_app)
    for number, app in enumerate(apps[:: len(apps) // _BATCHES][:_BATCHES]):
        updates = ",".join(
            f'{{"subscription_id":"{by_app[app][place % len(by_app[app])].subscription_id}",'
            f'"tags":{tags[(number * UPDATES_PER_BATCH + place) % len(tags)]}}}'
            for place in range(UPDATES_PER_BATCH)
        )
        path = f"/v1/apps/{app}/subscriptions/batch"
        yield http_request(host, "POST", path, f'{{"updates":[{updates}]}}')


def _wait_ready(daemons: Sequence[Daemon]) -> None:
    for daemon in daemons:
        daemon.wait_ready()


def _updates_of(answers: Sequence[Answer], *, accepted: bool) -> int:
    return sum(each.updates for each in answers if each.accepted is accepted)


def _memory(
    daemons: Sequence[Daemon], of: Callable[[psutil.Process], float] = rss_mib
) -> dict[str, float]:
    """Return the resident memory of each in MiB; 0 of one that has ended."""
    processes = {daemon.name: daemon.process() for daemon in daemons}
    return {name: round(of(each), 1) if each else 0 for name, each in processes.items()}


def _updates_applied(port: int) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/status")
        shards = json.load(connection.getresponse())["shards"].values()
    finally:
        connection.close()
    # Replayed are those of a write that a frozen shard has done without saying so.
    return sum(int(shard["updates_applied"] + shard["updates_replayed"]) for shard in shards)


def percentile_ms(seconds: Sequence[float], share: float) -> float | None:
    """Return a percentile in milliseconds, by nearest rank; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 1)


def _phases(scenario: Scenario) -> Mapping[str, tuple[float, float]]:
    if scenario.event is None:
        return {"all": (0, scenario.seconds)}
    begins_s, ends_s = scenario.event
    return {
        "before": (0, begins_s),
        "during": (begins_s, ends_s),
        # What was held up is still on its way for a moment.
        "first 5 s after": (ends_s, ends_s + 5),
        "after": (ends_s + 5, scenario.seconds),
    }


def _summary(
    scenario: Scenario, answers: Sequence[Answer], probes: Sequence[Probe]
) -> dict[str, Any]:
    return {
        "phases": {
            phase: _figures(answers, probes, scenario, begins_s, ends_s)
            for phase, (begins_s, ends_s) in _phases(scenario).items()
        }
    }


def _figures(
    answers: Sequence[Answer],
    probes: Sequence[Probe],
    scenario: Scenario,
    begins_s: float,
    ends_s: float,
) -> dict[str, Any]:
    sent = [each for each in answers if begins_s <= each.at_s < ends_s]
    latencies = [each.latency_s for each in sent]
    lags = {
        probe.shard: [each.lag_s for each in probe.arrivals if begins_s <= each.at_s < ends_s]
        for probe in probes
    }
    healthy = [lag for shard, each in lags.items() if shard != scenario.stalled for lag in each]
    return {
        "http_p50_ms": percentile_ms(latencies, 0.5),
        "http_p99_ms": percentile_ms(latencies, 0.99),
        "failed": sum(not each.accepted for each in sent),
        "probes": sum(map(len, lags.values())),
        "lag_p50_ms": percentile_ms(healthy, 0.5),
        "lag_p99_ms": percentile_ms(healthy, 0.99),
        "lag_p99_ms_by_shard": {name: percentile_ms(each, 0.99) for name, each in lags.items()},
    }


def _timeline(
    scenario: Scenario, answers: Sequence[Answer], probes: Sequence[Probe]
) -> list[dict[str, Any]]:
    return [
        {"second": second, **_figures(answers, probes, scenario, second, second + 1)}
        for second in range(int(scenario.seconds))
    ]
