"""An arm that is a program of ours: it gets its task as JSON, and prints its rate as JSON."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.arms.arm import Task
from benchmarks.measure import Rate
from deploy.local.layout import CHECKOUT
from shared.errors import Transient

_TIMEOUT_S: Final = 1_200.0


def described(task: Task, **more: Any) -> str:
    """Return the task as JSON."""
    facts = {
        "bootstrap_servers": task.kafka.bootstrap_servers,
        "topic": task.kafka.topic,
        "group": task.group,
        "dsns": {name: dsn.get_secret_value() for name, dsn in task.dsns.items()},
        "load": task.load,
        "seed": task.seed,
        "records": task.records,
    }
    return json.dumps({**facts, **more})


def run_program(command: Sequence[str], task: str, environment: Mapping[str, str]) -> Rate:
    """Run a program with a task on its standard input, and read the rate it prints.

    Raises:
        Transient: it failed; the end of what it said is quoted.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command,
            input=task,
            cwd=CHECKOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Transient(f"{command[0]} did not end within {_TIMEOUT_S:.0f} s.") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise Transient(f"{' '.join(command[-2:])} failed: {done.stderr.strip()[-2_000:]}")
    return Rate(**json.loads(lines[-1]))


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
            rss_max_mib=_rss_max_mib(),
            statements=statements,
        )
        print(json.dumps(asdict(rate)))


def _rss_max_mib() -> float:
    # Not `getrusage`: that begins with what the process had that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def read_task() -> dict[str, Any]:
    """Return the task that this program was given."""
    task: dict[str, Any] = json.load(sys.stdin)
    return task
