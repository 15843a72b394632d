"""`tidemark lag` and `tidemark hot`."""

import asyncio
import sys
from collections.abc import Sequence
from math import isinf
from typing import TYPE_CHECKING, Annotated

import typer

from operator_cli.conventions import (
    Json,
    OperatorSettings,
    ShardMapFile,
    print_json,
    with_exit_codes,
)
from shared.settings import ListenSettings, load, read_shards
from shared.wording import amount, app_ids, duration

if TYPE_CHECKING:
    from rich.table import Table

    from shared.lag import Lag
    from shared.topology import Shard


@with_exit_codes
def lag(
    *,
    once: Annotated[bool, typer.Option("--once", help="Print the numbers once, and end.")] = False,
    as_json: Json = False,
    export: Annotated[
        int | None,
        typer.Option(
            "--export", metavar="PORT", min=0, max=65_535, help="Serve them at /metrics instead."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve at.")] = "127.0.0.1",
    interval: Annotated[float, typer.Option(min=0.2, max=600, help="Seconds between looks.")] = 2.0,
    group: Annotated[
        str | None, typer.Option(help="Default: TIDEMARK_GROUP__ID, or tidemark-consumer.")
    ] = None,
    shard_map: ShardMapFile = None,
) -> None:
    """Watch message lag and time lag by shard. Reads Kafka alone: right while consumers are down.

    Live on a terminal, until Ctrl-C. It joins no group and commits nothing.
    """
    from operator_cli import lag as lags

    settings = load(OperatorSettings)
    group = group or settings.group.id
    shards = read_shards(shard_map or settings.shard_map_file)
    if export is not None:
        asyncio.run(
            lags.export(
                settings.kafka,
                group,
                shards,
                listen=ListenSettings(host=host, port=export),
                interval_s=interval,
                started=lambda port: typer.echo(f"http://{host}:{port}/metrics"),
            )
        )
        return
    live = sys.stdout.isatty() and not once and not as_json

    async def run() -> None:
        from rich.console import Console
        from rich.live import Live

        looks = lags.follow(settings.kafka, group, shards, interval)
        if live:
            with Live(screen=False, auto_refresh=False) as screen:
                async for found in looks:
                    screen.update(_table(found, shards.shards), refresh=True)
            return
        await anext(looks)  # the first has no rates
        found = await anext(looks)
        await looks.aclose()  # type: ignore[attr-defined]  # an async generator
        if as_json:
            print_json([_members(each) for each in found])
        else:
            console = Console()
            console = console if console.is_terminal else Console(width=120)
            console.print(_table(found, shards.shards))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _members(lag: "Lag") -> dict[str, object]:
    return {
        "shard": lag.name,
        "message_lag": lag.message_lag,
        "time_lag_s": round(lag.time_lag_s, 3),
        "accepted_per_s": round(lag.accepted_per_s, 1),
        "applied_per_s": round(lag.done_per_s, 1),
        "catch_up_s": None if isinf(lag.catch_up_s) else round(lag.catch_up_s, 1),
        "partition_max": lag.partition_max,
    }


def _table(lags: Sequence["Lag"], shards: Sequence["Shard"]) -> "Table":
    from rich import box
    from rich.table import Table

    from shared.topology import PARTITIONS

    table = Table(box=box.SIMPLE)
    table.add_column("shard")
    table.add_column("apps with IDs from")
    for title in ("waiting", "oldest", "accepted/s", "applied/s", "caught up in"):
        table.add_column(title, justify="right")
    ids = {each.name: app_ids(each.first, each.last, PARTITIONS) for each in shards}
    for each in lags:
        table.add_row(
            each.name,
            ids.get(each.name, ""),
            amount(each.message_lag),
            duration(each.time_lag_s),
            amount(each.accepted_per_s),
            amount(each.done_per_s),
            duration(each.catch_up_s),
            style="bold" if each is lags[-1] else None,
        )
    return table
