"""Tidemark's consumer, as the process that is deployed."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.arms.arm import Task
from benchmarks.loads import Load
from benchmarks.measure import Rate, own_cpu, rss_mib
from benchmarks.stack import RESULTS
from deploy.local import services
from deploy.local.layout import CHECKOUT
from deploy.local.ports import HOST
from deploy.local.processes import Daemon
from shared.errors import Transient

_JOIN_TIMEOUT_S: Final = 60.0
_STALL_TIMEOUT_S: Final = 60.0
_FAST_POLL_S: Final = 0.01
_SLOW_POLL_S: Final = 0.25
_PROFILE_S: Final = 10


@dataclass(frozen=True, slots=True)
class Tidemark:
    """`python -m consumer` of a checkout, watched through its status page."""

    name: str = "tidemark"
    checkout: Path = CHECKOUT
    settings: Mapping[str, str] | None = None
    profile: bool = False
    meaning: str = "Tidemark's consumer, one process"
    sets_positions: bool = True

    def records(self, load: Load) -> int | None:
        """Apply all of every load."""
        return load.full

    def missing(self) -> str | None:
        """It is always here."""
        return None

    def run(self, task: Task) -> Rate:
        """Start it, and watch it from the first record received to the last one applied."""
        variables = {"TIDEMARK_GROUP__ID": task.group, **(self.settings or {})}
        daemon = services.consumer(
            task.stack.layout, task.stack.plan, 1, task.kafka.topic, variables
        )
        daemon = replace(daemon, cwd=self.checkout, env={**daemon.env, "PYTHONSAFEPATH": ""})
        daemon.start()
        try:
            return self._watched(daemon, task)
        except psutil.NoSuchProcess as error:
            said = "\n".join(daemon.last_lines(15))
            raise Transient(f"The consumer has ended; it said:\n{said}") from error
        finally:
            daemon.stop()

    def _watched(self, daemon: Daemon, task: Task) -> Rate:
        process = daemon.process()
        if process is None:
            raise psutil.NoSuchProcess(0)
        watch = _Watch(task.stack.plan.status[0], process, task.records)
        watch.until_begun()
        profiler = self._start_profiler(process, task.load) if self.profile else None
        rate = watch.until_done()
        if profiler is not None:
            profiler.wait(timeout=60)
        return rate

    def _start_profiler(self, process: psutil.Process, load: str) -> "subprocess.Popen[bytes]":
        path = RESULTS / f"{self.name}-{load}.svg"
        command = [
            str(Path(sys.executable).with_name("py-spy")),
            "record",
            "--pid",
            str(process.pid),
            "--output",
            str(path),
        ]
        return subprocess.Popen(  # noqa: S603 - our own arguments
            [*command, "--duration", str(_PROFILE_S), "--rate", "200", "--format", "flamegraph"]
        )


class _Watch:
    """What the status page says over time."""

    def __init__(self, port: int, process: psutil.Process, records: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=10)
        self._process = process
        self._records = records
        self._begun_at = 0.0
        self._cpu_before = 0.0

    def until_begun(self) -> None:
        """Wait for the first record."""
        deadline = time.monotonic() + _JOIN_TIMEOUT_S
        while True:
            # Before the question: the first record may come while it is being answered.
            now, cpu_s = time.monotonic(), own_cpu(self._process)
            status = self._status()
            if status and (status["records_in_flight"] or _finished(status)):
                self._begun_at, self._cpu_before = now, cpu_s
                return
            if now > deadline or not self._process.is_running():
                raise Transient("The consumer receives nothing.")
            time.sleep(_FAST_POLL_S)

    def until_done(self) -> Rate:
        """Wait until every record is applied or given up."""
        finished, moved_at, rss_max = 0, time.monotonic(), 0.0
        while True:
            status = self._status()
            now = time.monotonic()
            rss_max = max(rss_max, rss_mib(self._process))
            before, finished = finished, _finished(status)
            if finished >= self._records:
                break
            if finished != before:
                moved_at = now
            elif now > moved_at + _STALL_TIMEOUT_S:
                raise Transient(f"The consumer stands still at {finished} of {self._records}.")
            left_s = (self._records - finished) / max(finished, 1) * (now - self._begun_at)
            time.sleep(_SLOW_POLL_S if left_s > 2 * _SLOW_POLL_S else _FAST_POLL_S)
        return Rate(
            updates=self._records,
            seconds=now - self._begun_at,
            client_cpu_s=own_cpu(self._process) - self._cpu_before,
            rss_max_mib=rss_max,
            statements=sum(shard["flushes"] for shard in status["shards"].values()),
        )

    def _status(self) -> dict[str, Any]:
        try:
            self._connection.request("GET", "/status")
            status: dict[str, Any] = json.load(self._connection.getresponse())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return {}
        return status


def _finished(status: Mapping[str, Any]) -> int:
    """Count the records that need no more work."""
    counts = ("applied", "replayed", "ignored", "dead_lettered")
    shards = status.get("shards", {}).values()
    updates = sum(shard[f"updates_{count}"] for shard in shards for count in counts)
    return int(updates + status.get("unreadable_dead_lettered", 0))
