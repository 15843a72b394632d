import asyncio
import gc
import gzip
import json
import re
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from ingest_api.direct_routes import DirectApp
from ingest_api.health import Readiness
from ingest_api.idempotency import UsedKeys
from ingest_api.limits import Limits
from ingest_api.own_counts import OwnCounts
from ingest_api.problems import KINDS, ProblemError
from ingest_api.settings import BodySettings, IdempotencySettings, LimitSettings
from shared.errors import Transient
from shared.topology import partition_of
from shared.updates import Once, decode
from tests import zstd
from tests.fake_publisher import FakePublisher
from tests.ingest_apps import app_of, served
from tests.records import subscription

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
SUBSCRIPTION = "1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"
ONE = f"/v1/apps/{APP}/subscriptions/{SUBSCRIPTION}"
BATCH = f"/v1/apps/{APP}/subscriptions/batch"
JSON = {"content-type": "application/json"}
WITH_KEY = {"idempotency-key": "k-1"}
PARTITION = partition_of(APP)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def other(number: int) -> dict[str, Any]:
    return {"subscription_id": subscription(number), "tags": {"a": 1}}


GOOD = {"subscription_id": SUBSCRIPTION, "tags": {"a": 1}}
BAD = {"subscription_id": SUBSCRIPTION, "tags": {"a": []}}


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def readiness(publisher: FakePublisher) -> Readiness:
    return Readiness(publisher)


@pytest.fixture
def app(publisher: FakePublisher, readiness: Readiness) -> FastAPI:
    body = BodySettings(bytes_max=2_000, held_bytes_max=2**20)
    return app_of(publisher, readiness=readiness, body=body)


@pytest.fixture(params=[DirectApp, lambda app: app], ids=["direct", "by-fastapi"])
async def client(app: FastAPI, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(request.param(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://tidemark") as client:
        yield client


def problem_of(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"/problems/{slug}"
    assert problem["title"]
    assert problem["detail"]
    return problem


async def test_an_update_is_published_and_its_receipt_returned(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    response = await client.patch(ONE, json={"tags": {"plan": "pro"}})

    assert response.status_code == 202
    assert response.json() == {"receipt": f"0.{PARTITION}.0"}
    [(app_id, value)] = publisher.partitions[PARTITION]
    update = decode(value, PARTITION)
    assert (app_id, update.app_id, update.subscription_id) == (APP, APP, SUBSCRIPTION)
    assert update.tags == {"plan": "pro"}


async def test_ids_are_kept_in_one_spelling(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    response = await client.patch(
        ONE.upper().replace("/V1/APPS", "/v1/apps").replace("SUBSCRIPTIONS", "subscriptions"),
        json={"tags": {"plan": "pro"}},
    )

    assert response.status_code == 202
    update = decode(publisher.values[0], PARTITION)
    assert (update.app_id, update.subscription_id) == (APP, SUBSCRIPTION)


async def test_a_batch_is_answered_update_by_update(client: httpx.AsyncClient) -> None:
    response = await client.post(BATCH, json={"updates": [GOOD, GOOD, GOOD]})

    assert response.status_code == 202
    assert response.json() == {
        "accepted": 3,
        "rejected": 0,
        "results": [{"receipt": f"0.{PARTITION}.{offset}"} for offset in range(3)],
    }


async def test_a_bad_update_fails_its_batch(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    response = await client.post(BATCH, json={"updates": [GOOD, BAD]})

    problem = problem_of(response, 422, "invalid")
    assert [error["pointer"] for error in problem["errors"]] == ["#/updates/1/tags/a"]
    assert publisher.values == []


@pytest.mark.parametrize("flag", ["true", "1"])
async def test_a_partial_batch_is_answered_in_the_order_it_was_sent(
    client: httpx.AsyncClient, flag: str
) -> None:
    response = await client.post(
        BATCH, params={"partial": flag}, json={"updates": [BAD, GOOD, BAD, GOOD]}
    )

    assert response.status_code == 202
    content = response.json()
    assert (content["accepted"], content["rejected"]) == (2, 2)
    assert [list(result) for result in content["results"]] == [
        ["errors"],
        ["receipt"],
        ["errors"],
        ["receipt"],
    ]
    assert content["results"][2]["errors"][0]["pointer"] == "#/updates/2/tags/a"
    assert content["results"][3]["receipt"] == f"0.{PARTITION}.1"


async def test_partial_false_is_not_partial(client: httpx.AsyncClient) -> None:
    response = await client.post(BATCH, params={"partial": "false"}, json={"updates": [GOOD, BAD]})

    problem_of(response, 422, "invalid")


async def test_a_flag_is_a_boolean(client: httpx.AsyncClient) -> None:
    response = await client.post(BATCH, params={"partial": "maybe"}, json={"updates": [GOOD]})

    assert problem_of(response, 422, "invalid")["errors"][0]["parameter"] == "partial"


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        (f"/v1/apps/x/subscriptions/{SUBSCRIPTION}", "app_id"),
        (f"/v1/apps/{APP}/subscriptions/x", "subscription_id"),
    ],
)
async def test_an_id_that_is_none_is_named(
    client: httpx.AsyncClient, path: str, parameter: str
) -> None:
    response = await client.patch(path, json={"tags": {"a": 1}})

    assert problem_of(response, 422, "invalid")["errors"][0]["parameter"] == parameter


async def test_kafka_out_of_reach_is_503(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    publisher.failure = Transient("Kafka cannot be reached.")

    response = await client.patch(ONE, json={"tags": {"a": 1}})

    problem_of(response, 503, "unreachable")
    assert response.headers["retry-after"] == "1"


async def test_too_much_in_flight_is_503(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    publisher.failure = Transient("Too much.", saturation=True)

    response = await client.post(BATCH, json={"updates": [GOOD]})

    problem_of(response, 503, "busy")
    assert response.headers["retry-after"] == "1"


async def test_an_unknown_outcome_is_504(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    publisher.failure = Transient("No answer.", outcome_unknown=True)

    response = await client.patch(ONE, json={"tags": {"a": 1}})

    problem_of(response, 504, "outcome-unknown")
    assert "retry-after" not in response.headers


async def test_a_batch_cut_off_in_the_middle_tells_of_each_update(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    publisher.failure = Transient("No answer.", outcome_unknown=True)
    publisher.stored_before_failure = 1
    publisher.unknown_after_failure = 2

    response = await client.post(
        BATCH, params={"partial": "true"}, json={"updates": [BAD, GOOD, GOOD, BAD, GOOD, GOOD]}
    )

    problem = problem_of(response, 504, "outcome-unknown")
    assert (problem["accepted"], problem["rejected"]) == (1, 5)
    errors, *others = problem["results"]
    assert errors["errors"][0]["pointer"] == "#/updates/0/tags/a"
    assert others[2].pop("errors")
    assert others == [
        {"receipt": f"0.{PARTITION}.0"},
        {"outcome": "unknown"},
        {},
        {"outcome": "unknown"},
        {"outcome": "not_accepted"},
    ]


async def test_a_bug_of_ours_tells_nothing(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    publisher.failure = ZeroDivisionError("secret")

    response = await client.patch(ONE, json={"tags": {"a": 1}})

    problem_of(response, 500, "internal")
    assert "secret" not in response.text


async def test_an_answer_of_the_framework_that_is_not_ours_is_a_bug(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    publisher.failure = HTTPException(400, "secret")

    response = await client.patch(ONE, json={"tags": {"a": 1}})

    problem_of(response, 500, "internal")
    assert "secret" not in response.text


class NeverAcknowledged(FakePublisher):
    """Fails as Kafka's publisher does: by a future that is still in the frame that awaits it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[weakref.ref[Any]] = []

    async def publish(self, app_id: str, values: Sequence[bytes]) -> list[str]:
        acknowledged: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.left.append(weakref.ref(acknowledged))
        acknowledged.set_exception(Transient("Kafka is too slow.", outcome_unknown=True))
        return await acknowledged


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_an_update_that_failed_leaves_nothing_to_the_garbage_collector() -> None:
    publisher = NeverAcknowledged()
    transport = httpx.ASGITransport(served(publisher))
    async with httpx.AsyncClient(transport=transport, base_url="http://tidemark") as client:
        response = await client.patch(ONE, json={"tags": {"a": 1}})

    problem_of(response, 504, "outcome-unknown")
    assert [each() for each in publisher.left] == [None]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/x-ndjson"},
        JSON | {"content-encoding": "br"},
    ],
)
async def test_what_is_not_declared_as_plain_json_is_415(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.patch(ONE, content=b'{"tags": {"a": 1}}', headers=headers)

    problem_of(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", 'application/json ; charset="UTF-8"'],
)
async def test_json_may_be_declared_in_several_ways(
    client: httpx.AsyncClient, content_type: str
) -> None:
    response = await client.patch(
        ONE, content=b'{"tags": {"a": 1}}', headers={"content-type": content_type}
    )

    assert response.status_code == 202


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
async def test_a_body_may_be_packed(
    client: httpx.AsyncClient,
    publisher: FakePublisher,
    encoding: str,
    pack: Callable[[bytes], bytes],
) -> None:
    body = pack(b'{"tags": {"a": 1}}')

    response = await client.patch(ONE, content=body, headers=JSON | {"content-encoding": encoding})

    assert response.status_code == 202
    assert decode(publisher.values[0], PARTITION).tags == {"a": 1}


async def test_a_batch_may_come_in_lines(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    lines = b"\n".join(json.dumps(each).encode() for each in (GOOD, BAD, GOOD)) + b"\r\n"

    response = await client.post(
        BATCH,
        params={"partial": "true"},
        content=lines,
        headers={"content-type": "application/x-ndjson"},
    )

    assert response.status_code == 202
    assert [list(each) for each in response.json()["results"]] == [
        ["receipt"],
        ["errors"],
        ["receipt"],
    ]
    assert response.json()["results"][1]["errors"][0]["pointer"] == "#/updates/1/tags/a"


async def test_a_wrong_line_is_named(client: httpx.AsyncClient) -> None:
    lines = json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode()[:-3]

    response = await client.post(
        BATCH, content=lines, headers={"content-type": "application/x-ndjson"}
    )

    assert "line 2" in problem_of(response, 400, "not-json")["detail"]


async def test_too_fast_is_429_and_says_when_to_come_back(publisher: FakePublisher) -> None:
    clock = Clock()
    settings = LimitSettings(app_updates_per_s=3, subscription_updates_per_s=1, burst_s=1)
    limits = Limits(settings, OwnCounts(settings, clock))
    transport = httpx.ASGITransport(served(publisher, limits=limits))
    async with httpx.AsyncClient(transport=transport, base_url="http://tidemark") as client:
        first = await client.patch(ONE, json={"tags": {"a": 1}})
        second = await client.patch(ONE, json={"tags": {"a": 2}})
        in_a_batch = await client.post(BATCH, json={"updates": [other(1), GOOD]})
        others = await client.post(BATCH, json={"updates": [other(n) for n in range(6)]})
        app = await client.patch(ONE.replace(SUBSCRIPTION, subscription(9)), json={})
        clock.now += 2.4
        later = await client.patch(ONE, json={"tags": {"a": 2}})

    assert (first.status_code, others.status_code, later.status_code) == (202, 202, 202)
    problem_of(second, 429, "too-many-updates")
    assert (second.headers["retry-after"], second.headers["ratelimit"]) == (
        "1",
        '"subscription";r=0;t=1',
    )
    assert second.headers["ratelimit-policy"] == '"subscription";q=1;w=1'
    assert [
        each["pointer"] for each in problem_of(in_a_batch, 429, "too-many-updates")["errors"]
    ] == ["#/updates/1"]
    problem_of(app, 429, "too-many-updates")
    assert app.headers["ratelimit"] == '"app";r=0;t=2'
    assert len(publisher.values) == 8


async def test_a_body_over_the_limit_is_413_before_it_is_read(client: httpx.AsyncClient) -> None:
    async def never_read() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    response = await client.patch(
        ONE, content=never_read(), headers=JSON | {"content-length": "2001"}
    )

    problem_of(response, 413, "body-too-large")


@pytest.mark.parametrize("length", [{}, {"content-length": "10"}])
async def test_a_body_is_counted_whatever_its_length_is_said_to_be(
    client: httpx.AsyncClient, length: dict[str, str]
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1_000
            yield b" " * 1_000

    response = await client.patch(ONE, content=endless(), headers=JSON | length)

    problem_of(response, 413, "body-too-large")
    assert sent <= 3_000


async def test_a_body_may_come_in_pieces(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"tags": {"a": 1}}':
            yield bytes([byte])

    response = await client.patch(ONE, content=pieces(), headers=JSON)

    assert response.status_code == 202


async def test_what_half_read_bodies_hold_together_is_bounded(publisher: FakePublisher) -> None:
    settings = BodySettings(bytes_max=2**18, held_bytes_max=2**20)
    app = served(publisher, body=settings)
    others_may_end = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b" " * 250_000
        await others_may_end.wait()

    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://tidemark") as client,
        asyncio.TaskGroup() as tasks,
    ):
        requests = [
            tasks.create_task(client.patch(ONE, content=half(), headers=JSON)) for _ in range(5)
        ]
        done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        others_may_end.set()

    problem_of(done.pop().result(), 503, "busy")
    after = await client_patch(app)
    assert after.status_code == 202


async def test_what_half_read_bodies_of_one_token_hold_takes_nothing_from_others(
    publisher: FakePublisher,
) -> None:
    app = served(publisher, body=BodySettings(bytes_max=2**18, held_bytes_max=2**20))
    may_end = asyncio.Event()
    begun = asyncio.Queue[None]()

    async def half() -> AsyncIterator[bytes]:
        yield b'{"tags": {"a": "'
        yield b"1" * 200_000
        begun.put_nowait(None)
        await may_end.wait()
        yield b'"}}'

    async def sent(token: str) -> httpx.Response:
        headers = JSON | {"authorization": f"Bearer {token}"}
        return await sender.patch(ONE, content=half(), headers=headers)

    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://tidemark") as sender,
        asyncio.TaskGroup() as tasks,
    ):
        first = tasks.create_task(sent("one"))
        await begun.get()
        refused = await sent("one")
        others = tasks.create_task(sent("another"))
        await begun.get()
        may_end.set()

    assert "of this token" in problem_of(refused, 503, "busy")["detail"]
    for response in (first.result(), others.result()):
        assert response.status_code in {202, 422}  # read to its end


async def client_patch(app: DirectApp) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://tidemark") as client:
        return await client.patch(ONE, json={"tags": {"a": 1}})


def once_in(publisher: FakePublisher) -> list[Once | None]:
    return [decode(value, PARTITION).once for value in publisher.values]


async def test_a_request_with_a_key_says_so_in_its_record_and_one_without_does_not(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    body = {"tags": {"a": 1}}
    await client.patch(ONE, json=body)
    await client.patch(ONE, json=body, headers=WITH_KEY)
    again = await client.patch(ONE, content=b'{"tags" : {"a":1}}', headers=JSON | WITH_KEY)
    await client.patch(ONE, json=body, headers={"idempotency-key": "k-2"})
    await client.post(BATCH, json={"updates": [GOOD, GOOD]}, headers=WITH_KEY)

    assert again.status_code == 202
    plain, first, second, third, *of_a_batch = once_in(publisher)
    assert plain is None
    assert first == second
    assert first is not None
    assert third is not None
    assert (first.key != third.key, first.body) == (True, third.body)
    keys = {each.key for each in of_a_batch if each}
    assert len({first.key, *keys}) == 3
    assert {each.body for each in of_a_batch if each} == {first.body}


async def test_a_key_that_was_used_for_another_body_is_422_and_nothing_is_stored(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    await client.patch(ONE, json={"tags": {"a": 1}}, headers=WITH_KEY)
    await client.post(BATCH, json={"updates": [GOOD]}, headers=WITH_KEY)

    one = await client.patch(ONE, json={"tags": {"a": 2}}, headers=WITH_KEY)
    batch = await client.post(BATCH, json={"updates": [GOOD, GOOD]}, headers=WITH_KEY)
    elsewhere = await client.patch(
        ONE.replace(SUBSCRIPTION, subscription(1)), json={"tags": {"a": 2}}, headers=WITH_KEY
    )

    problem_of(one, 422, "idempotency-key-reused")
    problem_of(batch, 422, "idempotency-key-reused")
    assert elsewhere.status_code == 202
    assert len(publisher.values) == 3


async def test_a_key_is_used_up_by_what_may_be_stored_and_by_nothing_else(
    client: httpx.AsyncClient, publisher: FakePublisher
) -> None:
    async def answer(value: int) -> int:
        answer = await client.patch(ONE, json={"tags": {"a": value}}, headers=WITH_KEY)
        return answer.status_code

    publisher.failure = Transient("away")
    not_stored = await answer(1)
    publisher.failure = Transient("late", outcome_unknown=True)
    unknown = await answer(2)
    publisher.failure = None

    assert (not_stored, unknown) == (503, 504)
    assert (await answer(1), await answer(2)) == (422, 202)


async def test_the_oldest_key_is_forgotten_first_and_each_after_a_day() -> None:
    clock = Clock()
    keys = UsedKeys(IdempotencySettings(keys_max=2), clock)

    def used(name: bytes, value: bytes) -> bool:
        try:
            with keys.using(name, "scope", [value]):
                return True
        except ProblemError:
            return False

    assert used(b"1", b"a")
    clock.now += 3_600
    assert [used(b"1", b"a"), used(b"2", b"a"), used(b"2", b"b")] == [True, True, False]
    clock.now += 23 * 3_600 - 1
    assert not used(b"1", b"b")
    clock.now += 1
    assert used(b"1", b"b")
    assert [used(b"3", b"a"), used(b"2", b"b"), used(b"3", b"b")] == [True, True, False]


@pytest.mark.parametrize("name", ["tags", "language"])
@pytest.mark.parametrize("depth", [1, 200, 300, 900])
async def test_what_a_onesignal_call_nests_is_refused_however_deep_it_is(
    client: httpx.AsyncClient, publisher: FakePublisher, name: str, depth: int
) -> None:
    nested = "[" * depth + "]" * depth
    body = f'{{"app_id": "{APP}", "{name}": {{"a": {nested}}}}}'

    response = await client.put(f"/api/v1/players/{SUBSCRIPTION}", content=body, headers=JSON)

    assert response.status_code == 400
    assert response.json()["errors"]
    assert publisher.values == []


async def test_an_unknown_path_is_404(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/v2"), 404, "not-found")
    problem_of(await client.patch(ONE + "/", json={}), 404, "not-found")


async def test_a_wrong_method_is_405_and_tells_the_right_one(client: httpx.AsyncClient) -> None:
    response = await client.get(ONE)

    problem_of(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "PATCH"


@pytest.mark.parametrize("slug", KINDS)
async def test_the_type_of_a_problem_explains_it(client: httpx.AsyncClient, slug: str) -> None:
    response = await client.get(f"/problems/{slug}")

    assert response.status_code == 200
    assert response.json()["advice"]


async def test_only_problems_of_ours_are_explained(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/problems/x"), 404, "not-found")


async def test_ready_follows_the_connection_and_ends_with_the_order_to_stop(
    client: httpx.AsyncClient, publisher: FakePublisher, readiness: Readiness
) -> None:
    publisher.connected_once = False
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/readyz")).json()["reason"]
    assert (await client.get("/livez")).status_code == 200

    publisher.connected_once = True
    assert (await client.get("/readyz")).json() == {"ready": True}

    readiness.draining = True
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/livez")).status_code == 200
    assert (await client.patch(ONE, json={"tags": {"a": 1}})).status_code == 202


def references(schema: object) -> Iterator[str]:
    match schema:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for value in schema.values():
                yield from references(value)
        case list():
            for value in schema:
                yield from references(value)


async def test_openapi_is_complete(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()

    for reference in references(schema):
        assert reference.removeprefix("#/components/schemas/") in schema["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(schema)
    for path in (ONE, BATCH):
        template = path.replace(APP, "{app_id}").replace(SUBSCRIPTION, "{subscription_id}")
        [operation] = schema["paths"][template].values()
        assert {parameter["name"] for parameter in operation["parameters"]} >= {"app_id"}
        assert operation["requestBody"]["required"]
        assert operation["responses"].keys() - {"200"} == {
            "202",
            "400",
            "401",
            "403",
            "413",
            "415",
            "422",
            "429",
            "500",
            "503",
            "504",
        }
        assert operation["description"]


async def test_the_documented_examples_are_accepted(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]

    for example in schemas["Patch"]["examples"]:
        assert (await client.patch(ONE, json=example)).status_code == 202
    for example in schemas["Batch"]["examples"]:
        assert (await client.post(BATCH, json=example)).status_code == 202


async def test_the_docs_name_every_path_and_need_nothing_from_elsewhere(
    client: httpx.AsyncClient,
) -> None:
    schema = (await client.get("/openapi.json")).json()

    page = await client.get("/docs")

    assert page.status_code == 200
    assert not re.search(r"(src|href)=.?(https?:)?//|@import|url\(", page.text)
    for path, operations in schema["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in page.text
