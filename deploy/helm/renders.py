"""What Helm makes of the chart with a set of values."""

import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.helm.values import CHART, VALUE_SETS
from deploy.local.layout import CHECKOUT
from shared.errors import Misconfigured

_OF_MONITORING: Final = "app.kubernetes.io/component: monitoring"

GOLDEN: Final = Path(__file__).parent / "golden"
OPERATIONS: Final = CHECKOUT / "docs" / "operations.md"


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


def with_section(page: str, name: str, content: str) -> str:
    """Return a page of Markdown with other content between its markers of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{content}\n{end}{after}"


def operations_page(program: Path) -> str:
    """Return docs/operations.md with the table of all objects of the production render."""
    names: dict[str, list[str]] = defaultdict(list)
    for each in objects(render(program, VALUE_SETS / "production.yaml")):
        names[each["kind"]].append(f"`{each['metadata']['name']}`")
    rows = [f"| {kind} | {', '.join(sorted(names[kind]))} |" for kind in sorted(names)]
    table = "\n".join(["| kind | names |", "|---|---|", *rows])
    return with_section(OPERATIONS.read_text("utf-8"), "objects", table)
