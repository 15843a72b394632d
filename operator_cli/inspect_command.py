"""`tidemark inspect`."""

import asyncio
import re
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from operator_cli.conventions import (
    Json,
    OperatorSettings,
    ShardMapFile,
    with_exit_codes,
)
from shared.errors import Misconfigured
from shared.settings import load, read_shard_map

if TYPE_CHECKING:
    from operator_cli.inspection import Filters

_LIMIT = 100
_is_trace = re.compile(r"[0-9a-f]{32}").fullmatch


class Top(Enum):
    """What can be counted."""

    apps = "apps"
    subscriptions = "subscriptions"
    tags = "tags"


@with_exit_codes
def inspect(
    *,
    app: Annotated[
        str | None, typer.Option("--app", metavar="ID", help="Only of this app: reads 1 of 720.")
    ] = None,
    subscription: Annotated[
        str | None, typer.Option("--subscription", metavar="ID", help="Only of this subscription.")
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="NAME[=VALUE]", help="Only what changes it."),
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--trace", metavar="ID", help="Only what was sent in this trace.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CEL",
            help="Only where this is true: tags.plan == 'pro' && offset > 100. Knows app_id, "
            "subscription_id, tags, properties, increment, increment_tags, partition, offset, "
            "accepted.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="10m, 2h, 3d, or ISO.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Likewise, and not itself.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Stop after so many; {_LIMIT} by default, none for --top."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as records come; --since says from where.")
    ] = False,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Scan the dead-letter topic instead.")
    ] = False,
    top: Annotated[
        Top | None, typer.Option("--top", help="Count what comes most often instead.")
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="What a subscription's updates add up to, until --until, beside its row.",
        ),
    ] = False,
    patch: Annotated[bool, typer.Option("--patch", help="Print patches only, a line each.")] = (
        False
    ),
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Print values of tags and properties, too.")
    ] = False,
    group: Annotated[
        str | None, typer.Option(help="Default: TIDEMARK_GROUP__ID, or tidemark-consumer.")
    ] = None,
    shard_map: ShardMapFile = None,
    as_json: Json = False,
) -> None:
    """Look at what is in the stream. Changes nothing, joins no group, commits nothing.

    Each record is marked: applied, waiting, dead-lettered or held.
    """
    from operator_cli import inspect_output as output
    from operator_cli import inspection

    if follow and (top or fold):
        raise Misconfigured("--follow never ends, so there is nothing to add up; leave one out.")
    if follow and until:
        raise Misconfigured("--follow goes on with what comes after --until; leave one out.")
    if fold and (dead_letters or tag or trace or where or since or limit):
        raise Misconfigured(
            "--fold adds up everything of a subscription, or it would differ from its row; leave "
            "out --dead-letters, --tag, --trace, --where, --since and --limit."
        )
    settings = load(OperatorSettings)
    filters = _filters(
        app=app,
        subscription=subscription,
        tag=tag,
        trace=trace,
        where=where,
        since=since,
        until=until,
    )
    scanned = inspection.Scanned()
    seen = inspection.scan(
        settings.kafka,
        filters,
        limit=limit or (None if top or fold or follow else _LIMIT),
        scanned=scanned,
        dead_letters=dead_letters,
        follow=follow,
    )
    group = None if dead_letters or follow else group or settings.group.id
    if top is not None:
        printing = output.print_top(seen, top.value, scanned, as_json=as_json)
    elif fold:
        if filters.app is None or filters.subscription is None:
            raise Misconfigured("--fold needs --app and --subscription.")
        directory = read_shard_map(shard_map or settings.shard_map_file)
        ids = (filters.app, filters.subscription)
        printing = output.print_fold(
            seen, ids, directory, scanned, show_values=show_values, as_json=as_json
        )
    else:
        style = output.Style(as_json=as_json, patch=patch, show_values=show_values)
        printing = (
            output.print_as_they_come(seen, style)
            if follow
            else output.print_records(seen, scanned, style, settings.kafka, group)
        )
    try:
        asyncio.run(printing)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _filters(
    *,
    app: str | None,
    subscription: str | None,
    tag: str | None,
    trace: str | None,
    where: str | None,
    since: str | None,
    until: str | None,
) -> "Filters":
    from operator_cli import dead_letters, inspection, subscriptions

    if trace is not None and _is_trace(trace.lower()) is None:
        raise Misconfigured(f"--trace {trace} is no trace ID; write 32 hexadecimal digits.")
    now = datetime.now(UTC)
    since_ms = None if since is None else dead_letters.since(since, now)
    until_ms = None if until is None else dead_letters.since(until, now, "--until")
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise Misconfigured(f"--since {since} is not before --until {until}; exchange them.")
    return inspection.Filters(
        app=app and subscriptions.canonical("--app", app),
        subscription=subscription and subscriptions.canonical("--subscription", subscription),
        tag=tag,
        trace=trace and trace.lower(),
        where=None if where is None else inspection.Condition(where),
        since_ms=since_ms,
        until_ms=until_ms,
    )
