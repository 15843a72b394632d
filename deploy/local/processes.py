"""Daemons that outlive the command that started them, and are found again by PID file."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from deploy.local.accounts import Account
from shared.errors import Misconfigured

_LAUNCHER: Final = Path(__file__).with_name("launch.py")
_LOG_BYTES_MAX: Final = 16 * 1024 * 1024
_POLL_S: Final = 0.05
_END_POLL_S: Final = 0.01
# How far two readings of the same start time may differ: the kernel rounds its boot time.
_START_TOLERANCE_S: Final = 1.5


def find(pid_file: Path) -> psutil.Process | None:
    """Return the process that a PID file means, unless it has ended or its PID is another's now."""
    try:
        identity = json.loads(pid_file.read_text(encoding="utf-8"))
        process = psutil.Process(identity["pid"])
        # Seconds after boot: unlike the time of day, a clock that is set does not change them.
        started = process.create_time() - psutil.boot_time()
        same = abs(started - identity["started"]) < _START_TOLERANCE_S
        alive = process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        return None
    return process if alive and same else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One process of a stack: how to start it, tell that it is ready, and end it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    address: str
    pid_file: Path
    log_file: Path
    probe: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    discard_signal: signal.Signals = signal.SIGKILL
    stop_timeout_s: float = 30.0

    def process(self) -> psutil.Process | None:
        """Return the running process, if there is one."""
        return find(self.pid_file)

    def was_told_otherwise(self, variable: str) -> bool:
        """Say whether it runs, and was started with another value of an environment variable."""
        process = self.process()
        return process is not None and process.environ().get(variable) != self.env.get(variable)

    def is_ready(self) -> bool:
        """Say whether it runs and answers; somebody else's answer on its port does not count."""
        return self.process() is not None and self.probe()

    def start(self) -> None:
        """Start it unless it runs; return before it is ready.

        Raises:
            Misconfigured: the program cannot be executed.
        """
        if self.process() is not None:
            return
        self.prepare()
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_BYTES_MAX:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        owner = f"{self.account.uid}:{self.account.gid}" if self.account else ""
        launched = subprocess.run(
            [sys.executable, "-I", _LAUNCHER, self.pid_file, self.log_file, owner, *self.argv],
            env=dict(self.env),
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if launched.returncode:
            raise Misconfigured(f"{self.name} cannot be started: {launched.stderr.strip()}.")

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until it answers.

        Raises:
            Misconfigured: it ended, or did not answer in time; its last log lines are quoted.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self.process() is None:
                raise Misconfigured(f"{self.name} ended while starting; {self._log_end()}")
            if time.monotonic() > deadline:
                raise Misconfigured(
                    f"{self.name} was not ready after {timeout_s:.0f} s; {self._log_end()}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it gracefully; kill it when that takes too long."""
        self._end(self.stop_signal)

    def discard(self) -> None:
        """End it fast: nobody needs its data any more."""
        self._end(self.discard_signal)

    def kill(self) -> None:
        """End it as a crash would, and wait until its children have gone too."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it and its children: connections stay open, and nothing answers."""
        if process := self.process():
            _signal(_family(process), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if process := self.process():
            _signal(_family(process), signal.SIGCONT)

    def restart(self) -> None:
        """Start it again, gracefully ended first if it runs, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready()

    def last_lines(self, count: int) -> list[str]:
        """Return the end of its log."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, self.log_file.stat().st_size - 400 * count))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:
            return []

    def _end(self, how: signal.Signals) -> None:
        process = self.process()
        if process is not None:
            family = _family(process)
            _signal([process], how)
            _signal(family, signal.SIGCONT)  # one that was paused hears nothing else
            alive = _wait_ended(family, self.stop_timeout_s)
            _signal(alive, signal.SIGKILL)
            _wait_ended(alive, self.stop_timeout_s)
        self.pid_file.unlink(missing_ok=True)

    def _log_end(self) -> str:
        lines = self.last_lines(15)
        if not lines:
            return f"its log, {self.log_file}, is empty."
        return "\n".join([f"the end of its log, {self.log_file}, may say why:", *lines])


def _family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def _wait_ended(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until they have ended, and return those that have not.

    Who only waits to be reaped has: our daemons are children of PID 1, which may take its time.
    """
    deadline = time.monotonic() + timeout_s
    while (alive := [each for each in processes if _runs(each)]) and time.monotonic() < deadline:
        time.sleep(_END_POLL_S)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        # Its first thread may have ended before others, which then still hold its ports.
        ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return process.is_running() and not ended
    except psutil.NoSuchProcess:
        return False


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
