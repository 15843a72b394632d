import re

import pytest
from pydantic import ValidationError

from ingest_api.settings import BodySettings, IngestSettings, ProduceSettings
from shared.bounded_http import HttpSettings
from shared.usage import usage


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: BodySettings(bytes_max=2**24, held_bytes_max=2**20), "held_bytes_max"),
        (
            lambda: ProduceSettings(
                updates_in_flight_max=1_000, partition_updates_in_flight_max=2_000
            ),
            "one partition",
        ),
        (
            lambda: IngestSettings(
                http=HttpSettings(drain_timeout_ms=1_000),
                produce=ProduceSettings(ack_timeout_ms=1_000, enqueue_timeout_ms=1_000),
            ),
            "drain_timeout_ms",
        ),
        (
            lambda: IngestSettings(body=BodySettings(bytes_max=2**24, held_bytes_max=2**26)),
            "partition_bytes",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: type, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        wrong()


def test_usage_lists_each_setting_with_default_and_sentence() -> None:
    text = usage("python -m ingest_api", "Take updates.", IngestSettings, "EXAMPLE=1")

    assert "TIDEMARK_LISTEN__PORT (8080)\n      TCP port; 0 takes a free one." in text
    assert "TIDEMARK_KAFKA__SASL_PASSWORD (unset)" in text
    assert "TIDEMARK_PRODUCE__ACK_TIMEOUT_MS (5000)" in text
    assert "EXAMPLE=1" in text
    assert all(map(str.strip, re.findall(r"^  TIDEMARK_.*\n(.*)$", text, re.MULTILINE)))
    assert max(map(len, text.splitlines())) <= 100


def test_usage_shows_the_default_that_a_service_gives_to_a_shared_group() -> None:
    class Elsewhere(IngestSettings):
        http: HttpSettings = HttpSettings(connections_max=7)

    assert "TIDEMARK_HTTP__CONNECTIONS_MAX (7)" in usage("x", "y", Elsewhere, "z")
