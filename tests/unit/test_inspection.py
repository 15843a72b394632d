"""Filters of `tidemark inspect`."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from operator_cli.adding_up import Sum
from operator_cli.conventions import print_table
from operator_cli.inspect_output import Style
from operator_cli.inspection import Condition, Filters, Scanned, Seen
from operator_cli.main import app
from shared.errors import Misconfigured
from shared.updates import KEY_KNOWN_FOR_MS, Update, encode
from tests.records import APP, StubRecord, once_of, update_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
UPDATE = update_of(1, tags={"plan": "pro", "level": 3}, increment={"session_count": 2})


def record(update: Update = UPDATE, **fields: Any) -> StubRecord:
    return StubRecord(7, encode(update), **fields)


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("tags.plan == 'pro' && offset == 7", True),
        ("tags.level > 2", True),
        ("increment.session_count > 2", False),
        ("tags.missing == 'x'", False),
        ("tags.plan > 2", False),
        ("has(tags.plan)", True),
        ("'level' in tags && tags.plan == 'pro'", True),
        ("tags.exists(name, name == 'level') && tags.plan.startsWith('p')", True),
        ("size(tags) == 2 && tags['plan'] == 'pro'", True),
        ("accepted < timestamp('2026-01-01T00:00:00Z')", True),
        ("type(tags.plan) == string && accepted.getHours() >= 0", True),
        ("tags.level.startsWith('p')", False),
    ],
)
def test_an_expression_is_true_or_does_not_match(text: str, true: bool) -> None:
    assert Condition(text).matches(record(), UPDATE) is true


@pytest.mark.parametrize("text", ["tags.plan ==", "tagz.plan == 'pro'", "__import__('os')"])
def test_what_is_no_expression_over_a_record_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="--where"):
        Condition(text)


@pytest.mark.parametrize(
    "text",
    [
        *("duration(tags.plan) > duration('1s')", "1 / 0 == 1", "[1][5] == 1"),
        *("tags.plan.matches('(')", "tags.plan", "offset", "tags"),
    ],
)
def test_what_cannot_be_evaluated_does_not_match_is_counted_and_quotes_no_value(text: str) -> None:
    condition = Condition(text)

    assert not condition.matches(record(), UPDATE)
    assert condition.unfit == 1
    assert "could not be evaluated for 1 of them" in Scanned(unfit=1).sentence()


@pytest.mark.parametrize(
    ("filters", "meant"),
    [
        (Filters(app=APP), True),
        (Filters(app="ff" + APP[2:]), False),
        (Filters(subscription=UPDATE.subscription_id), True),
        (Filters(tag="plan"), True),
        (Filters(tag="plan=pro"), True),
        (Filters(tag="level=3"), True),
        (Filters(tag="plan=free"), False),
        (Filters(tag="pro"), False),
        (Filters(trace=TRACE), True),
        (Filters(trace="1" + TRACE[1:]), False),
    ],
)
def test_a_record_goes_through_the_sieve_and_is_looked_at(filters: Filters, meant: bool) -> None:
    one = record(headers=[("traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())])

    through = filters.sieve([one])

    assert bool([each for each in through if filters.match(each, UPDATE)]) is meant


def test_a_traceparent_without_a_value_is_of_no_trace() -> None:
    one = record(headers=[("traceparent", None)])

    assert not Filters(trace=TRACE).sieve([one])


def test_names_of_tags_cannot_act_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;title\x07\x9b31m\u202ered\né[b]"
    seen = Seen(record(), update_of(1, tags={name: 1}))

    print_table(("tag",), [(name,)])
    table, line = capsys.readouterr().out, Style().line(seen, "applied")

    assert all(each.isprintable() for each in [*table.splitlines(), line])
    escaped = r"\u001b]0;title\u0007\u009b31m\u202ered\né[b]"
    assert escaped in table
    assert escaped in line
    assert name in json.loads(line)["patch"]["tags"]


def test_updates_add_up_as_a_row_would() -> None:
    total = Sum()

    several: list[dict[str, Any]] = [
        {"tags": {"a": 1, "b": "x"}, "increment": {"session_count": 2}},
        {"tags": {"b": None}, "increment_tags": {"a": 2, "c": 1}},
        {"tags": {"a": "text"}, "increment_tags": {"a": 5}, "increment": {"session_count": 1}},
    ]
    for fields in several:
        total.add(update_of(1, **fields), 0)

    assert (total.tags, total.properties) == ({"a": 5, "c": 1}, {"session_count": 3})


def test_what_is_sent_again_under_its_key_adds_nothing_for_a_day() -> None:
    total = Sum()
    one, other = update_of(1, increment={"session_count": 1}, once=once_of(1)), once_of(1, body=2)

    for accepted_ms in (0, 1, KEY_KNOWN_FOR_MS - 1, KEY_KNOWN_FOR_MS):
        total.add(one, accepted_ms)
    total.add(update_of(1, increment={"session_count": 5}, once=other), KEY_KNOWN_FOR_MS + 1)

    assert total.properties == {"session_count": 2}
    assert (total.updates, total.repeated) == (5, 3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--since", "1m", "--until", "2h"], "is not before"),
        (["--until", "noon"], "--until noon is no time"),
        (["--fold", "--app", APP, "--since", "1h"], "--fold adds up everything"),
        (["--fold", "--app", APP, "--dead-letters"], "--fold adds up everything"),
        (["--fold", "--app", APP, "--limit", "3"], "--fold adds up everything"),
        (["--follow", "--since", "2h", "--until", "1m"], "--follow goes on"),
    ],
)
def test_what_would_answer_another_question_is_refused(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["inspect", *arguments])

    assert result.exit_code == 2
    assert sentence in result.output
