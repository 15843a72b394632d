"""The composition root: opens resources, starts tasks, drains, closes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from consumer.assigned_work import AssignedWork
from consumer.breaker import Backoff, Breaker
from consumer.committer import CommitCounts, commit_for_ever
from consumer.dead_letter_guard import GuardBounds
from consumer.dead_letters import DeadLetterTopic, UnreadableRecords, open_dead_letters
from consumer.forgetting import forget_for_ever
from consumer.holding import HoldingTopic, HoldsFollower, open_holding, open_holds
from consumer.intake import Intake, hand_over, open_intake
from consumer.lag_watch import LagWatch
from consumer.metrics import Sources, reads
from consumer.observer import FlushObserver
from consumer.overview import read_overview
from consumer.pace import Pace, PaceBounds
from consumer.releasing import Releases
from consumer.settings import ConsumerSettings
from consumer.shard_writer import FlushBounds, ShardWriter
from consumer.spans import ProcessSpans
from consumer.status import ConsumerStatus, create_status_app
from consumer.store import open_store
from shared.holds import HELD_PARTITIONS
from shared.kafka_clients import require_topics, until_reachable
from shared.lag_reader import LagReader, open_lag_reader
from shared.serving import serving
from shared.settings import ShardDirectory, read_shard_map
from shared.telemetry import is_disabled, open_telemetry, open_tracer
from shared.topology import ShardMap

log = structlog.get_logger()

SERVICE: Final = "tidemark-consumer"


async def run(
    settings: ConsumerSettings, stop: asyncio.Event, *, leave: asyncio.Event | None = None
) -> None:
    """Consume until `stop`, then drain, commit, and close what was opened last first.

    Where `leave` is set by then, a static member leaves its group, too: its partitions go to
    others at once instead of at the end of its session.

    Raises:
        Misconfigured: a human must act before it can serve.
    """
    directory = read_shard_map(settings.shard_map_file)
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(_open(settings, directory, stack), name="start")
        if not await _done_before(stop, opening):
            return
        observer, dead_letters, writers, intake, follower, holding, lag_reader = opening.result()
        unreadable = UnreadableRecords(dead_letters)
        work = AssignedWork(
            directory.map,
            writers,
            bounds=settings.in_flight,
            guard=GuardBounds(
                share_max=settings.dead_letters.share_max,
                window=settings.dead_letters.window_records,
            ),
            give_up=unreadable.add,
            holds=follower.holds,
            hold_back=holding.hold_back,
        )
        releases = Releases(work, holding, intake, directory.map, settings)
        status = ConsumerStatus(work, writers, unreadable, follower.holds, holding)
        group = settings.group
        commits = CommitCounts()
        lag = LagWatch(
            lag_reader,
            work,
            directory.map,
            interval_s=settings.telemetry.lag_interval_ms / 1000,
        )
        sources = Sources(
            shard_map=directory.map,
            work=work,
            writers=writers,
            observer=observer,
            lag=lag,
            commits=commits,
            dead_letters=dead_letters,
            holds=follower.holds,
            holding=holding,
        )
        peers = [peer for peer in settings.telemetry.peers.split(",") if peer]
        name = group.instance_id or f"{socket.gethostname()}:{settings.listen.port}"
        overview = partial(read_overview, sources, name)
        async with (
            open_telemetry(SERVICE, reads(sources)) as telemetry,
            serving(
                create_status_app(status, telemetry, overview, peers),
                settings.listen,
            ),
            asyncio.TaskGroup() as tasks,
        ):
            fetching = tasks.create_task(intake.run(work, follower), name="intake")
            running = [
                tasks.create_task(follower.run(work.follow_holds), name="holds"),
                tasks.create_task(holding.run(), name="holding"),
                tasks.create_task(lag.run(), name="lag"),
                tasks.create_task(releases.run(), name="releases"),
                tasks.create_task(intake.resume_for_ever(work), name="resumer"),
                *(
                    tasks.create_task(unreadable.run(), name=f"unreadable-records-{i}")
                    for i in range(settings.dead_letters.in_flight_max)
                ),
                tasks.create_task(forget_for_ever(work, writers, directory.map), name="forgetting"),
                tasks.create_task(
                    commit_for_ever(intake, work, group.commit_interval_ms / 1000, commits),
                    name="committer",
                ),
                *(
                    tasks.create_task(writer.give_up_for_ever(), name=f"dead-letters-{name}-{i}")
                    for name, writer in writers.items()
                    for i in range(settings.dead_letters.in_flight_max)
                ),
                *(
                    tasks.create_task(writer.retry_locked_for_ever(), name=f"locked-{name}")
                    for name, writer in writers.items()
                ),
                *(
                    tasks.create_task(writer.run(), name=f"writer-{name}-{i}")
                    for name, writer in writers.items()
                    for i in range(settings.write.flushes_in_flight_max)
                ),
            ]
            await stop.wait()
            status.draining = True
            log.info("consumer.draining")
            fetching.cancel()
            # Here and not in the rebalance hook: aiokafka does not call it when it stops.
            await hand_over(intake, work, group.drain_timeout_ms / 1000)
            if leave is not None and leave.is_set():
                intake.leave_at_end()
            for task in running:
                task.cancel()
    log.info("consumer.stopped")


class _Parts(NamedTuple):
    """What is opened before anything runs."""

    observer: FlushObserver
    dead_letters: DeadLetterTopic
    writers: Mapping[str, ShardWriter]
    intake: Intake
    follower: HoldsFollower
    holding: HoldingTopic
    lag_reader: LagReader


async def _open(
    settings: ConsumerSettings, directory: ShardDirectory, stack: AsyncExitStack
) -> _Parts:
    """Open all parts, for as long as it takes until there is a broker."""
    kafka, enter = settings.kafka, stack.enter_async_context
    await require_topics(
        kafka,
        {kafka.dead_letter_topic: None, kafka.held_topic: HELD_PARTITIONS, kafka.holds_topic: None},
    )
    observer = await enter(open_observer(settings, directory.map))
    dead_letters = await enter(open_dead_letters(settings, observer))
    return _Parts(
        observer,
        dead_letters,
        await enter(open_writers(settings, directory, dead_letters, observer)),
        await enter(open_intake(settings)),
        await enter(open_holds(settings)),
        await enter(open_holding(settings)),
        await until_reachable(lambda: enter(open_lag_reader(kafka, settings.group.id))),
    )


async def _done_before(stop: asyncio.Event, work: asyncio.Task[Any]) -> bool:
    """Wait for `work` unless `stop` comes first, which cancels it; say whether it was done."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        work.cancel()
        await asyncio.wait({work})
    return not work.cancelled()


@asynccontextmanager
async def open_observer(
    settings: ConsumerSettings, shard_map: ShardMap
) -> AsyncIterator[FlushObserver]:
    """Open what notes every flush; it makes spans where they have somewhere to go."""
    async with open_tracer(SERVICE) as tracer:
        spans = None
        if tracer is not None:
            spans = ProcessSpans(
                tracer,
                group=settings.group.id,
                topic_epoch=settings.kafka.topic_epoch,
                slow_s=settings.telemetry.slow_update_ms / 1000,
                per_s_max=settings.telemetry.spans_per_s_max,
            )
        shards = [shard.name for shard in shard_map.shards]
        yield FlushObserver(shards, spans, silent=is_disabled())


@asynccontextmanager
async def open_writers(
    settings: ConsumerSettings,
    directory: ShardDirectory,
    dead_letters: DeadLetterTopic,
    observer: FlushObserver,
) -> AsyncIterator[Mapping[str, ShardWriter]]:
    """Open each shard's store, and give it a writer and a breaker of its own."""
    write = settings.write
    backoff = Backoff(base_s=write.retry_base_ms / 1000, cap_s=write.retry_cap_ms / 1000)
    bounds = FlushBounds(
        bytes=write.bytes_per_flush_max,
        updates_per_row=write.updates_per_fold_max,
        saturation=backoff,
    )
    pace = PaceBounds(
        flushes_max=write.flushes_in_flight_max,
        rows_min=write.rows_per_flush_min,
        rows_max=write.rows_per_flush_max,
        target_s=write.flush_target_ms and write.flush_target_ms / 1000,
    )
    async with AsyncExitStack() as stack:
        writers = {}
        for shard in directory.map.shards:
            store = await stack.enter_async_context(
                open_store(
                    directory.dsns[shard.name],
                    connections_max=write.flushes_in_flight_max,
                    connect_timeout_s=write.connect_timeout_ms / 1000,
                    statement_timeout_s=write.statement_timeout_ms / 1000,
                    lock_timeout_s=write.lock_timeout_ms / 1000,
                    topic_epoch=settings.kafka.topic_epoch,
                    create_missing=write.missing == "create",
                    pooled=write.pooler == "transaction",
                )
            )
            writers[shard.name] = ShardWriter(
                shard.name,
                store=store,
                dead_letters=dead_letters,
                breaker=Breaker(backoff, clock=time.monotonic),
                pace=Pace(pace),
                bounds=bounds,
                observer=observer,
            )
        yield writers
