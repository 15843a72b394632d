"""`tidemark hold`: add, list, release, trim."""

import asyncio
import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from operator_cli.conventions import Json, OperatorSettings, print_json, with_exit_codes
from shared.settings import load

hold_app = typer.Typer(
    no_args_is_help=True,
    help="Hold updates back at run time, and apply them later, in order. Needs no restart.",
)

App = Annotated[str, typer.Option("--app", metavar="ID", help="The app.")]
Subscription = Annotated[
    str | None,
    typer.Option("--subscription", metavar="ID", help="Only this subscription of the app."),
]


@hold_app.command("add", epilog="Example: tidemark hold add --app 0b7c… --reason 'floods one row'")
@with_exit_codes
def add_hold(
    *,
    app: App,
    subscription: Subscription = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; `hold list` shows it.")],
) -> None:
    """Hold back updates, accepted from now on or waiting: every consumer does within 2 s."""
    from operator_cli import holds

    key = holds.key_of(app, subscription)
    kafka = load(OperatorSettings).kafka
    is_new = asyncio.run(holds.add(kafka, key, reason=reason, by=getpass.getuser()))
    typer.echo(f"{key}: {'held' if is_new else 'is held already'}")


@hold_app.command("release", epilog="Example: tidemark hold release --app 0b7c…")
@with_exit_codes
def release_hold(*, app: App, subscription: Subscription = None) -> None:
    """Have what is held back applied, in order, before anything newer; it goes on by itself."""
    from operator_cli import holds

    key = holds.key_of(app, subscription)
    kafka = load(OperatorSettings).kafka
    asyncio.run(holds.release(kafka, key, by=getpass.getuser()))
    typer.echo(f"{key}: releasing; `tidemark hold list` says how far it is")


@hold_app.command("list", epilog="Example: tidemark hold list --all")
@with_exit_codes
def list_holds(
    *,
    released: Annotated[bool, typer.Option("--all", help="Also those that are released.")] = False,
    as_json: Json = False,
) -> None:
    """List holds, and how many updates of each are in the holding topic."""
    from operator_cli import holds

    found = asyncio.run(holds.list_holds(load(OperatorSettings).kafka, released=released))
    if as_json:
        print_json(
            [
                {
                    "app": each.view.key.app,
                    "subscription": each.view.key.subscription,
                    "state": each.view.state.value,
                    "reason": each.view.reason,
                    "since": _time(each.view.since_ms),
                    "by": each.view.by,
                    "held": each.held,
                }
                for each in found
            ]
        )
        return
    for each in found:
        view = each.view
        typer.echo(
            f"{view.key}: {view.state.value}, {each.held} wait; held since "
            f"{_time(view.since_ms)} by {view.by}: {view.reason}"
        )
    if not found:
        typer.echo("nothing is held")


@hold_app.command("trim", epilog="Example: tidemark hold trim --yes")
@with_exit_codes
def trim_holds(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what.")] = False,
    as_json: Json = False,
) -> None:
    """Delete from the holding topic what has been applied since; only this makes it smaller."""
    from operator_cli import holds

    kafka = load(OperatorSettings).kafka
    found = asyncio.run(holds.find_leftovers(kafka))
    if yes and found:
        asyncio.run(holds.remove(kafka, found))
    if as_json:
        print_json({"removed": yes, "partitions": [asdict(each) for each in found]})
        return
    count = sum(each.end - each.first for each in found)
    typer.echo(
        f"{count} records in {len(found)} partitions of {kafka.held_topic} "
        + ("were deleted" if yes else "can be deleted; with --yes they are")
    )


def _time(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
