from datetime import UTC, datetime

import pytest

from operator_cli.dead_letters import DeadLetter, Filters, readable_value, since
from shared.errors import Misconfigured
from shared.origins import Origin, facts
from shared.updates import encode
from tests.records import APP, subscription, update_of

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def letter_of(value: bytes | None, **said: str) -> DeadLetter:
    headers = [(f"tidemark.{name}", fact.encode()) for name, fact in said.items()]
    return DeadLetter(3, 7, 1_000, APP.encode(), value, headers)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("10m", "2026-11-20T11:50:00+00:00"),
        ("2h", "2026-11-20T10:00:00+00:00"),
        ("3d", "2026-11-17T12:00:00+00:00"),
        ("2026-11-19T08:00:00", "2026-11-19T08:00:00+00:00"),
        ("2026-11-19T08:00:00+01:00", "2026-11-19T07:00:00+00:00"),
        ("1905-01-01", "1970-01-01T00:00:00+00:00"),
        ("999999d", "1970-01-01T00:00:00+00:00"),
    ],
)
def test_since_is_an_age_or_a_moment(text: str, moment: str) -> None:
    assert since(text, NOW) == datetime.fromisoformat(moment).timestamp() * 1000


def test_since_that_is_neither_is_refused() -> None:
    with pytest.raises(Misconfigured, match="10m, 2h, 3d"):
        since("yesterday", NOW)


def test_values_of_customers_are_not_shown_unless_asked_for() -> None:
    letter = letter_of(
        encode(update_of(1, tags={"email": "a@b.c", "old": None}, increment={"session_count": 3}))
    )

    shown = readable_value(letter, show_values=False)

    assert shown == {
        "schema": 1,
        "app_id": APP,
        "subscription_id": subscription(1),
        "tags": {"email": "…", "old": None},
        "increment": {"session_count": "…"},
    }
    assert "a@b.c" in str(readable_value(letter, show_values=True))


def test_a_value_that_is_not_json_is_not_shown_either() -> None:
    assert readable_value(letter_of(b"secret"), show_values=False) == "6 bytes that are not JSON"
    assert readable_value(letter_of(b"[7]"), show_values=False) == (
        "3 bytes of JSON that is no object"
    )


def test_the_last_header_of_a_name_counts() -> None:
    """A replay that was given up on again carries what was written the first time as well."""
    first = letter_of(b"{}", topic="t", partition="1", offset="5")
    headers = [*first.headers, ("tidemark.offset", b"9")]
    letter = DeadLetter(3, 7, 1_000, None, b"{}", headers)

    assert letter.origin == Origin("t", 1, 9)
    assert letter_of(b"{}", topic="t", partition="one", offset="5").origin is None


def test_a_header_of_ours_without_a_value_says_nothing() -> None:
    headers = [("tidemark.topic", None), ("other", None)]

    assert facts(headers) == {"topic": ""}
    assert Origin.of_headers(headers) is None


def test_a_letter_whose_value_cannot_be_read_belongs_to_the_app_of_its_key() -> None:
    assert letter_of(b"not json").ids == (APP, "")
    assert letter_of(None).update is None
    assert letter_of(b'{"app_id": "zz"}').update is None


def test_filters_narrow() -> None:
    letter = letter_of(encode(update_of(1, tags={"a": "b"})), reason="refused")

    assert Filters().match(letter)
    assert Filters(APP, subscription(1), "refused", 1_000).match(letter)
    assert not Filters(app=subscription(1)).match(letter)
    assert not Filters(subscription=subscription(2)).match(letter)
    assert not Filters(reason="undecodable").match(letter)
    assert not Filters(since_ms=1_001).match(letter)
