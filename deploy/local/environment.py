"""Make `.local/venv` out of nothing but this Python, and keep it up to date.

Run by `bootstrap.py`, before anything is installed.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LOCAL = CHECKOUT / ".local"
VENV = LOCAL / "venv"
STAMP = VENV / "tidemark.json"
LOG = LOCAL / "bootstrap.log"
UNFINISHED = LOCAL / "venv.unfinished"
REQUIREMENTS = CHECKOUT / "requirements" / "dev.txt"

_NO_NETWORK = re.compile(
    "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError"
    "|from versions: none"
)


def main() -> int:
    """Bring the virtual environment up to date; at once if it is."""
    wanted = _fingerprint()
    if _installed() == wanted:
        return 0
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "bootstrap.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = _installed()
        if installed == wanted:  # somebody else has just done it
            return 0
        moved = installed and installed["checkout"] != wanted["checkout"]
        if UNFINISHED.exists() or moved:
            shutil.rmtree(VENV, ignore_errors=True)
        UNFINISHED.touch()  # stays behind only where we are killed half-way
        try:
            if not (VENV / "bin" / "python").exists():
                _create()
            _install()
            STAMP.write_text(json.dumps(wanted), encoding="utf-8")
        except SystemExit:
            UNFINISHED.unlink()
            raise
        UNFINISHED.unlink()
    return 0


def _fingerprint() -> dict[str, str]:
    content = REQUIREMENTS.read_bytes() + (CHECKOUT / "pyproject.toml").read_bytes()
    return {
        "checkout": str(CHECKOUT),
        "packages": hashlib.sha256(content).hexdigest(),
    }


def _installed() -> dict[str, str]:
    """Return the fingerprint of what is there; nothing where its Python is gone."""
    if UNFINISHED.exists() or not (VENV / "bin" / "python").exists():
        return {}
    try:
        fingerprint: dict[str, str] = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fingerprint


def _create() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "This Python cannot make virtual environments: install its package for that "
            "(python3-venv on Debian and Ubuntu), or name another Python with PYTHON=…."
        )
    print(f"· creating .local/venv with Python {sys.version.split()[0]}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)


def _install() -> None:
    names = re.findall(r"^([\w.-]+)==", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    print(f"· installing {len(names)} Python packages", flush=True)
    LOG.write_text("", encoding="utf-8")
    # Not compiled here: half of it is never imported, and the rest is compiled when it is.
    install = ("install", "--no-compile", "--require-hashes", "-r", str(REQUIREMENTS))
    for count, name in enumerate(_pip(*install), 1):
        _progress(f"{min(count, len(names))} of {len(names)}: {name}")
    _progress("unpacking")
    # Not resolved again: what it needs was installed just now.
    list(_pip("install", "--no-deps", "--no-build-isolation", "--editable", "."))
    _progress("")


def _pip(*arguments: str) -> Iterator[str]:
    """Run pip; yield the name of each package that it has found."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--no-input", *arguments]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    environment.update(PIP_USER="0", PIP_PROGRESS_BAR="off", PIP_DISABLE_PIP_VERSION_CHECK="1")
    output = []
    with (
        LOG.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            output.append(line)
            found = re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line)
            if found:
                yield found[1]
    if pip.returncode:
        _progress("")
        sys.exit(explain("".join(output)))


def explain(output: str) -> str:
    """Turn what pip printed before it gave up into one sentence."""
    if "DO NOT MATCH THE HASHES" in output:
        return (
            "A Python package is not the one that requirements/dev.txt names: do not trust the "
            f"index or cache it came from; {LOG} says which."
        )
    if _NO_NETWORK.search(output):
        return (
            "Python packages could not be fetched: check that this machine reaches a package "
            "index (a proxy is taken from HTTPS_PROXY), and run the same command again."
        )
    return f"Python packages could not be installed; the end of {LOG} says why."


def _progress(text: str) -> None:
    """Rewrite the last line; in a file it would only be noise."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K  {text}" if text else "\r\x1b[K", end="", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; run the same command again to go on.")
