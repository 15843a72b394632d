"""The broker's jars: named by a lock file, fetched once, checked each time a broker starts."""

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.layout import JARS
from shared.errors import Misconfigured

LOCK_FILE: Final = Path(__file__).with_name("jars.lock")

_LINE: Final = re.compile(
    r"(?P<group>[\w.-]+):(?P<artifact>[\w.-]+):(?P<version>[\w.-]+) sha256:(?P<sha256>[0-9a-f]{64})"
)
_FETCHERS: Final = 8


@dataclass(frozen=True, slots=True, order=True)
class Jar:
    """One locked jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name that Maven repositories give it."""
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version} sha256:{self.sha256}"


def parse_lock(text: str) -> list[Jar]:
    """Read a lock file: one `group:artifact:version sha256:…` a line, `#` starts a comment.

    Raises:
        Misconfigured: a line is something else.
    """
    jars = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise Misconfigured(
                f"Line {number} of {LOCK_FILE.name} is not 'group:artifact:version sha256:…'; "
                "restore the file from git, or renew it with `make lock`."
            )
        jars.append(Jar(**match.groupdict()))
    return jars


def locked_jars() -> list[Jar]:
    """Return the jars of the lock file."""
    return parse_lock(LOCK_FILE.read_text(encoding="utf-8"))


def classpath(directory: Path = JARS) -> str:
    """Return the Java class path of the broker."""
    return ":".join(str(directory / jar.file_name) for jar in locked_jars())


def require_jars(progress: Callable[[int, int], None], directory: Path = JARS) -> None:
    """Fetch what is missing, and check every jar against its SHA-256.

    Args:
        progress: is told how many of how many have been fetched; not called if none is missing.
        directory: where the jars are kept.

    Raises:
        Misconfigured: a jar cannot be fetched, or is not the one that was locked.
    """
    jars = locked_jars()
    with _locked(directory):
        missing = [jar for jar in jars if not (directory / jar.file_name).exists()]
        if missing:
            progress(0, len(missing))
            for count, _ in enumerate(_fetch(missing, directory), start=1):
                progress(count, len(missing))
        for jar in jars:
            verify(jar, directory / jar.file_name)


def verify(jar: Jar, path: Path) -> None:
    """Compare a file with the lock; remove it if it differs.

    Raises:
        Misconfigured: it differs.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != jar.sha256:
        path.unlink()
        raise Misconfigured(
            f"{jar.file_name} does not have the SHA-256 that {LOCK_FILE.name} names and was "
            "removed; run the same command again to fetch it anew, and if that does not help, do "
            "not trust the repository it came from."
        )


def _fetch(jars: Iterable[Jar], directory: Path) -> Iterator[Jar]:
    scratch = directory / "fetching"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(_fetch_one, jar, directory, scratch): jar for jar in jars}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(cancel_futures=True)
            shutil.rmtree(scratch, ignore_errors=True)


def _fetch_one(jar: Jar, directory: Path, scratch: Path) -> None:
    from jgo.maven import MavenContext
    from requests import RequestException

    context = MavenContext(repo_cache=scratch)
    try:
        path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (RequestException, OSError, RuntimeError) as error:
        raise Misconfigured(
            f"{jar.file_name} could not be fetched ({type(error).__name__}); check that this "
            "machine reaches a Maven repository (a proxy is taken from HTTPS_PROXY), and run the "
            "same command again: what has been fetched is kept."
        ) from error
    verify(jar, path)
    path.replace(directory / jar.file_name)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
