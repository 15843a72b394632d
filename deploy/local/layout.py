"""Where a stack keeps its files; every one of them is below the state directory."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
LOCAL: Final = CHECKOUT / ".local"
JARS: Final = LOCAL / "jars"
MAIN_STATE: Final = LOCAL / "stack"
TEST_STATES: Final = LOCAL / "test"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one stack."""

    state: Path

    @property
    def lock(self) -> Path:
        """Held while the stack is being changed; beside the state, which may be removed."""
        return self.state.with_name(f"{self.state.name}.lock")

    @property
    def name_elsewhere(self) -> str:
        """What a directory of this stack is called that has to be outside of the state."""
        digest = hashlib.sha256(os.fsencode(self.state.resolve())).hexdigest()[:16]
        return f"tidemark-{digest}"

    @property
    def plan(self) -> Path:
        """The ports and the number of consumers that the stack was last started with."""
        return self.state / "plan.json"

    @property
    def kafka(self) -> Path:
        """Settings and data of the broker."""
        return self.state / "kafka"

    @property
    def shard_map(self) -> Path:
        """The shard map; it holds passwords."""
        return self.state / "shard_map.json"

    @property
    def password(self) -> Path:
        """The password of all shards."""
        return self.state / "postgres_password"

    @property
    def pgpass(self) -> Path:
        """The same password in the form that psql reads."""
        return self.state / "pgpass"

    def pid_file(self, name: str) -> Path:
        """Return the PID file of the daemon `name`."""
        return self.state / "run" / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        """Return the log of the daemon `name`."""
        return self.state / "logs" / f"{name}.log"


def half_made(path: Path) -> Path:
    """Return the name under which to make the directory `path`, which is then renamed.

    Half of one is never found so. What earlier attempts left is removed; whatever of them may
    still be running works on another name.
    """
    for left in path.parent.glob(f"{path.name}.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    return path.with_name(f"{path.name}.new-{os.getpid()}")


def write_secret(path: Path, content: str) -> None:
    """Write `content` so that no one else can read it at any time, and never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(content, encoding="utf-8")
    new.replace(path)
