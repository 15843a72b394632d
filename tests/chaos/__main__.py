"""`make chaos MINUTES=30 SEED=…`: faults for a long time, on a stack of its own."""

import asyncio
import logging
import os
import secrets
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from deploy.local.stack import LocalStack
from deploy.local.testing import temporary_stack
from tests.chaos.run import Load, NotAppliedError, Report, run_chaos
from tests.chaos.schedule import KINDS, NETWORK_KINDS
from tests.chaos.system import fresh_system
from tests.chaos.toxiproxy import can_be_had, running_toxiproxy


def _number(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1
    if value <= 0:
        sys.exit(f"chaos: {name} is {text!r}; it must be a number above 0.")
    return value


async def _run(stack: LocalStack, seed: int, seconds: float, load: Load) -> Report:
    async with AsyncExitStack() as resources:
        kinds = dict(KINDS)
        proxies = None
        if can_be_had():
            proxies = await resources.enter_async_context(running_toxiproxy())
            kinds |= NETWORK_KINDS
        else:
            _say(
                f"Without {', '.join(NETWORK_KINDS)}: they need toxiproxy-server on the PATH, or "
                "Go to build it."
            )
        directory = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        system = await resources.enter_async_context(
            fresh_system(stack, directory, proxies=proxies)
        )
        return await run_chaos(system, seed=seed, seconds=seconds, kinds=kinds, load=load, say=_say)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Return 0 where nothing is wrong, and 1 otherwise."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # It says for each poisoned record, many times, that the broker is down: we know.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    seed = int(_number("SEED", secrets.randbelow(10**6) + 1))
    seconds = _number("MINUTES", 30) * 60
    load = Load(updates_per_s=_number("RATE", 500), apps=60, subscriptions=2_000)
    _say(f"Again the same: make chaos MINUTES={seconds / 60:g} SEED={seed}")
    try:
        with temporary_stack() as stack:
            report = asyncio.run(_run(stack, seed, seconds, load))
    except NotAppliedError as error:
        _say(f"seed {seed}: {error}")
        return 1
    _say(str(report))
    path = Path(os.environ.get("REPORT") or "chaos-report.json")
    path.write_text(report.as_json() + "\n", encoding="utf-8")
    _say(f"The same as JSON: {path}")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
