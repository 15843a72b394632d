"""Four Postgres servers, run from the binaries of a wheel."""

import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from deploy.local.accounts import Account, postgres_account
from deploy.local.homes import PostgresHome, client, home_of
from deploy.local.layout import Layout, half_made, write_secret
from deploy.local.ports import HOST, Plan
from deploy.local.processes import Daemon
from shared.errors import Misconfigured

USER: Final = "tidemark"
DATABASE: Final = "tidemark"

_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # the path of one must be shorter than a checkout's may be
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
    "log_min_duration_statement": "1s",
}
_LEFTOVERS_TIMEOUT_S: Final = 10


def shards(layout: Layout, plan: Plan) -> list[Daemon]:
    """Describe the shards of a stack."""
    account = postgres_account()
    home = home_of(layout, account)
    return [_shard(layout, home, account, number, port) for number, port in enumerate(plan.shards)]


def prepare(layout: Layout, plan: Plan) -> None:
    """Make what all shards share, before any of them is started."""
    home_of(layout, postgres_account()).prepare()
    _write_pgpass(layout, plan)


def dsn(layout: Layout, port: int, database: str = DATABASE) -> str:
    """Return the connection string of a database."""
    return f"postgresql://{USER}:{password(layout)}@{HOST}:{port}/{database}"


def password(layout: Layout) -> str:
    """Return the password of all shards; the first call of a stack makes it up."""
    if not layout.password.exists():
        write_secret(layout.password, secrets.token_hex(24))
    return layout.password.read_text(encoding="utf-8")


def _write_pgpass(layout: Layout, plan: Plan) -> None:
    """Write the password for psql (`PGPASSFILE`)."""
    lines = [f"{HOST}:{port}:*:{USER}:{password(layout)}\n" for port in plan.shards]
    write_secret(layout.pgpass, "".join(lines))


def _shard(
    layout: Layout, home: PostgresHome, account: Account | None, number: int, port: int
) -> Daemon:
    name = f"shard-{number}"
    data = home.data / name
    return Daemon(
        name=name,
        argv=[str(home.binaries / "postgres"), "-D", str(data), "-p", str(port)],
        env=_ENVIRONMENT,
        cwd=Path("/"),
        address=f"{HOST}:{port}",
        pid_file=layout.pid_file(name),
        log_file=layout.log_file(name),
        prepare=partial(_create_or_heal, layout, home, account, data),
        probe=partial(_accepts, port),
        account=account,
        stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
        discard_signal=signal.SIGQUIT,  # "immediate", yet it gives shared memory back
    )


_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}


def _accepts(port: int) -> bool:
    command = [str(client("pg_isready")), "--quiet", "-h", HOST, "-p", str(port), "-t", "1"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _create_or_heal(
    layout: Layout, home: PostgresHome, account: Account | None, data: Path
) -> None:
    if data.exists():
        _end_leftovers(data)
    else:
        _create(data, home.binaries / "initdb", password(layout), account)


def _end_leftovers(data: Path) -> None:
    """Make sure that no process of a crashed server still uses `data`.

    Postgres would refuse to start beside one, and beside any process that has the PID it left in
    its lock file by accident, as after a restart of the machine.
    """
    family = [process for process in psutil.process_iter() if _works_in(process, data)]
    _, alive = psutil.wait_procs(family, timeout=_LEFTOVERS_TIMEOUT_S / 2)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_LEFTOVERS_TIMEOUT_S / 2)
    lock = data / "postmaster.pid"
    # Where its PID is nobody's, Postgres tidies up more than the file.
    if lock.exists() and psutil.pid_exists(int(lock.read_text(encoding="utf-8").split()[0])):
        lock.unlink()


def _works_in(process: psutil.Process, directory: Path) -> bool:
    try:
        return process.name().startswith("postgres") and Path(process.cwd()) == directory
    except psutil.Error:
        return False


def _create(data: Path, initdb: Path, secret: str, account: Account | None) -> None:
    new = half_made(data)
    password_file = data.with_name(f"{data.name}.password")
    new.mkdir(mode=0o700)
    write_secret(password_file, secret)
    if account is not None:
        shutil.chown(new, account.uid, account.gid)
        shutil.chown(password_file, account.uid, account.gid)
    try:
        _run_as(account, [initdb, "-D", new, "--pwfile", password_file, *_initdb_options()])
    finally:
        password_file.unlink()
    new.rename(data)


def _initdb_options() -> list[str]:
    options = [f"--username={USER}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
    options += ["--no-instructions", "--data-checksums"]
    for name, value in _SETTINGS.items():
        options += ["--set", f"{name}={value}"]
    return options


def _run_as(account: Account | None, command: Sequence[str | Path]) -> None:
    result = subprocess.run(
        command,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        reason = " ".join(result.stderr.split())
        raise Misconfigured(f"A Postgres data directory cannot be made: {reason}")
