"""`tidemark hot`, of several consumers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typer.testing import CliRunner

from consumer.overview import Hot, Overview
from operator_cli.main import app
from shared.serving import serving
from shared.settings import ListenSettings
from tests.unit.test_status_page import APP, HOT, ROW, overview

OTHER = "00000000-0000-4000-8000-000000000006"
NOBODY = "http://127.0.0.1:1"


@asynccontextmanager
async def saying(view: Overview) -> AsyncIterator[str]:
    """Serve what one consumer says of itself."""

    async def say(_: Request) -> Response:
        return Response(msgspec.json.encode(view))

    listen = ListenSettings(host="127.0.0.1", port=0)
    async with serving(Starlette(routes=[Route("/overview", say)]), listen) as port:
        yield f"http://127.0.0.1:{port}"


async def test_a_hot_row_is_named_whoever_owns_it_and_though_another_consumer_is_silent() -> None:
    hotter = Hot(app=APP, subscription=OTHER, low=27_000, high=27_000, per_s=300.0, share=0.9)
    one = overview(name="consumer-0", hot_subscriptions=[HOT], updates_per_s=200.0)
    other = overview(name="consumer-1", hot_subscriptions=[hotter], updates_per_s=400.0)

    async with saying(one) as first, saying(other) as second:
        urls = [part for url in (first, second, first, NOBODY) for part in ("--url", url)]
        asked = await asyncio.to_thread(CliRunner().invoke, app, ["hot", *urls, "--json"])

    found = json.loads(asked.stdout)["subscriptions"]
    assert {each["subscription"]: each["share"] for each in found} == {OTHER: 0.5, ROW: 0.1667}
    assert asked.exit_code == 1
    assert f"no answer from a consumer at {NOBODY}" in asked.stderr


@pytest.mark.parametrize("address", ["consumer-0:8090", "http://a:8090,http://b:8090"])
async def test_an_address_that_is_none_is_a_sentence(address: str) -> None:
    asked = await asyncio.to_thread(CliRunner().invoke, app, ["hot", "--url", address])

    assert asked.exit_code == 2
    assert f"{address} is no address of a consumer" in asked.stderr
