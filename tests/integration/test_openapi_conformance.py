"""Schemathesis on what the running service says of itself: no 5xx, nothing undocumented.

`API_CASES=2000 make test ARGS="-s tests/integration/test_openapi_conformance.py"` tries more.
"""

import asyncio
import os
import sys
from pathlib import Path

from deploy.local import credentials
from shared.settings import KafkaSettings
from tests.consumers import ingest_environment, service_process

PATIENCE_S = 3_600
CASES = int(os.environ.get("API_CASES", "0"))


async def test_the_service_does_what_its_openapi_document_says(
    kafka_settings: KafkaSettings,
) -> None:
    # There is no consumer, so an answer that waits for one would take all its time.
    environment = ingest_environment(kafka_settings) | {"TIDEMARK_RECEIPTS__WAIT_MAX_S": "0"}
    async with (
        asyncio.timeout(PATIENCE_S),
        service_process("ingest_api", environment) as api,
    ):
        await api.wait_ready()
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{api.url}/openapi.json",
            f"--header=Authorization: {credentials.headers()['Authorization']}",
            f"--max-examples={CASES or 25}",
            f"--phases=examples,{'coverage,' if CASES else ''}fuzzing",
            "--continue-on-failure",
            "--generation-database=none",
            "--warnings=off",
            "--no-color",
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    assert b"8 selected / 8 total" in output
    sys.stdout.write(output.decode())
