"""Find Helm and promtool, or build them from their Go modules."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from deploy.local.layout import LOCAL
from shared.errors import Misconfigured

_BUILT: Final = LOCAL / "bin"
_PACKAGES: Final = {
    "helm": ("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "promtool": ("github.com/prometheus/prometheus/cmd/promtool", "v0.315.0"),
}

_BUILT_BY: Final = {"helm": "helm-check", "promtool": "alert-check"}
"""The target of make that builds it; promtool takes ten minutes of two cores."""


def find_tool(name: str) -> Path:
    """Return the path of a tool that is installed, or was built here.

    Raises:
        Misconfigured: there is none; the sentence says how to get it.
    """
    found = shutil.which(name, path=os.pathsep.join([str(_BUILT), os.environ.get("PATH", "")]))
    if found is None:
        raise Misconfigured(
            f"There is no {name}: install it, or Go, with which `make {_BUILT_BY[name]}` builds it."
        )
    return Path(found)


def build_tool(name: str) -> Path:
    """Build a tool through the Go module proxy; its checksums are verified by Go.

    Raises:
        Misconfigured: there is no Go, or it failed.
    """
    if shutil.which("go") is None:
        raise Misconfigured(f"There is neither {name} nor Go here: install one of them.")
    package, version = _PACKAGES[name]
    print(f"· building {name} {version} through the Go module proxy, which takes some minutes")
    with tempfile.TemporaryDirectory() as module:
        # A module of its own, as `go install` refuses modules that replace others.
        for command in (
            ["mod", "init", "tools"],
            ["get", f"{package}@{version}"],
            ["build", "-o", str(_BUILT / name), package],
        ):
            run = subprocess.run(
                ["go", *command],  # noqa: S607 - whichever Go is first on the path
                cwd=module,
                env={**os.environ, "GOFLAGS": "-mod=mod"},
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                raise Misconfigured(f"{name} cannot be built: {run.stderr.strip()[-500:]}")
    return _BUILT / name


def main(names: list[str]) -> int:
    """Make sure that tools are there; 2 says that a human must act."""
    for name in names:
        try:
            find_tool(name)
        except Misconfigured:
            try:
                build_tool(name)
            except Misconfigured as error:
                sys.stderr.write(f"{error}\n")
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
