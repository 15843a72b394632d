"""A broker and four shards for measuring, started once and always torn down."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Final

from deploy.local import kafka
from deploy.local.layout import LOCAL, Layout
from deploy.local.ports import SHARDS, Plan
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack, read_plan

BENCH: Final = LOCAL / "bench"
RESULTS: Final = BENCH / "results"
PROFILE: Final = RESULTS / "profile.svg"
"""A flame graph of the consumer at its peak, the newest one."""

_STATE: Final = BENCH / "stack"
CONSUMERS_MAX: Final = 3


class _BenchStack(LocalStack):
    """A stack whose broker comes to its full speed, as one would that has run for days."""

    @cached_property
    def broker(self) -> Daemon:
        """The Kafka broker."""
        return kafka.broker(self.layout, self.plan, lives_long=True)


@contextmanager
def bench_stack(*, keep: bool = False, shards: int = SHARDS) -> Iterator[LocalStack]:
    """Run the stack on free ports until the end of the block.

    Another run in the same checkout waits for this one. What an earlier run left is used again
    where it has as many shards, and removed where it has not.

    Args:
        keep: leave broker and shards running.
        shards: how many.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    left = read_plan(Layout(_STATE))
    if left is not None and len(left.shards) != shards:
        other = _BenchStack(_STATE, left)
        with other.locked():
            other.remove()
        left = None
    plan = left or Plan.on_free_ports(consumers=CONSUMERS_MAX, shards=shards)
    stack = _BenchStack(_STATE, plan)
    with stack.locked():
        stack.save_plan()
        try:
            stack.start_infrastructure()
            yield stack
        finally:
            if not keep:
                stack.remove()
