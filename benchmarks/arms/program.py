"""An arm that is a program of ours: it gets its task as JSON, and prints its rate as JSON."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from typing import Any, Final

import psutil

from benchmarks.arms.arm import Task
from benchmarks.measure import Rate, rss_max_mib
from deploy.local.layout import CHECKOUT
from shared.errors import Transient
from shared.topology import PARTITIONS, ShardMap

_TIMEOUT_S: Final = 1_200.0
WARM: Final = "warm\n"


def described(task: Task, **more: Any) -> str:
    """Return the task as JSON."""
    facts = {
        "bootstrap_servers": task.kafka.bootstrap_servers,
        "topic": task.kafka.topic,
        "group": task.group,
        "dsns": {name: dsn.get_secret_value() for name, dsn in task.dsns.items()},
        "load": task.load,
        "rows": task.rows,
        "seed": task.seed,
        "records": task.records,
    }
    return json.dumps({**facts, **more})


def run_program(
    command: Sequence[str],
    task: str,
    environment: Mapping[str, str],
    *,
    begun: Callable[[], None] | None = None,
) -> Rate:
    """Run a program with a task on its standard input, and read the rate it prints.

    One that warms up first says so, is awaited until then by `begun`, and goes on by a line.

    Raises:
        Transient: it failed; the end of what it said is quoted.
    """
    with (
        TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            cwd=CHECKOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        too_long = threading.Timer(_TIMEOUT_S, process.kill)
        too_long.start()
        try:
            said = _talk(process, task, begun)
        finally:
            too_long.cancel()
            process.kill()
        if not said:
            errors.seek(0)
            why = errors.read().strip()[-2_000:] or f"it was ended after {_TIMEOUT_S:.0f} s"
            raise Transient(f"{' '.join(command[-2:])} failed: {why}")
        return Rate(**json.loads(said))


def _talk(process: "subprocess.Popen[str]", task: str, begun: Callable[[], None] | None) -> str:
    """Return the last line of a program that ended well, else nothing."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{task}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if line == WARM:
            if begun is not None:
                begun()
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
        return "" if process.wait() else line
    return ""


def run_module(module: str, task: str) -> Rate:
    """Run one of our modules; see `run_program`."""
    return run_program([sys.executable, "-m", module], task, {})


@dataclass(slots=True)
class Clock:
    """For inside such a program: time and CPU since it began."""

    started: float = 0.0
    cpu_before: float = 0.0

    @property
    def is_running(self) -> bool:
        """Whether it has been started."""
        return self.started > 0

    def start(self) -> None:
        """Begin to count."""
        self.started, self.cpu_before = time.monotonic(), time.process_time()

    def report(self, updates: int, statements: int) -> None:
        """Print the rate."""
        rate = Rate(
            updates=updates,
            seconds=time.monotonic() - self.started,
            client_cpu_s=time.process_time() - self.cpu_before,
            rss_max_mib=rss_max_mib(psutil.Process()),
            statements=statements,
        )
        print(json.dumps(asdict(rate)))


def owner_names(task: Mapping[str, Any]) -> list[str]:
    """Return the name of the shard that owns each partition."""
    shards = ShardMap.equal(len(task["dsns"]))
    return [shards.shard_of(number).name for number in range(PARTITIONS)]


def read_task() -> dict[str, Any]:
    """Return the task that this program was given."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    return task
