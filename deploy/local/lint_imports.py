"""Check who imports whom, and say something only where a contract is broken."""

import contextlib
import io
import sys

from importlinter import cli


def main() -> int:
    """Return 0 where every contract is kept; print the report and return 1 where one is broken."""
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        status = cli.lint_imports()
    if status:
        sys.stdout.write(report.getvalue())
    return status


if __name__ == "__main__":
    sys.exit(main())
