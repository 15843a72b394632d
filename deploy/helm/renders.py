"""What Helm makes of the chart with a set of values."""

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.helm.values import CHART
from shared.errors import Misconfigured

_OF_MONITORING: Final = "app.kubernetes.io/component: monitoring"

GOLDEN: Final = Path(__file__).parent / "golden"


def helm(program: Path, *arguments: str | Path) -> str:
    """Run Helm without a cluster, and return what it prints.

    Raises:
        Misconfigured: it fails; the message is its own.
    """
    run = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, cwd=CHART
    )
    if run.returncode:
        raise Misconfigured((run.stderr or run.stdout).strip())
    return run.stdout


def render(program: Path, value_set: Path, *settings: str) -> str:
    """Return the manifests of a set of values, with `name=value` settings on top."""
    overrides = [part for setting in settings for part in ("--set-json", setting)]
    return helm(
        program,
        *("template", "tidemark", CHART, "--namespace", "tidemark", "--values", value_set),
        *overrides,
    )


def golden(manifests: str) -> str:
    """Return what is kept in git of manifests: all but alerts and dashboards, which are there."""
    parts = manifests.split("\n---\n")
    return "\n---\n".join(part for part in parts if _OF_MONITORING not in part)


def objects(manifests: str) -> list[dict[str, Any]]:
    """Return the Kubernetes objects in manifests."""
    return [each for each in yaml.safe_load_all(manifests) if each]
