"""The oracle on updates that are repeated under an idempotency key."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from tests.records import APP, StubRecord, subscription
from verification.audit import Write
from verification.judgement import Evidence, Fault, judge
from verification.marks import COUNT, MARK, Marker
from verification.oracle import Ledger, StoredRow

ROW = (APP, subscription(0))
MARKER = Marker()
KEYED, OTHER = MARKER.marked({}), MARKER.marked({})


def record(offset: int, body: Any) -> StubRecord:
    return StubRecord(offset, json.dumps({"tags": body["tags"]}).encode())


async def writes(*states: tuple[int, int, int]) -> AsyncIterator[Write]:
    """Yield writes of the row, each to an offset, with the mark and the count in it then."""
    before = None
    for offset, mark, count in states:
        yield Write(ROW, before, (0, offset), mark, count, 0.0)
        before = (0, offset)


@pytest.mark.parametrize(("counts", "fault"), [((1, 2, 2), None), ((1, 2, 3), Fault.COUNTED_TWICE)])
async def test_a_repetition_may_be_stored_and_must_not_count(
    counts: tuple[int, int, int], fault: Fault | None
) -> None:
    ledger = Ledger()
    ledger.under_keys.append((ROW, KEYED))
    ledger.outcome_unknown(ROW, KEYED)
    ledger.accept(ROW, OTHER, "0.0.1")
    ledger.accept(ROW, KEYED, "0.0.2")
    keyed, other = KEYED["tags"][MARK], OTHER["tags"][MARK]
    tags = {MARK: Decimal(other), COUNT: Decimal(counts[-1])}

    verdict = await judge(
        ledger,
        Evidence(
            epoch=0,
            records=[record(0, KEYED), record(1, OTHER), record(2, KEYED)],
            dead_letters=[],
            rows={ROW: StoredRow(tags, {}, 0, 2)},
            writes=writes((0, keyed, counts[0]), (1, other, counts[1]), (2, other, counts[2])),
        ),
    )

    assert {each.fault for each in verdict.objections} == ({fault} if fault else set())
    assert verdict.repetitions == 1
