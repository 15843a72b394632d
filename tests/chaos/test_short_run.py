"""Ordinary days: everything that can fail does, for a minute, and nothing is lost."""

import os
import sys
from pathlib import Path

from deploy.local.stack import LocalStack
from tests.chaos.run import run_chaos
from tests.chaos.schedule import KINDS
from tests.chaos.system import fresh_system

SEED = int(os.environ.get("CHAOS_SEED") or 1)
SECONDS = 60


def say(text: str) -> None:
    """Speak to whoever reads the output of a failed run."""
    sys.stdout.write(f"{text}\n")


async def test_nothing_is_lost_reordered_or_counted_twice_whatever_fails(
    stack: LocalStack, tmp_path: Path
) -> None:
    say(f"again the same: CHAOS_SEED={SEED}")

    async with fresh_system(stack, tmp_path) as system:
        report = await run_chaos(system, seed=SEED, seconds=SECONDS, kinds=KINDS, say=say)

    say(str(report))
    assert report.verdict.objections == []
    assert report.crashes == {}
    assert report.verdict.updates_accepted > 1_000
    assert sum(report.faults.values()) > 15
