"""Who runs Postgres: it refuses to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged user of this machine."""

    name: str
    uid: int
    gid: int

    def can_reach(self, path: Path) -> bool:
        """Say whether this user may enter the directory `path`."""
        result = subprocess.run(
            ["/bin/sh", "-c", 'cd -- "$1" && ls >/dev/null', "sh", path],
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
        return result.returncode == 0


def postgres_account() -> Account | None:
    """Return the user that Postgres is to run as, or None where that is ourselves.

    Raises:
        Misconfigured: we are root, and there is nobody else.
    """
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise Misconfigured(
        "Postgres does not run as root, and this machine has neither the user postgres nor nobody; "
        "add one, or run make as an ordinary user."
    )
