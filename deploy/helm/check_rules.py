"""Check the alert rules with promtool, and run their tests, where both are there."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from deploy.helm.tools import find_tool
from deploy.local.layout import CHECKOUT
from shared.errors import Misconfigured

_MONITORING: Final = CHECKOUT / "deploy" / "monitoring"


def main() -> int:
    """Print what was checked; 1 where promtool objects."""
    rules = sorted(_MONITORING.glob("rules/*.yaml"))
    tests = sorted(_MONITORING.glob("tests/*.yaml"))
    if not rules:
        return 0
    try:
        promtool = find_tool("promtool")
    except Misconfigured as error:
        print(f"· {len(rules)} files of alert rules were not checked: {error}")
        return 0
    checked = _run(promtool, "check", "rules", *rules)
    return checked or (_run(promtool, "test", "rules", *tests) if tests else 0)


def _run(promtool: Path, *arguments: str | Path) -> int:
    return subprocess.run([promtool, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
