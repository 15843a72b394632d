"""Every example of `docs/api.md`, in its order, against both services as processes."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

from deploy.local import credentials
from deploy.local.layout import CHECKOUT
from shared.settings import KafkaSettings
from tests.consumers import (
    consumer_environment,
    group_of,
    ingest_environment,
    service_process,
)

PATIENCE_S: Final = 120
EXAMPLES: Final = re.findall(
    r"```sh\n(.+?)```\n```json\n(.+?)```", (CHECKOUT / "docs/api.md").read_text(), re.DOTALL
)
IDS: Final = {
    "APP": "d1f7c2a4-5b0e-4c63-9a8d-2e6f1b7c9d05",
    "SUB": "6c1f0a9e-3d52-47b8-8e14-b90d5a72c3f6",
}


def without_places(value: Any) -> Any:
    """Return an answer with all its receipts the same."""
    return json.loads(re.sub(r'"\d+\.\d+\.\d+"', '"a receipt"', json.dumps(value)))


async def answer_of(command: str, variables: dict[str, str]) -> Any:
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f'curl() {{ "$PYTHON" "$CURL" "$@"; }}\n{command}',
        env={
            "PATH": os.defpath,
            "PYTHON": sys.executable,
            "CURL": str(CHECKOUT / "tests/e2e/curl.py"),
            **variables,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return json.loads(output)


async def test_every_example_of_the_document_is_answered_as_it_says(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    assert len(EXAMPLES) >= 10
    ingest = ingest_environment(kafka_settings) | {
        "TIDEMARK_RECEIPTS__CONSUMER_GROUP": group_of(kafka_settings)
    }
    async with (
        asyncio.timeout(PATIENCE_S),
        service_process("ingest_api", ingest) as api,
        service_process("consumer", consumer_environment(kafka_settings, shard_map_file)) as rows,
    ):
        await api.wait_ready()
        await rows.wait_ready()
        variables = {"API": api.url, "TOKEN": credentials.token(), **IDS}
        while b"receipts.ready" not in api.output:
            await asyncio.sleep(0.05)
        for command, expected in EXAMPLES:
            answer = await answer_of(command, variables)

            assert without_places(answer) == without_places(json.loads(expected)), command
            if receipts := re.findall(r'"receipt": "([\d.]+)"', json.dumps(answer)):
                variables["RECEIPT"] = receipts[-1]
