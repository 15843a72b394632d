"""`make demo`: believable traffic through HTTP, then every row compared with a model."""

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.local import credentials
from deploy.local.layout import MAIN_STATE, Layout
from deploy.local.ports import HOST, Plan
from deploy.local.services import GROUP
from deploy.local.stack import TOPIC, read_plan
from shared.errors import Misconfigured
from shared.settings import KafkaSettings, read_shard_map
from verification.oracle import Ledger, StoredRow, Subscription, read_rows
from verification.progress import wait_until_committed
from verification.sender import Sender
from verification.traffic import CustomerMix

APPS: Final = 200
SUBSCRIPTIONS: Final = 5_000
_CONNECTIONS: Final = 32
_STALLED_AFTER_S: Final = 30.0
_APPLIED_WITHIN_S: Final = 300.0
_SHOWN_MAX: Final = 10


async def demo(seed: int, updates: int, layout: Layout, plan: Plan) -> int:
    """Send, wait, compare; return the number of rows that differ.

    Raises:
        Misconfigured: the stack does not apply what it has accepted.
    """
    mix = CustomerMix(seed, apps=APPS, subscriptions=SUBSCRIPTIONS)
    ledger = Ledger()
    kafka = KafkaSettings(bootstrap_servers=plan.bootstrap_servers, topic=TOPIC)
    before = _updates_applied(plan)
    columns = TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        sending = progress.add_task("accepted", total=updates)
        applying = progress.add_task("applied", total=updates)
        started = time.monotonic()
        sender = Sender(
            f"http://{HOST}:{plan.ingest}",
            ledger,
            headers=credentials.headers(),
            connections=_CONNECTIONS,
            on_accepted=lambda count: progress.advance(sending, count),
        )
        await _unless_stalled(sender.send_all(mix.requests(updates)), ledger)
        accepted_s = time.monotonic() - started
        try:
            async with asyncio.timeout(_APPLIED_WITHIN_S):
                await wait_until_committed(
                    kafka,
                    GROUP,
                    ledger.ends(),
                    on_progress=lambda n: progress.update(applying, completed=max(0, updates - n)),
                )
        except TimeoutError:
            raise Misconfigured(
                "What was accepted is not applied; see what the consumer says with `make logs`."
            ) from None
        applied_s = time.monotonic() - started
    rows = await read_rows(read_shard_map(layout.shard_map), mix.apps)
    applied = _updates_applied(plan) - before
    print(
        f"seed {seed} · accepted at {ledger.count / accepted_s:,.0f} updates/s · "
        f"all applied after {applied_s:.1f} s"
    )
    return _judge(ledger, rows, applied)


async def _unless_stalled(sending: Coroutine[Any, Any, None], ledger: Ledger) -> None:
    """Send, as long as something is accepted now and then."""
    task = asyncio.create_task(sending, name="sending")
    accepted = -1
    while not task.done():
        if accepted == ledger.count:
            task.cancel()
            await asyncio.wait({task})
            raise Misconfigured(
                f"Nothing was accepted for {_STALLED_AFTER_S:.0f} s; see what is not ready with "
                "`make status`, and start it with `make up`."
            )
        accepted = ledger.count
        await asyncio.wait({task}, timeout=_STALLED_AFTER_S)
    await task


def _judge(ledger: Ledger, rows: Mapping[Subscription, StoredRow], applied: int) -> int:
    differences = ledger.differences(rows)
    for difference in differences[:_SHOWN_MAX]:
        app, subscription = difference.subscription
        print(f"app {app} subscription {subscription}: {difference.what}")
    if ledger.unknown:
        print(f"{len(ledger.unknown)} subscriptions cannot be judged: an outcome is unknown")
    print(
        f"{ledger.count} accepted · {applied} applied · "
        f"{len(ledger.accepted)} subscriptions checked · {len(differences)} differ"
    )
    return len(differences) + len(ledger.unknown)


def _updates_applied(plan: Plan) -> int:
    """Sum what the consumers say they have applied; one applied twice would count twice."""
    return sum(
        shard["updates_applied"]
        for port in plan.status
        for shard in _status(port)["shards"].values()
    )


def _status(port: int) -> Mapping[str, Any]:
    with urllib.request.urlopen(f"http://{HOST}:{port}/status", timeout=5) as answer:
        status: Mapping[str, Any] = json.load(answer)
        return status


def _number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise Misconfigured(f"{name} is {text!r}; it must be a whole number of at least {least}.")
    return int(text)


def _run() -> int:
    layout = Layout(MAIN_STATE)
    plan = read_plan(layout)
    if plan is None:
        raise Misconfigured("Nothing runs that could be shown; start it with `make up`.")
    seed = _number("DEMO_SEED", 1, 0)
    updates = _number("DEMO_UPDATES", 50_000, SUBSCRIPTIONS)
    try:
        return asyncio.run(demo(seed, updates, layout, plan))
    except* aiohttp.ClientResponseError as answers:
        answer = next(iter(answers.exceptions))
        raise Misconfigured(f"Something else answers at the API's port: {answer}.") from None
    except* OSError as errors:
        error = next(iter(errors.exceptions))
        raise Misconfigured(
            f"The stack does not answer ({error}); start it with `make up`."
        ) from None


def main(run: Callable[[], int] = _run) -> int:
    """Return 0 where every row is right, 1 where one differs, 2 where it could not be run."""
    try:
        return 1 if run() else 0
    except KeyboardInterrupt:
        print("demo: interrupted; what was accepted is applied all the same", file=sys.stderr)
        return 130
    except Misconfigured as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
