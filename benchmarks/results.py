"""What a session of runs found, as JSON: with the machine, the versions and the seed."""

import json
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.database import Written
from benchmarks.latency.measure import is_invalid
from benchmarks.loads import ROWS
from benchmarks.measure import MIB, Rate, Run, commit_of, output_of
from benchmarks.scaling import Point, Scaled
from benchmarks.stack import RESULTS
from deploy.local.homes import client
from deploy.local.jars import locked_jars
from deploy.local.layout import CHECKOUT
from shared.errors import Misconfigured

REPORTED: Final = CHECKOUT / "benchmarks" / "results.json"
"""What RESULTS.md was made from."""

HTTP: Final = "http"
"""The part that is the HTTP side alone."""

_POM: Final = CHECKOUT / "benchmarks" / "parallel_consumer" / "pom.xml"
_dependencies: Final = re.compile(
    r"<artifactId>(parallel-consumer-core|HikariCP|postgresql)</artifactId>\s*"
    r"<version>([^<]+)</version>"
).findall
_PACKAGES: Final = ("aiokafka", "asyncpg", "fastapi", "msgspec", "pydantic", "uvicorn", "uvloop")


@dataclass
class Session:
    """Everything that was measured, in one sitting or in several."""

    seed: int
    rows: int = ROWS
    """How many there were but in `scaling`."""
    sittings: list[dict[str, Any]] = field(default_factory=list)
    """Machine, versions, spans received, what was left out, and `parts`: what was measured there,
    as a whole."""
    runs: list[Run] = field(default_factory=list)
    http: list[dict[str, Any]] = field(default_factory=list)
    end_to_end: list[dict[str, Any]] = field(default_factory=list)
    soak: dict[str, Any] = field(default_factory=dict)
    scaling: list[Scaled] = field(default_factory=list)

    def sit_down(self, arguments: Sequence[str], left_out: Sequence[str]) -> None:
        """Note where and when the next parts are measured, and which cannot be, and why."""
        self.sittings.append({**facts(arguments), "left_out": list(left_out), "parts": []})

    def replace_runs(self, load: str, runs: Sequence[Run]) -> None:
        """Keep these runs of a load, and what was run beside it, instead of those from before."""
        self.runs = [run for run in self.runs if run.series != load] + list(runs)

    def end(self, part: str) -> Path:
        """Note that a part was measured as a whole, and write everything down."""
        for sitting in self.sittings:
            sitting["parts"] = [each for each in sitting["parts"] if each != part]
        self.sittings[-1]["parts"].append(part)
        return self.keep()

    def note_spans(self, count: int) -> None:
        """Note how many spans came in the last sitting; without any, telemetry was not on."""
        self.sittings[-1]["spans"] = count
        self.keep()

    def keep(self) -> Path:
        """Write everything down."""
        sitting = self.sittings[-1]
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{sitting['taken_at'].replace(' ', '-').replace(':', '')}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path

    @property
    def parts(self) -> set[str]:
        """Whatever was measured as a whole."""
        return {part for sitting in self.sittings for part in sitting["parts"]}

    @property
    def measured(self) -> set[str]:
        """The parts, and each arm of each load."""
        return self.parts | {f"{run.arm} on {run.series}" for run in self.runs}

    @property
    def counts(self) -> bool:
        """Whether all updates of all runs were found where they belong, and spans came."""
        played = [*self.end_to_end, *([self.soak] if self.soak else [])]
        return (
            all(run.valid for run in self.runs)
            and all(run.valid for scaled in self.scaling for run in scaled.runs)
            and not any(map(is_invalid, played))
            and not any(each.get("not_stored") for each in self.http)
            and all(sitting.get("spans") != 0 for sitting in self.sittings)
        )

    def sitting_of(self, part: str) -> dict[str, Any] | None:
        """Return where and when a part was measured."""
        return next((each for each in self.sittings if part in each["parts"]), None)

    def turns(self, arm: str, load: str, series: str | None = None) -> list[Run]:
        """Return the runs of an arm on a load in order, taken by turns with others of a series."""
        wanted = (arm, load, series or load)
        return [run for run in self.runs if (run.arm, run.load, run.series) == wanted]

    def of(self, arm: str, load: str, series: str | None = None) -> list[Run]:
        """Return those of them that count."""
        return [run for run in self.turns(arm, load, series) if run.valid]

    def http_figures(self, arm: str, kind: str, figure: str) -> list[float]:
        """Return a figure of every run of a server with one kind of requests that has it."""
        runs = [each for each in self.http if (each["arm"], each["kind"]) == (arm, kind)]
        return [each[figure] for each in runs if figure in each]

    @classmethod
    def read(cls, path: Path) -> "Session":
        """Read what `end` wrote.

        Raises:
            Misconfigured: the file holds nothing of the kind.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["runs"] = [_run(each) for each in content["runs"]]
            content["scaling"] = [
                Scaled(Point(**each["point"]), [_run(run) for run in each["runs"]])
                for each in content["scaling"]
            ]
            return cls(**content)
        except OSError as error:
            raise Misconfigured(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(
                f"{path} holds no results of this version ({type(error).__name__}); name another "
                "file, or measure anew."
            ) from error


def _run(content: dict[str, Any]) -> Run:
    rate, written = Rate(**content.pop("rate")), Written(**content.pop("written"))
    return Run(rate=rate, written=written, **content)


def latest() -> Path | None:
    """Return the youngest results, if there are any."""
    return max(RESULTS.glob("*.json"), default=None, key=lambda path: path.stat().st_mtime)


def facts(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what has to be known to judge figures."""
    return {
        "taken_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "arguments": [Path(each).name if "/" in each else each for each in arguments],
        "cores": psutil.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / MIB / 1024, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average_before": [round(each, 1) for each in os.getloadavg()],
        "additions_s": _additions_s(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "commit": commit_of(CHECKOUT),
        "servers": {
            "postgres": output_of(str(client("psql")), "--version").rpartition(" ")[2],
            "kafka": next(jar.version for jar in locked_jars() if jar.artifact == "kafka-server"),
        },
        "peers": {
            "Java": output_of("java", "--version").partition("\n")[0],
            **dict(_dependencies(_POM.read_text(encoding="utf-8"))),
        },
        "environment": {name: os.environ.get(name, "") for name in ("ARM", "LOAD", "REPEATS")},
    }


def _additions_s() -> float:
    """Return how long ten million additions take, since the same machine is not always as fast."""
    started = time.perf_counter()
    total = 0
    for number in range(10_000_000):
        total += number
    return round(time.perf_counter() - started, 2)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "")
