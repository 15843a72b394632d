"""What telemetry costs the consumer: its rate with all of it, with metrics only, with nothing.

`python -m benchmarks.telemetry`; one of a hundred updates was sampled where it was sent.
"""

import argparse
import asyncio
import statistics
import sys
from collections import defaultdict
from typing import Final

from benchmarks.arms.tidemark import Tidemark
from benchmarks.collector import collector
from benchmarks.loads import LOADS
from benchmarks.measure import Rate, Spread
from benchmarks.stack import bench_stack
from benchmarks.throughput import Throughput
from deploy.local.stack import LocalStack

_NOTHING: Final = {
    "OTEL_SDK_DISABLED": "true",
    "TIDEMARK_TELEMETRY__LAG_INTERVAL_MS": "600000",  # longer than a run
}


async def _measure(
    stack: LocalStack, endpoint: str, options: argparse.Namespace
) -> dict[str, list[Rate]]:
    rates: dict[str, list[Rate]] = defaultdict(list)
    arms = [
        Tidemark(name="nothing", settings=_NOTHING),
        Tidemark(name="metrics"),
        Tidemark(name="and 1 % traced", settings={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}),
    ]
    throughput = Throughput.on(stack, seed=1, say=_say)
    async for run in throughput.measure(
        arms, [options.load], repeats=options.repeats, records_max=options.records
    ):
        rates[run.arm].append(run.rate)
    return rates


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def main() -> int:
    """Measure arms by turns, and print the median of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telemetry", description=__doc__)
    parser.add_argument("--load", choices=list(LOADS), default="distinct")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--records", type=int, default=400_000)
    options = parser.parse_args()
    with collector() as receiver, bench_stack() as stack:
        found = asyncio.run(_measure(stack, receiver.endpoint, options))
    for name, rates in found.items():
        per_s = Spread.of([rate.per_second for rate in rates])
        cpu_us = statistics.median(rate.client_cpu_s / rate.updates * 1e6 for rate in rates)
        _say(f"{name:15} {per_s}/s · {cpu_us:.2f} µs of CPU an update (medians)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
