"""The local stack: daemons, crashes, ports."""

import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local import demo
from deploy.local.layout import CHECKOUT
from deploy.local.ports import Claim, Plan, require_free
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack
from shared.errors import Misconfigured

FOREVER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def daemon(directory: Path, program: str) -> Daemon:
    log_file = directory / "it.log"
    return Daemon(
        name="it",
        argv=[sys.executable, "-c", program],
        env={},
        cwd=directory,
        address="",
        pid_file=directory / "it.pid",
        log_file=log_file,
        probe=lambda: log_file.exists() and "up" in log_file.read_text(encoding="utf-8"),
        stop_timeout_s=0.5,
    )


def test_a_daemon_is_started_once_found_again_and_ended(tmp_path: Path) -> None:
    first, second = daemon(tmp_path, FOREVER), daemon(tmp_path, FOREVER)
    first.start()
    first.wait_ready(timeout_s=10)
    second.start()

    one, other = first.process(), second.process()
    second.stop()

    assert one is not None
    assert one == other
    assert first.process() is None
    assert not first.pid_file.exists()


@pytest.mark.parametrize("paused", [False, True])
def test_a_daemon_that_does_not_listen_is_ended_all_the_same(tmp_path: Path, paused: bool) -> None:
    it = daemon(tmp_path, STUBBORN)
    it.start()
    it.wait_ready(timeout_s=10)
    if paused:
        it.pause()

    it.stop()

    assert it.process() is None


def test_a_daemon_that_was_started_with_another_variable_is_known(tmp_path: Path) -> None:
    one = daemon(tmp_path, FOREVER)
    other = replace(one, env={"PEERS": "2,3"})
    before = other.was_told_otherwise("PEERS")
    one.start()
    one.wait_ready(timeout_s=10)

    found = one.was_told_otherwise("PEERS"), other.was_told_otherwise("PEERS")

    one.stop()
    assert not before, "what does not run is simply started"
    assert found == (False, True)


def test_a_daemon_that_ends_while_starting_is_quoted(tmp_path: Path) -> None:
    it = daemon(tmp_path, "import sys; sys.exit('no such luck')")
    it.start()

    with pytest.raises(Misconfigured, match=r"it ended while starting(.|\n)*no such luck"):
        it.wait_ready(timeout_s=10)


def test_a_daemon_without_a_program_is_said_to_be_so(tmp_path: Path) -> None:
    it = Daemon(
        name="it",
        argv=[str(tmp_path / "missing")],
        env={},
        cwd=tmp_path,
        address="",
        pid_file=tmp_path / "it.pid",
        log_file=tmp_path / "it.log",
        probe=bool,
    )

    with pytest.raises(Misconfigured, match=r"it cannot be started: .*No such file"):
        it.start()


def test_a_taken_port_is_named_with_its_owner_and_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(Misconfigured, match=rf"Port {port} .*shard-1 needs it.*POSTGRES_PORT="):
            require_free(Claim(port, "shard-1", "POSTGRES_PORT"))


def test_a_stack_says_so_before_it_starts_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plan = Plan.from_variables({"INGEST_PORT": str(port)})
        stack = LocalStack(tmp_path, plan)

        with pytest.raises(Misconfigured, match=rf"Port {port} is taken"):
            stack.check_ports([stack.ingest_api])


def test_a_shard_that_crashed_starts_again(stack: LocalStack) -> None:
    shard = stack.shards["shard-1"]
    shard.kill()
    assert not shard.is_ready()

    shard.start()
    shard.wait_ready()

    assert shard.is_ready()


def test_a_shard_that_is_paused_answers_nothing(stack: LocalStack) -> None:
    shard = stack.shards["shard-1"]
    shard.pause()
    try:
        assert shard.process() is not None
        assert not shard.is_ready()
    finally:
        shard.resume()

    shard.wait_ready()


def test_a_stack_that_runs_is_left_alone(stack: LocalStack) -> None:
    before = [daemon.process() for daemon in stack.infrastructure]

    stack.start_infrastructure()

    assert [daemon.process() for daemon in stack.infrastructure] == before


def test_daemons_are_out_of_reach_of_the_terminal(stack: LocalStack) -> None:
    process = stack.broker.process()

    assert process is not None
    assert process.terminal() is None
    assert stack.broker.stop_signal is signal.SIGTERM


def test_what_a_command_becomes_has_nobody_between_it_and_the_terminal() -> None:
    program = [sys.executable, "-c", "import os; print(os.getpid())"]
    command = f"from deploy.local.__main__ import become; become({program!r}, {{}})"

    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as process:
        printed, _ = process.communicate(timeout=60)

    assert int(printed) == process.pid


def test_logs_that_are_followed_where_nothing_runs_end_with_a_sentence(tmp_path: Path) -> None:
    for package in ("deploy/local", "shared"):
        shutil.copytree(CHECKOUT / package, tmp_path / package)
    shutil.copy(CHECKOUT / "deploy/__init__.py", tmp_path / "deploy")
    command = [sys.executable, "-m", "deploy.local", "logs", "--follow"]

    done = subprocess.run(
        command, cwd=tmp_path, timeout=60, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (1, "· nothing is running; `make up` starts it\n")


def test_a_demo_that_is_interrupted_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    status = demo.main(interrupted)

    assert status == 130
    assert capsys.readouterr().err.startswith("demo: interrupted")
