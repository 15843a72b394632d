"""What one run of one arm came to, and what it cost."""

import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.database import Written

MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What an arm did between the first record that reached it and the last one applied."""

    updates: int
    seconds: float
    client_cpu_s: float
    rss_max_mib: float
    statements: int | None = None

    @property
    def per_second(self) -> float:
        """Updates a second."""
        return self.updates / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: its rate, what the servers did meanwhile, and whether its rows are right."""

    arm: str
    load: str
    series: str
    """The load that was being measured; another one where this run is what it is compared with."""
    records: int
    """In the topic; more than the rate counts where the beginning is left out."""
    rate: Rate
    postgres_cpu_s: float
    broker_cpu_s: float
    written: Written
    rows_different: int
    letters_missing: int = 0
    """Updates that Postgres refuses and that are not in the dead-letter topic."""

    @property
    def valid(self) -> bool:
        """Whether it counts."""
        return self.rows_different == self.letters_missing == 0

    @property
    def why_not_valid(self) -> str:
        """What is wrong."""
        return f"{self.rows_different:,} rows differ, {self.letters_missing:,} dead letters missing"


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the lowest and the highest of what it is the median of."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.low:,.0f}-{self.high:,.0f})"


def median_of(runs: Iterable[Run], value: Callable[[Run], float]) -> float:
    """Return the median of a figure over at least one run."""
    return Spread.of([value(run) for run in runs]).median


def cpu_of_tree(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of processes, of their children, and of those that have ended."""
    seconds = 0.0
    for root in processes:
        for process in (root, *root.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
            if process == root:  # it has waited for those that have ended
                seconds += times.children_user + times.children_system
    return seconds


def own_cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of one process."""
    times = process.cpu_times()
    return float(times.user + times.system)


def rss_max_mib(process: psutil.Process) -> float:
    """Return the highest resident memory that one process ever had.

    `getrusage` would begin with what the process had that started it.
    """
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def rss_mib(process: psutil.Process) -> float:
    """Return the resident memory of one process."""
    return float(process.memory_info().rss) / MIB


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, `-dirty` where files differ from it."""
    return output_of("git", "-C", str(checkout), "describe", "--always", "--dirty")


def output_of(*command: str) -> str:
    """Return what a command says, nothing where there is no such command."""
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command, capture_output=True, text=True, timeout=20, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
