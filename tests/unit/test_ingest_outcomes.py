import re

import pytest

from ingest_api.outcomes import ExpiredReceiptError, Outcomes, UnknownReceiptError
from ingest_api.receipts import APPLIED, HELD, PENDING, Place, Receipt, Standing
from shared.holds import HeldAt, Hold, HoldKey, Released, control_record, held_at, held_headers
from shared.updates import encode
from tests.records import APP, StubRecord, subscription, update_of

TOPIC = "subscription-updates"
OTHER = "00000000-0000-4000-8000-0000000000aa"
"""An app of the same partition."""


def outcomes(known_from: int = 0, entries_max: int = 1_000) -> Outcomes:
    return Outcomes(TOPIC, {0: known_from}, entries_max=entries_max)


def dead_letter(offset: int, topic: str = TOPIC, app: str = APP) -> StubRecord:
    said = {
        "reason": "too_many_tags",
        "message": "Postgres refuses the data (23514).",
        "topic": topic,
        "partition": "0",
        "offset": str(offset),
    }
    headers = [(f"tidemark.{name}", text.encode()) for name, text in said.items()]
    return StubRecord(0, b"{}", key=app.encode(), headers=headers)


def held(offset: int, at: int, number: int = 0) -> StubRecord:
    headers = [*held_headers(HeldAt(offset, "run"))]
    assert held_at(StubRecord(0, b"", headers=headers))
    return StubRecord(at, encode(update_of(number)), headers=headers)


def hold(found: Outcomes, state: str, *, number: int | None = None, held_from: int = 0) -> None:
    key = HoldKey(APP, None if number is None else subscription(number))
    value = Hold(id="1", state=state, reason="", since_ms=0, held_from=held_from)  # type: ignore[arg-type]
    found.holds.apply(*control_record(key, value))


def release(found: Outcomes, end: int) -> None:
    hold(found, "releasing")
    released = Released(id="1", released_end=end, at_ms=0)
    found.holds.apply(*control_record(HoldKey(APP), released))


@pytest.mark.parametrize(("offset", "standing"), [(4, APPLIED), (5, PENDING), (6, PENDING)])
def test_below_the_commit_it_is_applied(offset: int, standing: Standing) -> None:
    assert outcomes().standing(Place(0, offset), None, 5) == standing


@pytest.mark.parametrize("committed", [0, 5])
def test_a_dead_letter_is_told_with_its_reason_committed_or_not(committed: int) -> None:
    found = outcomes()
    found.dead_letter(dead_letter(4))
    found.dead_letter(dead_letter(3, topic="another"))

    standing = found.standing(Place(0, 4), APP, committed)

    assert (standing.state, standing.reason) == ("dead-lettered", "too_many_tags")
    assert standing.detail == "Postgres refuses the data (23514)."
    assert found.standing(Place(0, 3), APP, 5) == APPLIED


def test_what_became_of_another_apps_update_is_not_told() -> None:
    found = outcomes()
    found.dead_letter(dead_letter(4))
    found.held(held(3, at=0))

    for offset in (3, 4):
        with pytest.raises(UnknownReceiptError):
            found.standing(Place(0, offset), OTHER, 5)


def test_an_update_is_held_until_what_it_waits_in_is_released() -> None:
    found = outcomes()
    hold(found, "holding")
    found.held(held(4, at=7))
    assert found.standing(Place(0, 4), APP, 5) == HELD

    hold(found, "releasing")
    assert found.standing(Place(0, 4), APP, 5) == HELD

    release(found, end=8)
    assert found.standing(Place(0, 4), APP, 5) == APPLIED


def test_a_later_hold_does_not_take_back_what_an_earlier_one_let_go() -> None:
    found = outcomes()
    hold(found, "holding")
    found.held(held(4, at=7))
    release(found, end=8)

    hold(found, "holding", held_from=8)
    found.held(held(6, at=8))

    assert found.standing(Place(0, 4), APP, 9) == APPLIED
    assert found.standing(Place(0, 6), APP, 9) == HELD


def test_a_hold_of_one_subscription_is_not_about_others() -> None:
    found = outcomes()
    hold(found, "holding", number=1)
    found.held(held(3, at=0, number=1))
    found.held(held(4, at=1, number=2))

    assert found.standing(Place(0, 3), APP, 5) == HELD
    assert found.standing(Place(0, 4), APP, 5) == APPLIED


def test_what_is_forgotten_is_never_called_applied() -> None:
    found = outcomes(known_from=2, entries_max=2)
    for offset in (4, 7, 8):
        found.dead_letter(dead_letter(offset))

    for offset in (1, 4):
        with pytest.raises(ExpiredReceiptError):
            found.standing(Place(0, offset), APP, 10)
    assert found.standing(Place(0, 5), APP, 10) == APPLIED
    assert found.standing(Place(0, 7), APP, 10).state == "dead-lettered"


def test_what_is_none_of_ours_is_left_out() -> None:
    found = outcomes()
    for record in (StubRecord(0, None, key=None), StubRecord(0, b"{}", key=b"\xff")):
        found.dead_letter(record)
        found.held(record)
    found.held(StubRecord(0, encode(update_of())))

    assert found.standing(Place(0, 0), None, 1) == APPLIED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.0",
        "0.0.0.0",
        "0.720.0",
        "-1.0.0",
        "0.0.-1",
        "00.0.0",
        "0.0.x",
        "0.0.9" * 9,
        f"0.0.{2**63}",
        "0.0.0\n",
        "\u0660.0.0",
    ],
)
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^" if not text else re.escape(text[:9])):
        Receipt.parse(text)


def test_a_receipt_is_read() -> None:
    assert Receipt.parse("3.719.9223372036854775807") == (3, (719, 2**63 - 1))
