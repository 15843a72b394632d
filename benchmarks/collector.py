"""An OTLP receiver in a process of its own: where the spans of measured services go."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.layout import CHECKOUT


@contextmanager
def collector() -> Iterator[str]:
    """Receive until the end of the block; yield the endpoint."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.otlp"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
