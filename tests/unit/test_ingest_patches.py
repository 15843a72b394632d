import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.patches import canonical_id, read_batch, read_patch
from ingest_api.problems import FieldError, ProblemError
from ingest_api.schemas import (
    ENTRIES_MAX,
    INCREMENT_MAX,
    NUMBER_MAX,
    TAG_NAME_LENGTH_MAX,
    TAG_VALUE_LENGTH_MAX,
    UPDATE_BYTES_MAX,
)
from shared.topology import partition_of
from shared.updates import COUNTERS, Update, decode

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
SUBSCRIPTION = "1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"


def read(body: Mapping[str, Any]) -> Update:
    """What arrives at the other end of Kafka."""
    return decode(read_patch(APP, SUBSCRIPTION, json.dumps(body).encode()), partition_of(APP))


def problem_of(body: object) -> ProblemError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ProblemError) as caught:
        read_patch(APP, SUBSCRIPTION, raw)
    return caught.value


def pointers(errors: Sequence[FieldError]) -> list[str]:
    return [error["pointer"] for error in errors]


@pytest.mark.parametrize(
    "change",
    [
        {"tags": {"plan": "pro"}},
        {"properties": {"language": "en"}},
        {"increment": {"session_count": 1}},
        {"increment": {"tags.level": 1}},
    ],
)
def test_what_is_empty_is_left_out(change: Mapping[str, Any]) -> None:
    """Or the same update sent again under its key would be taken for another one."""
    empty: dict[str, Any] = {"tags": {}, "properties": {}, "increment": {}}

    said, not_said = (
        read_patch(APP, SUBSCRIPTION, json.dumps(body).encode(), key=b"k")
        for body in ({**empty, **change}, change)
    )

    assert said == not_said
    assert b"{}" not in said


def test_an_update_arrives_as_it_was_sent() -> None:
    update = read(
        {
            "tags": {"plan": "pro", "level": 12, "score": 1.5, "vip": True, "trial": None},
            "properties": {"language": "en", "enabled": False, "device_os": None},
            "increment": {"session_count": 1, "session_time_s": -30, "tags.purchases": 2},
        }
    )

    assert update == Update(
        schema=1,
        app_id=APP,
        subscription_id=SUBSCRIPTION,
        tags={"plan": "pro", "level": 12, "score": 1.5, "vip": True, "trial": None},
        properties={"language": "en", "enabled": False, "device_os": None},
        increment={"session_count": 1, "session_time_s": -30},
        increment_tags={"purchases": 2},
    )


def test_a_whole_number_is_one_however_it_is_written() -> None:
    assert read({"increment": {"session_count": 2.0}}).increment == {"session_count": 2}


def test_numbers_and_booleans_keep_their_types() -> None:
    tags = read({"tags": {"one": 1, "float": 1.0, "yes": True, "text": "1"}}).tags

    assert {name: type(value) for name, value in tags.items()} == {
        "one": int,
        "float": float,
        "yes": bool,
        "text": str,
    }


def test_an_empty_tag_is_unset_like_null() -> None:
    assert read({"tags": {"a": "", "b": None, "c": " "}}).tags == {"a": None, "b": None, "c": " "}


def test_a_tag_may_be_named_like_a_counter_or_contain_the_prefix() -> None:
    update = read({"increment": {"tags.session_count": 1, "tags.tags.x": 2, "session_count": 3}})

    assert update.increment_tags == {"session_count": 1, "tags.x": 2}
    assert update.increment == {"session_count": 3}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"country": "de"}, {"country": "DE"}),
        ({"timezone_id": "Europe/Berlin"}, {"timezone_id": "Europe/Berlin"}),
        ({"language": "zh-Hant"}, {"language": "zh-Hant"}),
        ({"last_active": "2026-11-20T09:30:00Z"}, {"last_active": "2026-11-20T09:30:00Z"}),
        ({"last_active": "2026-11-20T09:30:00.9+02:00"}, {"last_active": "2026-11-20T07:30:00Z"}),
        ({"last_active": "0099-01-02T00:00:00+14:00"}, {"last_active": "0099-01-01T10:00:00Z"}),
        ({"device_type": "Email"}, {"device_type": "Email"}),
    ],
)
def test_a_property_is_kept_in_one_form(sent: dict[str, Any], kept: dict[str, Any]) -> None:
    assert read({"properties": sent}).properties == kept


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], ["#"]),
        ({}, ["#"]),
        ({"tags": {}, "properties": {}, "increment": {}}, ["#"]),
        ({"tag": {"a": 1}}, ["#/tag"]),
        ({"tags": [1]}, ["#/tags"]),
        ({"tags": None}, ["#/tags"]),
        ({"tags": {"a": [1], "b": {}, "c": 1}}, ["#/tags/a", "#/tags/b"]),
        ({"tags": {"a/b~c %": []}}, ["#/tags/a~1b~0c%20%25"]),
        ({"tags": {"": 1}}, ["#/tags/"]),
        ({"tags": {"nul\0": 1}}, ["#/tags/nul%00"]),
        ({"tags": {"a": "nul\0"}}, ["#/tags/a"]),
        ({"tags": {"n" * (TAG_NAME_LENGTH_MAX + 1): 1}}, ["#/tags/" + "n" * 129]),
        ({"tags": {"n" * 10_000: 1}}, ["#/tags"]),
        ({"tags": {"a": "v" * (TAG_VALUE_LENGTH_MAX + 1)}}, ["#/tags/a"]),
        ({"tags": {str(n): n for n in range(ENTRIES_MAX + 1)}}, ["#/tags"]),
        ({"tags": {"a": NUMBER_MAX + 1}}, ["#/tags/a"]),
        ({"tags": {"a": -1e300}}, ["#/tags/a"]),
        ({"tags": {"a": 10**40}}, ["#/tags/a"]),
        ({"tags": {"a": math.nan, "b": math.inf}}, ["#/tags/a", "#/tags/b"]),
        ({"properties": {"lang": "en"}}, ["#/properties/lang"]),
        ({"properties": {"language": "english"}}, ["#/properties/language"]),
        ({"properties": {"language": ""}}, ["#/properties/language"]),
        ({"properties": {"country": "DEU"}}, ["#/properties/country"]),
        ({"properties": {"timezone_id": "Mars/Olympus"}}, ["#/properties/timezone_id"]),
        ({"properties": {"timezone_id": "../etc/passwd"}}, ["#/properties/timezone_id"]),
        ({"properties": {"device_type": 1}}, ["#/properties/device_type"]),
        ({"properties": {"device_model": "m\0"}}, ["#/properties/device_model"]),
        ({"properties": {"app_version": 2}}, ["#/properties/app_version"]),
        ({"properties": {"enabled": 1}}, ["#/properties/enabled"]),
        ({"properties": {"last_active": 1_700_000_000}}, ["#/properties/last_active"]),
        ({"properties": {"last_active": "1700000000"}}, ["#/properties/last_active"]),
        ({"properties": {"last_active": "2026-02-30T00:00:00Z"}}, ["#/properties/last_active"]),
        ({"properties": {"last_active": "2026-11-20T09:30:00"}}, ["#/properties/last_active"]),
        (
            {"properties": {"last_active": "0001-01-01T00:00:00+01:00"}},
            ["#/properties/last_active"],
        ),
        ({"properties": {"session_count": 1}}, ["#/properties/session_count"]),
        ({"increment": {"session_count": True}}, ["#/increment/session_count"]),
        ({"increment": {"session_count": 1.5}}, ["#/increment/session_count"]),
        ({"increment": {"session_count": "1"}}, ["#/increment/session_count"]),
        ({"increment": {"session_count": None}}, ["#/increment/session_count"]),
        ({"increment": {"session_count": INCREMENT_MAX + 1}}, ["#/increment/session_count"]),
        ({"increment": {"level": 1}}, ["#/increment/level"]),
        ({"increment": {"tags.": 1}}, ["#/increment/tags."]),
        ({"increment": {"tags.a\0": 1}}, ["#/increment/tags.a%00"]),
        (
            {"tags": {"a": []}, "properties": {"x": 1}, "more": 1},
            ["#/tags/a", "#/properties/x", "#/more"],
        ),
    ],
)
def test_what_is_wrong_is_pointed_at(body: object, expected: list[str]) -> None:
    problem = problem_of(body)

    assert problem.kind.slug == "invalid"
    assert pointers(problem.errors) == expected
    assert all(error["detail"].endswith(".") for error in problem.errors)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}{}",
        b"\xef\xbb\xbf{}",
        b'{"tags": {"a": "\xff"}}',
        b'{"tags": {"a": "\\ud800"}}',
        b'{"tags": {"\\udc00": 1}}',
        b"{'tags': {}}",
        b"[" * 10_000,
        b'{"tags": {"a": 01}}',
    ],
)
def test_what_is_not_json_is_told_apart(body: bytes) -> None:
    assert problem_of(body).kind.slug == "not-json"


def test_values_are_never_echoed() -> None:
    problem = problem_of({"tags": {"a": ["secret"]}, "properties": {"country": "secret"}})

    assert "secret" not in str(problem.detail) + str(problem.errors)


def test_an_update_is_bounded_in_bytes_as_it_is_stored() -> None:
    tags = {f"{n:03d}": "\U0001f30a" * TAG_VALUE_LENGTH_MAX for n in range(ENTRIES_MAX)}

    problem = problem_of({"tags": tags})

    assert pointers(problem.errors) == ["#"]
    assert f"{UPDATE_BYTES_MAX:,}" in problem.detail


def test_ids_have_one_spelling() -> None:
    assert canonical_id("app_id", APP.upper()) == APP


@pytest.mark.parametrize(
    "text", ["", "x", APP[:-1], APP + "0", APP.replace("-", ""), f"{{{APP}}}", APP + "\n"]
)
def test_what_is_not_an_id_names_its_parameter(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        canonical_id("app_id", text)

    assert [error["parameter"] for error in caught.value.errors] == ["app_id"]


GOOD = {"subscription_id": SUBSCRIPTION, "tags": {"a": 1}}
BAD = {"subscription_id": SUBSCRIPTION, "tags": {"a": []}}
EMPTY = {"subscription_id": SUBSCRIPTION}


def batch(*updates: object) -> bytes:
    return json.dumps({"updates": updates}).encode()


def batch_problem(body: bytes, *, partial: bool) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        read_batch(APP, body, partial=partial)
    return caught.value


def test_a_batch_keeps_its_order() -> None:
    updates = [
        {"subscription_id": SUBSCRIPTION.upper(), "increment": {"session_count": n}}
        for n in range(5)
    ]

    read = read_batch(APP, batch(*updates), partial=False)

    decoded = [decode(value, partition_of(APP)) for value in read.values]
    assert [update.increment["session_count"] for update in decoded] == [0, 1, 2, 3, 4]
    assert {update.subscription_id for update in decoded} == {SUBSCRIPTION}
    assert (read.places, read.rejected) == ([0, 1, 2, 3, 4], {})


def test_each_bad_update_of_a_batch_is_pointed_at() -> None:
    problem = batch_problem(batch(GOOD, BAD, EMPTY, {"tags": {"a": 1}}, 7), partial=False)

    assert pointers(problem.errors) == [
        "#/updates/1/tags/a",
        "#/updates/2",
        "#/updates/3/subscription_id",
        "#/updates/4",
    ]


def test_the_good_updates_of_a_partial_batch_are_read() -> None:
    other = {"subscription_id": SUBSCRIPTION, "properties": {"last_active": "2026-11-20T09:30:00Z"}}

    read = read_batch(APP, batch(BAD, GOOD, EMPTY, other), partial=True)

    assert read.places == [1, 3]
    assert [decode(value, partition_of(APP)).tags for value in read.values] == [{"a": 1}, {}]
    assert {place: pointers(errors) for place, errors in read.rejected.items()} == {
        0: ["#/updates/0/tags/a"],
        2: ["#/updates/2"],
    }


@pytest.mark.parametrize("updates", [[BAD, BAD], [EMPTY, EMPTY], [BAD, EMPTY]])
def test_a_partial_batch_without_a_good_update_is_refused(updates: list[object]) -> None:
    problem = batch_problem(batch(*updates), partial=True)

    assert len(problem.errors) == len(updates)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", ["#/updates"]),
        (b'{"updates": []}', ["#/updates"]),
        (b'{"updates": {}}', ["#/updates"]),
        (b'{"updates": [{}], "more": 1}', ["#/updates/0/subscription_id", "#/more"]),
        (batch(*[GOOD] * 1001), ["#/updates"]),
        (b"[]", ["#"]),
    ],
)
@pytest.mark.parametrize("partial", [True, False])
def test_what_is_wrong_with_a_batch_itself_fails_it(
    body: bytes, expected: list[str], *, partial: bool
) -> None:
    assert pointers(batch_problem(body, partial=partial).errors) == expected


def test_the_errors_of_a_problem_are_bounded() -> None:
    bad = {"subscription_id": SUBSCRIPTION, "tags": {str(n): [] for n in range(150)}}

    problem = batch_problem(batch(*[bad] * 20), partial=False)

    assert len(problem.errors) == 100


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-NUMBER_MAX, NUMBER_MAX)
    | st.floats(-NUMBER_MAX, NUMBER_MAX)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
)
amounts = st.integers(-INCREMENT_MAX, INCREMENT_MAX)


@given(
    tags=st.dictionaries(names, scalars, min_size=1, max_size=5),
    counters=st.dictionaries(st.sampled_from(COUNTERS), amounts),
    increment_tags=st.dictionaries(names, amounts, max_size=3),
)
def test_every_allowed_update_survives_the_way_through_kafka(
    tags: dict[str, Any], counters: dict[str, int], increment_tags: dict[str, int]
) -> None:
    increment = counters | {f"tags.{name}": amount for name, amount in increment_tags.items()}

    update = read({"tags": tags, "increment": increment})

    assert update.tags == {name: None if value == "" else value for name, value in tags.items()}
    assert update.increment == counters
    assert update.increment_tags == increment_tags


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
sections = st.sampled_from(["tags", "properties", "increment", "subscription_id", "x"])
fields = st.sampled_from(["language", "last_active", "timezone_id", "enabled", "tags.a", "a"])


@given(
    st.lists(
        st.dictionaries(sections, json_values | st.dictionaries(fields, json_values, max_size=3))
        | json_values
        | st.just(GOOD),
        max_size=4,
    )
)
def test_whatever_json_is_sent_is_read_or_refused(updates: list[object]) -> None:
    body = batch(*updates)
    with suppress(ProblemError):
        read = read_batch(APP, body, partial=True)

        assert sorted([*read.places, *read.rejected]) == list(range(len(updates)))
        assert all(decode(value, partition_of(APP)) for value in read.values)
