"""One run: traffic, poison and faults at once; then heal, let everything be applied, and judge."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from deploy.local import credentials
from shared.topology import PARTITIONS
from tests.chaos.faults import Injector
from tests.chaos.poison import poison_for_ever, with_poison
from tests.chaos.schedule import Kind, plan_faults
from tests.chaos.system import System
from verification.audit import read_audit
from verification.judgement import Evidence, Fault, Verdict, judge
from verification.marks import Marker
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed
from verification.sender import Sender
from verification.topic import ends_of, read_topic
from verification.traffic import CustomerMix, with_keys

_APPLIED_WITHIN_S: Final = 240.0
"""Hopeless after that; far longer than anything takes, so nothing is judged by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent during a run."""

    updates_per_s: float = 300.0
    apps: int = 24
    subscriptions: int = 300
    connections: int = 128
    poison_per_s: float = 2.0
    poison_share: float = 0.003
    keyed_share: float = 0.1
    """Of single updates: these are repeated under their idempotency keys."""


@dataclass(slots=True)
class Report:
    """What happened in a run, and the verdict on it."""

    seed: int
    seconds: float
    verdict: Verdict
    faults: Mapping[str, int]
    faults_left_out: int
    """Planned, but their target had not come back from the one before."""
    refused: int
    left_out: int
    settled_after_s: float
    counts: Mapping[str, int]
    crashes: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return not self.verdict.objections and not self.crashes

    def as_json(self) -> str:
        verdict = self.verdict
        facts = {name: value for name, value in asdict(self).items() if name != "verdict"}
        facts |= {name: value for name, value in asdict(verdict).items() if name != "objections"}
        facts |= {fault.name.lower(): verdict.count(fault) for fault in Fault}
        facts["objections"] = [str(each) for each in verdict.objections]
        return json.dumps(facts, indent=2)

    def __str__(self) -> str:
        verdict = self.verdict
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        wrong = ", ".join(f"{verdict.count(fault)} {fault.value}" for fault in Fault)
        unknown = verdict.unknown_stored + verdict.unknown_not_stored
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s of faults",
            f"faults        {sum(self.faults.values())}: {kinds}; {self.faults_left_out} left out",
            f"accepted      {verdict.updates_accepted} updates",
            f"refused       {self.refused} requests, sent again",
            f"not sent      {self.left_out} updates, for want of a connection",
            f"unknown       {unknown} updates, {verdict.unknown_stored} of them were stored",
            f"repeated      {verdict.repetitions} updates, stored again under their keys",
            f"judged        {verdict.records} records, {verdict.rows} rows",
            f"              and {verdict.writes} writes, one by one",
            f"applied       {self.settled_after_s:.1f} s after the end",
            f"poisoned      {verdict.poisoned} records",
            f"dead letters  {verdict.dead_letters}, {verdict.dead_letters_repeated} repeated",
            f"replays       {self.counts['updates_replayed']} seen",
            f"wrong         {wrong}",
        ]
        lines += [f"  {each}" for each in verdict.objections[:20]]
        for name, ends in self.crashes.items():
            lines += [f"{name} ended by itself {len(ends)} times, last with:", ends[-1]]
        return "\n".join(lines)


class NotAppliedError(Exception):
    """What was accepted is not applied, long after everything was healed."""


async def run_chaos(
    system: System,
    *,
    seed: int,
    seconds: float,
    kinds: Mapping[str, Kind],
    load: Load = Load(),
    say: Callable[[str], None],
) -> Report:
    """Run for `seconds`, heal, and judge.

    Raises:
        NotAppliedError: records are left that nobody applies.
    """
    mix = CustomerMix(seed, apps=load.apps, subscriptions=load.subscriptions)
    system.apps = mix.apps
    ledger = Ledger()
    sender = Sender(
        system.ingest_url, ledger, headers=credentials.headers(), connections=load.connections
    )
    injector = Injector(system, say)
    poisoned = with_poison(mix.requests(10**9), seed, load.poison_share)
    requests = Marker().mark_all(with_keys(poisoned, seed, load.keyed_share))
    await system.start("ingest-api", "consumer-1")
    over = asyncio.Event()
    async with background(system.supervise(), system.watch()), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(
            sender.send_at_rate(requests, load.updates_per_s, over), name="traffic"
        )
        async with (
            background(
                poison_for_ever(system.kafka, seed, mix.devices, load.poison_per_s),
                _say_progress(say, ledger),
            ),
            asyncio.TaskGroup() as faults,
        ):
            faults.create_task(injector.run(plan_faults(seed, seconds, kinds)), name="faults")
            faults.create_task(asyncio.sleep(seconds), name="duration")
        over.set()
        say("healing")
        left_out = await sending
        await system.heal()
        started = time.monotonic()
        await settle(system)
        settled_after_s = time.monotonic() - started
        say("judging")
        verdict = await _judge(system, ledger)
    return Report(
        seed=seed,
        seconds=seconds,
        verdict=verdict,
        faults=dict(Counter(fault.kind for fault in injector.injected)),
        faults_left_out=len(injector.left_out),
        refused=sender.refused,
        left_out=left_out,
        settled_after_s=settled_after_s,
        counts=system.counts(),
        crashes={
            name: service.crashes for name, service in system.services.items() if service.crashes
        },
    )


async def settle(system: System) -> None:
    """Wait until the group has committed all of the topic, and nothing is held back any more."""
    waiting = -1

    def note(count: int) -> None:
        nonlocal waiting
        waiting = count

    ends = await ends_of(system.kafka, system.kafka.topic)
    try:
        async with asyncio.timeout(_APPLIED_WITHIN_S):
            await wait_until_committed(system.kafka, system.group, ends, on_progress=note)
            while not _let_everything_on(await system.statuses()):
                await asyncio.sleep(0.1)
    except TimeoutError:
        status = json.dumps(await system.statuses(), indent=1)
        raise NotAppliedError(f"{waiting} records are left; consumers say: {status}") from None


def _let_everything_on(statuses: Mapping[str, Mapping[str, Any] | None]) -> bool:
    """Say whether all partitions are assigned, and no hold is on or being released."""
    known = [status for status in statuses.values() if status is not None]
    diverted = sum(status["partitions_diverted"] for status in known)
    return not diverted and sum(status["partitions"] for status in known) == PARTITIONS


async def _judge(system: System, ledger: Ledger) -> Verdict:
    return await judge(
        ledger,
        Evidence(
            epoch=system.kafka.topic_epoch,
            records=await read_topic(system.kafka, system.kafka.topic),
            dead_letters=await read_topic(system.kafka, system.kafka.dead_letter_topic),
            rows=await read_rows(system.directory),
            writes=read_audit(system.dsns),
        ),
    )


async def _say_progress(say: Callable[[str], None], ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(10)
        say(f"           {ledger.count} updates accepted")


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run what never ends while the block runs; what fails there ends the block."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
