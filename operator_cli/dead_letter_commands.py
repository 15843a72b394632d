"""`tidemark dead-letters`: list, show, replay."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operator_cli.conventions import (
    Json,
    OperatorSettings,
    print_json,
    print_table,
    printable,
    with_exit_codes,
)
from shared.errors import Misconfigured
from shared.settings import load

if TYPE_CHECKING:
    from operator_cli.dead_letters import DeadLetter, Filters
    from operator_cli.replays import Replay

dead_letters_app = typer.Typer(
    no_args_is_help=True,
    help="Records that were given up on: look at them, and send them again.",
)

App = Annotated[str | None, typer.Option("--app", metavar="ID", help="Only of this app.")]
Subscription = Annotated[
    str | None, typer.Option("--subscription", metavar="ID", help="Only of this subscription.")
]
Reason = Annotated[
    str | None,
    typer.Option(
        "--reason",
        help="Only given up on for this reason: refused, too_many_tags, undecodable, "
        "wrong_partition, idempotency_key_reused.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only given up on since: 10m, 2h, or ISO."),
]


@dead_letters_app.command(
    "list", epilog="Example: tidemark dead-letters list --since 2h --reason refused"
)
@with_exit_codes
def list_dead_letters(
    *,
    app: App = None,
    subscription: Subscription = None,
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Print only the latest so many.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """List dead letters in the order of time. Changes nothing, joins no group."""
    from operator_cli import dead_letters

    kafka = load(OperatorSettings).kafka
    filters = _filters(app, subscription, reason, since)
    reasons: set[str] = set()
    found = asyncio.run(
        dead_letters.find(
            kafka, filters, limit=limit, note=lambda letter: reasons.add(letter.reason)
        )
    )
    if reason and reasons and reason not in reasons:
        there = ", ".join(sorted(map(printable, reasons)))
        typer.echo(f"None was given up on for {printable(reason)}, only for: {there}.", err=True)
    if as_json:
        print_json([_summary(letter) for letter in found.letters])
        return
    print_table(
        ("place", "given up", "reason", "sqlstate", "app", "subscription", "origin"),
        [
            (
                letter.place,
                _time(letter.timestamp_ms),
                letter.reason,
                letter.facts.get("sqlstate", ""),
                *letter.ids,
                f"{letter.origin.partition}:{letter.origin.offset}" if letter.origin else "",
            )
            for letter in found.letters
        ],
    )
    shown = len(found.letters)
    typer.echo(f"{shown} dead letters" + (f" of {found.matched}" * (shown < found.matched)))


@dead_letters_app.command("show", epilog="Example: tidemark dead-letters show 3:1042")
@with_exit_codes
def show_dead_letter(
    place: Annotated[
        str, typer.Argument(metavar="PARTITION:OFFSET", help="In the dead-letter topic.")
    ],
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Print tags and properties, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one dead letter with its headers. Changes nothing, joins no group."""
    from operator_cli import dead_letters

    partition, _, offset = place.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise Misconfigured(f"{place} is no place; write PARTITION:OFFSET, as `list` prints it.")
    kafka = load(OperatorSettings).kafka
    letter = asyncio.run(dead_letters.fetch(kafka, int(partition), int(offset)))
    shown = {
        **_summary(letter),
        "key": (letter.key or b"").decode(errors="replace"),
        "headers": {
            name: (value or b"").decode(errors="replace") for name, value in letter.headers
        },
        "value": dead_letters.readable_value(letter, show_values=show_values),
    }
    if as_json:
        print_json(shown)
        return
    headers: dict[str, str] = shown.pop("headers")
    value = shown.pop("value")
    for name, fact in [*shown.items(), *headers.items()]:
        typer.echo(f"{printable(name):22} {printable(str(fact))}")
    typer.echo("value")
    print_json(value)


@dead_letters_app.command(
    "replay",
    epilog="Example: tidemark dead-letters replay --app 0b7c… --reason refused --yes. "
    "Exit codes: 0 all sent (or would be), 1 failed and worth another try, 2 some refused.",
)
@with_exit_codes
def replay_dead_letters(
    *,
    app: App = None,
    subscription: Subscription = None,
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Take only the oldest so many.")
    ] = 1_000,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what it does.")] = (
        False
    ),
    out_of_order: Annotated[
        bool,
        typer.Option(
            "--out-of-order",
            help="Also those whose subscription has accepted later updates, or may have.",
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that have been replayed before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters again, in the order of their origins; by default only say so.

    A replay gets a new position. Order is kept where no later update of its subscription has been
    accepted; where one has, it is refused unless --out-of-order.
    """
    from operator_cli import replays

    kafka = load(OperatorSettings).kafka
    filters = _filters(app, subscription, reason, since)

    async def run() -> replays.ReplayPlan:
        plan = await replays.plan(
            kafka, filters, limit=limit, out_of_order=out_of_order, again=again
        )
        return await replays.carry_out(kafka, plan) if yes else plan

    done = asyncio.run(run())
    if as_json:
        print_json([_outcome(each, done=yes) for each in done.replays])
    else:
        print_table(
            ("place", "origin", "app", "subscription", "order", "outcome", "because"),
            [
                (
                    each.letter.place,
                    str(each.letter.origin or ""),
                    *each.letter.ids,
                    "lost" if each.overtaken else each.order.value,
                    _outcome(each, done=yes)["outcome"],
                    each.why,
                )
                for each in done.replays
            ],
        )
        sent = len(done.replays) - done.refused
        typer.echo(
            f"{sent} {'replayed' if yes else 'would be replayed'}, {done.refused} refused"
            + ("; --yes does it" if sent and not yes else "")
        )
        if done.matched > len(done.replays):
            typer.echo(f"{done.matched} records match; --limit or repeats leave the others out")
    if done.refused:
        raise typer.Exit(2)


def _filters(
    app: str | None, subscription: str | None, reason: str | None, since: str | None
) -> "Filters":
    from operator_cli import dead_letters
    from operator_cli.subscriptions import canonical

    return dead_letters.Filters(
        app and canonical("--app", app),
        subscription and canonical("--subscription", subscription),
        reason,
        None if since is None else dead_letters.since(since, datetime.now(UTC)),
    )


def _summary(letter: "DeadLetter") -> dict[str, Any]:
    return {
        "place": letter.place,
        "given_up": _time(letter.timestamp_ms),
        "reason": letter.reason,
        "message": letter.facts.get("message", ""),
        "sqlstate": letter.facts.get("sqlstate", ""),
        "app": letter.ids[0],
        "subscription": letter.ids[1],
        "origin": str(letter.origin or ""),
    }


def _outcome(replay: "Replay", *, done: bool) -> dict[str, Any]:
    sent = "replayed" if done else "would be replayed"
    return {
        **_summary(replay.letter),
        "order": "lost" if replay.overtaken else replay.order.value,
        "outcome": sent if replay.will_send else "refused",
        "because": replay.why,
        "sent_as": str(replay.sent_as or ""),
    }


def _time(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
