"""Turn into a daemon: detach, write one's own PID, change user, execute.

Run as a script: `launch.py PID_FILE LOG_FILE UID:GID PROGRAM ARGUMENT…`. Returns when the program
has been executed. The PID file is complete before the program starts, so whoever is killed while
starting a daemon leaves one that can be found again.
"""

import json
import os
import resource
import sys
from pathlib import Path

import psutil

_OPEN_FILES_WHERE_UNLIMITED = 10_240  # what macOS accepts at most


def main(pid_file: str, log_file: str, owner: str, *argv: str) -> None:
    """Start `argv` in a session of its own."""
    outcome, report = os.pipe()  # closed by a successful exec
    if os.fork():
        os.close(report)
        failure = os.read(outcome, 4096)
        sys.exit(failure.decode() or 0)
    try:
        os.setsid()
        _raise_open_files()
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        write_identity(pid_file)
        if owner:
            uid, gid = map(int, owner.split(":"))
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(report, f"{argv[0]}: {error.strerror}".encode())
        os._exit(1)


def write_identity(pid_file: str | Path) -> None:
    """Write a PID file of this process, such as `processes.find` reads."""
    me = psutil.Process()
    identity = {"pid": me.pid, "started": me.create_time() - psutil.boot_time()}
    new = Path(f"{pid_file}.new")
    new.write_text(json.dumps(identity), encoding="utf-8")
    new.replace(pid_file)


def _raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _OPEN_FILES_WHERE_UNLIMITED if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
