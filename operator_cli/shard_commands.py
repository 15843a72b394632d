"""The commands `tidemark shards …`."""

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from operator_cli.conventions import Json, OperatorSettings, print_json, with_exit_codes
from shared.errors import Misconfigured, Transient
from shared.settings import ShardDirectory, load, read_shard_map, read_shards
from shared.topology import PARTITIONS

shards_app = typer.Typer(
    no_args_is_help=True, help="The Postgres servers and what each of them owns."
)

ShardMapFile = Annotated[
    Path | None,
    typer.Option("--shard-map", metavar="FILE", help="Default: TIDEMARK_SHARD_MAP_FILE."),
]


def _directory(shard_map: Path | None) -> ShardDirectory:
    return read_shard_map(shard_map or load(OperatorSettings).shard_map_file)


@shards_app.command("check", epilog="Example: tidemark shards check --json")
@with_exit_codes
def check_shards(shard_map: ShardMapFile = None, as_json: Json = False) -> None:
    """Ask every shard how it is; 1 if one cannot be asked, 2 if something must be put right.

    Rows and apps are Postgres's estimates. HOT is the share of updates that stayed on their page
    and touched no index. What it does not know yet is a question mark.
    """
    from operator_cli import shards

    reports = asyncio.run(shards.check(_directory(shard_map)))
    skewed = shards.skew_problems(reports)
    if as_json:
        print_json({"shards": [asdict(each) for each in reports], "skew": skewed})
    else:
        typer.echo(f"{PARTITIONS} partitions, each owned by one of {len(reports)} shards")
        row = "{:<12} {:>9} {:>6} {:>8} {:>9} {:>10} {:>8} {:>6} {:>13}"
        typer.echo(
            row.format(
                "shard", "owns", "schema", "clock", "MB", "rows", "apps", "HOT", "connections"
            )
        )
        for each in reports:
            owns = f"{each.shard.first}-{each.shard.last}"
            facts = each.facts
            if facts is None:
                why = "cannot be asked" if each.is_silent else "cannot be used"
                typer.echo(f"{each.shard.name:<12} {owns:>9} {why}")
                continue
            typer.echo(
                row.format(
                    each.shard.name,
                    owns,
                    facts.schema,
                    f"{facts.clock_off_s:+.2f} s",
                    f"{facts.bytes / 1e6:.1f}",
                    facts.rows,
                    "?" if facts.apps is None else facts.apps,
                    "?" if facts.hot_share is None else f"{facts.hot_share:.0%}",
                    f"{facts.consumers_connections} of {each.budget or facts.connections_max}",
                )
            )
        for sentence in skewed:
            typer.echo(f"skew: {sentence}")
        for each in reports:
            for problem in each.problems:
                typer.echo(f"{each.shard.name}: {problem}")
    if unasked := [each.shard.name for each in reports if each.is_silent]:
        raise Transient(f"{', '.join(unasked)} cannot be asked.")
    if wrong := [each.shard.name for each in reports if each.problems]:
        raise Misconfigured(f"Something must be put right at {', '.join(wrong)}.")


@shards_app.command("plan", epilog="Example: tidemark shards plan --shards 8")
@with_exit_codes
def plan_shards(
    count: Annotated[int, typer.Option("--shards", min=1, max=PARTITIONS, help="How many.")],
    shard_map: ShardMapFile = None,
    as_json: Json = False,
) -> None:
    """Print what another number of equal shards would move; nothing is moved."""
    from operator_cli import shard_plans, shards

    directory = _directory(shard_map)
    plan = shard_plans.plan(directory.map, count)
    sizes = {
        each.shard.name: each.facts.bytes
        for each in asyncio.run(shards.check(directory))
        if each.facts is not None
    }
    owned = {each.name: len(each.partitions) for each in directory.map.shards}
    moved = {
        move: round(sizes[move.source] * move.partitions / owned[move.source])
        for move in plan.moves
        if move.source in sizes
    }
    if as_json:
        print_json(
            {
                "shards": [
                    {"name": each.name, "partitions": [each.first, each.last]}
                    for each in plan.map.shards
                ],
                "new": plan.new,
                "left_over": plan.left_over,
                "moves": [
                    {**asdict(move), "bytes_estimated": moved.get(move)} for move in plan.moves
                ],
            }
        )
        return
    for each in plan.map.shards:
        kind = "new" if each.name in plan.new else "stays"
        typer.echo(f"{each.name}: partitions {each.first} to {each.last}, {kind}")
    for name in plan.left_over:
        typer.echo(f"{name}: left over")
    for move in plan.moves:
        size = f", about {moved[move] / 1e6:.1f} MB" if move in moved else ""
        typer.echo(
            f"{move.source} → {move.target}: partitions {move.first} to {move.last}, "
            f"{move.partitions} of its {owned[move.source]}{size}"
        )
    partitions = sum(move.partitions for move in plan.moves)
    typer.echo(
        f"{partitions} of {PARTITIONS} partitions would move, no record to another partition"
    )


@shards_app.command(
    "rewind", epilog="Example: tidemark shards rewind shard-2 --since 2026-11-20T03:00:00Z --yes"
)
@with_exit_codes
def rewind_shard(
    shard: Annotated[str, typer.Argument(metavar="SHARD", help="The shard that was restored.")],
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="When the backup began, less the time lag and the age of holds of then: "
            "2h, 3d, or ISO. Earlier is safe, later is not.",
        ),
    ],
    *,
    group: Annotated[
        str | None, typer.Option(help="Default: TIDEMARK_GROUP__ID, or tidemark-consumer.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what.")] = False,
    shard_map: ShardMapFile = None,
    as_json: Json = False,
) -> None:
    """Let consumers read a restored shard's updates again; stop all of them before.

    What a row has already is not applied again. Start consumers only afterwards: the first update
    that they apply to a restored row would hide those between for good.
    """
    from operator_cli import rewinds
    from operator_cli.dead_letters import since as time_of

    settings = load(OperatorSettings)
    # Without DSNs: consumers' pods have them, and none may run now.
    shards = read_shards(shard_map or settings.shard_map_file).shards
    found = [each for each in shards if each.name == shard]
    if not found:
        names = ", ".join(each.name for each in shards)
        raise Misconfigured(f"There is no shard {shard} in the shard map; it has {names}.")
    kafka, group = settings.kafka, group or settings.group.id
    since_ms = time_of(since, datetime.now(UTC))
    now_ms = round(time.time() * 1000)
    planned = asyncio.run(rewinds.plan_rewind(kafka, group, found[0], since_ms, now_ms))
    if yes:
        asyncio.run(rewinds.rewind(kafka, group, planned))
    records = sum(each.records for each in planned)
    if as_json:
        print_json({"done": yes, "records": records, "partitions": [asdict(e) for e in planned]})
        return
    what = "are set back" if yes else "would be set back; --yes does it"
    typer.echo(
        f"{len(planned)} partitions of {shard} {what}: group {group} reads up to {records} "
        "records again."
    )
