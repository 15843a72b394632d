"""The table of bad inputs in `docs/api.md`: each row is sent to a real server, and answered so."""

import asyncio
import base64
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import pytest

from ingest_api.auth import Access
from ingest_api.limits import Limits
from ingest_api.own_counts import OwnCounts
from ingest_api.settings import LimitSettings
from shared.bounded_http import HttpSettings
from shared.serving import serving
from shared.settings import ListenSettings
from shared.tokens import Verifier, issue, new_key
from tests import zstd
from tests.fake_publisher import FakePublisher
from tests.ingest_apps import served

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "api.md"
PATIENCE_S: Final = 30
TIMEOUT: Final = 408
APP: Final = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
OTHER_APP: Final = "00000000-0000-4000-8000-000000000000"
SUBSCRIPTION: Final = "1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"
ONE: Final = f"/v1/apps/{APP}/subscriptions/{SUBSCRIPTION}"
BATCH: Final = f"/v1/apps/{APP}/subscriptions/batch"
KEY: Final = new_key()
GOOD: Final = b'{"tags": {"a": 1}}'
ITEM: Final = b'{"subscription_id": "%s", "tags": {"a": 1}}' % SUBSCRIPTION.encode()


def token(app: str = APP, valid_s: int = 600, rights: Any = ("update", "read")) -> str:
    return issue(KEY, app=app, rights=rights, valid_s=valid_s)[0]


def http(
    body: bytes = GOOD,
    *fields: str,
    method: str = "PATCH",
    path: str = ONE,
    length: int | None = None,
    auth: str | None = "",
    content_type: str | None = "application/json",
) -> bytes:
    """Return a request as it goes over the wire; by default one that is accepted."""
    lines = [f"{method} {path} HTTP/1.1", "Host: tidemark", *fields]
    if auth is not None:
        lines.append(f"Authorization: {auth or f'Bearer {token()}'}")
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if not any(field.lower().startswith("transfer-encoding") for field in fields):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def batch(*items: bytes, path: str = BATCH, key: str | None = None) -> bytes:
    body = b'{"updates": [' + b", ".join(items) + b"]}"
    fields = [] if key is None else [f"Idempotency-Key: {key}"]
    return http(body, *fields, method="POST", path=path)


def ndjson(lines: bytes) -> bytes:
    return http(lines, method="POST", path=BATCH, content_type="application/x-ndjson")


def tags(value: bytes) -> bytes:
    return http(b'{"tags": ' + value + b"}")


def properties(value: bytes) -> bytes:
    return http(b'{"properties": ' + value + b"}")


def increment(value: bytes) -> bytes:
    return http(b'{"increment": ' + value + b"}")


def packed(body: bytes, encoding: str = "gzip") -> bytes:
    return http(body, f"Content-Encoding: {encoding}")


def with_a_window_of(log: int) -> bytes:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
    return compressor.compress(GOOD, compressor.FLUSH_BLOCK) + compressor.flush()


def zstd_bomb() -> bytes:
    compressor = zstd.ZstdCompressor()
    return b"".join(compressor.compress(b" " * 2**24) for _ in range(64)) + compressor.flush()


def many(count: int, value: bytes = b"1") -> bytes:
    return b"{" + b",".join(b'"t%d":%s' % (number, value) for number in range(count)) + b"}"


def unsigned() -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": "tidemark", "jti": "1", "app": "*", "rights": ["update"], "exp": 2**40}
    return f"{part({'alg': 'none', 'kid': KEY['kid']})}.{part(claims)}."


def with_another_algorithm() -> str:
    claims = {"iss": "tidemark", "jti": "1", "app": "*", "rights": ["update"], "exp": 2**40}
    return jwt.encode(claims, "x" * 64, "HS256", headers={"kid": KEY["kid"]})


@dataclass(frozen=True)
class Bad:
    """What is sent, and what is answered: the status, and the kind of problem where it is ours."""

    what: str
    request: Callable[[], bytes]
    status: int
    kind: str = "-"


def bad(what: str, request: bytes | Callable[[], bytes], status: int, kind: str = "-") -> Bad:
    return Bad(what, request if callable(request) else lambda: request, status, kind)


INPUTS: Final = [
    # Who is asking
    bad("no token", http(auth=None), 401, "unauthorized"),
    bad("a token that is none", http(auth="Bearer x"), 401, "unauthorized"),
    bad("another scheme", http(auth="Digest x"), 401, "unauthorized"),
    bad("an expired token", http(auth=f"Bearer {token(valid_s=-1)}"), 401, "unauthorized"),
    bad("a token with `alg: none`", http(auth=f"Bearer {unsigned()}"), 401, "unauthorized"),
    bad(
        "a token signed with HS256",
        http(auth=f"Bearer {with_another_algorithm()}"),
        401,
        "unauthorized",
    ),
    bad(
        "a token changed after signing",
        http(auth=f"Bearer {token()[:-6]}AAAAAA"),
        401,
        "unauthorized",
    ),
    bad("a token of 5,000 characters", http(auth="Bearer " + "x" * 5_000), 401, "unauthorized"),
    bad("a token for another app", http(auth=f"Bearer {token(OTHER_APP)}"), 403, "forbidden"),
    bad(
        "a token without the right",
        http(auth=f"Bearer {token(rights=('read',))}"),
        403,
        "forbidden",
    ),
    # Where
    bad("another path", http(path="/v2/apps"), 404, "not-found"),
    bad("a slash at the end", http(path=ONE + "/"), 404, "not-found"),
    bad("another method", http(method="PUT"), 405, "method-not-allowed"),
    bad(
        "an app ID that is no UUID",
        http(path=f"/v1/apps/1/subscriptions/{SUBSCRIPTION}"),
        422,
        "invalid",
    ),
    bad("a subscription ID that is no UUID", http(path=ONE[:-1]), 422, "invalid"),
    bad("an ID with `%00`", http(path=ONE[:-1] + "%00"), 422, "invalid"),
    bad("`?partial=maybe`", batch(ITEM, path=BATCH + "?partial=maybe"), 422, "invalid"),
    bad("a receipt that is none", http(b"", method="GET", path="/v1/receipts/1"), 422, "invalid"),
    bad(
        "`?wait=forever`",
        http(b"", method="GET", path="/v1/receipts/0.0.0?wait=forever"),
        422,
        "invalid",
    ),
    bad(
        "a receipt of another app's partition",
        http(b"", method="GET", path="/v1/receipts/0.0.0"),
        404,
        "unknown-receipt",
    ),
    bad("an empty Idempotency-Key", http(GOOD, "Idempotency-Key:"), 422, "invalid"),
    bad("a key with a space in it", http(GOOD, "Idempotency-Key: a b"), 422, "invalid"),
    bad("a key of 256 characters", http(GOOD, f"Idempotency-Key: {'x' * 256}"), 422, "invalid"),
    # How it is declared and packed
    bad("no Content-Type", http(content_type=None), 415, "unsupported-media-type"),
    bad("`text/plain`", http(content_type="text/plain"), 415, "unsupported-media-type"),
    bad(
        "JSON in Latin-1",
        http(content_type="application/json; charset=latin-1"),
        415,
        "unsupported-media-type",
    ),
    bad(
        "one update in lines",
        http(content_type="application/x-ndjson"),
        415,
        "unsupported-media-type",
    ),
    bad(
        "`Content-Encoding: br`", http(GOOD, "Content-Encoding: br"), 415, "unsupported-media-type"
    ),
    bad("gzip that is none", packed(GOOD), 400, "not-packed"),
    bad("half of a gzip stream", packed(gzip.compress(GOOD)[:-9]), 400, "not-packed"),
    bad("two gzip streams", packed(gzip.compress(GOOD) * 2), 400, "not-packed"),
    bad(
        "a gzip bomb, 100 MiB in 100 KiB",
        lambda: packed(gzip.compress(b" " * 100 * 2**20)),
        413,
        "body-too-large",
    ),
    bad("zstd that is none", packed(GOOD, "zstd"), 400, "not-packed"),
    bad("half of a zstd frame", packed(zstd.compress(GOOD)[:-5], "zstd"), 400, "not-packed"),
    bad("two zstd frames", packed(zstd.compress(GOOD) * 2, "zstd"), 400, "not-packed"),
    bad(
        "a zstd frame that wants a window of 128 MiB",
        lambda: packed(with_a_window_of(27), "zstd"),
        400,
        "not-packed",
    ),
    bad(
        "a zstd bomb, 1 GiB in 32 KiB",
        lambda: packed(zstd_bomb(), "zstd"),
        413,
        "body-too-large",
    ),
    # The body's size and time
    bad("a body of 2 MiB", lambda: http(b" " * 2**21), 413, "body-too-large"),
    bad("a Content-Length of 2 MiB and no body", http(b"", length=2**21), 413, "body-too-large"),
    bad(
        "2 MiB in chunks, of no announced length",
        lambda: http(b"200000\r\n" + b" " * 2**21 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        413,
        "body-too-large",
    ),
    bad("a Content-Length that is too large by one", http(GOOD, length=len(GOOD) + 1), 408),
    bad(
        "a Content-Length that is too small by one",
        http(GOOD, length=len(GOOD) - 1),
        400,
        "not-json",
    ),
    bad("a Content-Length of -1", http(GOOD, length=-1), 400),
    bad("two lengths that differ", http(GOOD, "Content-Length: 5"), 400),
    bad(
        "a length and chunks",
        http(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"),
        400,
    ),
    bad("a head that never ends", http()[:40], 408),
    bad("a head of 20 KiB", http(GOOD, "X: " + "x" * 20_000), 431),
    bad("what is not HTTP", b"hello\r\n\r\n", 400),
    # JSON that is none
    bad("an empty body", http(b""), 400, "not-json"),
    bad("JSON cut off", http(GOOD[:-1]), 400, "not-json"),
    bad("two JSON values", http(GOOD + GOOD), 400, "not-json"),
    bad("a comment", http(b"/**/" + GOOD), 400, "not-json"),
    bad("single quotes", http(b"{'tags': {}}"), 400, "not-json"),
    bad("invalid UTF-8", tags(b'{"a": "\xff"}'), 400, "not-json"),
    bad("a lone surrogate", tags(rb'{"a": "\ud800"}'), 400, "not-json"),
    bad("a byte order mark", http(b"\xef\xbb\xbf" + GOOD), 400, "not-json"),
    bad("UTF-16", http('{"tags": {"a": 1}}'.encode("utf-16")), 400, "not-json"),
    bad("`1e999`, which no number is", tags(b'{"a": 1e999}'), 422, "invalid"),
    bad("a number of 5,000 digits", tags(b'{"a": ' + b"9" * 5_000 + b"}"), 400, "not-json"),
    bad("arrays 100,000 deep", tags(b"[" * 100_000), 400, "not-json"),
    bad(
        "a string of 400,000 quotes and no end",
        lambda: tags(b'{"a": "' + rb"\"" * 400_000 + b"," * 1_000),
        400,
        "not-json",
    ),
    bad("50,000 names", lambda: tags(many(50_000)), 413, "too-complex"),
    bad(
        "an array of 100,000 values",
        lambda: tags(b'{"a": [' + b"0," * 100_000 + b"0]}"),
        413,
        "too-complex",
    ),
    # JSON that is no update
    bad("`null`", http(b"null"), 422, "invalid"),
    bad("an array", http(b"[]"), 422, "invalid"),
    bad("an update that changes nothing", http(b"{}"), 422, "invalid"),
    bad("an unknown field", http(b'{"tags": {"a": 1}, "tag": 1}'), 422, "invalid"),
    bad("tags that are an array", tags(b"[]"), 422, "invalid"),
    bad("a tag that is an array", tags(b'{"a": [1]}'), 422, "invalid"),
    bad("a tag that is an object", tags(b'{"a": {"b": 1}}'), 422, "invalid"),
    bad("a tag that is `NaN`", tags(b'{"a": NaN}'), 422, "invalid"),
    bad("a tag that is `-Infinity`", tags(b'{"a": -Infinity}'), 422, "invalid"),
    bad("a tag of 2^53", tags(b'{"a": 9007199254740992}'), 422, "invalid"),
    bad("a tag of 1,025 characters", tags(b'{"a": "%s"}' % (b"x" * 1_025)), 422, "invalid"),
    bad("NUL in a tag", tags(rb'{"a": "\u0000"}'), 422, "invalid"),
    bad("NUL in a tag's name", tags(rb'{"\u0000": 1}'), 422, "invalid"),
    bad("a tag without a name", tags(b'{"": 1}'), 422, "invalid"),
    bad("a tag's name of 129 characters", tags(b'{"%s": 1}' % (b"x" * 129)), 422, "invalid"),
    bad("201 tags", tags(many(201)), 422, "invalid"),
    bad("a property that is not ours", properties(b'{"colour": "red"}'), 422, "invalid"),
    bad("a language that is none", properties(b'{"language": "english please"}'), 422, "invalid"),
    bad("a time zone that is none", properties(b'{"timezone_id": "Mars/Base"}'), 422, "invalid"),
    bad("a country of three letters", properties(b'{"country": "DEU"}'), 422, "invalid"),
    bad(
        "a time without an offset",
        properties(b'{"last_active": "2026-11-20T09:30:00"}'),
        422,
        "invalid",
    ),
    bad(
        "the 30th of February",
        properties(b'{"last_active": "2026-02-30T09:30:00Z"}'),
        422,
        "invalid",
    ),
    bad("an increment of 1.5", increment(b'{"session_count": 1.5}'), 422, "invalid"),
    bad('an increment of `"1"`', increment(b'{"session_count": "1"}'), 422, "invalid"),
    bad("an increment of `true`", increment(b'{"session_count": true}'), 422, "invalid"),
    bad("an increment of 2^31", increment(b'{"session_count": 2147483648}'), 422, "invalid"),
    bad("an increment of what is no counter", increment(b'{"language": 1}'), 422, "invalid"),
    # Batches
    bad("a batch without updates", batch(), 422, "invalid"),
    bad("a batch of 1,001 updates", batch(*[ITEM] * 1_001), 422, "invalid"),
    bad("an update of a batch without its subscription", batch(GOOD), 422, "invalid"),
    bad("one bad update among good ones", batch(ITEM, ITEM.replace(b"1}", b"[]}")), 422, "invalid"),
    bad(
        "`partial=true`, and no good one", batch(GOOD, path=BATCH + "?partial=true"), 422, "invalid"
    ),
    bad(
        "a batch of 1,000 updates with 110 tags each",
        lambda: batch(
            *[b'{"subscription_id": "%s", "tags": %s}' % (SUBSCRIPTION.encode(), many(110))] * 900
        ),
        413,
        "too-complex",
    ),
    bad(
        "a line that is no JSON",
        ndjson(ITEM + b"\nx"),
        400,
        "not-json",
    ),
    bad(
        "an update over two lines",
        ndjson(ITEM.replace(b", ", b"\n")),
        400,
        "not-json",
    ),
    bad(
        "lines that are a batch only together",
        ndjson(ITEM + b'],"updates":[' + ITEM),
        400,
        "not-json",
    ),
    bad(
        "a key that was used for another batch",
        batch(ITEM, key="k") + batch(ITEM, ITEM, key="k"),
        422,
        "idempotency-key-reused",
    ),
    bad("an update right after those", batch(*[ITEM] * 6) + batch(ITEM), 429, "too-many-updates"),
]


@asynccontextmanager
async def server(publisher: FakePublisher, http: HttpSettings) -> AsyncIterator[int]:
    settings = LimitSettings(app_updates_per_s=0, subscription_updates_per_s=1, burst_s=5)
    limits = Limits(settings, OwnCounts(settings))
    app = served(publisher, access=Access(Verifier([KEY])), limits=limits)
    async with serving(app, ListenSettings(port=0), http) as port:
        yield port


async def answers(port: int, request: bytes, count: int) -> list[tuple[int, dict[str, Any]]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(request)
            for _ in range(count):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = re.search(r"content-length: (\d+)", head)
                assert size is not None
                content = json.loads(await reader.readexactly(int(size[1])))
                found.append((int(head.split()[1]), content))
                assert ("application/problem+json" in head) == (found[-1][0] >= 400)
    finally:
        writer.transport.abort()
    return found


@pytest.mark.parametrize("row", INPUTS, ids=lambda row: row.what)
async def test_a_bad_input_is_answered_as_documented(row: Bad) -> None:
    publisher = FakePublisher()
    request = row.request()
    # Only what never ends is to run out of time; what is large may take its time to arrive.
    bounds = HttpSettings(request_timeout_ms=100) if row.status == TIMEOUT else HttpSettings()
    async with server(publisher, bounds) as port:
        *before, (status, content) = await answers(port, request, 1 + request.count(b"}POST"))

    assert status == row.status
    assert all(each == 202 for each, _ in before)
    kind = content.get("type", "-").removeprefix("/problems/")
    assert kind.replace("about:blank", "-") == row.kind
    if row.kind == "invalid":
        assert content["errors"][0].keys() & {"pointer", "parameter"}
    if status >= 400 and not before:
        assert publisher.values == []


def test_the_document_lists_them_all() -> None:
    table = re.findall(
        r"^\| (.+) \| (\d{3}) \| `?([a-z-]+)`? \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    rows = [(row.what, str(row.status), row.kind) for row in INPUTS if row.status >= 400]

    assert len(rows) >= 60
    assert [row for row in table if row in rows] == rows
