"""The commands that a release runs inside its cluster: before a pod stops, and as its test."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from operator_cli.conventions import OperatorSettings, with_exit_codes
from shared.settings import load, read_shard_map


@with_exit_codes
def pre_stop(
    statefulset: Annotated[
        str, typer.Argument(metavar="STATEFULSET", help="The consumers' StatefulSet.")
    ],
    pod: Annotated[str, typer.Option(envvar="HOSTNAME", help="This pod's name.")],
    pid: Annotated[int, typer.Option(min=1, help="The consumer's process.")] = 1,
) -> None:
    """Before a consumer's pod stops: let it leave its group if it is not to come back.

    A consumer that is restarted keeps its place, so nobody takes its partitions over. One that is
    scaled away would keep them, too, until its session ends.
    """
    from operator_cli import scaling

    if scaling.is_scaled_away(pod, scaling.replicas_wanted(statefulset, scaling.in_cluster())):
        os.kill(pid, signal.SIGUSR1)
        typer.echo(f"{pod} is scaled away and leaves its group.")


@with_exit_codes
def smoke(
    url: Annotated[str, typer.Option(help="Where the ingest API is.")],
    app: Annotated[
        str, typer.Option(metavar="APP", help="Whose row to write; an app of nobody's.")
    ] = "00000000-0000-4000-8000-000000000001",
    token: Annotated[
        str | None, typer.Option(envvar="TIDEMARK_TOKEN", help="Where the API wants one.")
    ] = None,
    shard_map: Annotated[
        Path | None,
        typer.Option("--shard-map", metavar="FILE", help="Default: TIDEMARK_SHARD_MAP_FILE."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1, help="How long the row may take.")] = 60,
) -> None:
    """Send one update, and wait until it is in its row."""
    from operator_cli.smoke import update_and_wait

    directory = read_shard_map(shard_map or load(OperatorSettings).shard_map_file)
    took = asyncio.run(update_and_wait(url, app, directory, token=token, timeout_s=timeout_s))
    typer.echo(
        f"{took.receipt} was accepted, and in its row on {took.shard} {took.seconds:.2f} s later."
    )
