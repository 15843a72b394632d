"""What all commands have in common: settings, options, exit codes, JSON."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec

import typer
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import Misconfigured, Transient
from shared.settings import FrozenModel, KafkaSettings, ServiceSettings

if TYPE_CHECKING:
    from shared.lag import Look

P = ParamSpec("P")

_WIDTH_OF_A_FILE: Final = 400

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class KeyFiles(FrozenModel):
    """Where keys and revocations are; the last two are what services read."""

    signing_keys_file: Path = Path("signing_keys.json")
    public_keys_file: Path = Path("public_keys.json")
    revoked_tokens_file: Path = Path("revoked_tokens")


ShardMapFile = Annotated[
    Path | None,
    typer.Option("--shard-map", metavar="FILE", help="Default: TIDEMARK_SHARD_MAP_FILE."),
]


class ConsumerGroup(BaseModel):
    """The group that the consumers are in; what else is set of it is theirs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field("tidemark-consumer", min_length=1)


class OperatorSettings(ServiceSettings):
    """What the commands read from the environment."""

    group: ConsumerGroup = ConsumerGroup()
    shard_map_file: Path = Path("shard_map.json")
    kafka: KafkaSettings = KafkaSettings()
    auth: KeyFiles = KeyFiles()


def say_if_none_committed(look: "Look", group: str) -> None:
    """Say on stderr that a group has committed nothing: it is new, or its name is another's."""
    if not look.any_committed:
        typer.echo(
            f"Group {group} has committed nothing, so all there is counts as waiting; if consumers "
            "have run, TIDEMARK_GROUP__ID or --group names another group than theirs.",
            err=True,
        )


def with_exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into a sentence on stderr and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (Misconfigured, Transient) as error:
            sys.stderr.write(f"tidemark: {error}\n")
            raise typer.Exit(2 if isinstance(error, Misconfigured) else 1) from None

    return run


def print_json(value: object) -> None:
    """Print for programs."""
    typer.echo(json.dumps(value, indent=2))


def printable(text: str) -> str:
    """Escape, as JSON does, what would act on a terminal: names and values are customers'."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, cut: str | None = None
) -> None:
    """Print IDs in full: what is too wide for a terminal goes on below, except in column `cut`."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for title in titles:
        table.add_column(title, overflow="ellipsis" if title == cut else "fold")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    # Not a terminal: a line that is broken is of no use to grep.
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE)
    console.print(table)
