"""The ingest API as a process: how it starts, stops, and says what is wrong."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import credentials
from deploy.local.stack import LocalStack
from operator_cli import keys
from shared.settings import KafkaSettings
from shared.tokens import EVERY_APP, RIGHTS, issue
from tests.consumers import ServiceProcess, free_port, ingest_environment, service_process
from tests.records import subscription
from tests.topics import another_topic

PATIENCE_S = 60
APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
NOWHERE = {
    **credentials.variables(),
    "TIDEMARK_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
}

IN_FLIGHT = "\ntidemark_ingest_in_flight_updates {:.1f}\n"

ANYTHING: dict[str, Any] = {"app": EVERY_APP, "rights": RIGHTS, "valid_s": 600}


def patient(kafka: KafkaSettings) -> dict[str, str]:
    return ingest_environment(kafka) | {
        "TIDEMARK_PRODUCE__ENQUEUE_TIMEOUT_MS": "30000",
        "TIDEMARK_PRODUCE__ACK_TIMEOUT_MS": "30000",
        "TIDEMARK_PRODUCE__STALLED_AFTER_MS": "30000",
        "TIDEMARK_HTTP__DRAIN_TIMEOUT_MS": "60000",
    }


def client_of(process: ServiceProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=process.url, headers=credentials.headers(), timeout=PATIENCE_S
    )


async def patch(client: httpx.AsyncClient, number: int) -> httpx.Response:
    return await client.patch(
        f"/v1/apps/{APP}/subscriptions/{subscription(number)}", json={"tags": {"n": number}}
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def until_it_answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.get("/livez")
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
            else:
                return


async def sentence_of(process: ServiceProcess) -> str:
    """Wait for it to give up, and return the only line that is for people."""
    async with asyncio.timeout(PATIENCE_S):
        assert await process.wait() == 2
    [line] = [line for line in process.output.decode().splitlines() if not line.startswith("{")]
    return line


async def test_without_kafka_it_lives_and_refuses_and_still_ends_in_peace() -> None:
    async with service_process("ingest_api", NOWHERE) as process, client_of(process) as client:
        await until_it_answers(client)

        live, ready, refused = (
            await client.get("/livez"),
            await client.get("/readyz"),
            await patch(client, 1),
        )
        status = await process.end()

    assert live.status_code == 200
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert ready.json()["reason"]
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert status == 0


async def test_keys_and_revocations_change_without_a_restart(tmp_path: Path) -> None:
    signing, public, revoked = (tmp_path / name for name in ("signing", "public", "revoked"))
    keys.create(signing, public)
    keys.revoke(revoked, [])
    environment = NOWHERE | {
        "TIDEMARK_MODE": "production",
        "TIDEMARK_AUTH__PUBLIC_KEYS_FILE": str(public),
        "TIDEMARK_AUTH__REVOKED_TOKENS_FILE": str(revoked),
        "TIDEMARK_AUTH__RELOAD_INTERVAL_MS": "10",
    }
    async with service_process("ingest_api", environment) as process, client_of(process) as client:
        await until_it_answers(client)

        async def until_let_in(token: str, *, let_in: bool) -> None:
            """There is no Kafka, so who is let in is answered 503."""
            client.headers["Authorization"] = f"Bearer {token}"
            async with asyncio.timeout(PATIENCE_S):
                while (await patch(client, 1)).status_code != (503 if let_in else 401):
                    await asyncio.sleep(0.01)

        first, grant = issue(keys.read_signing_keys(signing)[0], **ANYTHING)
        await until_let_in(first, let_in=True)
        keys.rotate(signing, public)
        second, _ = issue(keys.read_signing_keys(signing)[0], **ANYTHING)
        await until_let_in(second, let_in=True)
        await until_let_in(first, let_in=True)
        keys.revoke(revoked, [grant.token_id])
        await until_let_in(first, let_in=False)
        public.write_text("half of a fi")
        await until(lambda: b"auth.not_reloaded" in process.output)
        await until_let_in(second, let_in=True)


async def test_the_local_key_does_not_start_in_production() -> None:
    async with service_process("ingest_api", NOWHERE | {"TIDEMARK_MODE": "production"}) as process:
        assert "tidemark keys new" in await sentence_of(process)


async def test_it_becomes_ready_when_kafka_comes(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    await asyncio.to_thread(stack.broker.kill)
    async with (
        service_process("ingest_api", patient(kafka_settings)) as process,
        client_of(process) as client,
    ):
        await until_it_answers(client)
        assert (await client.get("/readyz")).status_code == 503

        await asyncio.to_thread(stack.heal)
        async with asyncio.timeout(PATIENCE_S):
            await process.wait_ready()

        assert (await patch(client, 1)).status_code == 202


async def test_sigterm_answers_what_was_accepted_and_exits_0(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    async with (
        service_process("ingest_api", patient(kafka_settings)) as process,
        client_of(process) as client,
    ):
        async with asyncio.timeout(PATIENCE_S):
            await process.wait_ready()
        assert (await patch(client, 0)).status_code == 202
        stack.broker.pause()
        waiting = [asyncio.ensure_future(patch(client, number)) for number in range(1, 51)]
        async with asyncio.timeout(PATIENCE_S):
            while IN_FLIGHT.format(50) not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.05)

        ending = asyncio.ensure_future(process.end(signal.SIGTERM))
        await until(lambda: b"service.draining" in process.output)
        stack.broker.resume()
        answers = await asyncio.gather(*waiting)

        assert Counter(answer.status_code for answer in answers) == {202: 50}
        assert await ending == 0
    assert b"service.stopped" in process.output


async def test_sigterm_turns_it_unready_before_it_stops_serving(
    kafka_settings: KafkaSettings,
) -> None:
    environment = patient(kafka_settings) | {"TIDEMARK_SHUTDOWN_DELAY_S": "3"}
    async with (
        service_process("ingest_api", environment) as process,
        client_of(process) as client,
    ):
        async with asyncio.timeout(PATIENCE_S):
            await process.wait_ready()
        ending = asyncio.ensure_future(process.end(signal.SIGTERM))
        await until(lambda: b"service.draining" in process.output)

        ready, accepted = await client.get("/readyz"), await patch(client, 1)

        assert (ready.status_code, accepted.status_code) == (503, 202)
        assert await ending == 0


async def test_a_topic_with_another_number_of_partitions_is_a_sentence(
    kafka_settings: KafkaSettings,
) -> None:
    async with (
        another_topic(kafka_settings, partitions=7) as wrong,
        service_process("ingest_api", ingest_environment(wrong)) as process,
    ):
        sentence = await sentence_of(process)

    assert wrong.topic in sentence
    assert "7 partitions" in sentence


async def test_a_missing_topic_is_a_sentence(stack: LocalStack) -> None:
    missing = KafkaSettings(bootstrap_servers=stack.plan.bootstrap_servers, topic="missing")

    async with service_process("ingest_api", ingest_environment(missing)) as process:
        assert "missing" in await sentence_of(process)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"TIDEMARK_LISTEN__HOST": "203.0.113.1"}, "TIDEMARK_LISTEN__HOST"),
        ({"TIDEMARK_BODY__BYTES_MAX": "x"}, "TIDEMARK_BODY__BYTES_MAX"),
        ({"TIDEMARK_KAFKA__SECURITY_PROTOCOL": "SSL", "TIDEMARK_KAFKA__SSL_CA_FILE": "/x"}, "TLS"),
    ],
)
async def test_a_setting_that_cannot_be_is_a_sentence(
    variables: Mapping[str, str], named: str
) -> None:
    async with service_process("ingest_api", NOWHERE | dict(variables)) as process:
        assert named in await sentence_of(process)


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--nonsense", 2)])
async def test_it_tells_how_it_is_used(argument: str, status: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingest_api", argument, stdout=PIPE, stderr=PIPE
    )
    output, errors = await process.communicate()

    assert process.returncode == status
    assert b"TIDEMARK_LISTEN__PORT (8080)" in (errors if status else output)
