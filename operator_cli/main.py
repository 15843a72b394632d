"""The command `tidemark`: what operators type."""

import asyncio
import json
import logging
from typing import Annotated

import typer

from operator_cli.conventions import (
    Json,
    OperatorSettings,
    ShardMapFile,
    print_json,
    printable,
    with_exit_codes,
)
from operator_cli.dead_letter_commands import dead_letters_app
from operator_cli.hold_commands import hold_app
from operator_cli.hot_commands import hot
from operator_cli.inspect_command import inspect
from operator_cli.key_commands import keys_app, token_app
from operator_cli.lag_commands import lag
from operator_cli.plan_command import plan
from operator_cli.release_commands import pre_stop, smoke
from operator_cli.shard_commands import shards_app
from shared.errors import Misconfigured, Transient
from shared.settings import load, read_shard_map

app = typer.Typer(
    name="tidemark",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Operate Tidemark. Settings are read from TIDEMARK_… variables, as the services do.",
    rich_markup_mode="markdown",  # else lines of a docstring are broken where its source is
    epilog="Examples: tidemark lag · tidemark inspect --app 0b7c… --since 10m. "
    "Exit codes: 0 done, 1 failed and worth another try, 2 something must be put right.",
)
topics_app = typer.Typer(no_args_is_help=True, help="The topics that Tidemark needs.")
subscription_app = typer.Typer(no_args_is_help=True, help="What is stored of a subscription.")

app.command(
    rich_help_panel="Looking",
    epilog="Examples: tidemark lag · tidemark lag --json · tidemark lag --export 9101",
)(lag)
app.command(
    rich_help_panel="Looking",
    epilog="Example: tidemark hot --url http://consumer-0:8090 --url http://consumer-1:8090",
)(hot)
app.command(
    rich_help_panel="Looking",
    epilog="Examples: tidemark inspect --app 0b7c… --since 10m · tidemark inspect --top apps "
    "--since 1h · tidemark inspect --app 0b7c… --subscription 6c1f… --fold · tidemark inspect "
    "--where \"tags.plan == 'pro'\" --json",
)(inspect)
app.command(
    rich_help_panel="Looking",
    epilog="Examples: tidemark plan --rate 2000 --burst 20000x10m --capacity 4000 --svg plan.svg · "
    "tidemark plan --from-metrics --capacity 8000 --burst 5000x2m",
)(plan)
app.add_typer(subscription_app, name="subscription", rich_help_panel="Looking")
app.add_typer(hold_app, name="hold", rich_help_panel="Acting")
app.add_typer(dead_letters_app, name="dead-letters", rich_help_panel="Acting")

app.add_typer(topics_app, name="topics", rich_help_panel="Setting up")
app.add_typer(shards_app, name="shards", rich_help_panel="Setting up")
app.add_typer(keys_app, name="keys", rich_help_panel="Setting up")
app.add_typer(token_app, name="token", rich_help_panel="Setting up")
app.command(
    "smoke",
    epilog="Example: tidemark smoke --url http://tidemark-ingest",
    rich_help_panel="Setting up",
)(smoke)
app.command(
    "pre-stop", epilog="Example: tidemark pre-stop tidemark-consumer", rich_help_panel="Setting up"
)(pre_stop)


@app.command(
    rich_help_panel="Setting up",
    epilog="Examples: tidemark migrate --dry-run · tidemark migrate --shard-map shards.json",
)
@with_exit_codes
def migrate(
    shard_map: ShardMapFile = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="NAME", help="Only this shard.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be applied.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the schema of every shard up to date; safe to run again, and during operation.

    Refuses where a shard has rows that the shard map gives to another.
    """
    from operator_cli import migrations, shards

    directory = read_shard_map(shard_map or load(OperatorSettings).shard_map_file)
    dsns = directory.dsns
    if shard is not None:
        if shard not in dsns:
            raise Misconfigured(f"There is no shard {shard}; the map has {', '.join(dsns)}.")
        dsns = {shard: dsns[shard]}
    asyncio.run(shards.require_own_rows(directory, dsns.keys()))
    applied = asyncio.run(migrations.migrate(dsns, dry_run=dry_run))
    if as_json:
        print_json({name: [str(each) for each in done] for name, done in applied.items()})
        return
    for name, done in applied.items():
        listing = ", ".join(map(str, done)) or "nothing"
        typer.echo(f"{name}: {listing} {'to apply' if dry_run else 'applied'}")


@topics_app.command("create", epilog="Example: tidemark topics create --replication-factor 3")
@with_exit_codes
def create_topics(
    replication_factor: Annotated[
        int | None,
        typer.Option(
            min=1, max=9, help="Of what is created. Default: 3, or the number of brokers if lower."
        ),
    ] = None,
    min_insync_replicas: Annotated[
        int | None,
        typer.Option(min=1, max=9, help="Default: 2, or one less than the copies if lower."),
    ] = None,
    retention_days: Annotated[
        int, typer.Option(min=1, max=3_650, help="How long updates are kept.")
    ] = 7,
    as_json: Json = False,
) -> None:
    """Create the topics of updates, dead letters and holds where missing; delete nothing.

    Returns once brokers serve them.
    """
    from operator_cli import topics

    async def create() -> list[topics.TopicState]:
        kafka = load(OperatorSettings).kafka
        states = await topics.create_topics(
            kafka,
            replication_factor=replication_factor,
            min_insync_replicas=min_insync_replicas,
            retention_days=retention_days,
        )
        await topics.wait_until_served(kafka, states)
        return states

    states = asyncio.run(create())
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "partitions": each.partitions,
                    "created": each.created,
                    "differences": list(each.differences),
                }
                for each in states
            ]
        )
        return
    for each in states:
        what = "created" if each.created else "is there already"
        partitions = "1 partition" if each.partitions == 1 else f"{each.partitions} partitions"
        typer.echo(f"{each.name}: {what}, {partitions}")
        for difference in each.differences:
            typer.echo(f"  but {difference}; change it with Kafka's own tools if you want")


@subscription_app.command(
    "show",
    epilog="Example: tidemark subscription show d1f7c2a4-5b0e-4c63-9a8d-2e6f1b7c9d05 "
    "6c1f0a9e-3d52-47b8-8e14-b90d5a72c3f6",
)
@with_exit_codes
def show_subscription(
    app_id: Annotated[str, typer.Argument(metavar="APP", help="The app's ID.")],
    subscription_id: Annotated[
        str, typer.Argument(metavar="SUBSCRIPTION", help="The subscription's ID.")
    ],
    shard_map: ShardMapFile = None,
    as_json: Json = False,
) -> None:
    """Read a row from its shard, and what is still on the way to it; 1 if there is no row.

    The row comes with the receipt of the last update in it. Then Kafka is asked for newer ones.
    """
    from operator_cli import subscriptions
    from operator_cli.on_the_way import on_the_way

    app_id = subscriptions.canonical("APP", app_id)
    subscription_id = subscriptions.canonical("SUBSCRIPTION", subscription_id)
    settings = load(OperatorSettings)
    directory = read_shard_map(shard_map or settings.shard_map_file)
    row = asyncio.run(subscriptions.read_subscription(directory, app_id, subscription_id))
    unknown, coming = None, None
    try:
        coming = asyncio.run(
            on_the_way(settings.kafka, settings.group.id, app_id, subscription_id, row=row)
        )
    except (Misconfigured, Transient) as error:
        unknown = error
    if row is None:
        waits = f"on the way: {coming}" if coming else f"what is on the way is unknown: {unknown}"
        raise Transient(
            f"Subscription {subscription_id} has no row; nothing of it was applied; {waits}"
        )
    facts = {
        "app_id": row.app_id,
        "subscription_id": row.subscription_id,
        "shard": row.shard,
        "tags": row.tags,
        "properties": row.properties,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
        "last_receipt": row.receipt,
    }
    if as_json:
        print_json(facts | {"on_the_way": coming and coming.as_json()})
    else:
        for name, value in (facts | {"on_the_way": str(coming or "unknown")}).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            typer.echo(f"{name:<16} {printable(text)}")
    if unknown is not None:
        raise unknown


# What Kafka's client logs of a broker that is away, our own sentence says.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


if __name__ == "__main__":
    app(prog_name="tidemark")
