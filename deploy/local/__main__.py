"""`python -m deploy.local up|status|logs|down|clean|psql|tidemark`: what the Makefile calls."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import psutil

from deploy.local import credentials, display, homes, postgres
from deploy.local.layout import CHECKOUT, MAIN_STATE, TEST_STATES, Layout
from deploy.local.ports import Plan, read_variables
from deploy.local.stack import LocalStack, read_plan
from shared.errors import Misconfigured, Transient


def up(options: argparse.Namespace) -> int:
    """Start what is not running, and say what runs where."""
    variables = dict(read_variables(os.environ, CHECKOUT / ".env"))
    before = read_plan(Layout(MAIN_STATE))
    if before is not None and not variables.get("CONSUMERS"):
        variables["CONSUMERS"] = str(before.consumers)  # as many as there were
    plan = Plan.from_variables(variables)
    stack = LocalStack(MAIN_STATE, plan, progress=display.Console())
    with stack.locked():
        _refuse_to_move(stack)
        daemons = stack.infrastructure if options.infra_only else stack.daemons
        stack.check_ports(daemons)
        stack.save_plan()
        stack.start_infrastructure()
        if not options.infra_only:
            stack.start_services()
    display.print_table(daemons, dict.fromkeys((daemon.name for daemon in daemons), True))
    if not options.infra_only:
        display.print_next_steps(plan)
    return 0


def down(_: argparse.Namespace) -> int:
    """End everything, keep the data."""
    _end_forgotten_tests()
    stack = _current()
    if stack is None:
        display.say("nothing is running")
        return 0
    with stack.locked():
        stack.stop()
    display.say("everything is stopped; the data is kept (`make clean` removes it)")
    return 0


def clean(_: argparse.Namespace) -> int:
    """End everything, remove the data; what was fetched is kept."""
    _end_forgotten_tests()
    stack = _current()
    if stack is not None:
        with stack.locked():
            stack.remove()
    elif MAIN_STATE.exists():
        shutil.rmtree(MAIN_STATE)
    display.say("everything is stopped, and the data is gone")
    return 0


def status(options: argparse.Namespace) -> int:
    """Say what runs; 0 if all of it is ready."""
    stack = _current()
    daemons = stack.daemons + stack.surplus_consumers() if stack else []
    ready = {daemon.name: daemon.is_ready() for daemon in daemons}
    if options.json:
        states = [display.facts(daemon, is_ready=ready[daemon.name]) for daemon in daemons]
        print(json.dumps(states, indent=2))
    elif any(daemon.process() for daemon in daemons):
        display.print_table(daemons, ready)
    else:
        display.say("nothing is running; `make up` starts it")
    return 0 if daemons and all(ready.values()) else 1


def logs(options: argparse.Namespace) -> int:
    """Print the end of every log, and with --follow what comes after."""
    stack = _current()
    if stack is None:
        display.say("nothing is running; `make up` starts it")
        return 1
    display.print_logs(stack.daemons, options.lines)
    if options.follow:
        display.follow_logs(stack.daemons)
    return 0


def psql(options: argparse.Namespace) -> int:
    """Become psql on one shard, or run $SQL there."""
    stack = _current()
    shard = stack.shards.get(options.shard) if stack else None
    if stack is None or shard is None:
        raise Misconfigured(
            f"There is no shard {options.shard!r} here; run `make up` first, and name one of "
            "shard-0 to shard-3 with SHARD=…."
        )
    if shard.process() is None:
        raise Misconfigured(f"{shard.name} is not running; `make up` starts it.")
    host, port = shard.address.split(":")
    server = f"host={host} port={port} user={postgres.USER} dbname={postgres.DATABASE}"
    sql = os.environ.get("SQL")
    become(
        [str(homes.client("psql")), server, *(["--command", sql] if sql else [])],
        {"PGPASSFILE": str(stack.layout.pgpass)},
    )


def tidemark(options: argparse.Namespace) -> int:
    """Run the operators' command with this stack's broker and shards."""
    stack = _current()
    if stack is None:
        raise Misconfigured("There is no stack here that it could ask; run `make up` first.")
    become(
        [sys.executable, "-m", "operator_cli.main", *options.arguments],
        {
            "TIDEMARK_SHARD_MAP_FILE": str(stack.layout.shard_map),
            "TIDEMARK_KAFKA__BOOTSTRAP_SERVERS": stack.plan.bootstrap_servers,
            "TIDEMARK_CONSUMERS": " ".join(consumer.address for consumer in stack.consumers),
            "TIDEMARK_AUTH__SIGNING_KEYS_FILE": str(credentials.SIGNING_KEYS),
            "TIDEMARK_AUTH__PUBLIC_KEYS_FILE": str(credentials.PUBLIC_KEYS),
            "TIDEMARK_AUTH__REVOKED_TOKENS_FILE": str(credentials.REVOKED_TOKENS),
            "TIDEMARK_TOKEN": credentials.token(),
        },
    )


def become(argv: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Go on as another program: what Ctrl-C means to it, as to psql, is then its own affair."""
    os.execve(argv[0], [*argv], {**os.environ, **variables})  # noqa: S606 - no shell is wanted


def main() -> int:
    """Run one command; 1 where it failed, 2 where a human must act."""
    options = parser().parse_args()
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (Misconfigured, Transient) as error:
        print(f"make {options.name}: {error}", file=sys.stderr)
        return 2
    except (PermissionError, psutil.AccessDenied):
        print(f"make {options.name}: another user started this; act as that user", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as of `make logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"make {options.name}: interrupted; run it again to go on", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments that the Makefile gives."""
    arguments = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = arguments.add_subparsers(required=True, metavar="COMMAND", dest="name")

    def add(command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(command.__name__, help=command.__doc__)
        added.set_defaults(command=command)
        return added

    infra_only = "start the broker and the shards without the services"
    add(up).add_argument("--infra-only", action="store_true", help=infra_only)
    add(down)
    add(clean)
    add(status).add_argument("--json", action="store_true", help="for programs")
    logs_parser = add(logs)
    logs_parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    logs_parser.add_argument("--lines", type=int, default=20, help="of each log (default: 20)")
    # No option is ours, --help neither: what stands behind `tidemark` is all for that command.
    command = commands.add_parser(tidemark.__name__, prefix_chars="\0", add_help=False)
    command.add_argument("arguments", nargs=argparse.REMAINDER)
    command.set_defaults(command=tidemark)
    add(psql).add_argument("shard", nargs="?", default="shard-0")
    return arguments


def _current() -> LocalStack | None:
    plan = read_plan(Layout(MAIN_STATE))
    return LocalStack(MAIN_STATE, plan, progress=display.Console()) if plan else None


def _end_forgotten_tests() -> None:
    if TEST_STATES.exists():
        from deploy.local.testing import remove_stale_stacks

        remove_stale_stacks()


def _refuse_to_move(stack: LocalStack) -> None:
    """Refuse other ports for what is running: it would be started a second time."""
    before = read_plan(stack.layout)
    if before is None:
        return
    running = {daemon.name for daemon in LocalStack(MAIN_STATE, before).daemons if daemon.process()}
    now: dict[str, set[int]] = {}
    for claim in stack.plan.claims():
        now.setdefault(claim.owner, set()).add(claim.port)
    for claim in before.claims():
        if claim.owner in running and claim.port not in now.get(claim.owner, {claim.port}):
            raise Misconfigured(
                f"{claim.owner} is running on port {claim.port}; give the same {claim.variable} "
                "again (a line in .env does), or run `make down` before you change it."
            )


if __name__ == "__main__":
    sys.exit(main())
