"""Confluent Parallel Consumer, ordered by key, written as well as we know how to."""

import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from benchmarks.arms.arm import Task
from benchmarks.arms.program import described, run_program
from benchmarks.loads import SHORT, WARM_UP, Load
from benchmarks.measure import Rate
from benchmarks.stack import BENCH
from deploy.local.layout import CHECKOUT
from shared.errors import Transient

_PROJECT: Final = CHECKOUT / "benchmarks" / "parallel_consumer"
_BUILT: Final = BENCH / "parallel_consumer"
_JAR: Final = _BUILT / "parallel-consumer.jar"
_BUILD_TIMEOUT_S: Final = 300.0
_MEANINGS: Final = {
    "single": "Parallel Consumer, KEY order, 64 at once, one UPDATE each",
    "jdbc-batch": "Parallel Consumer, KEY order, batches of 500 as JDBC batches",
    "unnest": "Parallel Consumer, KEY order, batches of 2,000 as one UNNEST statement per shard",
}
MODES: Final = tuple(_MEANINGS)
STRONGEST: Final = "unnest"
_SLOW_LOADS: Final = frozenset({"half-hot", "zipf", "failing"})


@dataclass(frozen=True, slots=True)
class ParallelConsumer:
    """One of its three ways to write."""

    mode: str
    sets_positions: bool = True
    warms_up: bool = True
    keeps_dead_letters: bool = False
    slow_records_max: int = SHORT
    """The most records of a load that it is slow at."""

    @property
    def name(self) -> str:
        """What it is called."""
        return f"pc-{self.mode}"

    @property
    def meaning(self) -> str:
        """What it is, in one line."""
        return _MEANINGS[self.mode]

    def records(self, load: Load) -> int | None:
        """Take a short run of what it needs minutes for."""
        if load.name in _SLOW_LOADS:
            return self.slow_records_max
        return SHORT if self.mode == "single" else load.full

    def missing(self) -> str | None:
        """It needs Java, and Maven where it is not built yet."""
        if shutil.which("java") is None:
            return "Parallel Consumer is left out: there is no Java here."
        if not is_built() and shutil.which("mvn") is None:
            return "Parallel Consumer is left out: there is no Maven here to build it with."
        return None

    def run(self, task: Task) -> Rate:
        """Build it where that is needed, and let it consume everything."""
        if not is_built():
            build()
        assert task.warm_up is not None
        return run_program(
            # The throughput collector; a heap that its queues need not wait for.
            [
                "java",
                "-XX:+UseParallelGC",
                "-Xmx1536m",
                "-cp",
                f"{_JAR}:{_BUILT / 'lib'}/*",
                "Main",
            ],
            described(
                task,
                mode=self.mode.upper().replace("-", "_"),
                warm_up={
                    "topic": task.warm_up.topic,
                    "group": f"{task.group}-warm-up",
                    "records": WARM_UP,
                },
                dsns=[task.dsns[name].get_secret_value() for name in sorted(task.dsns)],
            ),
            {},
            begun=task.begun,
        )


def is_built() -> bool:
    """Say whether the program is there, and not older than its source."""
    sources = [_PROJECT / "pom.xml", *_PROJECT.rglob("*.java")]
    return _JAR.exists() and _JAR.stat().st_mtime > max(p.stat().st_mtime for p in sources)


def build() -> None:
    """Build the program.

    Raises:
        Transient: Maven failed; the end of what it said is quoted.
    """
    done = subprocess.run(
        ["mvn", "--batch-mode", "--quiet", "package"],  # noqa: S607 - from the user's path
        cwd=_PROJECT,
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise Transient(f"Maven failed: {done.stdout.strip()[-2_000:]}")
