"""How `tidemark inspect` prints what it found; a footer on stderr says what was looked at."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import typer

from operator_cli.adding_up import Sum, differences
from operator_cli.conventions import print_json, print_table, printable
from operator_cli.dead_letters import REDACTED
from operator_cli.inspection import Scanned, Seen, Top, Tops, fate_of_dead_letter, fates
from operator_cli.subscriptions import read_subscription
from shared.settings import KafkaSettings, ShardDirectory
from shared.updates import Update

_TOP: Final = 20


@dataclass(frozen=True, slots=True)
class Style:
    """What is printed of each record."""

    as_json: bool = False
    patch: bool = False
    show_values: bool = False

    def line(self, seen: Seen, fate: str) -> str:
        """Return one JSON line."""
        content = _patch(seen.update, show_values=self.show_values)
        if self.patch:
            return _json(content)
        return _json(_members(seen, fate) | {"patch": content})


async def print_records(
    found: AsyncIterator[Seen],
    scanned: Scanned,
    style: Style,
    kafka: KafkaSettings,
    group: str | None,
) -> None:
    """Print records with what became of each; without `group` they are dead letters."""
    records = [each async for each in found]
    if group is None:
        marks = [fate_of_dead_letter(each.record) for each in records]
    else:
        known = await fates(kafka, group, records)
        marks = [known.of(each.record) for each in records]
    if style.as_json or style.patch:
        for each, mark in zip(records, marks, strict=True):
            typer.echo(style.line(each, mark))
    else:
        print_table(
            ("position", "accepted", "state", "app", "subscription", "patch"),
            [
                (
                    f"{each.record.partition}:{each.record.offset}",
                    _time(each.record.timestamp),
                    mark,
                    *each.ids,
                    _json(_patch(each.update, show_values=style.show_values)),
                )
                for each, mark in zip(records, marks, strict=True)
            ],
            cut="patch",
        )
    _footer(scanned)


async def print_as_they_come(found: AsyncIterator[Seen], style: Style) -> None:
    """Print a JSON line for each record, for ever."""
    async for each in found:
        typer.echo(style.line(each, "new"))


async def print_top(
    found: AsyncIterator[Seen], what: Top, scanned: Scanned, *, as_json: bool
) -> None:
    """Print what comes most often."""
    tops = Tops()
    async for each in found:
        tops.add(each, what)
    most = tops.counts.most_common(_TOP)
    if as_json:
        print_json([{"name": name, "updates": count} for name, count in most])
    else:
        total = max(1, scanned.matched)
        print_table(
            (what.removesuffix("s"), "updates", "share"),
            [(name, f"{count:,}", f"{count / total:.1%}") for name, count in most],
        )
    _footer(scanned)


async def print_fold(
    found: AsyncIterator[Seen],
    ids: tuple[str, str],
    directory: ShardDirectory,
    scanned: Scanned,
    *,
    show_values: bool,
    as_json: bool,
) -> None:
    """Print what a subscription's updates add up to, beside its row."""
    total = Sum()
    async for each in found:
        if each.update is not None:
            total.add(each.update, each.record.timestamp)
    row = await read_subscription(directory, *ids)
    differ = differences(total, row.tags if row else {}, row.properties if row else {})
    members = {
        "updates": total.updates,
        "repeated": total.repeated,
        "tags": _shown(total.tags, show_values=show_values),
        "properties": _shown(total.properties, show_values=show_values),
        "row": row.receipt if row else None,
        "differences": [
            {
                "where": f"{each.where}.{each.name}",
                "in_stream": _value(each.in_stream, show_values=show_values),
                "in_row": _value(each.in_row, show_values=show_values),
            }
            for each in differ
        ],
    }
    if as_json:
        print_json(members)
    else:
        repeated = f", {total.repeated:,} of them without effect as their key was used before,"
        typer.echo(f"{total.updates:,} updates{repeated * bool(total.repeated)} add up to")
        typer.echo(f"  tags        {_json(members['tags'])}")
        typer.echo(f"  properties  {_json(members['properties'])}")
        typer.echo(f"its row stands at {row.receipt}" if row else "it has no row")
        if differ:
            print_table(
                ("differs", "in the stream", "in the row"),
                [(f"{each.where}.{each.name}", *_both(each, show_values)) for each in differ],
            )
        else:
            typer.echo("they do not differ")
    _footer(scanned)


def _both(each: Any, show_values: bool) -> tuple[str, str]:
    return (
        _json(_value(each.in_stream, show_values=show_values)),
        _json(_value(each.in_row, show_values=show_values)),
    )


def _members(seen: Seen, fate: str) -> dict[str, Any]:
    record = seen.record
    app, subscription = seen.ids
    return {
        "partition": record.partition,
        "offset": record.offset,
        "accepted": _time(record.timestamp),
        "state": fate,
        "app_id": app,
        "subscription_id": subscription,
    }


def _patch(update: Update | None, *, show_values: bool) -> dict[str, Any]:
    """Return what an update changes; customers' values are left out unless asked for."""
    if update is None:
        return {}
    changes = {
        "tags": update.tags,
        "properties": update.properties,
        "increment": update.increment,
        "increment_tags": update.increment_tags,
    }
    return {
        name: _shown(members, show_values=show_values)
        for name, members in changes.items()
        if members
    }


def _shown(members: Mapping[str, Any], *, show_values: bool) -> dict[str, Any]:
    return {name: _value(value, show_values=show_values) for name, value in members.items()}


def _value(value: Any, *, show_values: bool) -> Any:
    return value if show_values or value is None else REDACTED


def _json(value: object) -> str:
    return printable(msgspec.json.encode(value).decode())


def _time(timestamp_ms: int) -> str:
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _footer(scanned: Scanned) -> None:
    typer.echo(scanned.sentence(), err=True)
