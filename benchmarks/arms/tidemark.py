"""Tidemark's consumer, as the process that is deployed."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.arms.arm import OurArm, Task
from benchmarks.collector import telemetry
from benchmarks.loads import Load
from benchmarks.measure import Rate, commit_of, own_cpu, rss_max_mib
from benchmarks.stack import PROFILE
from deploy.local import services
from deploy.local.layout import CHECKOUT
from deploy.local.ports import HOST
from deploy.local.processes import Daemon
from shared.errors import Transient

_JOIN_TIMEOUT_S: Final = 60.0
_STALL_TIMEOUT_S: Final = 60.0
_FAST_POLL_S: Final = 0.01
_SLOW_POLL_S: Final = 0.25
_PROFILE_S: Final = 4
"""Less than any load that is profiled takes."""
_set_title: Final = partial(re.compile(r'(<text id="title"[^>]*>)[^<]*').sub, count=1)
TIDEMARK: Final = "tidemark"
"""The arm that is this checkout with its default settings."""


@dataclass(frozen=True, slots=True)
class Tidemark(OurArm):
    """`python -m consumer` of a checkout, watched through its status page."""

    name: str = TIDEMARK
    checkout: Path = CHECKOUT
    settings: Mapping[str, str] | None = None
    profile: bool = False
    processes: int = 1
    keeps_dead_letters: bool = True
    meaning: str = "Tidemark's consumer, one process"

    def records(self, load: Load) -> int | None:
        """Apply all of every load."""
        return load.full

    def run(self, task: Task) -> Rate:
        """Start it, and watch it from the first record received to the last one applied."""
        daemons = [self._daemon(task, number) for number in range(1, self.processes + 1)]
        try:
            for daemon in daemons:
                daemon.start()
            return self._watched(daemons, task)
        except psutil.NoSuchProcess as error:
            said = "\n".join(line for daemon in daemons for line in daemon.last_lines(15))
            raise Transient(f"A consumer has ended; it said:\n{said}") from error
        finally:
            for daemon in daemons:
                daemon.stop()

    def _daemon(self, task: Task, number: int) -> Daemon:
        variables = {
            "TIDEMARK_GROUP__ID": task.group,
            **telemetry(task.otlp_endpoint),
            **(self.settings or {}),
        }
        daemon = services.consumer(
            task.stack.layout, task.stack.plan, number, task.kafka.topic, variables
        )
        return replace(daemon, cwd=self.checkout, env={**daemon.env, "PYTHONSAFEPATH": ""})

    def _watched(self, daemons: Sequence[Daemon], task: Task) -> Rate:
        processes = [process for daemon in daemons if (process := daemon.process())]
        if len(processes) < len(daemons):
            raise psutil.NoSuchProcess(0)
        watch = _Watch(task.stack.plan.status[: len(daemons)], processes, task.records)
        watch.until_begun()
        profiler = _start_profiler(processes[0]) if self.profile else None
        rate = watch.until_done()
        if profiler is not None:
            if profiler.wait(timeout=60):
                raise Transient("py-spy could not look at the consumer; is it allowed to (ptrace)?")
            _entitle(PROFILE, f"the consumer on {task.load}, commit {commit_of(self.checkout)}")
        return rate


def _start_profiler(process: psutil.Process) -> "subprocess.Popen[bytes]":
    PROFILE.unlink(missing_ok=True)
    command = [
        str(Path(sys.executable).with_name("py-spy")),
        *("record", "--pid", str(process.pid), "--output", str(PROFILE)),
        *("--duration", str(_PROFILE_S), "--rate", "200", "--format", "flamegraph"),
    ]
    return subprocess.Popen(command)  # noqa: S603 - our own arguments


def _entitle(drawn: Path, title: str) -> None:
    """Say what a picture shows, instead of by which command it was made."""
    svg = drawn.read_text(encoding="utf-8")
    drawn.write_text(_set_title(rf"\g<1>{title}", svg), encoding="utf-8")


class _Watch:
    """What the status pages say over time."""

    def __init__(
        self, ports: Sequence[int], processes: Sequence[psutil.Process], records: int
    ) -> None:
        self._pages = [http.client.HTTPConnection(HOST, port, timeout=10) for port in ports]
        self._processes = processes
        self._records = records
        self._begun_at = 0.0
        self._cpu_before = 0.0
        self._finished_before = 0

    def until_begun(self) -> None:
        """Wait for the first record of each."""
        deadline = time.monotonic() + _JOIN_TIMEOUT_S
        while True:
            # Before the question: the first record may come while it is being answered.
            now, cpu_s = time.monotonic(), self._cpu_s()
            statuses = self._statuses()
            if all(each and (each["records_in_flight"] or _finished(each)) for each in statuses):
                self._begun_at, self._cpu_before = now, cpu_s
                if len(statuses) > 1:  # the first of several goes ahead of the others
                    self._finished_before = sum(map(_finished, statuses))
                return
            if now > deadline or not all(each.is_running() for each in self._processes):
                raise Transient("A consumer receives nothing.")
            time.sleep(_FAST_POLL_S)

    def until_done(self) -> Rate:
        """Wait until every record is applied or given up."""
        finished, moved_at = 0, time.monotonic()
        while True:
            statuses = self._statuses()
            now = time.monotonic()
            before, finished = finished, sum(map(_finished, statuses))
            if finished >= self._records:
                break
            if finished != before:
                moved_at = now
            elif now > moved_at + _STALL_TIMEOUT_S:
                raise Transient(f"Consumers stand still at {finished} of {self._records}.")
            left_s = (self._records - finished) / max(finished, 1) * (now - self._begun_at)
            time.sleep(_SLOW_POLL_S if left_s > 2 * _SLOW_POLL_S else _FAST_POLL_S)
        return Rate(
            updates=self._records - self._finished_before,
            seconds=now - self._begun_at,
            client_cpu_s=self._cpu_s() - self._cpu_before,
            rss_max_mib=max(map(rss_max_mib, self._processes)),
            statements=sum(
                shard["flushes"] for each in statuses for shard in each["shards"].values()
            ),
        )

    def _cpu_s(self) -> float:
        return sum(map(own_cpu, self._processes))

    def _statuses(self) -> list[dict[str, Any]]:
        return [_status(page) for page in self._pages]


def _status(page: http.client.HTTPConnection) -> dict[str, Any]:
    try:
        page.request("GET", "/status")
        status: dict[str, Any] = json.load(page.getresponse())
    except (OSError, http.client.HTTPException):
        page.close()
        return {}
    return status


def _finished(status: Mapping[str, Any]) -> int:
    """Count the records that need no more work."""
    counts = ("applied", "replayed", "ignored", "dead_lettered")
    shards = status.get("shards", {}).values()
    updates = sum(shard[f"updates_{count}"] for shard in shards for count in counts)
    return int(updates + status.get("unreadable_dead_lettered", 0))
