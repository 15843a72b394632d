"""What a person is shown: the table of what runs, logs, and what to try next."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deploy.local import credentials
from deploy.local.layout import CHECKOUT
from deploy.local.ports import HOST, Plan
from deploy.local.processes import Daemon

# Somebody to try things with.
_APP: Final = "d1f7c2a4-5b0e-4c63-9a8d-2e6f1b7c9d05"
_SUBSCRIPTION: Final = "6c1f0a9e-3d52-47b8-8e14-b90d5a72c3f6"

_NEXT_STEPS: Final = """\
The token of this stack, for every app (it is also in {token_file}):
  {token}
Send an update:
  curl -X PATCH http://{host}:{port}/v1/apps/{app}/subscriptions/{subscription} \
-H "Authorization: Bearer $(cat {token_file})" -H 'Content-Type: application/json' \
-d '{{"tags": {{"plan": "pro"}}, "increment": {{"session_count": 1}}}}'
Read its row:
  make tidemark ARGS="subscription show {app} {subscription}"
"""

_FOLLOW_INTERVAL_S: Final = 0.2
_WIDTH_OF_A_FILE: Final = 120


def say(what: str) -> None:
    """Print one line."""
    print(f"· {what}", flush=True)


class Console:
    """Prints how far a stack has got."""

    def step(self, what: str) -> None:
        """Print a line."""
        say(what)

    def fetched(self, count: int, total: int) -> None:
        """Count on one line; in a file, print the first and the last of it."""
        if sys.stdout.isatty():
            end = "\n" if count == total else ""
            print(f"\r· fetching the broker: {count} of {total} jars", end=end, flush=True)
        elif count in {0, total}:
            say(f"fetching the broker: {count} of {total} jars")


def facts(daemon: Daemon, *, is_ready: bool) -> dict[str, Any]:
    """Return what there is to know about a daemon."""
    process = daemon.process()
    state = "stopped" if process is None else "ready" if is_ready else "not ready"
    return {
        "service": daemon.name,
        "address": daemon.address,
        "pid": process.pid if process else None,
        "state": state,
        "log": os.path.relpath(daemon.log_file, CHECKOUT),
    }


def print_table(daemons: Sequence[Daemon], ready: Mapping[str, bool]) -> None:
    """Print what runs where."""
    from rich import console
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("service", "address", "PID", "state", "log", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for daemon in daemons:
        values = facts(daemon, is_ready=ready[daemon.name]).values()
        table.add_row(*("-" if value is None else str(value) for value in values))
    width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    console.Console(width=width, highlight=False).print(table)


def print_next_steps(plan: Plan) -> None:
    """Print two lines that work when pasted: one sends an update, one reads its row."""
    print(
        _NEXT_STEPS.format(
            host=HOST,
            port=plan.ingest,
            app=_APP,
            subscription=_SUBSCRIPTION,
            token=credentials.token(),
            token_file=os.path.relpath(credentials.TOKEN, CHECKOUT),
        ),
        end="",
    )


def print_logs(daemons: Sequence[Daemon], lines: int) -> None:
    """Print the end of every log."""
    for daemon in daemons:
        for line in daemon.last_lines(lines):
            _print_line(daemon, line)


def follow_logs(daemons: Sequence[Daemon]) -> None:
    """Print what is logged from now on, for ever."""
    ends = {daemon.name: _size(daemon) for daemon in daemons}
    while True:
        for daemon in daemons:
            size = _size(daemon)
            if size == ends[daemon.name]:
                continue
            with daemon.log_file.open("rb") as file:
                # Shorter than before: a fresh log has taken its place.
                file.seek(ends[daemon.name] if size > ends[daemon.name] else 0)
                for line in file:
                    _print_line(daemon, line.decode(errors="replace").rstrip())
                ends[daemon.name] = file.tell()
        sys.stdout.flush()
        time.sleep(_FOLLOW_INTERVAL_S)


def _print_line(daemon: Daemon, line: str) -> None:
    print(f"{daemon.name:<10} │ {line}")


def _size(daemon: Daemon) -> int:
    return daemon.log_file.stat().st_size if daemon.log_file.exists() else 0
