"""The published client of OneSignal's API, with nothing changed but its base URL and key."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import onesignal
import pytest
from onesignal.api.default_api import DefaultApi
from onesignal.model.subscription import Subscription
from onesignal.model.subscription_body import SubscriptionBody
from typer.testing import CliRunner

from deploy.local import credentials
from operator_cli import keys
from operator_cli.main import app as tidemark
from shared.settings import KafkaSettings
from shared.tokens import issue
from tests.consumers import (
    ServiceProcess,
    consumer_environment,
    ingest_environment,
    kafka_environment,
    service_process,
)

PATIENCE_S = 60
APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
OTHER_APP = "00000000-0000-4000-8000-000000000000"
SUBSCRIPTION = "1a6f0e3c-8d2b-4c57-9a4e-5b7f3d21c680"


@pytest.fixture
async def ingest(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> AsyncIterator[ServiceProcess]:
    async with AsyncExitStack() as processes, asyncio.timeout(PATIENCE_S):
        found = await processes.enter_async_context(
            service_process("ingest_api", ingest_environment(kafka_settings))
        )
        await processes.enter_async_context(
            service_process("consumer", consumer_environment(kafka_settings, shard_map_file))
        )
        await found.wait_ready()
        yield found


def key(app: str = APP) -> str:
    signing, *_ = keys.read_signing_keys(credentials.SIGNING_KEYS)
    return issue(signing, app=app, rights=["update"], valid_s=600)[0]


def client(ingest: ServiceProcess, rest_api_key: str) -> DefaultApi:
    configuration = onesignal.Configuration(host=ingest.url, rest_api_key=rest_api_key)
    return DefaultApi(onesignal.ApiClient(configuration))


def body(**fields: Any) -> SubscriptionBody:
    return SubscriptionBody(subscription=Subscription(**fields))


def put_player(ingest: ServiceProcess, content: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{ingest.url}/api/v1/players/{SUBSCRIPTION}",
        json.dumps(content).encode(),
        {"Content-Type": "application/json; charset=utf-8", "Authorization": f"Basic {key()}"},
        method="PUT",
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def row(kafka: KafkaSettings, shard_map_file: Path) -> dict[str, Any] | None:
    result = await asyncio.to_thread(
        CliRunner().invoke,
        tidemark,
        ["subscription", "show", APP, SUBSCRIPTION, "--json", "--shard-map", str(shard_map_file)],
        env=kafka_environment(kafka),
    )
    found: dict[str, Any] | None = json.loads(result.stdout) if result.exit_code == 0 else None
    return found


async def test_what_a_published_client_sends_is_read_back(
    ingest: ServiceProcess, kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    api = client(ingest, key())
    sent = body(
        type="AndroidPush",
        enabled=True,
        device_model="Pixel 12",
        device_os="17",
        app_version="4.2.0",
        sdk="050301",
        token="not kept",
        notification_types=1,
        session_count=7,
        rooted=False,
    )

    await asyncio.to_thread(api.update_subscription, APP, SUBSCRIPTION, sent)
    legacy = await asyncio.to_thread(
        put_player,
        ingest,
        {"app_id": APP, "language": "en", "timezone": -28_800, "tags": {"plan": "pro", "old": ""}},
    )
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await row(kafka_settings, shard_map_file)) or not found["tags"]:
            await asyncio.sleep(0.05)

    assert legacy == (200, {"success": True})
    assert found["tags"] == {"plan": "pro"}
    assert found["properties"] == {
        "device_type": "AndroidPush",
        "enabled": True,
        "device_model": "Pixel 12",
        "device_os": "17",
        "app_version": "4.2.0",
        "sdk_version": "050301",
        "language": "en",
    }

    # What is only not kept is no error, and changes nothing.
    await asyncio.to_thread(api.update_subscription, APP, SUBSCRIPTION, body(token="x"))
    assert (await asyncio.to_thread(put_player, ingest, {"app_id": APP}))[0] == 200

    for status, rest_api_key, app, wrong in (
        (400, key(), APP, body(device_model="x" * 200)),
        (401, "none", APP, sent),
        (403, key(OTHER_APP), APP, sent),
    ):
        with pytest.raises(onesignal.ApiException) as refused:
            await asyncio.to_thread(
                client(ingest, rest_api_key).update_subscription, app, SUBSCRIPTION, wrong
            )
        assert refused.value.status == status
        assert refused.value.error_messages
    assert await asyncio.to_thread(put_player, ingest, {"tags": {}}) == (
        400,
        {"errors": ["app_id is required."]},
    )
