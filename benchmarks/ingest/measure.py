"""How many requests the HTTP side takes, beside what it is made of."""

import asyncio
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from benchmarks.collector import telemetry
from benchmarks.database import Databases
from benchmarks.ingest.servers import FASTAPI, NOTHING, TWIN
from benchmarks.loads import LOADS, Row, make_rows, record_value
from benchmarks.measure import cpu_of_tree, own_cpu, rss_mib
from benchmarks.stack import BENCH
from benchmarks.topics import count_updates, temporary_topics
from deploy.local import credentials, services
from deploy.local.layout import CHECKOUT
from deploy.local.ports import HOST
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack
from shared.errors import Transient
from shared.settings import read_shard_map

_UPDATES_PER_BATCH: Final = 500
_SINGLES: Final = 20_000
_BATCHES: Final = 200
_CONNECTIONS: Final = {"single": 64, "batch": 16}
_WARM_UP_S: Final = 3
_SECONDS: Final = 10
_TIMEOUT_S: Final = 60
_SCRIPT: Final = Path(__file__).with_name("wrk.lua")

SERVERS: Final = ("ingest", NOTHING, FASTAPI, TWIN)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Batch:
    app: str
    updates: Sequence[tuple[Row, str]]


def missing() -> str | None:
    """Say in a sentence why this cannot be measured here, if so."""
    if shutil.which("wrk") is None:
        return "The HTTP side is left out: wrk is not installed (a Debian package of that name)."
    return None


class Ingest:
    """Measures the HTTP side; every server gets the same requests by turns."""

    def __init__(
        self, stack: LocalStack, *, seed: int, say: Say, otlp_endpoint: str | None = None
    ) -> None:
        self._stack = stack
        self._say = say
        self._otlp_endpoint = otlp_endpoint
        rows = make_rows()
        self._databases = Databases(read_shard_map(stack.layout.shard_map).dsns, rows)
        updates = LOADS["distinct"].updates(rows, seed, _SINGLES + _BATCHES * _UPDATES_PER_BATCH)
        self._singles = [(rows[each.row], each.tags) for each in islice(updates, _SINGLES)]
        by_app: dict[str, list[Row]] = {}
        for row in rows:
            by_app.setdefault(row.app_id, []).append(row)
        apps = sorted(by_app)[:: len(by_app) // _BATCHES][:_BATCHES]
        self._batches = [
            _Batch(
                app,
                [
                    (by_app[app][number % len(by_app[app])], update.tags)
                    for number, update in enumerate(islice(updates, _UPDATES_PER_BATCH))
                ],
            )
            for app in apps
        ]

    async def measure(self, repeats: int) -> list[dict[str, Any]]:
        """Return what each server did with single updates and with batches, run by run."""
        files = self.write_requests()
        await self._databases.load()
        found = []
        for _ in range(repeats):
            own = self._stack.kafka_settings.model_copy(update={"topic": f"http-{_name()}"})
            async with temporary_topics(own) as kafka:
                for server in SERVERS:
                    await self._databases.restore()
                    with self._running(server, kafka.topic) as daemon:
                        for kind, path in files.items():
                            run = await asyncio.to_thread(self.run, server, daemon, kind, path)
                            found.append(run)
                    if server == "ingest":
                        accepted = sum(run["updates_accepted"] for run in found[-len(files) :])
                        found[-1]["not_stored"] = max(0, accepted - await count_updates(kafka))
                found.append(await asyncio.to_thread(self._send_batch_alone, kafka.topic))
        return found

    def write_requests(self) -> dict[str, Path]:
        """Write what is sent, and return the file of each kind."""
        BENCH.mkdir(parents=True, exist_ok=True)
        files = {kind: BENCH / f"requests-{kind}.txt" for kind in _CONNECTIONS}
        with files["single"].open("w", encoding="utf-8") as file:
            for row, tags in self._singles:
                path = f"/v1/apps/{row.app_id}/subscriptions/{row.subscription_id}"
                file.write(f'PATCH\t{path}\t{{"tags":{tags}}}\n')
        with files["batch"].open("w", encoding="utf-8") as file:
            for batch in self._batches:
                updates = ",".join(
                    f'{{"subscription_id":"{row.subscription_id}","tags":{tags}}}'
                    for row, tags in batch.updates
                )
                path = f"/v1/apps/{batch.app}/subscriptions/batch"
                file.write(f'POST\t{path}\t{{"updates":[{updates}]}}\n')
        return files

    @contextmanager
    def _running(self, server: str, topic: str) -> Iterator[Daemon]:
        daemon = server_daemon(self._stack, server, topic, self._otlp_endpoint)
        daemon.start()
        try:
            daemon.wait_ready()
            yield daemon
        finally:
            daemon.stop()

    def run(self, server: str, daemon: Daemon, kind: str, requests: Path) -> dict[str, Any]:
        """Send requests to a server that runs, and return how it did.

        Raises:
            Transient: the server, or wrk, has ended.
        """
        process = daemon.process()
        if process is None:
            raise Transient(f"{server} has ended: {daemon.last_lines(10)}")
        warmed_up = self._wrk(kind, requests, _WARM_UP_S)
        broker = self._stack.broker.process()
        brokers = [broker] if broker else []
        cpu_s, broker_cpu_s = own_cpu(process), cpu_of_tree(brokers)
        answer = self._wrk(kind, requests, _SECONDS)
        cpu_s, broker_cpu_s = own_cpu(process) - cpu_s, cpu_of_tree(brokers) - broker_cpu_s
        of_each = _UPDATES_PER_BATCH if kind == "batch" else 1
        updates = _accepted(answer) * of_each
        found = {
            "arm": server,
            "kind": kind,
            "per_second": updates / answer["seconds"],
            "p50_ms": answer["p50_ms"],
            "p99_ms": answer["p99_ms"],
            "failed": answer["failed"],
            "updates_accepted": updates + _accepted(warmed_up) * of_each,
            "server_cpu_us": cpu_s / max(updates, 1) * 1e6,
            "broker_cpu_us": broker_cpu_s / max(updates, 1) * 1e6,
            "rss_mib": rss_mib(process),
        }
        self._say(
            f"http {kind:6} {server:8} {found['per_second']:>9,.0f} updates/s · "
            f"p50 {found['p50_ms']:.1f} ms · p99 {found['p99_ms']:.1f} ms · "
            f"server {found['server_cpu_us']:.1f} µs · {found['failed']} failed"
        )
        return found

    def _wrk(self, kind: str, requests: Path, seconds: int) -> Mapping[str, Any]:
        connections = str(_CONNECTIONS[kind])
        command = ["wrk", "-t", "1", "-c", connections, "-d", f"{seconds}s", "--timeout", "10s"]
        authorization = credentials.headers()["Authorization"]
        url = f"http://{HOST}:{self._stack.plan.ingest}"
        done = subprocess.run(  # noqa: S603 - our own arguments
            [*command, "-s", str(_SCRIPT), url, "--", str(requests), authorization],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise Transient(f"wrk failed: {done.stderr.strip()}")
        answer: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    def _send_batch_alone(self, topic: str) -> dict[str, Any]:
        task = {
            "bootstrap_servers": self._stack.plan.bootstrap_servers,
            "topic": topic,
            "connections": _CONNECTIONS["batch"],
            "warm_up_s": _WARM_UP_S,
            "seconds": _SECONDS,
            "batches": [
                (batch.app, [record_value(row, tags).decode() for row, tags in batch.updates])
                for batch in self._batches
            ],
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ingest.send_batch_alone"],
            input=json.dumps(task),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise Transient(f"send_batch failed: {done.stderr.strip()[-2_000:]}")
        found = {"arm": "send-batch", "kind": "batch", **json.loads(done.stdout)}
        self._say(f"http batch  send_batch alone {found['per_second']:,.0f} updates/s")
        return found


def server_daemon(
    stack: LocalStack, server: str, topic: str, otlp_endpoint: str | None = None
) -> Daemon:
    """Describe one of `SERVERS`, on the port of the plan's ingest API."""
    daemon = services.ingest_api(stack.layout, stack.plan, topic, telemetry(otlp_endpoint))
    if server == "ingest":
        return daemon
    arguments = [server, str(stack.layout.shard_map), str(stack.plan.ingest)]
    argv = [sys.executable, "-m", "benchmarks.ingest.servers", *arguments]
    return replace(daemon, name=server, argv=argv)


def _accepted(answer: Mapping[str, Any]) -> int:
    return int(answer["requests"] - answer["failed"])


def _name() -> str:
    return uuid.uuid4().hex[:12]
