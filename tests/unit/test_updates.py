import json

import pytest
from hypothesis import given

from shared.errors import Rejected
from shared.updates import SealedUpdate, Update, decode, encode
from tests.records import APP, once_of, subscription, update_of
from tests.unit.strategies import updates

VALID = {"schema": 1, "app_id": APP, "subscription_id": subscription(1)}


@given(updates)
def test_what_is_encoded_decodes_to_the_same(update: Update) -> None:
    assert decode(encode(update), 0) == update


def test_the_wire_is_readable_json_without_empty_fields() -> None:
    value = encode(update_of(1, tags={"plan": "pro", "old": None}))

    assert json.loads(value) == {**VALID, "tags": {"plan": "pro", "old": None}}


def test_an_idempotency_key_is_beside_the_update() -> None:
    update = update_of(1, tags={"plan": "pro"}, once=once_of(1, 2))

    value = encode(update)

    assert json.loads(value)["once"] == {"key": f"{1:032x}", "body": f"{2:032x}"}
    assert decode(value, 0) == update


def test_what_is_sealed_has_the_fields_of_what_is_not() -> None:
    assert SealedUpdate.__struct_fields__ == Update.__struct_fields__


UNDECODABLE = [
    None,
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b'"text"',
    b"[" * 100_000,
    json.dumps({**VALID, "schema": 2}).encode(),
    json.dumps({key: VALID[key] for key in ("app_id", "subscription_id")}).encode(),
    json.dumps({**VALID, "surprise": 1}).encode(),
    json.dumps({**VALID, "tags": [1]}).encode(),
    json.dumps({**VALID, "once": {"key": "0" * 32}}).encode(),
    json.dumps({**VALID, "once": {"key": "x", "body": "0" * 32}}).encode(),
    json.dumps({**VALID, "once": {"key": "0" * 32 + "\n", "body": "0" * 32}}).encode(),
    json.dumps({**VALID, "tags": {"a": {"nested": 1}}}).encode(),
    json.dumps({**VALID, "increment": {"session_count": 1.5}}).encode(),
    json.dumps({**VALID, "increment": {"session_count": True}}).encode(),
    json.dumps({**VALID, "app_id": APP.replace("-", "")}).encode(),
    json.dumps({**VALID, "app_id": "ABCD" + APP[4:]}).encode(),
    json.dumps({**VALID, "subscription_id": "x"}).encode(),
    json.dumps({**VALID, "tags": {"a": "\ud800"}}).encode(),
    json.dumps(VALID).encode().replace(b'"schema": 1', b'"schema": 1, "tags": {"a": 1e999}'),
]


@pytest.mark.parametrize("value", UNDECODABLE)
def test_what_cannot_be_read_is_rejected_as_undecodable(value: bytes | None) -> None:
    with pytest.raises(Rejected) as caught:
        decode(value, 0)

    assert caught.value.reason == "undecodable"


def test_an_app_in_the_wrong_partition_is_rejected() -> None:
    with pytest.raises(Rejected) as caught:
        decode(encode(update_of(1)), 1)

    assert caught.value.reason == "wrong_partition"


def test_the_message_never_quotes_a_value() -> None:
    with pytest.raises(Rejected) as caught:
        decode(json.dumps({**VALID, "tags": {"a": ["secret"]}}).encode(), 0)

    assert "secret" not in str(caught.value)
